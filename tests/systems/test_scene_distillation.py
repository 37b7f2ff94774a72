"""From a video to a scene: every loss reaches the field, one prediction for all, exact resumption, clear refusals."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from refused import refused
from torch.testing import assert_close

from fourd_minimal.cameras import circular_trajectory
from fourd_minimal.configs.four_diffusion import FOUR_DM
from fourd_minimal.systems import guidance, scene_distillation
from fourd_minimal.systems.dynamic_nerf import DynamicNeRF, DynamicNeRFConfig, Pixels
from fourd_minimal.systems.four_diffusion import FourDM
from fourd_minimal.systems.guidance import noise_predictor
from fourd_minimal.systems.scene_distillation import (
    Ramp,
    SceneConfig,
    cameras_around,
    off_white,
    optimise_scene,
    optimise_steps,
)

FIELD = dict(n_levels=2, log2_table_size=8, base_resolution=4, per_level_scale=2.0, width=8, n_samples=8)
STEPS = dict(n_steps=6, sampling_steps=2, anneal_steps=4, guidance_every=2, pixels=64)
FIELD = DynamicNeRFConfig(**FIELD, occupancy_side=6)
LOSSES = dict(direct=1.0, mask=0.1, orientation=Ramp(0.0, 1.0, 2))
SMALL = SceneConfig(FIELD, fov_deg=36.0, sizes=((0, 8), (4, 16)), **STEPS, **LOSSES)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = FourDM(FOUR_DM["smoke"].model).requires_grad_(False)
    for parameter in model.parameters():  # what begins as nothing, such as the cameras' part, would hide mistakes
        if not parameter.any():
            parameter.normal_(std=0.1)
    return model


def distance(a, b):
    return (a - b).square().mean((1, 2, 3))


def test_every_loss_is_there_and_finite_and_the_scene_changes(model, video):
    steps = list(optimise_steps(video, model, SMALL, distance))
    assert [s.number for s in steps] == [1, 2, 3, 4, 5, 6]
    names = {"sds", "opacity", "entropy", "anchor", "direct", "mask"}
    assert set(steps[0].losses) == names and set(steps[-1].losses) == names | {"orientation"}
    assert all(torch.tensor(list(s.losses.values())).isfinite().all() for s in steps)
    assert steps[-1].scene.space_time.table.abs().max() > 1e-3
    only = dict(sds=0.0, anchor=0.0, direct=0.0, mask=0.0)
    for name in ("sds", "anchor", "direct", "mask"):
        alone = replace(
            SMALL, n_steps=2, opacity=0.0, entropy=Ramp(0.0, 0.0), orientation=Ramp(0.0, 0.0), **only | {name: 1.0}
        )
        scene = optimise_scene(video, model, alone, perceptual=distance)
        assert scene.space.table.abs().max() > 2e-3, name


def test_one_prediction_is_of_all_views_of_all_frames_at_one_t_and_serves_two_steps(model, video, monkeypatch):
    seen = []

    def watched(model, video, azimuths_deg):
        def guess(z, t):
            seen.append((z.shape, t, azimuths_deg))
            return z, z

        return guess

    monkeypatch.setattr(guidance, "noise_predictor", watched)
    list(optimise_steps(video, model, replace(SMALL, fit_steps=2), distance))
    assert [tuple(shape) for shape, *_ in seen] == [(3, 4, 3, 16, 16)] * 3
    assert all(t.ndim == 0 for _, t, _ in seen) and len({t.item() for _, t, _ in seen}) > 1
    for *_, azimuth in seen:
        assert_close(azimuth - azimuth[0], torch.tensor([0.0, 90.0, 180.0, 270.0]))
    assert len({a[0].item() for *_, a in seen}) == 3


def watch_targets(monkeypatch, targets):
    losses = scene_distillation.sds_losses
    monkeypatch.setattr(
        scene_distillation, "sds_losses", lambda scene, found, *a: targets.append(found) or losses(scene, found, *a)
    )


def mean(losses, name, steps):
    return sum(step.losses[name] for step in losses[steps]) / len(losses[steps])


@pytest.mark.parametrize("name", ["direct", "mask", "anchor"])
def test_each_loss_of_the_videos_makes_itself_small(name, model, video):
    """A wrong sign in what a loss compares would leave it where it was: the videos are what the loss says they are."""
    videos = video[None].expand(4, -1, -1, -1, -1)
    only = dict(sds=0.0, anchor=0.0, direct=0.0, mask=0.0) | {name: 1.0}
    config = replace(SMALL, n_steps=60, pixels=256, rate_mlps=1e-2, rate_grids=2e-2, **only)
    steps = list(optimise_steps(video, model, config, distance, videos))
    after = mean(steps, name, slice(-10, None))
    assert after < 0.5 * mean(steps, name, slice(10))
    assert name != "mask" or after < 0.5 * off_white(video).square().mean()  # half of what nothing at all would score


def test_the_anchor_and_the_guided_renders_are_where_and_when_they_say(model, video, monkeypatch):
    """Cameras and times of what is rendered, against those of the videos and of what the model is asked about."""
    renders, asked, render = [], [], DynamicNeRF.render
    monkeypatch.setattr(DynamicNeRF, "render", lambda *a, **k: renders.append(a[1:4]) or render(*a, **k))
    frames = torch.rand(4, *video.shape, generator=torch.Generator().manual_seed(1))
    given = []
    config = replace(SMALL, n_steps=4, guidance_every=1, direct=0.0, mask=0.0)
    monkeypatch.setattr(
        guidance, "noise_predictor", lambda m, f, azimuths: asked.append(azimuths) or noise_predictor(m, f, azimuths)
    )
    list(optimise_steps(video, model, config, lambda a, b: given.append(b) or distance(a, b), frames))
    guided, anchors = renders[::2], renders[1::2]
    for (c2w, fov, times), azimuths in zip(guided, asked, strict=True):
        around = circular_trajectory(azimuths, model.config.elevation_deg, model.config.radius)
        assert_close(c2w, around.expand(3, -1, -1, -1))
        assert fov == config.fov_deg and times.tolist() == [[t] * 4 for t in (0.0, 0.5, 1.0)]
    for (c2w, _, moment), frame in zip(anchors, given, strict=True):
        (view, time), *_ = ((frames * 2 - 1 - frame).abs().amax((2, 3, 4)) == 0).nonzero().tolist()
        assert_close(c2w, cameras_around(model, 4)[view])
        assert moment == time / 2


def test_each_frame_of_each_view_has_its_own_target(model, video, monkeypatch):
    """A model that predicts a grey for every (frame, view): the target of pixels with this camera and this time."""
    abar, asked, targets = model.schedule.abar, [], []
    grey = torch.arange(12.0).view(3, 4, 1, 1, 1) / 12

    def guess(z, t):
        e = (z - abar[t].sqrt() * (2 * grey - 1)) / (1 - abar[t]).sqrt()
        return e, e

    monkeypatch.setattr(guidance, "noise_predictor", lambda model, video, azimuths: asked.append(azimuths) or guess)
    watch_targets(monkeypatch, targets)
    list(optimise_steps(video, model, replace(SMALL, n_steps=1, anchor=0.0, pixels=None, rescale=0.0)))
    (azimuths,), (target,) = asked, targets
    places = circular_trajectory(azimuths, model.config.elevation_deg, model.config.radius)[:, :3, 3]
    view = (target.rays_o[:, None] - places).norm(dim=-1).argmin(1)
    frame = (target.times * 2).round().long()
    assert_close(target.rgb, grey[frame, view, 0, 0].expand(-1, 3), atol=2e-3, rtol=0)
    assert len(set(zip(frame.tolist(), view.tolist(), strict=True))) == 12


def test_where_no_noise_is_predicted_the_target_is_what_is_rendered(model, video, monkeypatch):
    """Nothing is there, so the render is white, 1 in [0, 1] as in [-1, 1]; at little noise the target is white too."""
    targets = []
    monkeypatch.setattr(guidance, "noise_predictor", lambda *_: lambda z, t: (z * 0, z * 0))
    monkeypatch.setattr(guidance, "draw_step", lambda *_, **__: torch.tensor(5))
    watch_targets(monkeypatch, targets)
    empty = replace(SMALL.nerf, blob_radius=1e-3)
    list(optimise_steps(video, model, replace(SMALL, n_steps=1, anchor=0.0, pixels=None, rescale=0.0, nerf=empty)))
    assert targets[0].rgb.mean().item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("target, loss", [(1.0, 0.0), (0.0, 0.5 * 3 * 2**2)])
def test_where_nothing_is_the_render_is_white(target, loss, model, video, monkeypatch):
    """Rays that miss the box, and a target that is white there, or black: 1/2 |x - x0|^2 in [-1, 1]."""
    n = 5
    away, where = torch.full((n, 3), 5.0), torch.zeros(n, 1, 3) + torch.tensor([0.0, 0.0, 1.0])
    pixels = Pixels(away, where, torch.zeros(n), torch.full((n, 3), target), torch.zeros(n))
    monkeypatch.setattr(scene_distillation, "guidance_step", lambda *_: pixels)
    alone = replace(SMALL, n_steps=1, anchor=0.0, opacity=0.0, pixels=None, direct=1.0, mask=0.0, guidance_every=1)
    (step,) = optimise_steps(video, model, alone)
    assert step.losses["sds"] == pytest.approx(loss * n / (len(video) * model.config.views))


def test_the_predicted_noise_is_that_in_what_the_model_denoises(model, video):
    z, t = torch.randn(3, 4, 3, 16, 16), torch.tensor(600)
    conditional, unconditional = noise_predictor(model, video, torch.tensor([10.0, 100.0, 190.0, 280.0]))(z, t)
    cameras = model.cameras([10.0, 100.0, 190.0, 280.0])[None]
    for found, given in ((conditional, True), (unconditional, False)):
        clean = model.denoise(z[None], t[None], cameras, video[None] * 2 - 1, torch.tensor([given]))[0]
        assert_close(model.schedule.add_noise(clean, found, t), z, atol=1e-4, rtol=1e-4)
    assert (conditional - unconditional).abs().max() > 1e-4


@pytest.mark.parametrize("guidance_every", [1, 2])
def test_an_interrupted_run_goes_on_exactly(guidance_every, model, video, tmp_path):
    config = replace(SMALL, guidance_every=guidance_every, fit_steps=3)
    whole = optimise_scene(video, model, config, perceptual=distance)
    for step in optimise_steps(video, model, config, distance, path=tmp_path / "scene.safetensors", checkpoint_every=2):
        if step.number == 3:
            break
    rest = list(optimise_steps(video, model, config, distance, path=tmp_path / "scene.safetensors", checkpoint_every=2))
    assert [s.number for s in rest] == [3, 4, 5, 6]
    last = rest[-1]
    for (name, a), b in zip(whole.state_dict().items(), last.scene.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    (again,) = optimise_steps(video, model, config, distance, path=tmp_path / "scene.safetensors")  # it was finished
    assert again.number == 6 and torch.equal(again.scene.space.table, whole.space.table)
    path = tmp_path / "scene.safetensors"
    for what, video_, options in (
        ("seed", video, dict(seed=1)),
        ("video", video * 0.9, {}),
        ("videos", video, dict(videos=torch.rand(4, *video.shape))),
    ):
        steps = optimise_steps(video_, model, config, distance, path=path, **options)
        refused(partial(next, steps), path.name, what)


def test_white_is_nothing_and_half_grey_is_something():
    levels = torch.tensor([1.0, 0.875, 0.75, 0.0]).expand(3, 1, 4)
    assert_close(off_white(levels), torch.tensor([[[0.0, 0.5, 1.0, 1.0]]]))
    red = torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    assert off_white(red) == 1


def test_the_defaults_are_the_papers():
    config = SceneConfig()
    assert (config.nerf.n_levels, config.nerf.log2_table_size, config.nerf.n_samples) == (16, 19, 256)
    assert (config.n_steps, config.guidance, config.rescale, config.sds, config.anchor) == (35_000, 5.0, 0.2, 1.0, 1.0)
    assert config.sizes == ((0, 64), (5000, 192), (10_000, 256))
    assert config.direct == config.mask == config.fit_steps == 0


def test_bad_input_is_named(model, latent_base, video):
    for name, value in dict(pixels=0, guidance_every=0, guidance=float("nan"), fit_steps=-3).items():
        refused(partial(replace, SMALL, **{name: value}), name, value)
    none = replace(SMALL, sds=0.0, anchor=0.0, direct=0.0, mask=0.0)
    videos = torch.rand(4, 3, 3, 16, 16)
    for said, *given in (
        (("n_steps", 6, "sds", 0), video, model, none),
        (("videos", (3, 3, 3, 16, 16)), video, model, SMALL, distance, videos[:3]),
        (("video", 7), video * 7, model, SMALL, distance, videos),
        (("perceptual", None), video, model, SMALL),
        (("sampled_views", 6), video, model, replace(SMALL, sampled_views=6), distance),
        (("video", (3, 3, 8, 16)), video[:, :, :8], model, SMALL, distance),
        (("model", 4), video, latent_base, SMALL, distance),
    ):
        refused(partial(next, optimise_steps(*given)), *said)
