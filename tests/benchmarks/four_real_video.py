"""How fast is it? Ratios against diffusers in one run.

    python tests/benchmarks/four_real_video.py

1. A training step of the video DiT's blocks against the same shapes through diffusers' Wan blocks.
2. Seconds and peak memory of one 8x8 grid, 8 Euler steps, at the sizes of the `cpu` and the `gpu` preset.
"""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import torch
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from timing import machine, seconds
from torch import Tensor, nn

from figures.memory import peak_mib
from fourd_minimal.configs.four_real_video import PRESETS
from fourd_minimal.configs.presets import device
from fourd_minimal.systems.four_real_video import FourRealVideo
from fourd_minimal.video_dit import Block, rotary_angles


def training_step(blocks: list[nn.Module], run: Callable[[nn.Module, Tensor], Tensor], tokens: Tensor):
    blocks = nn.ModuleList(blocks).to(tokens.device)
    optimiser = torch.optim.AdamW(blocks.parameters(), fused=True)

    def step() -> None:
        x = tokens
        for block in blocks:
            x = run(block, x)
        optimiser.zero_grad()
        x.square().mean().backward()
        optimiser.step()

    return step


def blocks_against_diffusers(name: str, batch: int = 24) -> None:
    """Self-attention, text attention and feed-forward, modulated frame by frame, in both."""
    cfg = PRESETS[name].model
    dit, frames, side = cfg.dit, cfg.times, cfg.dit.image_size[0] // cfg.dit.patch
    n, dim, heads = frames * side**2, dit.dim, dit.heads
    tokens, text, c = (torch.randn(batch, length, dim, device=device()) for length in (n, 16, frames))
    angles = rotary_angles(frames, side, side, dim // heads).to(device())
    modulation = torch.randn(batch, n, 6, dim, device=device())
    rotary = [f(angles).repeat_interleave(2, -1)[None, :, None] for f in (torch.cos, torch.sin)]
    ours = [Block(dim, heads, dit.mlp_ratio, dim) for _ in range(dit.depth)]
    theirs = [WanTransformerBlock(dim, int(dim * dit.mlp_ratio), heads, cross_attn_norm=True) for _ in ours]
    a, b = seconds(
        training_step(ours, lambda block, x: block(x, c, text, angles), tokens),
        training_step(theirs, lambda block, x: block(x, text, modulation, rotary), tokens),
        rounds=15,
    )
    print(f"  {name:4s} {dit.depth} blocks of {dim}, {batch} videos of {n} tokens: {a * 1e3:.0f} ms, ", end="")
    print(f"diffusers {b * 1e3:.0f} ms, ratio {a / b:.2f} (expected: at most 1.0)")


def one_grid(name: str) -> None:
    """Run alone in a process of its own, so that the peak is this grid's."""
    config = replace(PRESETS[name].model, views=8, times=8)
    model, (h, w) = FourRealVideo(config).requires_grad_(False).to(device()), config.dit.image_size
    video, before = torch.rand(8, 3, h, w), peak_mib()
    (taken,) = seconds(lambda: model.generate(video, video, n_steps=8), rounds=1)
    gpu = torch.cuda.is_available()
    peak = torch.cuda.max_memory_allocated() / 2**20 if gpu else peak_mib() - before
    print(f"  {name:4s} 8x8 frames of {h}x{w}: {taken:.1f} s, {peak:.0f} MiB {'of the GPU' if gpu else 'more'}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        one_grid(sys.argv[1])
    else:
        print(f"{machine()}\nTraining step of the blocks:")
        for name in ("cpu", "gpu") if torch.cuda.is_available() else ("cpu",):
            blocks_against_diffusers(name)
        print("One grid, random weights:", flush=True)
        for name in ("cpu", "gpu"):
            subprocess.run([sys.executable, __file__, name], check=True)
