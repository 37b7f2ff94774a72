"""How fast is the full configuration on this device? Weights are random: speed does not depend on them.

    python tests/benchmarks/full_width.py                       on a GPU: the numbers
    python tests/benchmarks/full_width.py --preset smoke        anywhere: that it runs

1. A training step of each stage, one part of it: seconds, and the share of the device's peak that the model's own
   floating-point operations are (MFU; recomputed ones do not count).
2. Seconds for one 8x8 grid at 288x512, two videos in: base, synchronisation and upsampler; the paper says about one
   minute. As it is written, then with each block compiled.
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from timing import machine, seconds
from torch import nn

from figures.cost import trace
from figures.hardware import EFFICIENCY, KINDS, kind_here
from figures.stages import find_stage
from fourd_minimal.configs.four_diffusion import FOUR_DM
from fourd_minimal.configs.four_real_video import PRESETS
from fourd_minimal.configs.presets import device
from fourd_minimal.configs.upsampler import UPSAMPLERS
from fourd_minimal.systems.four_diffusion import FourDM
from fourd_minimal.systems.four_real_video import FourRealVideo
from fourd_minimal.systems.upsampler import Upsampler
from fourd_minimal.training.devices import blocks, recompute
from fourd_minimal.training.four_real_video import base_batch, batch_loss, grid_batch

CUDA = torch.cuda.is_available()


def training_step(name: str, model: nn.Module, part: nn.Module, loss: Callable[[], torch.Tensor], flops: float) -> None:
    """Forward and backward of one part of a step, and the update; `flops` without what is recomputed."""
    model.requires_grad_(False)
    part.requires_grad_(True)
    optimiser = torch.optim.AdamW(part.parameters(), fused=True)
    recompute(model)

    def step() -> None:
        optimiser.zero_grad()
        with torch.autocast(device().type, torch.bfloat16):
            found = loss()
        found.backward()
        optimiser.step()

    (taken,), kind = seconds(step), KINDS.get(kind_here())
    memory = f", {torch.cuda.max_memory_allocated() / 1e9:.1f} GB" if CUDA else ""
    mfu = f", MFU {flops / taken / (kind.bf16 / EFFICIENCY):.0%}" if kind and kind.bf16 else ""  # of the datasheet
    print(f"  {name:22s} {taken:.3f} s, {flops / 1e12:.3g} TFLOP{mfu}{memory}")


def counted(system: str, stage: str, preset: Any, n: int) -> float:
    """Operations of a micro-batch of so many, at the last of its sizes."""
    return trace(find_stage(system, stage, preset), n, "bf16").tallies[-1].flops


def four_real_video(name: str) -> None:
    preset, where = PRESETS[name], device()
    for stage, batch in (("base", base_batch(preset, preset.base_steps - 1)), ("sync", grid_batch(preset, "sync", 0))):
        model = FourRealVideo(preset.model).to(where)
        n = getattr(preset, f"{stage}_batch") // preset.parts
        loss, flops = partial(batch_loss, model, batch, where), counted("four_real_video", stage, preset, n)
        training_step(f"4Real-Video, {stage}", model, model.part(stage), loss, flops)


def four_diffusion(name: str) -> None:
    """4DM's motion modules, on random latents or pixels with the shapes of the preset."""
    preset, where = FOUR_DM[name], device()
    cfg, n = preset.model, preset.motion_batch // preset.parts
    model, unet = FourDM(cfg).to(where), cfg.unet
    side = cfg.image_size if unet.image_channels == 3 else cfg.image_size // 8
    views = torch.randn(n, cfg.times, cfg.views, unet.image_channels, side, side, device=where)
    tokens = torch.randn(n, cfg.times, 257, unet.token_dim, device=where) if unet.image_channels == 4 else None
    text = torch.randn(n, 77, unet.text_dim, device=where) if unet.text_dim else None
    cameras, t = torch.eye(4, device=where).expand(n, cfg.views, 4, 4), torch.full((n,), 500, device=where)

    def loss() -> torch.Tensor:
        return model.denoise(views, t, cameras, views[:, :, 0], tokens=tokens, text=text).square().mean()

    training_step("4DM, motion modules", model, model.motion, loss, counted("four_diffusion", "motion", preset, n))


@torch.no_grad()
def one_grid(name: str, base_steps: int, large_steps: int) -> None:
    """From two videos to large frames."""
    base = FourRealVideo(PRESETS[name].model).requires_grad_(False).to(device())
    config = UPSAMPLERS[name].model
    upsampler = Upsampler(config).requires_grad_(False).to(device())
    h, w = config.small_size
    videos = torch.rand(2, min(base.views, base.times), 3, h, w)
    videos[1, 0] = videos[0, 0]

    def grid() -> None:
        with torch.autocast(device().type, torch.bfloat16):
            upsampler.upsample(base.generate(*videos, n_steps=base_steps), n_steps=large_steps)

    for way in ("as written", "compiled") if CUDA else ("as written",):
        for block in (*blocks(base), *blocks(upsampler)) if way == "compiled" else ():
            block.compile()
        print(f"  {base_steps} + {large_steps} steps, {way}: {seconds(grid, rounds=2)[0]:.1f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", choices=PRESETS, default="full")
    parser.add_argument("--steps", type=int, nargs=2, default=(40, 10), help="of the base and of the upsampler")
    given = parser.parse_args()
    if given.preset == "full" and not CUDA:
        raise SystemExit("preset is full on a CPU; expected a GPU (--preset smoke shows that this runs).")
    print(f"{machine()}, bf16, preset {given.preset}\nOne part of a training step, blocks recomputed:")
    four_real_video(given.preset)
    four_diffusion(given.preset)
    print("One grid:")
    one_grid(given.preset, *given.steps)
