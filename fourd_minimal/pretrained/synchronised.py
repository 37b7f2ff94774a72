"""Sync layers between the blocks of somebody else's video model, whose code stays as it is.

Eq. 4 of 4Real-Video asks for nothing but a list of blocks. Rows and columns of a square grid go through the library's
`forward` as one batch, and a hook after each block lets them meet. Here for Wan (`wan.py`); LTX, CogVideoX and
HunyuanVideo of diffusers have such lists as well.

Departures: grids must be square, or the two streams would not fit one batch (`two_stream.TwoStream` takes any). Text
tokens that travel beside a block's video tokens are not synchronised: each video keeps its own.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fourd_minimal.two_stream import columns, from_columns, from_rows, rows


@contextmanager
def synchronised(
    blocks: Sequence[nn.Module] | nn.ModuleList,
    sync: Sequence[Callable] | nn.ModuleList,
    cond: Float[Tensor, "b v t k"],
    observe: Callable | None = None,
) -> Iterator[None]:
    """Inside, every block of a video model is followed by a sync layer; the model's own code is not touched.

    The model must be called on the `t` columns and then the `v` rows of `b` square grids, `2 b t` videos. Blocks return
    their tokens, `(videos, frames * n, d)`, or a tuple that begins with them, as CogVideoX's and HunyuanVideo's do.

    Args:
        blocks: of the model, in order: `transformer.blocks`, `transformer.transformer_blocks`, ...
        sync: a layer of `sync.py` for each.
        cond: what the sync layers get: an embedding of every cell's noise level.
        observe: as in `TwoStream.forward`.

    Raises:
        ValueError: a grid that is not square, or another number of layers than of blocks.

    To save memory wrap `block.forward` in a checkpoint: a library's own switch calls the whole block once more in the
    backward pass, when these hooks are gone.
    """
    v, t = cond.shape[1:3]
    if v != t:
        raise ValueError(f"cond has {v} views and {t} times; one batch takes rows and columns of equal length only.")
    if len(blocks) != len(sync):
        raise ValueError(f"sync has {len(sync)} layers; it needs one for each of the {len(blocks)} blocks.")

    def meet(layer: int, block: nn.Module, inputs: tuple, output: Tensor | tuple) -> Tensor | tuple:
        tokens, *others = output if isinstance(output, tuple) else (output,)
        y_view, y_time = tokens.chunk(2)
        y_view, y_time = from_columns(y_view, v, t), from_rows(y_time, v, t)
        x_view, x_time = sync[layer](y_view, y_time, cond)
        if observe is not None:
            observe(layer, y_view, y_time, x_view, x_time)
        tokens = torch.cat([columns(x_view), rows(x_time)])
        return (tokens, *others) if isinstance(output, tuple) else tokens

    hooks = [block.register_forward_hook(partial(meet, layer)) for layer, block in enumerate(blocks)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
