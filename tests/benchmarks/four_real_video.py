"""How fast is it? Ratios against a peer in one run; nothing here is a timed test.

    python tests/benchmarks/four_real_video.py

1. A training step of the video DiT's blocks against the same shapes through diffusers' Wan blocks.
2. Milliseconds per rendered 32-pixel frame of every procedural family.
3. Seconds and peak memory of one 8x8 grid, 8 Euler steps, at the sizes of the `cpu` and the `gpu` preset.
"""

import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from torch import Tensor, nn

from figures.memory import peak_mib
from fourd_minimal.configs.four_real_video import PRESETS
from fourd_minimal.configs.presets import device
from fourd_minimal.data.procedural import FAMILIES, sample_scenes
from fourd_minimal.systems.four_real_video import FourRealVideo
from fourd_minimal.video_dit import Block, rotary_angles


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(call: Callable[[], object]) -> float:
    synchronise()
    start = time.perf_counter()
    call()
    synchronise()
    return time.perf_counter() - start


def duel(ours: Callable[[], object], theirs: Callable[[], object], rounds: int = 15) -> tuple[float, float, float]:
    """Medians in seconds and the median of the ratios of neighbouring runs, which a busy machine slows alike."""
    for call in (ours, theirs):
        call()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    a, b = (statistics.median(x) for x in zip(*pairs, strict=True))
    return a, b, statistics.median(x / y for x, y in pairs)


def training_step(blocks: nn.ModuleList, run: Callable[[nn.Module, Tensor], Tensor], tokens: Tensor):
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
    dit, frames, text_length = cfg.dit, cfg.times, 16
    rows = dit.image_size[0] // dit.patch
    n, head_dim = frames * rows**2, dit.dim // dit.heads
    tokens, text = (
        torch.randn(batch, n, dit.dim, device=device()),
        torch.randn(batch, text_length, dit.dim).to(device()),
    )
    angles = rotary_angles(frames, rows, rows, head_dim).to(device())
    c = torch.randn(batch, frames, dit.dim, device=device())
    modulation = torch.randn(batch, n, 6, dit.dim, device=device())
    rotary = [f(angles).repeat_interleave(2, -1)[None, :, None] for f in (torch.cos, torch.sin)]
    ours = nn.ModuleList(Block(dit.dim, dit.heads, dit.mlp_ratio, dit.dim) for _ in range(dit.depth)).to(device())
    theirs = nn.ModuleList(
        WanTransformerBlock(dit.dim, int(dit.dim * dit.mlp_ratio), dit.heads, cross_attn_norm=True)
        for _ in range(dit.depth)
    ).to(device())
    a, b, ratio = duel(
        training_step(ours, lambda block, x: block(x, c, text, angles), tokens),
        training_step(theirs, lambda block, x: block(x, text, modulation, rotary), tokens),
    )
    shape = f"{dit.depth} blocks of {dit.dim}, {batch} videos of {n} tokens"
    print(f"  {name:4s} {shape}: {a * 1e3:.0f} ms, diffusers {b * 1e3:.0f} ms, ratio {ratio:.2f} (wanted: at most 1.0)")


def rendering() -> None:
    for family in FAMILIES:
        sample_scenes(4, 8, 8, 32, 0, family)
        for what, geometry in (("RGB and alpha", False), ("with depth, flow, visibility", True)):
            taken = min(
                seconds(lambda g=geometry, f=family: sample_scenes(8, 8, 8, 32, 1, f, geometry=g)) for _ in range(5)
            )
            print(f"  {family:9s} {what:29s} {taken * 1e3 / (8 * 64):.2f} ms per frame")


def one_grid(name: str) -> None:
    """Run alone in a process of its own, so that the peak is this grid's."""
    config = replace(PRESETS[name].model, views=8, times=8)
    model = FourRealVideo(config).requires_grad_(False).to(device())
    h, w = config.dit.image_size
    video = torch.rand(8, 3, h, w)
    before = peak_mib()
    taken = seconds(lambda: model.generate(video, video, n_steps=8))
    if torch.cuda.is_available():
        peak, kind = torch.cuda.max_memory_allocated() / 2**20, "GPU memory"
    else:
        peak, kind = peak_mib() - before, "more memory than before"
    print(f"  {name:4s} 8x8 frames of {h}x{w}: {taken:.1f} s, {peak:.0f} MiB {kind}")


def main() -> None:
    kind = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    print(f"torch {torch.__version__}, {kind}, {torch.get_num_threads()} threads")
    print("Training step of the blocks:")
    for name in ("cpu", "gpu") if torch.cuda.is_available() else ("cpu",):
        blocks_against_diffusers(name)
    print("Rendering on the CPU:")
    rendering()
    print("One grid, random weights:")
    for name in ("cpu", "gpu"):
        subprocess.run([sys.executable, __file__, name], check=True)


if __name__ == "__main__":
    one_grid(sys.argv[1]) if len(sys.argv) > 1 else main()
