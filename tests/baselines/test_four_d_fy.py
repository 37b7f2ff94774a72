"""4D-fy: which model guides what in which stage, and what learns there."""

from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import torch
from refused import refused
from torch.testing import assert_close

from fourd_minimal.baselines import four_d_fy, optimisation
from fourd_minimal.baselines.four_d_fy import optimise_steps, stage_lengths
from fourd_minimal.cameras import circular_trajectory
from fourd_minimal.configs.four_diffusion import FOUR_DM
from fourd_minimal.systems.dynamic_nerf import DynamicNeRFConfig
from fourd_minimal.systems.four_diffusion import FourDM

FIELD = dict(n_levels=2, log2_table_size=8, base_resolution=4, per_level_scale=2.0, width=8, n_samples=12)
TINY = dict(nerf=DynamicNeRFConfig(**FIELD, occupancy_side=6, moments=3, blob=5.0, blob_radius=0.8), pixels=64)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return FourDM(FOUR_DM["smoke"].model).requires_grad_(False)


def tables(scene):
    return scene.space.table.detach().clone(), scene.space_time.table.detach().clone()


def sure_of(paint, model):
    """Models that predict, of any noise, what `paint` makes of frames and azimuths: `(t, v, 3, h, w)` in [0, 1]."""
    abar = model.schedule.abar

    def noise_predictor(guidance_model, video, azimuths):
        def guess(z, t):
            e = (z - abar[t].sqrt() * (paint(guidance_model, video, azimuths) * 2 - 1)) / (1 - abar[t]).sqrt()
            return e, e

        return guess

    return noise_predictor


def test_three_stages_in_the_papers_proportion():
    assert stage_lengths(135) == (10, 25, 100)
    for n in range(3, 40):
        lengths = stage_lengths(n)
        assert sum(lengths) == n and min(lengths) >= 1
    assert stage_lengths(3, (1000, 1, 1)) == stage_lengths(3, (1, 1, 1000)) == (1, 1, 1)


def test_what_learns_at_which_rate(model, base, video):
    """The first step of AdamW moves everything that it moves by its rate; each stage begins with such a step."""
    rate, still = 1e-2, four_d_fy.STILL
    options = dict(base=base, rate=rate, stages=(2, 2, 3), **TINY)
    seen = [tables(scene) for scene in optimise_steps(video, model, 7, **options)]
    space, both = ([(b - a).abs().max().item() for a, b in pairwise(each)] for each in zip(*seen, strict=True))
    assert both[:3] == [0.0] * 3
    assert space[1] == pytest.approx(rate, rel=1e-3)  # stage 2 begins
    assert space[3] == pytest.approx(rate * still, rel=1e-2) and both[3] == pytest.approx(rate, rel=1e-3)
    assert min(space) > 0 and min(both[3:]) > 0


def test_which_model_guides_what(model, base, video, monkeypatch):
    asked = []

    def watched(guidance_model, shown, azimuths):
        def guess(z, t):
            which = [i for i, frame in enumerate(video) if any(torch.equal(frame, f) for f in shown)]
            asked.append((guidance_model, which, azimuths, tuple(z.shape[:2]), t.item()))
            return z, z

        return guess

    monkeypatch.setattr(optimisation, "noise_predictor", watched)
    tiny = TINY | dict(nerf=replace(TINY["nerf"], n_samples=2), pixels=8)
    scenes = optimise_steps(video, model, 200, 1, base=base, stages=(1, 1, 2), guidance_every=1, **tiny)
    assert len({id(scene) for scene in scenes}) == 1 and len(asked) == 200
    first, second, third = asked[:50], asked[50:100], asked[100:]
    assert all(
        guidance_model is base and shape == (1, 4) and which == [0] for guidance_model, which, _, shape, _ in first
    )
    assert all(guidance_model is base and which == [0] for guidance_model, which, *_ in second)
    assert sum(shape == (1, 1) for *_, shape, _ in second) == pytest.approx(25, abs=11)
    video_model = [look for look in third if look[0] is model]
    assert all(which == [0, 1, 2] and shape == (3, 1) for _, which, _, shape, _ in video_model)
    still = [look for look in third if look[0] is base]
    assert {which[0] for _, which, *_ in still} == {0, 1, 2} and all(len(which) == 1 for _, which, *_ in still)
    counts = [len(video_model), *(sum(look[3] == (1, v) for look in still) for v in (1, 4))]
    assert counts == [pytest.approx(n, abs=14) for n in (25, 25, 50)]
    for _, _, azimuths, (_, views), _ in asked:
        assert_close(azimuths - azimuths[0], torch.arange(views) * 90.0)
        assert 0 <= azimuths[0] < 360
    assert max(azimuths[0] for _, _, azimuths, (_, views), _ in asked if views == 1) > 270  # views 90 apart are not
    levels = [t for *_, t in asked]
    assert levels[0] == 980 and all(20 <= t <= 500 for t in levels[40:]) and max(levels[40:]) > 450
    assert all(980 - 24 * i - 1 <= t <= 980 - 12 * i + 1 for i, t in enumerate(levels[:40]))


def test_guidance_serves_as_many_steps_as_it_should_and_no_stage_takes_it_over(model, base, video, monkeypatch):
    looks, guided = [], four_d_fy.guided
    monkeypatch.setattr(four_d_fy, "guided", lambda *a, **k: looks.append(len(done)) or guided(*a, **k))
    done = []
    for scene in optimise_steps(video, model, 16, base=base, stages=(4, 4, 8), guidance_every=3, **TINY):
        done.append(scene)
    assert looks == [0, 3, 4, 6, 8, 9, 12, 15]


def test_every_pixel_has_its_own_views_target_at_its_own_time(model, base, video, monkeypatch):
    """Greys that tell frame and view; where each pixel's ray begins tells the view, and its time the frame."""
    turns, kinds = [], set()
    by_frame = video.clone()
    by_frame[:, :, 0, 0] = torch.arange(3.0)[:, None] / 10  # a mark, by which a frame is known when it is shown

    def paint(guidance_model, shown, azimuths):
        turns.append(azimuths)
        number, view = shown[:, 0, 0, 0] * 10, torch.arange(len(azimuths))
        kinds.add((len(shown), len(azimuths)))
        return (number[:, None] * 4 + view)[..., None, None, None].expand(-1, -1, 3, 16, 16) / 14

    monkeypatch.setattr(optimisation, "noise_predictor", sure_of(paint, base))

    def compare(scene, pixels, generator):
        azimuths = turns[-1]
        places = circular_trajectory(azimuths, base.config.elevation_deg, base.config.radius)[:, :3, 3]
        view = (pixels.rays_o[:, None] - places).norm(dim=-1).argmin(1)
        grey = (pixels.times * 2 * 4 + view) / 14
        assert_close(pixels.rgb, grey[:, None].expand(-1, 3), atol=2e-3, rtol=0)
        assert_close(pixels.alpha, ((1 - grey) / 0.25).clamp(0, 1), atol=1e-2, rtol=0)
        return loss(scene, pixels, generator)

    loss = four_d_fy.reconstruction_loss
    monkeypatch.setattr(four_d_fy, "reconstruction_loss", compare)
    options = dict(base=base, guidance_every=1, stages=(1, 1, 6), rescale=0.0, **TINY)
    list(optimise_steps(by_frame, model, 40, **options))
    assert kinds == {(1, 4), (1, 1), (3, 1)}


def test_bad_input_is_named(model, base, video):
    for given, options, *said in (
        ((video, model, 9), dict(stages=(1, 2)), "stages", (1, 2)),
        ((video, model, 9), dict(stages=(1, 2, 0)), "stages", (1, 2, 0)),
        ((video, model, 9), dict(base=model), "base", "motion"),
        ((video, base, 9), {}, "model", "motion"),
    ):
        steps = optimise_steps(*given, **dict(base=base) | TINY | options)
        refused(partial(next, steps), *said)
