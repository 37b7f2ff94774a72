"""What does the fused attention cost? Against its dense twin, attention of all to all, and two streams; one thread.

64 tokens a frame, 192 channels in 6 heads, one grid. Seconds are the processor's, which other programs lengthen less
than they do the clock's; nothing here is a timed test.

    python tests/benchmarks/fused_attention.py

1. Forward, and forward with backward; how far outputs and gradients are from the dense twin's; megabytes kept for the
   backward pass beside q, k, v; peak memory of a process of its own.
2. A whole layer of the video transformer on a grid: two streams against one fused stream.
"""

import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from figures.memory import peak_mib
from fourd_minimal.fused_attention import Fused4D, fused_attention, masked_attention
from fourd_minimal.two_stream import both_streams
from fourd_minimal.video_dit import Block, rotary_angles

TOKENS, DIM, HEADS = 64, 192, 6


def full_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Every token sees every token."""
    views, times = q.shape[1:3]
    y = F.scaled_dot_product_attention(*(rearrange(a, "b v t h n d -> b h (v t n) d") for a in (q, k, v)))
    return rearrange(y, "b h (v t n) d -> b v t h n d", v=views, t=times)


def two_attentions(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """What two streams do: along the rows, and along the columns."""
    b, views, times = q.shape[:3]
    of_rows = F.scaled_dot_product_attention(*(rearrange(a, "b v t h n d -> (b v) h (t n) d") for a in (q, k, v)))
    of_columns = F.scaled_dot_product_attention(*(rearrange(a, "b v t h n d -> (b t) h (v n) d") for a in (q, k, v)))
    of_rows = rearrange(of_rows, "(b v) h (t n) d -> b v t h n d", b=b, t=times)
    return of_rows + rearrange(of_columns, "(b t) h (v n) d -> b v t h n d", b=b, v=views)


WAYS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "dense, masked": masked_attention,
    "all to all": full_attention,
    "two streams' attentions": two_attentions,
    "fused": fused_attention,
    "fused, recomputed": partial(fused_attention, recompute=True),
}


def seconds(calls: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Medians, the calls taking turns."""
    found: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds + 1):
        for times, call in zip(found, calls, strict=True):
            began = time.process_time()
            call()
            times.append(time.process_time() - began)
    return [statistics.median(times[1:]) for times in found]


def inputs(side: int) -> tuple[list[Tensor], list[Tensor]]:
    """What a linear layer leaves, and q, k, v as views of it."""
    leaves = [torch.randn(1, side, side, TOKENS, DIM, requires_grad=True) for _ in range(3)]
    return leaves, [rearrange(a, "b v t n (h d) -> b v t h n d", h=HEADS) for a in leaves]


def kept(attention: Callable, qkv: Sequence[Tensor]) -> float:
    """MiB that autograd holds after the forward pass, beside q, k and v themselves."""
    given, storages = {a.untyped_storage().data_ptr() for a in qkv}, {}

    def pack(a: Tensor) -> Tensor:
        storages[a.untyped_storage().data_ptr()] = a.untyped_storage().nbytes()
        return a

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda a: a):
        y = attention(*qkv)
    del y
    return sum(size for pointer, size in storages.items() if pointer not in given) / 2**20


def attentions(side: int, rounds: int) -> None:
    leaves, qkv = inputs(side)
    weight = torch.randn_like(qkv[0])

    def forward(attention: Callable) -> None:
        with torch.no_grad():
            attention(*qkv)

    def both(attention: Callable) -> tuple[Tensor, ...]:
        y = attention(*qkv)
        return y, *torch.autograd.grad(y, leaves, weight, retain_graph=True)

    forwards = seconds([partial(forward, way) for way in WAYS.values()], rounds)
    trained = seconds([partial(both, way) for way in WAYS.values()], rounds)
    truth = both(masked_attention)
    for (name, way), one, two in zip(WAYS.items(), forwards, trained, strict=True):
        off = [(a - b).abs().max().item() for a, b in zip(both(way), truth, strict=True)]
        exact = f"off by {off[0]:.0e}, gradients {max(off[1:]):.0e}" if "fused" in name else ""
        peak = subprocess.run([sys.executable, __file__, name, str(side)], check=True, capture_output=True, text=True)
        print(
            f"  {name:24s} forward {one * 1e3:6.0f} ms, and backward {two * 1e3:6.0f} ms ({trained[0] / two:.1f}x), "
            f"keeps {kept(way, qkv):5.1f} MiB, peak {peak.stdout.strip():>4s} MiB  {exact}"
        )


def one_peak(name: str, side: int) -> None:
    """Run alone in a process of its own, so that the peak is this attention's."""
    WAYS[name](*inputs(1)[1]).sum().backward()  # whatever is loaded at the first call
    leaves, qkv = inputs(side)
    before = peak_mib()
    WAYS[name](*qkv).square().mean().backward()
    print(f"{peak_mib() - before:.0f}")


def layers(side: int, rounds: int) -> None:
    """Self-attention and feed-forward, forward and backward, weights trained."""
    block = Block(DIM, HEADS)
    x = torch.randn(1, side, side, TOKENS, DIM, requires_grad=True)
    rows = int(TOKENS**0.5)
    condition = torch.randn(side, side, DIM), None, rotary_angles(side, rows, rows, DIM // HEADS)[None]
    fused = Fused4D([block])

    def in_two_streams() -> None:
        y_view, y_time = both_streams(block, x, x, condition, condition)
        (y_view.square().mean() + y_time.square().mean()).backward()

    two, one = seconds([in_two_streams, lambda: fused(x, condition, condition).square().mean().backward()], rounds)
    print(f"  two streams {two * 1e3:.0f} ms, fused {one * 1e3:.0f} ms: {one / two:.2f} of it")


def main() -> None:
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}, 1 thread")
    for side, rounds in ((4, 15), (8, 5)):
        print(f"Attention on {side}x{side} frames of {TOKENS} tokens, {DIM} channels in {HEADS} heads:")
        attentions(side, rounds)
        print("A layer of the transformer, forward and backward:")
        layers(side, rounds)


if __name__ == "__main__":
    torch.set_num_threads(1)
    one_peak(sys.argv[1], int(sys.argv[2])) if len(sys.argv) > 1 else main()
