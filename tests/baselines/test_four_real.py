"""4Real in small: the video model's conditioning, losses that make themselves small, clear refusals."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from refused import refused
from torch.testing import assert_close

from fourd_minimal.baselines import four_real
from fourd_minimal.baselines.four_real import denoised, optimise_steps, rendered
from fourd_minimal.configs.four_real_video import PRESETS
from fourd_minimal.data.procedural import HELD_OUT, sample_scenes
from fourd_minimal.systems.deformable_gaussians import DeformableGaussians
from fourd_minimal.systems.four_real_video import FourRealVideo

SMALL = dict(n_points=60)
VIDEOS = "fixed_view", "freeze_time"


@pytest.fixture(scope="module")
def base():
    torch.manual_seed(0)
    model = FourRealVideo(PRESETS["smoke"].model).requires_grad_(False)
    for parameter in model.base.parameters():  # what begins as nothing would hide mistakes
        if not parameter.any():
            parameter.normal_(std=0.1)
    return model


@pytest.fixture(scope="module")
def world(base):
    """The true grid, and what `optimise_steps` takes."""
    record = sample_scenes(1, 3, 3, 16, HELD_OUT + 3, "simple")
    grid = record.rgb[0]
    given = dict(fixed_view=grid[0], freeze_time=grid[:, 0], base=base, c2w=record.c2w[0], fov_deg=record.fov_deg)
    return grid, given


def asked(monkeypatch, answer):
    """Replace the video model; note how it is asked."""
    questions = []

    def denoise_video(self, x, sigma, seen, clean, context):
        questions.append((x, sigma, seen, clean, context))
        return answer(x, sigma)

    monkeypatch.setattr(FourRealVideo, "denoise_video", denoise_video)
    return questions


def test_the_model_sees_a_noisy_video_and_its_first_frame(base, monkeypatch):
    torch.manual_seed(0)
    x, first = torch.rand(3, 3, 16, 16), torch.rand(3, 16, 16)
    questions = asked(monkeypatch, lambda z, sigma: torch.full_like(z, 0.5))
    expected = denoised(base, x, first, "freeze", torch.tensor([0.25]), torch.Generator().manual_seed(7))
    ((noisy, sigma, seen, clean, context),) = questions
    eps = torch.randn(x.shape, generator=torch.Generator().manual_seed(7))
    assert_close(noisy[0], 0.75 * (2 * x - 1) + 0.25 * eps)
    assert sigma.tolist() == [0.25] and seen.tolist() == [[True, False, False]] and context == "freeze"
    assert_close(clean[0, 0], 2 * first - 1)
    assert torch.equal(expected[0], first) and expected[1:].eq(0.75).all()


def test_the_gradient_is_that_of_score_distillation_on_velocities(base):
    """x - x_hat = sigma (v_hat - v): with the model's own v_hat = (x_sigma - x_hat) / sigma, and v = eps - x."""
    torch.manual_seed(0)
    x, first, sigma = torch.rand(3, 3, 16, 16), torch.rand(3, 16, 16), torch.tensor([0.6])
    eps = torch.randn(x.shape, generator=torch.Generator().manual_seed(7))
    noisy = 0.4 * (2 * x - 1) + 0.6 * eps
    seen, clean = torch.tensor([[True, False, False]]), (2 * first - 1).expand(1, 3, -1, -1, -1)
    v_hat = (noisy - base.denoise_video(noisy[None], sigma, seen, clean, "dynamic")[0]) / 0.6
    expected = (x - 0.3 * (v_hat - (eps - (2 * x - 1))))[1:].clamp(0, 1)
    found = denoised(base, x, first, "dynamic", sigma, torch.Generator().manual_seed(7))
    assert_close(found[1:], expected, atol=1e-5, rtol=1e-4)


def test_rows_and_columns_are_rendered_where_and_when_they_are(world, monkeypatch):
    (grid, given), renders, render = world, [], DeformableGaussians.render
    questions = asked(monkeypatch, lambda z, sigma: z)
    monkeypatch.setattr(DeformableGaussians, "render", lambda *a, **k: renders.append(a[1:4]) or render(*a, **k))
    list(optimise_steps(**given, n_steps=26, canonical=0.04, **SMALL))
    c2w, moments, firsts, levels = given["c2w"], torch.linspace(0, 1, 3), [set(), set()], []
    for step, ((cameras, fov, times), (_, sigma, _, clean, context)) in enumerate(
        zip(renders[1:], questions, strict=True)
    ):
        assert_close(cameras[:3], c2w[:1].expand(3, -1, -1))
        assert_close(times[:3], moments)
        first = (clean[0, 0] + 1) / 2
        if step % 2 == 0:
            (view,) = [v for v in (1, 2) if torch.allclose(first, grid[v, 0])]
            assert context == "dynamic" and torch.equal(times[3:], moments)
            assert_close(cameras[3:], c2w[view].expand(3, -1, -1))
            firsts[0].add(view)
        else:
            (time,) = [t for t in (1, 2) if torch.allclose(first, grid[0, t])]
            assert context == "freeze" and torch.equal(cameras[3:], c2w)
            assert_close(times[3:], moments[time].expand(3))
            firsts[1].add(time)
        assert fov == given["fov_deg"]
        levels.append(sigma.item())
    assert firsts == [{1, 2}, {1, 2}]
    assert 0.1 <= min(levels) < 0.3 and 0.5 < max(levels) <= 0.7


def errors(scene, grid, c2w, fov_deg):
    """Of the first row, and of unseen cells."""
    with torch.no_grad():
        times = torch.linspace(0, 1, 3).expand(3, -1)
        seen = scene.render(c2w[:, None].expand(-1, 3, 4, 4), fov_deg, times, 16).rgb
    return F.mse_loss(seen[0], grid[0]).item(), F.mse_loss(seen[1:, 1:], grid[1:, 1:]).item()


def test_each_term_makes_itself_small(world, monkeypatch):
    """A model that knows the truth shows what nobody recorded; without it, only the fixed view is fitted."""
    grid, given = world

    def know(base, x, first, context, sigma, generator=None):
        rows = {v: grid[v] for v in (1, 2)} if context == "dynamic" else {t: grid[:, t] for t in (1, 2)}
        (video,) = [video for video in rows.values() if torch.allclose(video[0], first)]
        return video

    monkeypatch.setattr(four_real, "denoised", know)
    view = grid, given["c2w"], given["fov_deg"]
    scenes = optimise_steps(**given, n_steps=60, sds=1.0, rate=4.0, **SMALL)
    still = [errors(next(scenes), *view) for _ in range(24)][-1]
    *_, scene = scenes
    end = errors(scene, *view)
    assert end[0] < 0.5 * still[0] and end[1] < 0.5 * still[1]
    *_, scene = optimise_steps(**given, n_steps=60, sds=0.0, rate=4.0, **SMALL)
    alone = errors(scene, *view)
    assert alone[0] < 0.5 * still[0] and alone[1] > 1.3 * end[1]


def test_a_grid_has_the_given_frames_and_is_its_seeds(world):
    grid, given = world
    ends = [list(optimise_steps(**given, n_steps=4, seed=seed, **SMALL)) for seed in (0, 0, 1)]
    assert all(len(steps) == 4 for steps in ends)
    view = [given[name] for name in (*VIDEOS, "c2w", "fov_deg")]
    one, again, other = (rendered(steps[-1], *view) for steps in ends)
    assert one.shape == grid.shape and one.min() >= 0 and one.max() <= 1
    assert torch.equal(one[0], grid[0]) and torch.equal(one[:, 0], grid[:, 0])
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_bad_input_is_named(world):
    _, given = world
    for change, *said in (
        (dict.fromkeys(VIDEOS, torch.rand(3, 3, 8, 16)), "fixed_view", (3, 3, 8, 16)),
        (dict(freeze_time=torch.rand(4, 3, 16, 16)), "freeze_time", (4, 3, 16, 16)),
        (dict(fixed_view=torch.rand(3, 3, 16, 16) * torch.nan), "fixed_view", "NaN"),
        (dict(c2w=torch.eye(4).repeat(2, 1, 1)), "c2w", 2, "freeze_time", 3),
        (dict(n_steps=1), "n_steps", 1),
        (dict(sigmas=(0.0, 0.5)), "sigmas", (0.0, 0.5)),
    ):
        refused(partial(next, optimise_steps(**dict(given, n_steps=4) | change)), *said)
