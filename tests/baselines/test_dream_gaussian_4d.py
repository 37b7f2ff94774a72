"""DreamGaussian4D in small: HexPlane against a loop, nothing moves at the start, noise that falls."""

import torch
import torch.nn.functional as F
from torch.testing import assert_close

from fourd_minimal.baselines import optimisation
from fourd_minimal.baselines.dream_gaussian_4d import (
    DreamGaussians,
    HexPlane,
    HexPlaneDeformation,
    noise_step,
    optimise_steps,
)
from fourd_minimal.cameras import circular_trajectory
from fourd_minimal.sds import Distilled
from fourd_minimal.systems.deformable_gaussians import random_scene

SMALL = dict(n_points=30, guidance_every=2)


def cameras(n):
    return circular_trajectory(torch.linspace(0, 270, n), 20.0, 3.9)


def scene_of(n_points=40, seed=0):
    return DreamGaussians(random_scene(n_points, size=0.8), HexPlaneDeformation(seed=seed, side=4, times=3, channels=2))


def moved(scene):
    torch.nn.init.normal_(scene.motion.heads.weight, std=0.2)
    torch.nn.init.normal_(scene.motion.heads.bias, std=0.05)
    torch.nn.init.normal_(scene.motion.planes.space_time)
    return scene


def mixed(plane, across, down):
    """A plane between its four nearest cells, by hand."""
    x, y = ((q + 1) / 2 * (n - 1) for q, n in zip((across, down), plane.shape[:0:-1], strict=True))
    i, j = (int(q.detach().clamp(0, n - 2)) for q, n in zip((x, y), plane.shape[:0:-1], strict=True))
    a, b = x - i, y - j
    above = (1 - a) * plane[:, j, i] + a * plane[:, j, i + 1]
    return (1 - b) * above + b * ((1 - a) * plane[:, j + 1, i] + a * plane[:, j + 1, i + 1])


def test_hexplane_is_what_a_loop_over_its_planes_finds():
    """Pairs (xy, zt), (xz, yt), (yz, xt), multiplied, side by side: outputs and all gradients."""
    torch.manual_seed(0)
    planes = HexPlane(side=5, times=4, channels=2)
    torch.nn.init.normal_(planes.space_time)
    points, time = (torch.rand(4, 3) * 1.9 - 0.95).requires_grad_(), torch.tensor([0.05, 0.7], requires_grad=True)
    found = planes(points, time)
    expected = []
    for t in time:
        for x, y, z in points:
            of_space = ((x, y), (x, z), (y, z))
            still = [mixed(p, *q) for p, q in zip(planes.space, of_space, strict=True)]
            moving = [mixed(p, q, 2 * t - 1) for p, q in zip(planes.space_time, (z, y, x), strict=True)]
            expected.append(torch.cat([a * b for a, b in zip(still, moving, strict=True)]))
    expected = torch.stack(expected).reshape(2, 4, 6)
    assert_close(found, expected)
    weight, inputs = torch.randn_like(found), (points, time, planes.space, planes.space_time)
    grads = (torch.autograd.grad((weight * h).sum(), inputs) for h in (found, expected))
    for one, other in zip(*grads, strict=True):
        assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_nothing_moves_at_the_start_and_everything_can():
    scene, time = scene_of(), torch.tensor([0.0, 0.3, 1.0])
    assert torch.equal(scene.positions(time), scene.points.expand(3, -1, -1))
    offset, swelling = scene.motion(scene.points, time)
    assert not offset.any() and not swelling.any()
    (offset.sum() + swelling.sum()).backward()
    assert scene.motion.heads.weight.grad.any(1).all()  # of both heads


def test_a_picture_is_of_its_own_camera_and_moment():
    """Rendered moment by moment and put back in order; moments come unsorted and more than once."""
    torch.manual_seed(0)
    scene = moved(scene_of()).requires_grad_(False)
    c2w, time = cameras(6).reshape(2, 3, 4, 4), torch.tensor([[0.9, 0.1, 0.9], [0.5, 0.1, 0.0]])
    seen = scene.render(c2w, 36.0, time, 12)
    assert seen.rgb.shape == (2, 3, 3, 12, 12) and seen.alpha.shape == seen.depth.shape == (2, 3, 1, 12, 12)
    for i, j in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)):
        alone = scene.render(c2w[i, j], 36.0, time[i, j], 12)
        assert_close(seen.rgb[i, j], alone.rgb)
        assert_close(seen.depth[i, j], alone.depth)
    assert_close(scene.render(c2w, 36.0, 0.5, 12).rgb[1, 0], seen.rgb[1, 0])


def test_what_moves_and_swells_looks_like_a_cloud_that_was_made_so():
    torch.manual_seed(0)
    scene = moved(scene_of()).requires_grad_(False)
    offset, swelling = scene.motion(scene.points, torch.tensor([0.7]))
    assert offset.abs().max() > 0.05 and swelling.abs().max() > 0.05
    made = scene_of().requires_grad_(False)
    made.points += offset[0]
    made.log_radius += swelling[0]
    assert_close(scene.render(cameras(2), 36.0, 0.7, 12).rgb, made.render(cameras(2), 36.0, 0.0, 12).rgb)


def test_the_noise_step_falls_in_both_stages_and_guidance_is_of_all_frames(video, base, monkeypatch):
    looks, guess = [], optimisation.noise_predictor

    def watched(model, frames, azimuths):
        inner = guess(model, frames, azimuths)
        return lambda z, t: looks.append((tuple(z.shape), int(t))) or inner(z, t)

    monkeypatch.setattr(optimisation, "noise_predictor", watched)
    list(optimise_steps(video, base, 20, **SMALL))
    assert [t for _, t in looks] == [980, 800, 600, 400, 200] * 2
    assert [shape for shape, _ in looks] == [(1, 4, 3, 16, 16)] * 5 + [(3, 4, 3, 16, 16)] * 5
    assert [noise_step(d) for d in (0.0, 0.25, 1.0)] == [980, 750, 20]


def test_the_first_stage_moves_the_cloud_and_the_second_the_planes(video, base):
    states = [{k: v.clone() for k, v in s.state_dict().items()} for s in optimise_steps(video, base, 8, **SMALL)]
    cloud = ("points", "log_radius", "colour_logit", "opacity_logit")
    planes = [k for k in states[0] if k.startswith("motion.")]
    for name in cloud:
        assert not torch.equal(states[0][name], states[3][name]), name
        assert torch.equal(states[3][name], states[7][name]), name
    assert all(torch.equal(states[0][k], states[3][k]) for k in planes)
    assert all(not torch.equal(states[3][k], states[7][k]) for k in planes)


def test_each_term_makes_itself_small(video, base, monkeypatch):
    """Seen from in front the video, from elsewhere the model's prediction: here, a grey square on white."""
    square = torch.ones(3, 16, 16)
    square[:, 5:11, 5:11] = 0.4
    answer = lambda x, *a, **k: Distilled(torch.tensor(0.0), square.expand_as(x) * 2 - 1)  # noqa: E731
    monkeypatch.setattr(optimisation, "score_distillation", answer)
    c2w = circular_trajectory(torch.tensor([0.0, 77.0, 200.0]), base.config.elevation_deg, base.config.radius)

    def errors(scene):
        with torch.no_grad():
            seen = scene.render(c2w[:, None].expand(-1, 3, 4, 4), 36.0, torch.linspace(0, 1, 3).expand(3, -1), 16).rgb
        return F.mse_loss(seen[0], video).item(), F.mse_loss(seen[1:], square.expand_as(seen[1:])).item()

    options = dict(SMALL, n_points=100)
    steps = optimise_steps(video, base, 60, seed=1, **options)
    before = errors(next(steps))
    *_, scene = steps
    both, (*_, scene) = errors(scene), optimise_steps(video, base, 60, seed=1, **options | dict(sds=0.0))
    assert both[0] < 0.4 * before[0] and both[1] < 0.6 * before[1]
    assert errors(scene)[1] > 1.5 * both[1]
