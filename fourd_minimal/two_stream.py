"""Two streams over a grid: the same frozen blocks run on its rows and on its columns, and synchronise.

Section 3.2.1 of 4Real-Video. Both streams hold tokens of the whole grid, v views by t times. At every layer, eq. 4:

    y^v = x^v + phi_l(x^v; c^v)       each column, a freeze-time video: attention runs over the views
    y^t = x^t + phi_l(x^t; c^t)       each row, a fixed-view video: attention runs over the times
    x^v, x^t = Sync_l(y^v, y^t)

phi_l is ONE pretrained video block, used by both streams with another context embedding. Eqs. 2 and 3 are the streams
taken alone (no sync). Eq. 5 is the sequential design the paper argues against: one stream, views first, then times.

    y = x + phi_l(x; c^v),    x' = y + phi_l(y; c^t)

Any block list works: a block is a callable `block(tokens, *cond) -> tokens` on `(batch, frames * n, d)` that includes
the residual, as diffusers' Wan blocks do. Each entry of `cond` is None, a tensor with one row per sequence (batch
first), or a tensor whose first axis is 1, which all sequences of its stream share (rotary angles, say).

Departures. The paper contradicts itself; we follow its problem setup and the text of eq. 4:
`grid[b, v, t, ...]`, a row is one viewpoint (time runs along it), a column one moment, and the first row and the first
column are known. Its abstract and introduction swap rows and columns; eqs. 2 and 3 and the words after eq. 6 swap the
streams; after eq. 5 one symbol stands for both streams. When the grid is square and the streams share what is shared
(the same tensor, or None, in both lists), both go through a block as one batch.
"""

from collections.abc import Callable, Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

Grid = Float[Tensor, "b v t n d"]
Cond = Sequence[Tensor | None]
Sync = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
Blocks = Sequence[Callable] | nn.ModuleList


def columns(grid: Grid) -> Float[Tensor, "bt vn d"]:
    """Freeze-time videos: `(b t)` sequences of v frames."""
    return rearrange(grid, "b v t n d -> (b t) (v n) d")


def rows(grid: Grid) -> Float[Tensor, "bv tn d"]:
    """Fixed-view videos: `(b v)` sequences of t frames."""
    return rearrange(grid, "b v t n d -> (b v) (t n) d")


def from_columns(sequences: Float[Tensor, "bt vn d"], views: int, times: int) -> Grid:
    """The inverse of `columns`."""
    return rearrange(sequences, "(b t) (v n) d -> b v t n d", v=views, t=times)


def from_rows(sequences: Float[Tensor, "bv tn d"], views: int, times: int) -> Grid:
    """The inverse of `rows`."""
    return rearrange(sequences, "(b v) (t n) d -> b v t n d", v=views, t=times)


def both_streams(block: Callable, x_view: Grid, x_time: Grid, cond_view: Cond, cond_time: Cond) -> tuple[Grid, Grid]:
    """Eq. 4 before the sync: one block on the columns of `x_view` and on the rows of `x_time`."""
    v, t = x_view.shape[1:3]
    sequences = [columns(x_view), rows(x_time)]
    pairs = list(zip(cond_view, cond_time, strict=True))
    each = [view is not None and time is not None and len(view) == len(time) == len(x_view) * t for view, time in pairs]
    same = [view is time for view, time in pairs]
    if v == t and all(one or other for one, other in zip(each, same, strict=True)):  # one batch for both
        cond = [view if both else torch.cat([view, time]) for (view, time), both in zip(pairs, same, strict=True)]
        y_view, y_time = block(torch.cat(sequences), *cond).chunk(2)
    else:
        y_view, y_time = block(sequences[0], *cond_view), block(sequences[1], *cond_time)
    return from_columns(y_view, v, t), from_rows(y_time, v, t)


def _registered(layers: Sequence[Callable] | nn.ModuleList) -> Sequence[Callable] | nn.ModuleList:
    """Modules as a ModuleList, so that their weights are found; plain functions as they are; never a mixture."""
    return nn.ModuleList(layers) if any(isinstance(layer, nn.Module) for layer in layers) else layers


class TwoStream(nn.Module):
    """Eq. 4 over a block list: both streams through every block, a sync after each.

    >>> block = lambda tokens: tokens + tokens.mean(1, keepdim=True)      # a "video model" that smooths
    >>> average = lambda y_view, y_time, cond: ((y_view + y_time) / 2,) * 2
    >>> model = TwoStream([block, block], [average, average])
    >>> x_view, x_time = model(torch.randn(1, 2, 3, 5, 4), torch.randn(1, 2, 3, 5, 4))
    >>> x_view.shape, torch.equal(x_view, x_time)
    (torch.Size([1, 2, 3, 5, 4]), True)
    """

    def __init__(self, blocks: Blocks, sync: Sequence[Sync] | nn.ModuleList):
        super().__init__()
        if len(blocks) != len(sync):
            raise ValueError(f"sync has {len(sync)} layers; expected one for each of the {len(blocks)} blocks.")
        self.blocks, self.sync = _registered(blocks), _registered(sync)

    def forward(
        self,
        x_view: Grid,
        x_time: Grid,
        cond_view: Cond = (),
        cond_time: Cond = (),
        cond_sync: Float[Tensor, "b v t k"] | None = None,
        observe: Callable[[int, Grid, Grid, Grid, Grid], None] | None = None,
    ) -> tuple[Grid, Grid]:
        """Run all layers.

        Args:
            x_view, x_time: tokens of the grid as each stream embedded them.
            cond_view: what the block gets for the columns, `b * t` sequences.
            cond_time: the same entries for the rows, `b * v` sequences.
            cond_sync: what the sync gets, an embedding of sigma for every cell.
            observe: called as `observe(layer, y_view, y_time, x_view, x_time)` after every sync, for Fig. 3.

        Returns:
            the tokens of the view stream and of the time stream.

        Raises:
            ValueError: the streams differ in shape.
        """
        if x_view.shape != x_time.shape:
            raise ValueError(f"x_time has shape {tuple(x_time.shape)}; expected x_view's, {tuple(x_view.shape)}.")
        for layer, (block, sync) in enumerate(zip(self.blocks, self.sync, strict=True)):
            y_view, y_time = both_streams(block, x_view, x_time, cond_view, cond_time)
            x_view, x_time = sync(y_view, y_time, cond_sync)
            if observe is not None:
                observe(layer, y_view, y_time, x_view, x_time)
        return x_view, x_time


class Sequential4D(nn.Module):
    """Eq. 5 over a block list: one stream; each layer runs over the views, then again over the times.

    By itself nothing is trained for 4D. The paper trains it by fine-tuning one of the two attentions, so the views
    may have blocks of their own; and an adapter after each layer is the fair baseline of a sync layer.

    >>> model = Sequential4D([lambda tokens: 2 * tokens])
    >>> model(torch.ones(1, 2, 3, 5, 4)).unique()
    tensor([4.])
    """

    def __init__(self, blocks: Blocks, blocks_view: Blocks | None = None, adapters: Sequence[Callable] | None = None):
        super().__init__()
        self.blocks = _registered(blocks)
        self.blocks_view = self.blocks if blocks_view is None else _registered(blocks_view)
        self.adapters = None if adapters is None else _registered(adapters)
        for name in ("blocks_view", "adapters"):
            layers = getattr(self, name)
            if layers is not None and len(layers) != len(blocks):
                raise ValueError(f"{name} has {len(layers)} layers; expected one for each of the {len(blocks)} blocks.")

    def forward(
        self,
        x: Grid,
        cond_view: Cond = (),
        cond_time: Cond = (),
        cond_sync: Float[Tensor, "b v t k"] | None = None,
        observe: Callable[[int, Grid, Grid], None] | None = None,
    ) -> Grid:
        """Run all layers; `observe(layer, y, x)` is called after each. Arguments otherwise as in `TwoStream`."""
        v, t = x.shape[1:3]
        for layer, (block, block_view) in enumerate(zip(self.blocks, self.blocks_view, strict=True)):
            y = from_columns(block_view(columns(x), *cond_view), v, t)
            x = from_rows(block(rows(y), *cond_time), v, t)
            if self.adapters is not None:
                x = self.adapters[layer](y, x, cond_sync)
            if observe is not None:
                observe(layer, y, x)
        return x
