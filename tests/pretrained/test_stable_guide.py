"""The guide, on a tiny random Stable Diffusion that is saved and loaded as a published one is."""

import sys
from dataclasses import replace
from functools import partial

import diffusers
import pytest
import torch
import transformers
from einops import rearrange, repeat
from refused import refused
from torch.testing import assert_close

from fourd_minimal.configs.four_diffusion import FOUR_DM
from fourd_minimal.ddpm import NoiseSchedule
from fourd_minimal.pretrained.animate_diff import joint_views
from fourd_minimal.pretrained.stable_guide import StableGuide, StableGuideConfig, read_captions
from fourd_minimal.systems import scene_distillation
from fourd_minimal.systems.dynamic_nerf import DynamicNeRFConfig
from fourd_minimal.systems.four_diffusion import FourDM
from fourd_minimal.systems.guidance import GuidanceModel
from fourd_minimal.systems.scene_distillation import Ramp, SceneConfig, optimise_steps

CONFIG = StableGuideConfig(views=4, times=2, image_size=16, at_once=3)
FIELD = dict(n_levels=2, log2_table_size=8, base_resolution=4, per_level_scale=2.0, width=8, n_samples=8)
FIELD = DynamicNeRFConfig(**FIELD, occupancy_side=6)
NONE = dict(anchor=0.0, orientation=Ramp(0.0, 0.0), entropy=Ramp(0.0, 0.0), opacity=0.0)
SCENE = SceneConfig(FIELD, fov_deg=36.0, sizes=((0, 8),), n_steps=2, anneal_steps=4, **NONE)


@pytest.fixture(scope="module")
def guide(stable_folder):
    return StableGuide.from_pretrained(
        str(stable_folder), "a fox", str(stable_folder / "motion"), "ugly", config=CONFIG
    )


def latents(n=2, views=4, seed=1):
    return torch.randn(n, views, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def renders(seed=1):
    return torch.rand(2, 4, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


AZIMUTHS = torch.tensor([10.0, 100.0, 190.0, 280.0])


def test_what_is_loaded_is_what_the_folder_holds(stable_folder, guide):
    assert isinstance(guide, GuidanceModel) and not isinstance(FourDM.__new__(FourDM), GuidanceModel)
    assert isinstance(guide.unet, diffusers.UNetMotionModel) and guide.moves
    assert not any(p.requires_grad for p in guide.parameters())
    adapter = diffusers.MotionAdapter.from_pretrained(stable_folder / "motion").state_dict()
    own = guide.unet.state_dict()
    assert all(torch.equal(own[name], value) for name, value in adapter.items())
    linear = diffusers.DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear")
    assert_close(guide.schedule.abar, linear.alphas_cumprod)
    still = StableGuide.from_pretrained(str(stable_folder), "a fox")
    assert_close(still.schedule.abar, NoiseSchedule().abar, atol=1e-5, rtol=1e-4)  # Stable Diffusion's own
    assert still.config.image_size == 16 and not still.moves


def test_captions_are_read_as_the_librarys_pipeline_reads_them(stable_folder, guide):
    reader = transformers.CLIPTextModel.from_pretrained(stable_folder / "text_encoder")
    parts = dict(tokenizer=transformers.CLIPTokenizer.from_pretrained(stable_folder / "tokenizer"), text_encoder=reader)
    parts |= dict(unet=guide.unet, vae=guide.vae, scheduler=diffusers.DDIMScheduler(steps_offset=1, clip_sample=False))
    absent = dict(feature_extractor=None, safety_checker=None, requires_safety_checker=False)
    pipeline = diffusers.StableDiffusionPipeline(**parts, **absent)
    captions = ["a fox, front view", "a fox, side view", "a fox, back view"]
    expected, nothing = pipeline.encode_prompt(captions, "cpu", 1, True, ["ugly"] * 3)
    assert_close(guide.text[:3], expected)
    assert_close(guide.text[3], nothing[0])
    assert (guide.text[0] - guide.text[1]).abs().max() > 1e-3
    assert torch.equal(read_captions(str(stable_folder), ["a fox, back view"])[0], guide.text[2])


def test_latents_are_the_librarys_and_have_a_gradient(guide):
    x = renders().requires_grad_()
    found = guide.encode(x)
    other = renders().requires_grad_()
    expected = guide.vae.encode(other.flatten(0, 1) * 2 - 1).latent_dist.mode() * guide.vae.config.scaling_factor
    assert_close(found, expected.unflatten(0, (2, 4)))
    weight = torch.linspace(-1, 1, found.numel()).view_as(found)
    (found * weight).sum().backward()
    (expected.view_as(found) * weight).sum().backward()
    assert_close(x.grad, other.grad)
    assert x.grad.abs().max() > 0


def test_one_prediction_is_the_library_with_joined_views_and_captions_of_their_own(guide):
    z, t = latents(), torch.tensor(600)
    shown, nothing = guide.noise_predictor(AZIMUTHS)(z, t)
    for found, rows in ((shown, [0, 1, 2, 1]), (nothing, [3, 3, 3, 3])):
        text = repeat(guide.text[rows], "v l d -> (v t) l d", t=2)
        with joint_views(guide.unet, 4):
            expected = guide.unet(rearrange(z, "t v c h w -> v c t h w"), t, encoder_hidden_states=text).sample
        assert_close(found, rearrange(expected, "v c t h w -> t v c h w"), atol=1e-5, rtol=1e-4)
    other = z.clone()
    other[1, 2] = 0
    moved = (guide.noise_predictor(AZIMUTHS)(other, t)[0] - shown).abs().amax((2, 3, 4)) > 1e-6
    assert moved.all()  # all frames and views see that one


@pytest.mark.parametrize("joint", [True, False])
def test_without_motion_frames_are_denoised_one_by_one(joint, stable_folder):
    still = StableGuide.from_pretrained(str(stable_folder), "a fox", config=replace(CONFIG, joint=joint))
    z, t = latents(), torch.tensor(600)
    found, other = still.noise_predictor(AZIMUTHS)(z, t)[0], z.clone()
    other[1, 2] = 0
    moved = (still.noise_predictor(AZIMUTHS)(other, t)[0] - found).abs().amax((2, 3, 4)) > 1e-6
    assert moved.tolist() == [[False] * 4, [True] * 4 if joint else [False, False, True, False]]
    with joint_views(still.unet, 4 if joint else 1):
        expected = still.unet(z[1], t, encoder_hidden_states=still.text[[0, 1, 2, 1]]).sample
    assert_close(found[1], expected, atol=1e-5, rtol=1e-4)


def test_guidance_one_is_the_caption_and_zero_is_none(guide):
    x, t = renders(), torch.tensor(400)

    def target(guidance):
        options = dict(guidance=guidance, rescale=0.0, generator=torch.Generator().manual_seed(0))
        return guide.distill(x, AZIMUTHS, t, **options).target

    latent, abar = guide.encode(x), guide.abar[t]
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))
    z = abar.sqrt() * latent + (1 - abar).sqrt() * noise
    shown, nothing = guide.noise_predictor(AZIMUTHS)(z, t)
    for guidance, e in ((1.0, shown), (0.0, nothing)):
        assert_close(target(guidance), (z - (1 - abar).sqrt() * e) / abar.sqrt(), atol=1e-4, rtol=1e-4)
    assert_close(target(3.0), target(0.0) + 3 * (target(1.0) - target(0.0)), atol=1e-3, rtol=1e-3)


def test_the_scene_feels_the_gradient_of_the_guides_loss(guide, monkeypatch):
    """What a step of the optimisation hands to the field, against autograd through renders, encoder and loss."""
    config = replace(SCENE, n_steps=1, guidance=3.0, sizes=((0, 16),), sds=2.0)
    gradients, calls, distill = [], [], StableGuide.distill

    def watched(self, x, *args, **options):
        calls.append((x.detach(), args, options["generator"].get_state(), options))
        return distill(self, x, *args, **options)

    class Watched(torch.optim.SGD):
        def step(self):
            gradients.extend(p.grad.clone() for group in self.param_groups for p in group["params"])

    monkeypatch.setattr(StableGuide, "distill", watched)
    monkeypatch.setattr(scene_distillation, "adamw", lambda scene, *_: Watched(scene.parameters(), 1.0))
    straight = scene_distillation.DynamicNeRF.render_pixels  # at the middle of each stretch, as the guidance step
    monkeypatch.setattr(
        scene_distillation.DynamicNeRF, "render_pixels", lambda s, o, d, t, g=None, f=False: straight(s, o, d, t)
    )
    *_, step = optimise_steps(None, guide, config)
    ((x, (azimuths, t), state, options),) = calls
    c2w = scene_distillation.circular_trajectory(azimuths, CONFIG.elevation_deg, CONFIG.radius)
    times = torch.tensor([0.0, 1.0])[:, None].expand(-1, 4)
    seen = step.scene.requires_grad_().render(c2w.expand(2, -1, 4, 4), 36.0, times, 16).rgb
    assert_close(seen.detach(), x, atol=1e-5, rtol=0)
    options["generator"].set_state(state)
    loss = config.sds * distill(guide, seen, azimuths, t, **options).loss
    for found, expected in zip(gradients, torch.autograd.grad(loss, list(step.scene.parameters())), strict=True):
        assert_close(found, expected, atol=1e-4 * expected.abs().max().item(), rtol=1e-3)


def test_a_caption_becomes_a_scene_and_an_interrupted_run_goes_on_exactly(guide, tmp_path):
    config = replace(SCENE, n_steps=3, guidance=3.0, pixels=40)
    whole = list(optimise_steps(None, guide, config))
    assert [s.number for s in whole] == [1, 2, 3] and all(s.losses["sds"] > 0 for s in whole)
    path = tmp_path / "scene.safetensors"
    for step in optimise_steps(None, guide, config, path=path, checkpoint_every=2):
        if step.number == 3:
            break
    (last,) = optimise_steps(None, guide, config, path=path)
    assert last.number == 3 and torch.equal(last.scene.space.table, whole[-1].scene.space.table)
    other = StableGuide(guide.unet, guide.vae, guide.schedule, guide.text.flip(0), CONFIG)
    refused(lambda: next(optimise_steps(None, other, config, path=path)), path.name, "guidance_model")
    other = StableGuide(guide.unet, guide.vae, guide.schedule, guide.text, replace(CONFIG, joint=False))
    refused(lambda: next(optimise_steps(None, other, config, path=path)), path.name, "guide")


def test_beside_a_video_the_guide_guides_and_4dm_makes_the_videos(guide, monkeypatch):
    model, calls, distill = FourDM(FOUR_DM["smoke"].model).requires_grad_(False), [], StableGuide.distill
    monkeypatch.setattr(
        StableGuide, "distill", lambda self, x, *a, **k: calls.append(tuple(x.shape)) or distill(self, x, *a, **k)
    )
    config = replace(SCENE, sampling_steps=1, direct=1.0, mask=0.1, pixels=40, guidance=3.0)
    steps = list(optimise_steps(torch.rand(3, 3, 16, 16), model, config, guidance_model=guide))
    assert calls == [(3, 4, 3, 16, 16)] * 2
    assert all(step.losses["sds"] > 0 and step.losses["direct"] > 0 for step in steps)


def test_losses_that_compare_with_a_video_are_refused_without_one(guide):
    for name, value in dict(anchor=1.0, direct=1.0, mask=0.1, fit_steps=3).items():
        config = replace(SCENE, **{name: value})
        refused(partial(next, optimise_steps(None, guide, config, lambda a, b: a)), name, value)
    refused(lambda: next(optimise_steps(torch.rand(2, 3, 16, 16), guide, SCENE)), "model", "guidance_model")
    refused(lambda: next(optimise_steps(None, FourDM.__new__(FourDM), SCENE)), "video", None)


def test_bad_input_is_one_sentence(guide, stable_folder, tmp_path, monkeypatch):
    name, motion = str(stable_folder), str(stable_folder / "motion")
    parts = guide.unet, guide.vae, guide.schedule, guide.text
    refused(lambda: StableGuide.from_pretrained(name, " "), "prompt", "' '")
    refused(lambda: StableGuide.from_pretrained(str(tmp_path / "nowhere"), "a fox"), "unet", "nowhere")
    deeper = dict(block_out_channels=(16, 32, 32), motion_num_attention_heads=2, motion_norm_num_groups=8)
    diffusers.MotionAdapter(**deeper).save_pretrained(tmp_path / "motion")
    refused(lambda: StableGuide.from_pretrained(name, "a fox", str(tmp_path / "motion")), "motion", name)
    refused(lambda: StableGuide(*parts, replace(CONFIG, times=9)), "times", 9)
    refused(lambda: StableGuide(*parts, replace(CONFIG, image_size=18)), "image_size", 18)
    refused(lambda: StableGuide(*parts[:3], torch.zeros(4, 5, 7), CONFIG), "text", 7)
    refused(lambda: StableGuide(*parts, CONFIG, "sample"), "predicts", "sample")
    refused(lambda: replace(CONFIG, views=0), "views", 0)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    refused(lambda: StableGuide.from_pretrained(name, "a fox", motion), "diffusers", "fourd-minimal[pretrained]")
