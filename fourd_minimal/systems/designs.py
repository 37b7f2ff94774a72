"""Every way the paper lets the rows and the columns of a grid meet, by name, over the same blocks.

soft                   eqs. 9-10    two streams, each updated from the other; trained
hard                   eq. 8        two streams, made equal after every block; trained
hard_wide              (ours)       eq. 8 with as many parameters as soft; trained
average, weighted      eqs. 12, 13  two streams; nothing trained
sequential             eq. 5        one stream, views then times; nothing trained
sequential_attention   supplement   eq. 5, the attention over the times fine-tuned; trained
sequential_adapter     (ours)       eq. 5, with a linear layer of the sync layers' kind; trained
fused                  2506.18839   one stream, one attention over a frame's row and column; nothing trained
fused_attention        (ours)       the same, its attention fine-tuned; trained
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from fourd_minimal.fused_attention import Fused4D
from fourd_minimal.sync import (
    HardSync,
    SequentialAdapter,
    SoftSync,
    WideHardSync,
    average_sync,
    sync_weight,
    weighted_sync,
)
from fourd_minimal.two_stream import Sequential4D, TwoStream

TwoStreams = Literal["soft", "hard", "hard_wide", "average", "weighted"]
OneStream = Literal["sequential", "sequential_attention", "sequential_adapter", "fused", "fused_attention"]
Design = Literal[TwoStreams, OneStream]
UNTRAINED: tuple[Design, ...] = ("average", "weighted", "sequential", "fused")
Streams = TwoStream | Sequential4D | Fused4D


class TunedAttention(nn.Module):
    """A frozen block whose attention is fine-tuned: it holds the change of every weight, and 0 is the block itself."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.block = [block]  # in a list: its weights belong to the base, not to this layer
        self.change = nn.ParameterDict({
            name.replace(".", "/"): torch.zeros_like(weight) for name, weight in block.attention.named_parameters()
        })  # fmt: skip

    def forward(self, tokens: Tensor, *cond: Any) -> Tensor:
        (block,) = self.block
        own = {f"attention.{name}": weight for name, weight in block.attention.named_parameters()}
        tuned = {name: w + self.change[name.removeprefix("attention.").replace(".", "/")] for name, w in own.items()}
        return torch.func.functional_call(block, tuned, (tokens, *cond))


def build(design: Design, blocks: nn.ModuleList, dim: int) -> Streams:
    """The design over `blocks` of `dim` channels, before training: soft layers start at eq. 13, hard ones at the
    average, tuned weights and adapters of one stream as the base's own."""
    depth = len(blocks)
    if design == "sequential":
        return Sequential4D(blocks)
    if design == "sequential_attention":
        return Sequential4D([TunedAttention(block) for block in blocks], blocks_view=blocks)
    if design == "sequential_adapter":
        return Sequential4D(blocks, adapters=[SequentialAdapter(dim, dim) for _ in blocks])
    if design == "fused":
        return Fused4D(blocks)
    if design == "fused_attention":
        return Fused4D([TunedAttention(block) for block in blocks])
    layers = {
        "soft": lambda w: SoftSync(dim, dim).start_at(w),
        "hard": lambda w: HardSync(dim, dim),
        "hard_wide": lambda w: WideHardSync(dim, dim),
        "average": lambda w: lambda y_view, y_time, cond: (average_sync(y_view, y_time),) * 2,
        "weighted": lambda w: lambda y_view, y_time, cond: weighted_sync(y_view, y_time, w),
    }
    return TwoStream(blocks, [layers[design](sync_weight(layer, depth)) for layer in range(depth)])


def trained_layers(streams: Streams) -> nn.Module:
    """The layers trained for 4D; everything else is the base's."""
    if isinstance(streams, TwoStream):
        return streams.sync if isinstance(streams.sync, nn.Module) else nn.ModuleList()
    if isinstance(streams, Fused4D):
        return streams.blocks if isinstance(streams.blocks[0], TunedAttention) else nn.ModuleList()
    if streams.adapters is not None:
        return streams.adapters
    return nn.ModuleList() if streams.blocks_view is streams.blocks else streams.blocks
