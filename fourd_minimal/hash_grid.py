"""Multiresolution hash encoding: a point becomes features, looked up and blended on grids from coarse to fine.

Instant NGP (Müller et al. 2022), section 3; 4Diffusion has two of these, over (x, y, z) and over (x, y, z, t), and sums
their features. Level l has a grid of N_l = floor(N_min b^l) cells per side. Its corners share a table of T entries:

    h(corner) = (corner_1 pi_1 xor ... xor corner_d pi_d) mod T,    pi = 1, 2654435761, 805459861, 3674653429

and a point's feature is the d-linear blend of its cell's 2^d corners. Collisions are left to the gradient: where two
corners share an entry, the larger gradients decide.

Speed, without a line of C++: points are the last axis, so that every step runs along memory; level by level, so that
it stays in the cache; hashes are 32-bit, which wrap as they should; each feature is a table of its own, read by
`index_select` and written by `scatter_add_`. `encode` is the same in plain torch.

Departures: tiny-cuda-nn, which 4Diffusion uses, does not hash the levels whose corners all fit into the table, and
shifts its grids by half a cell. Here, as in nerfstudio's torch version, every level is hashed and corner 0 is at 0.
"""

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

PRIMES = (1, 2654435761, 805459861, 3674653429)


def corners(
    x: Float[Tensor, "n d"], scale: Tensor | float, size: int
) -> tuple[Int[Tensor, "c n"], Float[Tensor, "c n"]]:
    """The 2^d entries around every point on one level, and the weight of each; differentiable in `x`.

    Args:
        x: points in [0, 1].
        scale: cells per side.
        size: entries of the level's table, a power of two.
    """
    place = scale * x.T.to(torch.promote_types(x.dtype, torch.float32))  # in half precision the cells would be others
    low = place.detach().floor()
    part = place - low
    low = low.int()
    for axis in range(len(place)):
        prime = (PRIMES[axis] + 2**31) % 2**32 - 2**31  # the same 32 bits, signed
        hashed = low[axis] * prime
        both, share = torch.stack([hashed, hashed + prime]), torch.stack([1 - part[axis], part[axis]])
        entry = (entry[:, None] ^ both).flatten(0, 1) if axis else both
        weight = (weight[:, None] * share).flatten(0, 1) if axis else share
    return entry & (size - 1), weight


def encode(x: Float[Tensor, "n d"], table: Float[Tensor, "l f e"], scales: Sequence[float]) -> Float[Tensor, "n lf"]:
    """The encoding in plain torch, differentiable any number of times: the reference for the fast one."""
    found = []
    for level, scale in zip(table, scales, strict=True):
        entry, weight = corners(x, scale, table.shape[2])
        found += [(weight.to(row) * row[entry.long()]).sum(0) for row in level]
    return torch.stack(found, 1)


class _FastEncode(torch.autograd.Function):
    """The same, with a backward that scatters; for second derivatives it falls back to `encode`."""

    @staticmethod
    def forward(ctx, x: Tensor, table: Tensor, scales: Sequence[float], keep: bool) -> Tensor:
        found, kept = [], []
        for level, scale in zip(table, scales, strict=True):
            entry, weight = corners(x, scale, table.shape[2])
            flat, weight = entry.flatten(), weight.to(table)
            found += [(weight * row.index_select(0, flat).view_as(weight)).sum(0) for row in level]
            kept += [entry, weight] if keep else []
        ctx.save_for_backward(x, table, *kept)
        ctx.scales = scales
        return torch.stack(found, 1)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (x, table, *kept), scales = ctx.saved_tensors, ctx.scales
        needs_x, needs_table, *_ = ctx.needs_input_grad
        if torch.is_grad_enabled():  # second derivatives
            expected = [a for a, needed in ((x, needs_x), (table, needs_table)) if needed]
            found = iter(torch.autograd.grad(encode(x, table, scales), expected, grad, create_graph=True))
            return next(found) if needs_x else None, next(found) if needs_table else None, None, None
        to_x, to_table = torch.zeros_like(x), torch.zeros_like(table) if needs_table else None
        upstream = rearrange(grad, "n (l f) -> l f n", f=table.shape[1]).contiguous()
        for number, (g, entry, weight) in enumerate(zip(upstream, kept[::2], kept[1::2], strict=True)):
            flat = entry.flatten()
            if needs_table:  # each entry gets the gradient of its points, times their weights
                for row, upstream_row in zip(to_table[number], g, strict=True):
                    row.scatter_add_(0, flat.long(), (weight * upstream_row).flatten().to(row))
            if needs_x:  # the gradient at the weights, then through them to the points
                pairs = zip(table[number], g, strict=True)
                to_weight = sum(row.index_select(0, flat).view_as(weight) * one for row, one in pairs).to(weight)
                with torch.enable_grad():
                    here = x.detach().requires_grad_()
                    _, again = corners(here, scales[number], table.shape[2])
                to_x += torch.autograd.grad(again, here, to_weight)[0]
        return to_x if needs_x else None, to_table, None, None


class HashGrid(nn.Module):
    """Features of points in [0, 1]. Defaults are 4Diffusion's, for both of its grids: 17 million parameters.

    Tables learn fast: Adam at 1e-2, and a small network behind them at 1e-3, is usual.

    Args:
        in_dim: 1 to 4.
        n_levels: grids.
        n_features: per level.
        log2_table_size: of each level's table.
        base_resolution: cells per side of the coarsest grid.
        per_level_scale: how much finer each grid is than the one before.

    Raises:
        ValueError: points of another dimension.

    >>> grid = HashGrid(3, n_levels=4, log2_table_size=10)
    >>> grid(torch.rand(5, 3)).shape
    torch.Size([5, 8])
    """

    def __init__(
        self,
        in_dim: int,
        n_levels: int = 16,
        n_features: int = 2,
        log2_table_size: int = 19,
        base_resolution: int = 16,
        per_level_scale: float = 1.447269,
    ):
        super().__init__()
        if not 1 <= in_dim <= len(PRIMES):
            raise ValueError(f"in_dim is {in_dim}; expected 1 to {len(PRIMES)}.")
        if min(n_levels, n_features, base_resolution) < 1:
            given = f"n_levels, n_features, base_resolution are {n_levels}, {n_features}, {base_resolution}"
            raise ValueError(f"{given}; expected at least 1 of each.")
        self.in_dim, self.out_dim = in_dim, n_levels * n_features
        scales = [float(math.floor(base_resolution * per_level_scale**level)) for level in range(n_levels)]
        self.scales = tuple(scales)  # numbers and no buffer: a cast of the module must not round them
        self.table = nn.Parameter((torch.rand(n_levels, n_features, 2**log2_table_size) * 2 - 1) * 1e-4)

    def forward(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n lf"]:
        """Features of points in [0, 1]."""
        if x.shape[-1] != self.in_dim:
            raise ValueError(f"x has {x.shape[-1]} coordinates; expected {self.in_dim}.")
        points = x.reshape(-1, self.in_dim)
        if torch._C._are_functorch_transforms_active():  # grad, vmap, jvp of torch.func differentiate the plain one
            found = encode(points, self.table, self.scales)
        else:
            found = _FastEncode.apply(points, self.table, self.scales, torch.is_grad_enabled())
        return found.view(*x.shape[:-1], self.out_dim)
