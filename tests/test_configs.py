"""The papers' configurations: their sizes, and a slice of each, at full width, forward and backward."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from refused import refused
from torch import nn

from fourd_minimal.configs.four_diffusion import FOUR_DM
from fourd_minimal.configs.four_real_video import PRESETS
from fourd_minimal.configs.scene_distillation import SCENES
from fourd_minimal.configs.text_to_video import TEXT_TO_VIDEO
from fourd_minimal.configs.upsampler import UPSAMPLERS
from fourd_minimal.motion_module import MotionModule
from fourd_minimal.multiview_unet import JointTransformer, ResBlock
from fourd_minimal.systems.conditioning import known_cells
from fourd_minimal.systems.dynamic_nerf import DynamicNeRF
from fourd_minimal.systems.four_diffusion import FourDM
from fourd_minimal.systems.four_real_video import FourRealVideo
from fourd_minimal.systems.upsampler import Upsampler
from fourd_minimal.training.four_real_video import Batch, base_batch, batch_loss


def millions(module: nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6


def test_full_sizes_are_the_papers():
    """600M in section 4.1 of 4Real-Video; 21 motion modules as 4Diffusion describes them have 453M."""
    with torch.device("meta"):
        video, motion = FourRealVideo(PRESETS["full"].model), FourDM(FOUR_DM["full"].model)
        upsampler = Upsampler(UPSAMPLERS["full"].model)
    assert millions(video.base) == pytest.approx(600, rel=0.02)
    assert len(motion.motion) == 21 and millions(motion.motion) == pytest.approx(453, rel=0.02)
    assert (upsampler.config.small_size, upsampler.config.dit.image_size) == ((72, 128), (288, 512))


def test_one_block_of_4real_video_at_full_width():
    """Two streams of a 2 x 2 grid through one block of 1024 channels and its sync, at the first of the two sizes."""
    full = PRESETS["full"].model
    model = FourRealVideo(replace(full, dit=replace(full.dit, depth=1, image_size=(36, 64)))).requires_grad_(False)
    model.part("sync").requires_grad_(True)
    nn.init.normal_(model.base.patch_out.weight, std=0.02)
    grid, sigma = torch.rand(1, 2, 2, 3, 36, 64) * 2 - 1, torch.tensor([0.7])
    loss = batch_loss(model, [Batch(grid, sigma, known_cells(2, 2)[None], grid)])
    loss.backward()
    gradients = [p.grad for p in model.part("sync").parameters()]
    assert loss.isfinite() and all(g is not None and g.isfinite().all() for g in gradients)
    assert any(g.abs().max() > 0 for g in gradients)


def test_one_level_of_4dm_at_full_width():
    """A residual block, joint attention over 5 slots, and a motion module over 2 frames, all of 1280 channels."""
    res, joint = ResBlock(1280, 1280, 1280, 32), JointTransformer(1280, (1024, 1024), 64, 32)
    motion = MotionModule(1280)
    nn.init.normal_(motion.proj_out.weight, std=0.02)
    x = torch.randn(10, 1280, 4, 4)
    contexts = torch.randn(2, 77, 1024), torch.randn(2, 16, 1024)
    with torch.no_grad():
        x = joint(res(x, torch.randn(10, 1280)), 5, *contexts)
    y = motion(x.unflatten(0, (5, 2)))
    y.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in motion.parameters())


def test_the_field_of_4diffusion_at_full_size():
    """Two grids of 16 levels and 2^19 entries, a few points."""
    field = DynamicNeRF(SCENES["full"].nerf)
    tables = sum(p.numel() for p in field.parameters() if p.numel() > 2**20)
    assert tables > 2 * 10 * 2**19 * 2  # the finer levels fill their tables
    c2w = torch.eye(4)
    c2w[2, 3] = 1.1
    field.render(c2w, 45.0, 0.5, 4).rgb.sum().backward()
    assert all(p.grad is not None for p in field.parameters())


def test_the_base_grows_from_36x64_to_72x128():
    full = PRESETS["full"]
    assert [size for _, size in full.base_sizes] == [(36, 64), (72, 128)] and full.sync_steps == 20_000 + 3000
    few = replace(full, base_batch=2, parts=1, sources=(("simple", 1.0),))
    sizes = {n: {tuple(b.clean.shape[-2:]) for b in base_batch(few, n)} for n in (0, 299_999, 300_000)}
    assert sizes == {0: {(36, 64)}, 299_999: {(36, 64)}, 300_000: {(72, 128)}}


def test_parts_and_sizes_that_make_no_sense():
    refused(lambda: replace(PRESETS["cpu"], base_batch=10, parts=4), "base_batch", 10)
    refused(lambda: replace(PRESETS["cpu"], sync_batch=6, parts=4, base_batch=8), "sync_batch", 6)
    for sizes in (((5, (24, 24)),), ((0, (16, 16)),)):
        refused(partial(replace, PRESETS["cpu"], base_sizes=sizes), "base_sizes", sizes)
    refused(lambda: replace(PRESETS["cpu"], parts=0), "parts", 0)
    refused(lambda: replace(FOUR_DM["smoke"], motion_batch=4, parts=3, base_steps=0), "motion_batch", 4)
    refused(lambda: replace(FOUR_DM["smoke"], base_batch=3, motion_batch=4, parts=2), "base_batch", 3)
    refused(lambda: replace(UPSAMPLERS["smoke"], batch=2, parts=3), "batch", 2)
    refused(lambda: replace(TEXT_TO_VIDEO["smoke"], batch=4, parts=4), "batch", 4)
