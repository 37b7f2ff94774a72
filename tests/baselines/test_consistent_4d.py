"""Consistent4D: planes as nerfstudio's, a cascade of residuals, steps that alternate, and what lies between."""

import sys
from dataclasses import replace
from unittest.mock import MagicMock

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from fourd_minimal.baselines import consistent_4d, optimisation
from fourd_minimal.baselines.consistent_4d import SMALL, Cascade, KPlanes, guidance_pixels, optimise_steps
from fourd_minimal.cameras import circular_trajectory
from fourd_minimal.systems.scene_distillation import off_white

TINY = dict(
    nerf=replace(SMALL, width=8, n_samples=12, occupancy_side=6, moments=2),
    planes=((4, 2), (8, 3)),
    n_features=4,
    pixels=64,
)


def half(a, b):
    return (a + b) / 2


def at(points, time):
    return points, torch.full((len(points),), time)


def grown(seed=0):
    scene = Cascade(TINY["nerf"], TINY["planes"], TINY["n_features"], seed)
    generator = torch.Generator().manual_seed(seed)
    for level in scene.planes:
        for plane in level.planes:
            plane.data.add_(torch.randn(plane.shape, generator=generator) * 0.3)
    return scene


def test_planes_are_nerfstudios_in_outputs_and_gradients(monkeypatch):
    for name in ("viser", "viser.transforms", "rich", "rich.console", "rich.progress", "rich.text"):
        if name not in sys.modules:
            monkeypatch.setitem(sys.modules, name, MagicMock())
    encodings = pytest.importorskip("nerfstudio.field_components.encodings")
    resolution = (5, 6, 7, 3)
    ours, theirs = KPlanes(resolution, 4), encodings.KPlanesEncoding(resolution, 4)
    for mine, other in zip(ours.planes, theirs.plane_coefs, strict=True):
        assert mine.shape == other.shape
        assert (mine == 1).all() == (other == 1).all()
        assert mine.min() >= 0.1 and mine.max() <= 1
        mine.data.add_(torch.randn(mine.shape) * 0.3)
        other.data.copy_(mine.data)
    x = (torch.rand(50, 4) * 2.4 - 1.2).requires_grad_()
    y, weight = x.detach().clone().requires_grad_(), torch.randn(50, 4)
    assert_close(ours(x), theirs(y))
    (ours(x) * weight).sum().backward()
    (theirs(y) * weight).sum().backward()
    assert_close(x.grad, y.grad)
    for mine, other in zip(ours.planes, theirs.plane_coefs, strict=True):
        assert_close(mine.grad, other.grad)


def test_nothing_moves_at_first_and_the_seed_decides():
    scene = Cascade(TINY["nerf"], seed=3)
    points = torch.rand(40, 3) * 2 - 1
    assert_close(scene.density(*at(points, 0.0)), scene.density(*at(points, 0.7)))
    again, other = Cascade(TINY["nerf"], seed=3), Cascade(TINY["nerf"], seed=4)
    assert torch.equal(scene(*at(points, 0.0))[1], again(*at(points, 0.0))[1])
    assert not torch.equal(scene(*at(points, 0.0))[1], other(*at(points, 0.0))[1])
    assert not hasattr(scene, "space")


def test_the_fine_level_adds_a_residual():
    scene, points = grown(), torch.rand(40, 3) * 2 - 1
    x = torch.cat([points, torch.full((40, 1), 0.2)], 1)  # time 0.6
    raw = [[mlp[i](planes(x)) for i, planes in enumerate(scene.planes)] for mlp in (scene.to_density, scene.to_colour)]
    blob = scene.config.blob * (1 - points.norm(dim=1) / scene.config.blob_radius)
    sigma, rgb = scene(*at(points, 0.6))
    assert_close(sigma, F.softplus(sum(raw[0])[:, 0] + blob))
    assert_close(rgb, sum(raw[1]).sigmoid())
    for mlps in (scene.to_density, scene.to_colour):
        mlps[1][2].weight.data.zero_()
    sigma, rgb = scene(*at(points, 0.6))
    assert_close(sigma, F.softplus(raw[0][0][:, 0] + blob))  # what the coarse level gives
    assert_close(rgb, raw[1][0].sigmoid())


def test_steps_alternate_and_every_fourth_guidance_step_interpolates(base, video, monkeypatch):
    guided, between, count = [], [], []
    monkeypatch.setattr(consistent_4d, "guidance_pixels", lambda *a: guided.append(guidance_pixels(*a)) or guided[-1])
    for _ in optimise_steps(video, base, 12, interpolate=lambda a, b: between.append(a) or half(a, b), **TINY):
        count.append((len(guided), len(between)))
    assert [n for n, _ in count] == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6]
    assert [n for _, n in count] == [0] + [1] * 8 + [2] * 3


@pytest.mark.parametrize("video_weight, mask", [(500.0, 0.0), (0.0, 500.0)])
def test_video_and_mask_are_each_fitted_alone(video_weight, mask, base, video, monkeypatch):
    """Without score distillation, the video's own camera sees the video, or its outline."""
    monkeypatch.setattr(optimisation, "noise_predictor", lambda *_: lambda z, t: (z, z))
    alone = dict(sds=0.0, video_weight=video_weight, mask=mask, rate=8e-2)
    *_, scene = optimise_steps(video, base, 60, **TINY | alone | dict(pixels=128))
    c2w = circular_trajectory(0.0, base.config.elevation_deg, base.config.radius).expand(3, 4, 4)
    seen = scene.render(c2w, 36.0, torch.linspace(0, 1, 3), 16)
    made, expected, nothing = (seen.rgb, video, 1.0) if video_weight else (seen.alpha, off_white(video), 0.0)
    assert (made - expected).square().mean() < 0.4 * (expected - nothing).square().mean()


def test_a_guidance_step_is_of_one_frame_and_its_target_is_that_of_sds(base, video, monkeypatch):
    """e - eps of a model that predicts a constant is known where the noise is: x - (1 - abar)(e - eps)."""
    asked, noise, scene, t = [], [], grown(), torch.tensor(400)
    whole = optimisation.score_distillation

    def constant(model, frames, azimuths):
        asked.append((frames, azimuths))
        return lambda z, t: (z * 0 + 0.25, z * 0 - 0.25)  # with and without the frame

    def drawn(x, *given, generator, **options):
        noise.append(torch.randn(x.shape, generator=torch.Generator().set_state(generator.get_state())))
        return whole(x, *given, generator=generator, **options)

    monkeypatch.setattr(optimisation, "noise_predictor", constant)
    monkeypatch.setattr(optimisation, "score_distillation", drawn)
    monkeypatch.setattr(consistent_4d, "draw_step", lambda *_, **__: t)
    found = guidance_pixels(scene, video, base, 0.0, 5.0, 36.0, torch.Generator().manual_seed(1))
    (frames, azimuths), *_ = asked
    assert_close(azimuths - azimuths[0], torch.tensor([0.0, 90.0, 180.0, 270.0]))
    time = found.times.unique()
    assert torch.equal(frames, video[int(time * 2)][None])
    c2w = circular_trajectory(azimuths, base.config.elevation_deg, base.config.radius)
    seen = scene.render(c2w, 36.0, time.item(), 16)
    e = 5 * 0.25 - 4 * -0.25  # nothing + 5 (shown - nothing)
    expected = seen.rgb - (1 - base.schedule.abar[t]) * (e - noise[0][0]) / 2
    kept = (seen.alpha[:, 0] > 0.01) | (expected < 0.9).any(1)
    assert_close(found.rgb, expected.movedim(1, -1)[kept])


def test_what_lies_between_is_halfway_in_angle_or_in_time(base):
    scene, kinds = grown(), set()
    for seed in range(12):
        seen, renders = [], []
        whole = scene.render
        scene.render = lambda *a, whole=whole, renders=renders: renders.append(a) or whole(*a)
        middle = consistent_4d.between_pixels(
            scene,
            base,
            lambda a, b, s=seen: s.append((a, b)) or half(a, b),
            36.0,
            torch.Generator().manual_seed(seed),
        )
        scene.render = whole
        ((c2w, _, times, _),) = renders
        first, last = c2w[:, :3, 3]
        turned = torch.rad2deg(torch.acos(F.cosine_similarity(first, last, dim=0).clamp(max=1))).item()
        kinds.add(turned > 1)
        assert_close(F.normalize(first + last, dim=0), F.normalize(middle.rays_o[0], dim=0), atol=0.02, rtol=0)
        assert_close(middle.times, times.mean().expand(len(middle.times)))
        if turned > 1:
            assert 5 < turned <= 30.1 and times[0] == times[1]
        else:
            assert_close((times[1] - times[0]).item(), 1 / 8)
            assert times.min() >= 0 and times.max() <= 1
        assert_close(middle.rgb, half(*seen[0])[0].movedim(0, -1).flatten(0, 1))
        assert not middle.rgb.requires_grad
    assert kinds == {True, False}


def test_each_loss_alone_moves_the_scene(base, video):
    none = dict(video_weight=0.0, mask=0.0, sds=0.0, between=0.0)
    start = Cascade(TINY["nerf"], TINY["planes"], TINY["n_features"]).planes[0].planes[0]
    for name in none:
        *_, scene = optimise_steps(video, base, 4, interpolate=lambda a, b: a * 0, **TINY | none | {name: 1.0})
        assert (scene.planes[0].planes[0] - start).abs().max() > 1e-3, name
