"""Sliding windows: a grid longer in time and wider in view than the model was trained for.

Section 3.3 of 4Real-Video: the model makes 8x8 frames at a time; a sliding window, moved on autoregressively along both
axes, makes more. A window needs its own first row and first column, and nothing else. So the next window along time
starts at the last column of the one before, the next along view at its last row:

    known  known  known  known  known          windows of 3x3 over a grid of 5x5, in this order:
    known    1      1      2      2                (0, 0), (0, 2),
    known    1      1      2      2                (2, 0), (2, 2)
    known    3      3      4      4
    known    3      3      4      4            each starts on cells that are known or already made

Every window holds the same number of frames, so memory does not grow with the grid and time grows with its area.

Departures: the paper gives neither order nor overlap. Ours is one row and one column, the least with which a window
is what the model was trained on. Where windows do not fit evenly the last one moves back: cells already made stay,
and a model that reads only its first row and column may leave a seam there.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Complete = Callable[[Float[Tensor, "v t c h w"], Bool[Tensor, "v t"]], Float[Tensor, "v t c h w"]]


class Window(NamedTuple):
    """The first view and the first time of a window."""

    view: int
    time: int


def starts(length: int, size: int) -> list[int]:
    """Where windows begin along one axis: each on the last cell of the one before, the last one flush with the end.

    Raises:
        ValueError: a window of fewer than 2 cells, which would not move, or an axis shorter than a window.

    >>> starts(5, 3), starts(6, 3), starts(3, 3)
    ([0, 2], [0, 2, 3], [0])
    """
    if size < 2:
        raise ValueError(f"size is {size}; expected at least 2 cells, the first of them known.")
    if length < size:
        raise ValueError(f"length is {length}; expected at least the window's size, {size}.")
    begin = list(range(0, length - size + 1, size - 1))
    return begin if begin[-1] == length - size else [*begin, length - size]


def windows(views: int, times: int, size: tuple[int, int]) -> Iterator[Window]:
    """All windows in the order in which each finds its first row and its first column known: along time, then views.

    Args:
        views, times: of the whole grid.
        size: (views, times) of one window.

    >>> [tuple(w) for w in windows(5, 5, (3, 3))]
    [(0, 0), (0, 2), (2, 0), (2, 2)]
    """
    for view in starts(views, size[0]):
        for time in starts(times, size[1]):
            yield Window(view, time)


def slide(
    grid: Float[Tensor, "v t c h w"], complete: Complete, size: tuple[int, int]
) -> Iterator[tuple[Window, Float[Tensor, "v t c h w"]]]:
    """Complete a large grid window by window, yielding after each; the last grid is whole.

    Args:
        grid: its first row and first column are known; the rest is ignored. It is not changed.
        complete: the model. Gets the cells of one window and which of them are known, always with its first row and
            first column; returns all cells. Known cells stay as they were, whatever it returns.
        size: (views, times) of one window.

    Raises:
        ValueError: a window larger than the grid, or cells of another shape from `complete`.

    Yields:
        the window that was completed, and the grid so far (one tensor throughout: copy it to keep a moment).

    >>> copy_row = lambda cells, known: cells[:1].expand_as(cells)
    >>> grid = torch.arange(5.0).reshape(1, 5, 1, 1, 1).repeat(5, 1, 1, 1, 1)
    >>> grid[1:, 1:] = -1                                  # unknown
    >>> *_, (window, whole) = slide(grid, copy_row, (3, 3))
    >>> whole[4].flatten()
    tensor([0., 1., 2., 3., 4.])
    """
    grid = grid.clone()
    known = torch.zeros(grid.shape[:2], dtype=torch.bool, device=grid.device)
    known[0], known[:, 0] = True, True
    for window in windows(*grid.shape[:2], size):
        here = slice(window.view, window.view + size[0]), slice(window.time, window.time + size[1])
        kept = known[here].clone()[..., None, None, None]  # a copy: gradients need it as it is now
        made = complete(torch.where(kept, grid[here], 0.0), known[here].clone())  # nothing unknown leaks in
        if made.shape != grid[here].shape:
            raise ValueError(f"complete gave {tuple(made.shape)}; expected a window, {tuple(grid[here].shape)}.")
        grid[here] = torch.where(kept, grid[here], made)
        known[here] = True
        yield window, grid
