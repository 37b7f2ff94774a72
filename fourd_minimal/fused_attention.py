"""Fused view-time attention: one stream over a grid, and one attention that runs along its rows and columns at once.

4Real-Video-V2 (arXiv 2506.18839), by the authors of 4Real-Video. Two streams run a block twice, along the views and
along the times, and then synchronise; here a token attends in ONE softmax to all tokens of its own frame, of its time
(all views at that moment) and of its view (all moments from there). For token i of frame (v, t)

    y_i = sum_j p_ij v_j,    p_ij = exp(q_i k_j / sqrt(d)) / sum_j' exp(q_i k_j' / sqrt(d))

where j and j' run over the tokens of the frames (v', t') with v' = v or t' = t: V + T - 1 frames of V T. The own frame
lies in both the row and the column, and counts once. It is an attention with a mask over frames: no parameters are
added, so a video model's blocks run as they are.

| a layer on V x T frames of n tokens | frames a query is multiplied with | 8x8 | the rest of the block runs |
|---|---|---|---|
| attention of every token to every token | V T | 64 | once |
| two streams, eq. 4 of 4Real-Video | V + T | 16 | twice |
| fused | V + T - 1 | 15 | once |

Departures. The paper's code is not public: positions and contexts are ours. `Fused4D` chooses them so that they are
near to what a base trained on videos has seen. The time slot of the rotary angles carries t + v / 8: in a row tokens
are turned against each other just as in a fixed-view video; the views of a moment lie close together, in order, and at
other distances than the times. (v + t, which turns columns just as in a freeze-time video, was worse on the toy's base
without training; nor would a position say there whether a key comes from the row or from the column.) Every frame
is conditioned on the mean of the two contexts' conditions.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Heads = Float[Tensor, "b v t heads n d"]
"""Queries, keys or values: n tokens in each frame of a grid, every head with d channels of its own."""
Grid = Float[Tensor, "b v t n k"]


def frame_mask(views: int, times: int, device: torch.device | str | None = None) -> Bool[Tensor, "vt vt"]:
    """Which frame (row) attends to which (column), frames ordered view first: the same view or the same time.

    >>> frame_mask(2, 2).int()  # frames (0, 0), (0, 1), (1, 0), (1, 1)
    tensor([[1, 1, 1, 0],
            [1, 1, 0, 1],
            [1, 0, 1, 1],
            [0, 1, 1, 1]], dtype=torch.int32)
    """
    frame = torch.arange(views * times, device=device)
    view, time = frame // times, frame % times
    return (view[:, None] == view) | (time[:, None] == time)


def masked_attention(q: Heads, k: Heads, v: Heads) -> Heads:
    """The definition: dense attention of all tokens to all, under `frame_mask`. Slow; the reference for tests."""
    views, times, n = *q.shape[1:3], q.shape[4]
    mask = frame_mask(views, times, q.device).repeat_interleave(n, 0).repeat_interleave(n, 1)
    q, k, v = (rearrange(a, "b v t heads n d -> b heads (v t n) d") for a in (q, k, v))
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return rearrange(y, "b heads (v t n) d -> b v t heads n d", v=views, t=times)


def fused_attention(q: Heads, k: Heads, v: Heads, recompute: bool = False) -> Heads:
    """`masked_attention`, by gathering the keys and values that each frame attends to, row by row of the grid.

    Exact in outputs and gradients: each softmax runs over just its own keys. Without gradients it needs the memory of
    one row's, `T (V + T - 1)` frames of keys and of values.

    Args:
        q, k, v: queries, keys and values of the grid, of one shape.
        recompute: gather again in the backward pass, and keep q, k and v alone. Else all that was gathered is kept,
            V + T - 1 times k and v.

    Raises:
        ValueError: k or v of another shape than q.

    >>> q, k, v = torch.randn(3, 1, 2, 3, 2, 4, 8).unbind()  # one grid of 2 views by 3 times, 2 heads, 4 tokens a frame
    >>> y = fused_attention(q, k, v)
    >>> y.shape, torch.allclose(y, masked_attention(q, k, v), atol=1e-5)
    (torch.Size([1, 2, 3, 2, 4, 8]), True)
    """
    for name, a in (("k", k), ("v", v)):
        if a.shape != q.shape:
            raise ValueError(f"{name} has shape {tuple(a.shape)}; expected q's, {tuple(q.shape)}.")

    def gathered(rows: Sequence[Tensor], i: int) -> Tensor:
        """What each frame of row i attends to: every frame of its row, and its column's frames in the other rows."""
        row = [rows[i][:, t, None].expand_as(rows[i]) for t in range(rows[i].shape[1])]
        return torch.cat([*row, *rows[:i], *rows[i + 1 :]], -2).flatten(0, 1)

    def attend(queries: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor], i: int) -> Tensor:
        y = F.scaled_dot_product_attention(queries.flatten(0, 1), gathered(keys, i), gathered(values, i))
        return y.view_as(queries)

    run = partial(checkpoint, attend, use_reentrant=False, preserve_rng_state=False) if recompute else attend
    rows = q.unbind(1), k.unbind(1), v.unbind(1)
    return torch.stack([run(queries, *rows[1:], i) for i, queries in enumerate(rows[0])], 1)


class Fused4D(nn.Module):
    """A video model's blocks over one stream, with the fused attention in place of each block's own.

    A block is called as `block(tokens, c, None, angles, attend)` on `(b, v t n, k)` and includes the residual, as
    `video_dit.Block` does. `attend` takes the place of `scaled_dot_product_attention(q, k, v)`, on `(b, heads, v t n,
    d)`.

    >>> block = lambda x, c, text, angles, attend: x + attend(x[:, None], x[:, None], x[:, None])[:, 0]  # one head
    >>> Fused4D([block, block])(torch.randn(1, 2, 3, 5, 4)).shape
    torch.Size([1, 2, 3, 5, 4])
    """

    def __init__(self, blocks: Sequence[Callable] | nn.ModuleList, recompute: bool = False):
        super().__init__()
        self.recompute = recompute  # of `fused_attention`
        self.blocks = nn.ModuleList(blocks) if any(isinstance(block, nn.Module) for block in blocks) else blocks

    def forward(
        self,
        x: Grid,
        cond_view: Sequence[Tensor | None] = (None, None, None),
        cond_time: Sequence[Tensor | None] = (None, None, None),
        cond_sync: Tensor | None = None,
        observe: Callable[[int, Grid], None] | None = None,
    ) -> Grid:
        """Run all layers.

        Args:
            x: tokens of the grid.
            cond_view: what conditions a block on the columns, as in `two_stream`: c `(b t, v, k)`, one row for each
                frame; None, since there is no text; rotary angles `(1, v n, half)`.
            cond_time: the same for the rows: c `(b v, t, k)`, None, angles `(1, t n, half)`.
            cond_sync: unused; it gives all designs one signature.
            observe: called as `observe(layer, x)` after every block.

        Raises:
            ValueError: text.
        """
        views, times = x.shape[1:3]
        (c_view, text_view, angles_view), (c_time, text_time, angles_time) = cond_view, cond_time
        if text_view is not None or text_time is not None:
            raise ValueError("cond_view or cond_time has text; expected None, since the grid is one sequence.")
        c = None if c_view is None else frame_conditions(c_view, c_time, views, times)
        angles = None if angles_view is None else grid_angles(angles_view, angles_time, views, times)

        def attend(*qkv: Tensor) -> Tensor:
            grids = (rearrange(a, "b heads (v t n) d -> b v t heads n d", v=views, t=times) for a in qkv)
            return rearrange(fused_attention(*grids, self.recompute), "b v t heads n d -> b heads (v t n) d")

        tokens = rearrange(x, "b v t n k -> b (v t n) k")
        for layer, block in enumerate(self.blocks):
            tokens = block(tokens, c, None, angles, attend)
            if observe is not None:
                observe(layer, rearrange(tokens, "b (v t n) k -> b v t n k", v=views, t=times))
        return rearrange(tokens, "b (v t n) k -> b v t n k", v=views, t=times)


def frame_conditions(
    c_view: Float[Tensor, "bt v k"], c_time: Float[Tensor, "bv t k"], views: int, times: int
) -> Float[Tensor, "b vt k"]:
    """One condition for each frame: the mean of what it has in its freeze-time and in its fixed-view video.

    >>> frame_conditions(torch.zeros(3, 2, 1), torch.ones(2, 3, 1), views=2, times=3).unique()
    tensor([0.5000])
    """
    by_column = rearrange(c_view, "(b t) v k -> b (v t) k", v=views, t=times)
    return (by_column + rearrange(c_time, "(b v) t k -> b (v t) k", v=views, t=times)) / 2


def grid_angles(
    angles_view: Float[Tensor, "1 vn half"],
    angles_time: Float[Tensor, "1 tn half"],
    views: int,
    times: int,
    view_step: float = 1 / 8,
) -> Float[Tensor, "1 vtn half"]:
    """Rotary angles of a grid's tokens: those of the fixed-view video, and `view_step` of the freeze-time video's.

    >>> grid_angles(torch.tensor([[[0.0], [1.0]]]), torch.tensor([[[0.0], [1.0], [2.0]]]), 2, 3).view(2, 3)
    tensor([[0.0000, 1.0000, 2.0000],
            [0.1250, 1.1250, 2.1250]])
    """
    of_view = rearrange(angles_view, "1 (v n) half -> v 1 n half", v=views)
    of_time = rearrange(angles_time, "1 (t n) half -> 1 t n half", t=times)
    return rearrange(of_time + view_step * (of_view - of_view[:1]), "v t n half -> 1 (v t n) half")
