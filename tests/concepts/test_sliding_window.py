"""Sliding windows: every cell once, nothing from the future, and exact where the model is exact."""

import pytest
import torch
from refused import refused
from torch.testing import assert_close

from fourd_minimal.sliding_window import slide, starts

SIZES = [(3, 3, (3, 3)), (9, 9, (3, 3)), (16, 16, (8, 8)), (7, 10, (4, 3)), (8, 5, (3, 5)), (4, 6, (2, 2))]


def a_grid(views, times):
    return torch.rand(views, times, 3, 4, 4)


def sum_of_differences(cells, known):
    """Exact for every grid whose change over views and change over times add up."""
    return cells[:1] + cells[:, :1] - cells[:1, :1]


@pytest.mark.parametrize("views, times, size", SIZES)
def test_every_window_starts_on_known_cells_and_the_model_sees_no_others(views, times, size):
    truth = a_grid(views, times)
    empty = torch.full_like(truth, torch.nan)  # would corrupt everything it touched
    empty[0], empty[:, 0] = truth[0], truth[:, 0]
    seen = []

    def complete(cells, known):
        assert cells.shape[:2] == known.shape == size
        assert known[0].all() and known[:, 0].all() and not known.all()
        assert (cells[~known] == 0).all()
        seen.append((~known).sum().item())
        return sum_of_differences(cells, known)

    *_, (_, whole) = slide(empty, complete, size)
    assert whole.isfinite().all()  # every cell is made
    assert sum(seen) == (views - 1) * (times - 1)  # every unknown cell is made once
    assert empty[1, 1].isnan().all()  # the argument is left alone


@pytest.mark.parametrize("views, times, size", SIZES)
def test_an_exact_model_gives_an_exact_grid(views, times, size):
    row, column = a_grid(1, times), a_grid(views, 1)
    truth = row + column
    given = torch.zeros_like(truth)
    given[0], given[:, 0] = truth[0], truth[:, 0]
    *_, (_, whole) = slide(given, sum_of_differences, size)
    assert_close(whole, truth)


def test_known_cells_stay_whatever_the_model_returns():
    truth = a_grid(6, 7)
    for window, grid in slide(truth, lambda cells, known: torch.full_like(cells, 9.0), (3, 3)):
        assert_close(grid[0], truth[0], rtol=0, atol=0)
        assert_close(grid[:, 0], truth[:, 0], rtol=0, atol=0)
        assert (grid[1 : window.view + 3, 1 : window.time + 3] == 9).all()
    assert (grid[1:, 1:] == 9).all()


def test_a_later_window_does_not_touch_what_an_earlier_one_made():
    number = iter(range(1, 100))
    made = torch.zeros(6, 7)
    for _, grid in slide(a_grid(6, 7), lambda cells, known: torch.full_like(cells, next(number)), (3, 3)):
        now, earlier = grid[:, :, 0, 0, 0], made > 0
        assert_close(now[earlier], made[earlier], rtol=0, atol=0)
        made = torch.where(now >= 1, now, 0.0)
    assert made[1:, 1:].unique().tolist() == list(range(1, 10))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: starts(2, 3), ("length", 2)),
        (lambda: starts(4, 1), ("size", 1)),
        (
            lambda: next(slide(a_grid(5, 5), lambda cells, known: cells[..., :1, :1], (3, 3))),
            ("complete", (3, 3, 3, 1, 1)),
        ),
    ],
)
def test_bad_input_is_named(call, said):
    refused(call, *said)
