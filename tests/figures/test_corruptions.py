"""Each corruption does what it is named after, more of it at greater strength, and nothing at none."""

import pytest
import torch
from torch.testing import assert_close

from fourd_minimal.data.corruptions import (
    CORRUPTIONS,
    blur,
    colour_shift,
    frozen_motion,
    noise,
    swapped_views,
    time_shuffle,
    wrong_viewpoint,
)


@pytest.fixture
def grid():
    """Frames that differ, each with a middling colour."""
    return 0.4 + 0.2 * torch.rand(6, 8, 3, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_none_of_it_is_the_grid_and_more_of_it_is_farther(name, grid):
    corrupt, strengths = CORRUPTIONS[name]
    assert torch.equal(corrupt(grid, 0.0), grid)
    corrupted = [corrupt(grid, s) for s in strengths]
    assert all(x.shape == grid.shape and x.min() >= 0 and x.max() <= 1 for x in corrupted)
    off = [(x - grid).square().mean().item() for x in corrupted]
    assert off[0] > 1e-5
    if name not in ("wrong viewpoint", "frozen motion"):  # random frames are as unlike their neighbours as any
        assert off == sorted(off)


def test_blur_keeps_what_is_flat_and_spreads_a_point():
    assert_close(blur(torch.full((1, 1, 3, 9, 9), 0.3), 1.0), torch.full((1, 1, 3, 9, 9), 0.3))
    point = torch.zeros(1, 1, 3, 21, 21)
    point[..., 10, 10] = 1
    spread = blur(point, 2.0)[0, 0, 0]
    place = torch.arange(21.0) - 10
    assert spread.sum().item() == pytest.approx(1)
    assert (spread.sum(0) * place.square()).sum().sqrt().item() == pytest.approx(2, abs=0.05)


def test_noise_and_shift_are_of_the_size_they_say(grid):
    assert (noise(grid, 0.1) - grid).std().item() == pytest.approx(0.1, rel=0.03)
    assert_close((colour_shift(grid, 0.1) - grid).mean((0, 1, 3, 4)), torch.tensor([0.1, 0.0, -0.1]))


def test_time_and_views_are_those_of_the_grid_elsewhere(grid):
    still, shuffled, swapped = frozen_motion(grid, 1.0), time_shuffle(grid, 1.0), swapped_views(grid, 1.0)
    assert torch.equal(still, grid[:, :1].expand_as(grid))
    assert torch.equal(frozen_motion(grid, 0.5)[:, 4], grid[:, 2])
    for corrupted, axis in ((shuffled, 1), (swapped, 0)):
        alike = [[torch.equal(a, b) for b in grid.unbind(axis)] for a in corrupted.unbind(axis)]
        order = torch.tensor(alike).long()
        assert (order.sum(0) == 1).all() and (order.sum(1) == 1).all() and not order.diagonal().any()
    assert torch.equal(wrong_viewpoint(grid, 1.0)[:-1], grid[1:])
