"""The hash grid against nerfstudio's, against torch's own interpolation, and its derivatives against differences.

nerfstudio's dependencies contradict ours, so it comes alone: `pip install --no-deps nerfstudio==1.1.5`.
"""

import contextlib
import itertools
import sys
from unittest.mock import MagicMock, patch

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from refused import refused
from torch.testing import assert_close

from fourd_minimal.hash_grid import PRIMES, HashGrid, encode


def nerfstudio_encoding(**options):
    """Their plain torch one; what it imports on its way and does not use need not be there."""
    unused = {name: MagicMock() for name in ("viser", "viser.transforms")}
    for name in ("rich", "rich.console", "rich.progress", "rich.text"):
        with contextlib.suppress(ModuleNotFoundError):
            __import__(name)
        unused[name] = sys.modules.get(name) or MagicMock()
    with patch.dict(sys.modules, unused):
        encodings = pytest.importorskip(
            "nerfstudio.field_components.encodings", reason="needs pip install --no-deps nerfstudio==1.1.5"
        )
    return encodings.HashEncoding(implementation="torch", **options)


def as_ours(table, levels=16):
    return rearrange(table, "(l e) f -> l f e", l=levels).clone()


def test_outputs_and_gradients_are_nerfstudios():
    theirs = nerfstudio_encoding(num_levels=16, min_res=16, max_res=4096, log2_hashmap_size=12, hash_init_scale=1.0)
    ours = HashGrid(3, log2_table_size=12)
    ours.table.data = as_ours(theirs.hash_table.detach())
    x = torch.rand(500, 3, generator=torch.Generator().manual_seed(0))
    x = x[(x[:, None] * torch.tensor(ours.scales)[:, None] % 1 != 0).all(2).all(1)]  # on a border between cells, slopes are two
    inputs = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, expected = ours(inputs[0]), theirs(inputs[1])
    assert_close(found, expected, atol=1e-5, rtol=1e-5)
    upstream = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    (found * upstream).sum().backward()
    (expected * upstream).sum().backward()
    assert_close(ours.table.grad, as_ours(theirs.hash_table.grad), atol=1e-5, rtol=1e-5)
    assert_close(inputs[0].grad, inputs[1].grad, atol=0.02, rtol=1e-4)  # thousands: 4096 cells per unit


@pytest.mark.parametrize("dim", [2, 3, 4])
def test_a_level_is_torchs_own_interpolation_of_hashed_corners(dim):
    """Corners hashed one by one with Python's unbounded integers; a fourth axis by hand, between two volumes."""
    cells, size = 6, 2**8
    grid = HashGrid(dim, n_levels=1, n_features=3, log2_table_size=8, base_resolution=cells)
    grid.table.data.normal_()
    corners = torch.empty(*(cells + 1,) * dim, 3)
    for corner in itertools.product(range(cells + 1), repeat=dim):
        entry = 0
        for coordinate, prime in zip(corner, PRIMES, strict=False):
            entry ^= coordinate * prime
        corners[corner] = grid.table[0, :, entry % size]
    x = torch.rand(200, dim, generator=torch.Generator().manual_seed(0))
    volume, where = corners.movedim(-1, 0)[None], x * 2 - 1
    if dim == 4:
        low = (x[:, 3] * cells).floor()
        part = (x[:, 3] * cells - low)[:, None]
        read = [
            torch.stack([sample(volume[..., int(m)], p) for m, p in zip(moments, where[:, :3], strict=True)])
            for moments in (low, low + 1)
        ]
        expected = torch.lerp(read[0][:, 0], read[1][:, 0], part)
    else:
        expected = sample(volume, where)
    assert_close(grid(x), expected, atol=1e-5, rtol=1e-5)


def sample(volume, where):
    where = where.flip(-1).reshape(1, -1, *(1,) * (volume.ndim - 3), where.shape[-1])
    return F.grid_sample(volume, where, align_corners=True).flatten(1)[0].view(volume.shape[1], -1).T


@pytest.mark.parametrize("dim", [2, 3, 4])
def test_derivatives_first_and_second_are_differences(dim):
    grid = HashGrid(dim, n_levels=2, log2_table_size=4, base_resolution=3, per_level_scale=2.0).double()
    grid.table.data.normal_()
    place = torch.rand(4, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    x = ((place * 5).floor() + 0.2 + 0.6 * place) / 6  # well inside a cell of both levels: no kinks nearby
    inputs = x.requires_grad_(), grid.table.detach().clone().requires_grad_()

    def encoded(x, table):
        grid.table = torch.nn.Parameter(table) if not isinstance(table, torch.nn.Parameter) else table
        return torch.func.functional_call(grid, {"table": table}, (x,))

    assert torch.autograd.gradcheck(encoded, inputs)
    assert torch.autograd.gradgradcheck(encoded, inputs)


@pytest.mark.parametrize("dim", [2, 3, 4])
def test_the_fast_one_is_the_plain_one(dim):
    grid = HashGrid(dim, n_levels=4, log2_table_size=10)
    x = torch.rand(300, dim, generator=torch.Generator().manual_seed(0)).requires_grad_()
    fast, plain = grid(x), encode(x, grid.table, grid.scales)
    assert torch.equal(fast, plain)
    upstream = torch.randn(fast.shape, generator=torch.Generator().manual_seed(1))
    for found, expected in zip(
        *(torch.autograd.grad(out, (x, grid.table), upstream) for out in (fast, plain)), strict=True
    ):
        assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_blending_weights_sum_to_one_up_to_the_far_border():
    grid = HashGrid(3, n_levels=3, log2_table_size=6)
    grid.table.data.fill_(2.5)
    x = torch.cat([torch.rand(20, 3), torch.zeros(1, 3), torch.ones(1, 3)])
    assert_close(grid(x), torch.full((22, 6), 2.5))


def test_levels_are_those_of_the_paper_and_start_small():
    grid = HashGrid(4)
    assert grid.scales[0] == 16 and grid.scales[-1] in (4095, 4096) and grid.out_dim == 32
    assert grid.table.shape == (16, 2, 2**19) and grid.table.abs().max() <= 1e-4


def test_no_points_are_no_features():
    grid = HashGrid(3, n_levels=2, log2_table_size=4)
    assert grid(torch.empty(0, 3)).shape == (0, 4)
    grid(torch.empty(0, 3)).sum().backward()
    assert not grid.table.grad.any()


def test_bad_input_is_named():
    refused(lambda: HashGrid(3, n_levels=0), "n_levels", "0, 2, 16")
    refused(lambda: HashGrid(5), "in_dim", 5)
    refused(lambda: HashGrid(3, n_levels=1, log2_table_size=4)(torch.rand(5, 2)), "x", 2)
