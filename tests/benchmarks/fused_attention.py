"""What does the fused attention cost? Against a dense mask, attention of all to all, and two streams; one thread.

64 tokens a frame, 192 channels in 6 heads, one grid. Seconds are the process's, which other programs lengthen less.

    python tests/benchmarks/fused_attention.py

1. Forward, and with backward; how far outputs and gradients are from the dense ones.
2. A whole layer of the video transformer on a grid: two streams against one fused stream.
"""

import time
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from timing import machine, seconds, trained
from torch import Tensor

from fourd_minimal.fused_attention import Fused4D, fused_attention, masked_attention
from fourd_minimal.two_stream import both_streams
from fourd_minimal.video_dit import Block, rotary_angles

TOKENS, DIM, HEADS = 64, 192, 6


def along(pattern: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention over the sequences that a pattern makes of a grid."""
    (b, views, times), grid = q.shape[:3], "b v t h n d"
    y = F.scaled_dot_product_attention(*(rearrange(a, f"{grid} -> {pattern}") for a in (q, k, v)))
    return rearrange(y, f"{pattern} -> {grid}", b=b, v=views, t=times)


def two_attentions(*qkv: Tensor) -> Tensor:
    """What two streams do: along the rows, and along the columns."""
    return along("(b v) h (t n) d", *qkv) + along("(b t) h (v n) d", *qkv)


WAYS = {
    "dense, masked": masked_attention,
    "all to all": partial(along, "b h (v t n) d"),
    "two streams' attentions": two_attentions,
    "fused": fused_attention,
    "fused, recomputed": partial(fused_attention, recompute=True),
}
timed = partial(seconds, clock=time.process_time)


def inputs(side: int) -> list[Tensor]:
    """q, k and v as views of what linear layers leave."""
    leaves = [torch.randn(1, side, side, TOKENS, DIM, requires_grad=True) for _ in range(3)]
    return [rearrange(a, "b v t n (h d) -> b v t h n d", h=HEADS) for a in leaves]


def attentions(side: int, rounds: int) -> None:
    qkv = inputs(side)
    weight = torch.randn_like(qkv[0])

    def both(way) -> tuple[Tensor, ...]:
        y = way(*qkv)
        return y, *torch.autograd.grad(y, qkv, weight, retain_graph=True)

    with torch.no_grad():
        forwards = timed(*(partial(way, *qkv) for way in WAYS.values()), rounds=rounds)
    steps, truth = timed(*(partial(both, way) for way in WAYS.values()), rounds=rounds), both(masked_attention)
    for (name, way), one, two in zip(WAYS.items(), forwards, steps, strict=True):
        off = [f"{(a - b).abs().max().item():.0e}" for a, b in zip(both(way), truth, strict=True)]
        exact = f"off by {', '.join(off)}" if "fused" in name else ""
        speed = f"forward {one * 1e3:6.0f} ms, and backward {two * 1e3:6.0f} ms ({steps[0] / two:.1f}x)"
        print(f"  {name:24s} {speed}  {exact}")


def layers(side: int, rounds: int) -> None:
    """Self-attention and feed-forward, forward and backward, weights trained."""
    block, x = Block(DIM, HEADS), torch.randn(1, side, side, TOKENS, DIM, requires_grad=True)
    condition = torch.randn(side, side, DIM), None, rotary_angles(side, 8, 8, DIM // HEADS)[None]
    fused = Fused4D([block])
    ways = lambda: torch.stack(both_streams(block, x, x, condition, condition)), lambda: fused(x, condition, condition)
    two, one = timed(*map(trained, ways), rounds=rounds)
    print(f"  a layer: two streams {two * 1e3:.0f} ms, fused {one * 1e3:.0f} ms: {one / two:.2f} of it")


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(machine())
    for side, rounds in ((4, 15), (8, 5)):
        print(f"Attention on {side}x{side} frames of {TOKENS} tokens, {DIM} channels in {HEADS} heads:")
        attentions(side, rounds)
        layers(side, rounds)
