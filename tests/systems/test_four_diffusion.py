"""4DM: the base it leaves alone, guidance, windows, videos in and out, and what it refuses."""

from dataclasses import replace

import pytest
import torch
from refused import refused
from torch.testing import assert_close

from fourd_minimal.cameras import circular_trajectory
from fourd_minimal.configs.four_diffusion import FOUR_DM
from fourd_minimal.systems.four_diffusion import FourDM, add_motion_modules, blend_windows, relative
from fourd_minimal.training.four_diffusion import orbits
from fourd_minimal.training.multiview_evaluation import OURS, OWN, PASTE, compare

CONFIG = FOUR_DM["smoke"].model


def shaken(model):
    torch.manual_seed(1)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def model():
    return shaken(FourDM(CONFIG))


def inputs(f=3, b=1):
    torch.manual_seed(0)
    size = CONFIG.image_size
    return torch.rand(b, f, 4, 3, size, size) * 2 - 1, torch.full((b,), 300), torch.rand(b, f, 3, size, size) * 2 - 1


def test_4dm_begins_as_its_base_frame_by_frame():
    base = shaken(FourDM(CONFIG, motion=False))
    z, t, video = inputs()
    cameras = base.cameras([0, 90, 180, 270])[None]
    alone = torch.cat([base.denoise(z[:, [i]], t, cameras, video[:, [i]]) for i in range(3)], 1)
    add_motion_modules(base.unet, **CONFIG.motion_options)
    assert_close(base.denoise(z, t, cameras, video), alone, atol=1e-5, rtol=1e-4)


def test_only_motion_modules_learn():
    model = FourDM(CONFIG)
    learns = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learns and all(name.startswith("unet.temporal.") for name in learns)
    assert len(model.motion) == len(model.unet.places)


def test_frames_read_each_other(model):
    z, t, video = inputs()
    cameras = model.cameras([0, 90, 180, 270])[None]
    moved = z.clone()
    moved[:, 0, 2] += 1  # one view of the first frame
    off = (model.denoise(moved, t, cameras, video) - model.denoise(z, t, cameras, video)).abs().amax((3, 4, 5))
    assert (off > 1e-6).all()


def test_what_is_not_shown_is_not_seen(model):
    z, t, video = inputs(b=2)
    cameras = model.cameras([0, 90, 180, 270]).expand(2, -1, -1, -1)
    shown = torch.tensor([True, False])
    found = model.denoise(z, t, cameras, video, shown)
    other = model.denoise(z, t, cameras, -video, shown)
    assert (found[0] - other[0]).abs().max() > 1e-3
    assert torch.equal(found[1], other[1])


def test_guidance_moves_away_from_what_was_shown_nothing(model):
    """One step of DDIM from pure noise ends at the guided prediction itself."""
    z, _, video = inputs()
    cameras = model.cameras([0, 90, 180, 270])[None]
    t = torch.tensor([1])  # the one step that DDIM takes of a thousand
    with_video = model.denoise(z, t, cameras, video)
    without = model.denoise(z, t, cameras, video, torch.tensor([False]))
    for g in (1.0, 3.0):
        *_, found = model.denoising(video, cameras, 1, g, noise=z)
        assert_close(found, (without + g * (with_video - without)).clamp(-1, 1), atol=1e-4, rtol=1e-3)


def test_noise_is_predicted_where_the_configuration_says_so(model):
    z, t, video = inputs()
    cameras = model.cameras([0, 90, 180, 270])[None]
    other = FourDM(replace(CONFIG, predicts="eps"))
    other.load_state_dict(model.state_dict())
    eps = model.denoise(z, t, cameras, video)  # the same network: what it says is the noise now
    clean = other.denoise(z, t, cameras, video)
    assert_close(model.schedule.add_noise(clean, eps, t), z, atol=1e-4, rtol=1e-4)


def test_relative_poses_are_where_the_first_camera_sees_the_others():
    around = circular_trajectory(torch.tensor([40.0, 40.0, 130.0, 220.0]), 20.0, 3.0)
    found = relative(around)
    assert_close(found[0], torch.eye(4), atol=1e-5, rtol=0)
    assert_close(around[0] @ found, around[1:], atol=1e-5, rtol=1e-5)
    elsewhere = relative(circular_trajectory(torch.tensor([0.0, 0.0, 90.0, 180.0]), 20.0, 3.0))
    assert_close(found, elsewhere, atol=1e-5, rtol=0)


def test_its_cameras_are_those_it_was_trained_with(model):
    found = model.cameras([90.0])
    around = circular_trajectory(torch.tensor([200.0, 290.0]), CONFIG.elevation_deg, CONFIG.radius)
    assert_close(found[0], relative(around)[0], atol=1e-5, rtol=0)


def test_windows_that_agree_change_nothing():
    x = torch.randn(1, 11, 2, 3, 4, 4)
    for window in (1, 2, 4, 5, 8, 11):
        assert_close(blend_windows(lambda frames: x[:, frames], 11, window), x)


def test_windows_blend_by_their_distance_to_the_end():
    """Two windows of 4 over 6 frames: they begin at 0 and 2, and count 2:1 and 1:2 in between."""
    said = []

    def predict(frames):
        said.append(frames.start)
        return torch.full((1, 4, 1, 1, 1, 1), float(len(said)))

    found = blend_windows(predict, 6, 4).flatten()
    assert said == [0, 2]
    assert_close(found, torch.tensor([1, 1, (2 * 1 + 1 * 2) / 3, (1 * 1 + 2 * 2) / 3, 2, 2]))


def test_a_longer_video_goes_window_by_window(model, monkeypatch):
    video = torch.rand(13, 3, CONFIG.image_size, CONFIG.image_size)
    frames, denoise = [], model.denoise
    monkeypatch.setattr(model, "denoise", lambda z, *a: frames.append(z.shape[1]) or denoise(z, *a))
    found = model.sample(video, n_steps=2, windows=True)
    assert found.shape == (4, 13, 3, CONFIG.image_size, CONFIG.image_size)
    assert set(frames) == {CONFIG.times} and len(frames) == 2 * 3 * 2  # steps, windows, with the video and without
    assert found.min() >= 0 and found.max() <= 1


def test_the_same_seed_gives_the_same_views_and_another_others(model):
    video = torch.rand(2, 3, CONFIG.image_size, CONFIG.image_size)
    once, again, other = (model.sample(video, [0.0, 90.0], 2, seed=s) for s in (0, 0, 1))
    assert once.shape == (2, 2, 3, CONFIG.image_size, CONFIG.image_size)
    assert torch.equal(once, again) and not torch.equal(once, other)


def test_the_base_is_loaded_without_motion_modules(model, tmp_path):
    model.save_pretrained(tmp_path)
    base = FourDM.from_pretrained(tmp_path, motion=False)
    assert not [name for name in base.state_dict() if "temporal" in name]
    (tmp_path / "motion.safetensors").unlink()
    refused(lambda: FourDM.from_pretrained(tmp_path, motion=True), "motion.safetensors")


def test_the_shipped_weights_make_better_views_than_pasting_and_steadier_ones_than_the_base():
    """What the README says, in small: held-out creatures, few steps."""
    model, base = (FourDM.from_pretrained("toy", motion) for motion in (True, False))
    truth, video, cameras = orbits(model.config, 2, 8, 1_000_123)
    scores = {s.method: s for s, _ in compare(model, base, truth, video, cameras, 4, seeds=(0,))}
    assert scores[OWN].psnr_object > scores[PASTE].psnr_object + 1.5
    assert scores[OURS].psnr_object > scores[OWN].psnr_object
    assert scores[OURS].change(2) < 0.88 * scores[OWN].change(2)


def test_motion_belongs_to_its_base(model, tmp_path):
    model.save_pretrained(tmp_path, "motion", torch.float32)
    shaken(FourDM(replace(CONFIG, elevation_deg=3.0))).save_pretrained(tmp_path, "base", torch.float32)
    refused(lambda: FourDM.from_pretrained(tmp_path), "motion.safetensors")
    torch.manual_seed(5)
    FourDM(CONFIG).save_pretrained(tmp_path, "base", torch.float32)
    refused(lambda: FourDM.from_pretrained(tmp_path), "motion.safetensors")
    model.save_pretrained(tmp_path, "base", torch.float32)
    FourDM.from_pretrained(tmp_path)


def test_full_is_the_paper_and_fits_together():
    preset = FOUR_DM["full"]
    with torch.device("meta"):
        model = FourDM(preset.model)
    assert len(model.motion) == 21 and model.config.max_frames == 32 and model.config.predicts == "eps"
    assert (preset.motion_steps, preset.motion_batch, preset.motion_lr) == (30_000, 32, 1e-4)
    assert {m.attentions[0].n_heads for m in model.motion} == {8}


def test_a_model_of_latents_with_text_denoises_and_samples():
    """`full` in small: four latent channels, noise predicted, a caption, tokens from elsewhere, no clamp."""
    unet = replace(CONFIG.unet, image_channels=4, patch=1, text_dim=20, token_dim=12, concat=False, pooled=False)
    model = shaken(FourDM(replace(CONFIG, unet=unet, predicts="eps")))
    torch.manual_seed(0)
    video, tokens, caption = torch.randn(1, 3, 4, 8, 8), torch.randn(1, 3, 9, 12), torch.randn(2, 1, 5, 20)
    cameras = model.cameras([0, 90])[None]
    noise = torch.randn(1, 3, 2, 4, 8, 8)
    text = caption[0], caption[1]
    *_, found = model.denoising(video, cameras, 2, 3.0, noise, tokens=tokens, text=text, window=2)
    assert found.shape == noise.shape and found.isfinite().all() and found.abs().max() > 1
    *_, other = model.denoising(video, cameras, 2, 3.0, noise, tokens=tokens, text=text[::-1], window=2)
    assert (found - other).abs().max() > 1e-4
    refused(lambda: next(model.denoising(video, cameras, 2, 3.0, noise, tokens=tokens)), "text")
    with torch.device("meta"):
        full = FourDM(FOUR_DM["full"].model)
        z, eye = torch.zeros(1, 2, 4, 4, 32, 32), torch.zeros(1, 4, 4, 4)
        more = torch.zeros(1, 2, 257, 1280), torch.zeros(1, 77, 1024)
        assert full.unet(z[0], torch.zeros(2).long(), eye.expand(2, -1, -1, -1), z[0, :, 0], more[0][0],
                         more[1].expand(2, -1, -1), frames=2).shape == z[0].shape  # fmt: skip


def test_bad_videos_are_named(model):
    refused(lambda: model.sample(torch.rand(3, 3, 8, 8)), "video", (3, 3, 8, 8))
    refused(lambda: model.sample(torch.rand(3, 4, 16, 16)), "video", (3, 4, 16, 16))
    refused(lambda: model.sample(torch.rand(3, 3, 16, 16), azimuths_deg=(0.0, float("nan"))), "azimuths_deg", "nan")
    refused(lambda: model.sample(torch.rand(3, 3, 16, 16), guidance=float("nan")), "guidance", "nan")
    refused(lambda: model.sample(torch.rand(33, 3, 16, 16)), "video", 33)
    refused(lambda: model.sample(torch.rand(3, 3, 16, 16), azimuths_deg=()), "azimuths_deg", ())
    refused(lambda: model.sample(2 * torch.ones(3, 3, 16, 16)), "video", 2, 2)


def test_configurations_and_counts_that_do_not_fit_are_named(model):
    refused(lambda: replace(CONFIG, image_size=18), "image_size", 18)
    refused(lambda: replace(CONFIG, token_patch=4), "token_dim", 192)
    refused(lambda: replace(CONFIG, views=0), "views", 0)
    z, t, video = inputs()
    cameras = model.cameras([0, 90, 180, 270])[None]
    refused(lambda: model.denoise(z, t, cameras, video[:, :2]), "reference", 2, "z", 3)
