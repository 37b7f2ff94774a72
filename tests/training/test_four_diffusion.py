"""Training of 4DM: its batches, an interrupted run, what learns, and that it does."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from refused import refused
from resuming import killed_and_resumed, last
from torch.testing import assert_close

from fourd_minimal.cameras import circular_trajectory
from fourd_minimal.cli.render_shards import RenderShards
from fourd_minimal.configs.four_diffusion import FOUR_DM, FourDMPreset
from fourd_minimal.data.procedural import RADIUS, sample_scenes
from fourd_minimal.data.shards import Shards, sample, write_tar
from fourd_minimal.multiview_unet import MultiviewUNetConfig
from fourd_minimal.pretrained.encoders import Encoders
from fourd_minimal.systems.four_diffusion import FourDM, FourDMConfig
from fourd_minimal.training.four_diffusion import batch_loss, make_batch, orbits, train_four_dm

SMOKE = FOUR_DM["smoke"]


@pytest.mark.parametrize("part", ["base", "motion"])
def test_killed_and_resumed_equals_uninterrupted(part, tmp_path):
    preset = replace(SMOKE, base_steps=5, motion_steps=5)
    base = None if part == "base" else FourDM(preset.model, motion=False)
    killed_and_resumed(partial(train_four_dm, part, preset, base=base), tmp_path)


def test_motion_leaves_the_base_alone():
    base = FourDM(SMOKE.model, motion=False)
    done = last(train_four_dm("motion", SMOKE, base=base)).averaged()
    for name, value in base.state_dict().items():
        assert torch.equal(done.state_dict()[name], value)
    assert any(m.proj_out.weight.abs().max() > 0 for m in done.motion)


def test_motion_needs_its_base():
    refused(lambda: next(train_four_dm("motion", SMOKE)), "base", None)
    other = FourDM(replace(SMOKE.model, elevation_deg=5.0), motion=False)
    refused(lambda: next(train_four_dm("motion", SMOKE, base=other)), "base", "configuration")


def test_orbits_are_seen_from_evenly_around():
    """The cameras found again from the poses: all at one height and distance, 90 degrees apart, video anywhere."""
    clean, video, cameras = orbits(SMOKE.model, 3, 2, 5)
    size = SMOKE.model.image_size
    assert clean.shape == (3, 2, 4, 3, size, size) and video.shape == (3, 2, 3, size, size)
    assert clean.min() >= -1 and clean.max() == video.max() == 1 and clean.min() < -0.3  # white is 1
    video_at = circular_trajectory(torch.tensor(0.0), SMOKE.model.elevation_deg, RADIUS)
    place = (video_at @ cameras)[..., :3, 3]
    assert_close(place[..., 1], video_at[1, 3].expand(3, 4), atol=1e-4, rtol=0)
    azimuth = torch.rad2deg(torch.atan2(place[..., 0], place[..., 2]))
    assert_close(azimuth.diff(dim=1) % 360, torch.full((3, 3), 90.0), atol=1e-2, rtol=0)
    assert len(azimuth[:, 0].round().unique()) == 3


def test_the_video_is_what_a_view_at_the_videos_place_shows(monkeypatch):
    """A generator that draws no angle: the first view stands where the video's camera stands."""
    monkeypatch.setattr(
        "fourd_minimal.training.four_diffusion.torch.rand", lambda *shape, generator: torch.zeros(shape)
    )
    clean, video, cameras = orbits(SMOKE.model, 2, 2, 5)
    assert_close(clean[:, :, 0], video)
    assert_close(cameras[:, 0], torch.eye(4).expand(2, 4, 4), atol=1e-5, rtol=0)
    assert not torch.equal(clean[:, :, 1], video)


def test_batches_of_a_collection_hold_its_clips():
    still = replace(SMOKE, motion_batch=3, clips=((1, "static"), (2, "static")))
    clean = make_batch("motion", still, 0).clean
    assert_close(clean, clean[:, :1].expand_as(clean))
    assert not torch.equal(make_batch("motion", replace(SMOKE, clips=((1, None),)), 0).clean[:, 0], clean[:1, 0])


def test_levels_and_withheld_references_are_drawn_as_said():
    preset = replace(SMOKE, base_batch=400, share_nothing_shown=0.25)
    batch = make_batch("base", preset, 0)
    assert 0.15 < (batch.t >= 950).float().mean() < 0.25  # 15% and a twentieth of the rest
    assert 0.68 < batch.shown.float().mean() < 0.82
    assert abs(batch.eps.mean()) < 0.01 and abs(batch.eps.std() - 1) < 0.01


@pytest.mark.parametrize("predicts", ["x0", "eps"])
def test_the_loss_is_the_error_of_what_is_predicted_from_noisy_views(predicts, monkeypatch):
    """A model that is off by 0.5 in every clean pixel; it is given the noisy views and everything else of the batch."""
    model = FourDM(replace(SMOKE.model, predicts=predicts))
    batch = make_batch("base", replace(SMOKE, base_batch=6), 0)
    off = 0.0

    def denoise(z, t, cameras, reference, shown):
        assert_close(z, model.schedule.add_noise(batch.clean, batch.eps, batch.t))
        for given, own in zip(
            (t, cameras, reference, shown), (batch.t, batch.cameras, batch.reference, batch.shown), strict=True
        ):
            assert torch.equal(given, own)
        return batch.clean + off

    monkeypatch.setattr(model, "denoise", denoise)
    assert batch_loss(model, batch) == pytest.approx(0, abs=1e-6)
    off = 0.5
    abar = model.schedule.abar[batch.t]
    expected = 0.25 if predicts == "x0" else (0.25 * abar / (1 - abar)).mean().item()
    assert batch_loss(model, batch) == pytest.approx(expected, rel=1e-3)


def test_the_base_learns():
    preset = replace(SMOKE, base_steps=60, base_batch=4, base_lr=3e-3, ema=0.9)
    done, batch = last(train_four_dm("base", preset)).averaged(), make_batch("base", replace(preset, seed=9), 0)
    assert batch_loss(done, batch) < 0.7 * batch_loss(FourDM(preset.model, motion=False), batch)


SMALL = dict(head_dim=8, norm_groups=16, text_dim=12, token_dim=8, n_tokens=4, resampler_depth=1, resampler_heads=1)
UNET = MultiviewUNetConfig(widths=(16, 32), n_res_blocks=1, attention_levels=(1,), context_dim=12, **SMALL)
MODEL = FourDMConfig(UNET, image_size=16, times=3, predicts="eps", n_heads=4, norm_groups=16)
LATENT = FourDMPreset(
    MODEL, base_steps=3, base_batch=4, motion_steps=4, motion_batch=2, warmup=1, parts=2, caption="a fox"
)
"""`full`, tiny."""


@pytest.fixture(scope="module")
def encoders(encoder_folders):
    return Encoders.from_pretrained(*encoder_folders, LATENT.caption)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Three creatures from all around, of which views and video are to be taken."""
    folder = tmp_path_factory.mktemp("shards")
    around = torch.arange(12.0)[None] * 30

    def scene(i):
        return sample_scenes(1, 12, 8, 16, i, "creature", elevation_deg=0.0, azimuths_deg=around)

    write_tar(folder / "0.tar", [member for i in range(3) for member in sample(str(i), scene(i))])
    return folder


@pytest.mark.parametrize("part", ["base", "motion"])
def test_latents_of_shards_killed_and_resumed_equal_uninterrupted(part, encoders, shards, tmp_path):
    """The shards may have moved; others are refused, and so are other encoders."""
    preset = replace(LATENT, shards=str(shards))
    options = dict(base=FourDM(preset.model, motion=False) if part == "motion" else None, encoders=encoders)
    moved = tmp_path / "moved"
    moved.symlink_to(shards)
    places = iter((preset, preset, replace(preset, shards=str(moved))))
    begin = lambda folder, **more: train_four_dm(part, next(places), folder, **options, **more)  # noqa: E731
    whole = killed_and_resumed(begin, tmp_path, at=1, every=1)
    learned = whole.motion[0].proj_out.weight if part == "motion" else whole.unet.out[2].bias
    assert learned.abs().max() > 0
    others = copy.deepcopy(encoders)
    others.text.add_(1)
    for wrong, encoder, what in (
        (LATENT, encoders, "data"),
        (preset, others, "data"),
        (replace(preset, caption=""), encoders, "caption"),
    ):
        begun = train_four_dm(part, wrong, tmp_path, **options | dict(encoders=encoder))
        refused(partial(next, begun), f"{part}_checkpoint.safetensors", what)


def test_batches_of_shards_are_views_of_them(shards):
    preset = replace(LATENT, shards=str(shards), share_nothing_shown=0.5)
    stored, batch = Shards(shards), make_batch("motion", preset, 5, 1, shrink=2)
    assert batch.clean.shape == (1, 3, 4, 3, 16, 16) and batch.reference.shape == (1, 3, 3, 16, 16)
    assert batch.eps.shape == (1, 3, 4, 4, 8, 8) and batch.draws.shape == (1, 3, 5, 4, 8, 8)
    (i,) = stored.items(5, 1, 1, 2, preset.seed + 8)
    seen = stored[i].rgb.flatten(0, 1) * 2 - 1
    for frame in torch.cat([batch.clean[0].flatten(0, 1), batch.reference[0]]):
        assert (seen - frame).abs().flatten(1).amax(1).min() < 1e-5
    single = make_batch("base", preset, 5, 1, shrink=2)
    assert single.clean.shape == (2, 1, 4, 3, 16, 16)
    again = make_batch("motion", preset, 5, 1, shrink=2)
    assert all(torch.equal(a, b) for a, b in zip(batch, again, strict=True))
    other = make_batch("motion", preset, 5, 0, shrink=2)
    assert not torch.equal(batch.draws, other.draws) and not torch.equal(batch.clean, other.clean)
    assert not torch.equal(batch.draws[:, :, :4], batch.eps)


def test_the_loss_is_that_of_latents(encoders, monkeypatch):
    """The model sees latents, drawn with the batch's noise, and tokens of the video; the caption for each."""
    model = FourDM(LATENT.model)
    batch = make_batch("motion", replace(LATENT, motion_batch=4), 0, shrink=2)
    clean = encoders.latents(batch.clean, batch.draws[:, :, :4])
    given = {}

    def denoise(z, t, cameras, reference, shown, tokens, text):
        given.update(z=z, t=t, cameras=cameras, reference=reference, shown=shown, tokens=tokens, text=text)
        return clean + 0.5

    monkeypatch.setattr(model, "denoise", denoise)
    abar = model.schedule.abar[batch.t]
    assert batch_loss(model, batch, encoders=encoders) == pytest.approx(
        (0.25 * abar / (1 - abar)).mean().item(), rel=1e-3
    )
    expected = dict(
        z=model.schedule.add_noise(clean, batch.eps, batch.t), t=batch.t, cameras=batch.cameras,
        reference=encoders.latents(batch.reference, batch.draws[:, :, 4]), shown=batch.shown,
        tokens=encoders.tokens(batch.reference), text=encoders.text.expand(2, -1, -1),
    )  # fmt: skip
    assert given.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(given[name], value, atol=1e-5, rtol=1e-5)


def test_what_latents_need_is_said(encoders, shards):
    tall = replace(LATENT, shards=str(shards), model=replace(LATENT.model, elevation_deg=20.0))
    refused(lambda: next(train_four_dm("base", FOUR_DM["full"])), "preset", 4, "encoders")
    refused(lambda: next(train_four_dm("base", SMOKE, encoders=encoders)), "encoders", 4)
    refused(lambda: next(train_four_dm("base", tall, encoders=encoders)), "shards", "0.0")
    refused(lambda: replace(SMOKE, clips=((1, None),), shards="there"), "clips", "shards", 1, "there")


def test_the_full_configuration_agrees_with_what_is_rendered():
    cfg, rendered = FOUR_DM["full"].model, RenderShards()
    assert (cfg.image_size, cfg.elevation_deg) == (rendered.size, rendered.elevation_deg) == (256, 0.0)
    assert rendered.views % cfg.views == 0 and rendered.views > cfg.views and rendered.sweep_deg is None
    assert rendered.times >= cfg.times
    assert (cfg.unet.image_channels, cfg.unet.token_dim, cfg.unet.text_dim) == (4, 1280, 1024)
    assert cfg.object_frame and not FOUR_DM["cpu"].model.object_frame  # cameras as ImageDream's


def test_cameras_can_be_told_in_the_objects_own_frame(shards):
    """As ImageDream's: each view's pose is where it was rendered from, whatever the video saw."""
    own = replace(LATENT, shards=str(shards), model=replace(LATENT.model, object_frame=True))
    batch, video = make_batch("motion", own, 2), make_batch("motion", replace(LATENT, shards=str(shards)), 2)
    assert torch.equal(batch.clean, video.clean) and not torch.equal(batch.cameras, video.cameras)
    stored = Shards(shards)
    (i,) = stored.items(2, 0, 1, 2, own.seed + 8)
    ring = stored[i]
    for pose, view in zip(batch.cameras[0], batch.clean[0].unbind(1), strict=True):
        same = next(v for v in range(12) if torch.equal(ring.c2w[v], pose))
        assert all((ring.rgb[same] * 2 - 1 - frame).abs().flatten(1).amax(1).min() < 1e-5 for frame in view)
    around = circular_trajectory(torch.tensor([0.0, 90.0, 200.0]), 0.0, LATENT.model.radius)
    assert_close(FourDM(own.model).cameras([90.0, 200.0]), around[1:])
    seen, _, cameras = orbits(replace(SMOKE.model, object_frame=True), 2, 1, 5)
    assert_close(cameras[..., 1, 3], torch.full((2, 4), cameras[0, 0, 1, 3].item()))  # all at one height
    assert torch.equal(seen, orbits(SMOKE.model, 2, 1, 5)[0])
