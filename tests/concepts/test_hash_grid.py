"""The hash grid against nerfstudio's, against torch's own interpolation, and its derivatives against differences."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from nerfstudio_parts import field_component
from parity import assert_same
from refused import refused
from torch.testing import assert_close

from fourd_minimal.hash_grid import PRIMES, HashGrid, encode


def test_outputs_and_gradients_are_nerfstudios():
    pytest.importorskip("nerfstudio", reason="needs pip install --no-deps nerfstudio==1.1.5")
    encodings = field_component("encodings")
    sizes = dict(num_levels=16, min_res=16, max_res=4096, log2_hashmap_size=12)
    theirs = encodings.HashEncoding(implementation="torch", hash_init_scale=1.0, **sizes)
    ours = HashGrid(3, log2_table_size=12)
    as_ours = lambda table: rearrange(table, "(l e) f -> l f e", l=16).clone()  # noqa: E731
    ours.table.data = as_ours(theirs.hash_table.detach())
    x = torch.rand(500, 3)
    x = x[
        (x[:, None] * torch.tensor(ours.scales)[:, None] % 1 != 0).all(2).all(1)
    ]  # on a border between cells, slopes are two
    x.requires_grad_()
    found, expected = ours(x), theirs(x)
    assert_same(found, expected, [x], dict(atol=0.02, rtol=1e-4), atol=1e-5, rtol=1e-5)  # 4096 cells: large gradients
    upstream = torch.randn_like(found)
    of_ours, of_theirs = ours(x).mul(upstream).sum(), theirs(x).mul(upstream).sum()
    of_ours, of_theirs = torch.autograd.grad(of_ours, ours.table), torch.autograd.grad(of_theirs, theirs.hash_table)
    assert_close(of_ours[0], as_ours(of_theirs[0]), atol=1e-5, rtol=1e-5)


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
    x = torch.rand(200, dim)
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
def test_second_derivatives_are_differences(dim):
    grid = HashGrid(dim, n_levels=2, log2_table_size=4, base_resolution=3, per_level_scale=2.0).double()
    table, place = torch.randn_like(grid.table).requires_grad_(), torch.rand(4, dim, dtype=torch.float64)
    x = (((place * 5).floor() + 0.2 + 0.6 * place) / 6).requires_grad_()  # well inside cells: no kinks nearby
    encoded = lambda x, table: torch.func.functional_call(grid, {"table": table}, (x,))  # noqa: E731
    assert torch.autograd.gradgradcheck(encoded, (x, table))


@pytest.mark.parametrize("dim", [2, 3, 4])
def test_the_fast_one_is_the_plain_one(dim):
    grid, x = HashGrid(dim, n_levels=4, log2_table_size=10), torch.rand(300, dim).requires_grad_()
    fast, plain = grid(x), encode(x, grid.table, grid.scales)
    assert_same(fast, plain, [x, grid.table], dict(atol=1e-6, rtol=1e-4), atol=0, rtol=0)


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


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: HashGrid(3, n_levels=0), ("n_levels", "0, 2, 16")),
        (lambda: HashGrid(5), ("in_dim", 5)),
        (lambda: HashGrid(3, n_levels=1, log2_table_size=4)(torch.rand(5, 2)), ("x", 2)),
    ],
)
def test_bad_input_is_named(call, said):
    refused(call, *said)
