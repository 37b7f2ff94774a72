"""The conditioning of a grid: which cells are known, how two videos become cells, the linear estimate from them."""

import warnings

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fourd_minimal.systems.pixels import check_pixels

FIRST_FRAMES_WARN, FIRST_FRAMES_FAIL = 0.02, 0.1
"""Mean absolute difference of the two videos' first frames, in [0, 1], beyond which we warn, and refuse."""


def known_cells(views: int, times: int) -> Bool[Tensor, "v t"]:
    """The known cells by default: the first row and the first column.

    >>> known_cells(2, 3)
    tensor([[ True,  True,  True],
            [ True, False, False]])
    """
    known = torch.zeros(views, times, dtype=torch.bool)
    known[0], known[:, 0] = True, True
    return known


def check_first_frames(fixed_view: Float[Tensor, "3 h w"], freeze_time: Float[Tensor, "3 h w"]) -> None:
    """The two videos start at the same picture: a warning where they differ a little, a ValueError where by more."""
    gap = (fixed_view - freeze_time).abs().mean().item()
    difference = f"The first frames of fixed_view and freeze_time differ by {gap:.3f} on average"
    if gap > FIRST_FRAMES_FAIL:
        raise ValueError(f"{difference}; expected the same picture (at most {FIRST_FRAMES_FAIL} is accepted).")
    if gap > FIRST_FRAMES_WARN:
        warnings.warn(f"{difference}; fixed_view's is used.", stacklevel=3)


def check_known(known: Tensor, views: int, times: int) -> Bool[Tensor, "v t"]:
    """A mask of known cells; a ValueError for another shape or type, and where no cell is known, or all."""
    known = torch.as_tensor(known)
    if known.dtype != torch.bool or tuple(known.shape) != (views, times):
        raise ValueError(f"known is {known.dtype} of shape {tuple(known.shape)}; expected bool of {(views, times)}.")
    if not known.any() or known.all():
        raise ValueError(f"known has {int(known.sum())} of {known.numel()} cells; expected at least one, and not all.")
    return known


def linear_guess(
    x: Float[Tensor, "*b"], sigma: Float[Tensor, "*#b"], guess: Float[Tensor, "*#b"], spread: float
) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*#b"]]:
    """The best linear estimate of clean frames from noisy ones, and its standard deviation.

    Frames are taken as guess + spread * N(0, 1), and x = (1 - sigma) frames + sigma eps. At sigma = 1 the estimate is
    the guess, at sigma = 0 it is x. A network that predicts the rest, in units of the deviation, has targets of one
    size at every noise level (Karras et al., arXiv 2206.00364, with a mean other than 0).
    """
    kept = 1 - sigma
    total = (kept * spread) ** 2 + sigma**2
    return guess + kept * spread**2 / total * (x - kept * guess), spread * sigma / total.sqrt()


def assemble(
    fixed_view: Float[Tensor, "t c h w"], freeze_time: Float[Tensor, "v c h w"]
) -> Float[Tensor, "1 v t c h w"]:
    """Lay the two videos into the first row and the first column of an otherwise empty grid."""
    grid = fixed_view.new_zeros(1, len(freeze_time), *fixed_view.shape)
    grid[0, :, 0], grid[0, 0] = freeze_time, fixed_view
    return grid


def check_video(name: str, video: Tensor, most: int | None, size: tuple[int, int]) -> None:
    """One clear sentence for whatever is wrong with an input video."""
    h, w = size
    check_pixels(name, video)
    if video.ndim != 4 or video.shape[1] != 3:
        raise ValueError(f"{name} has shape {tuple(video.shape)}; expected (frames, 3, {h}, {w}).")
    if tuple(video.shape[2:]) != (h, w):
        given = "x".join(map(str, video.shape[2:]))
        raise ValueError(f"{name} has {given} pixels; expected {h}x{w}: read_video(path, size={h}) resizes.")
    if len(video) < 2:
        raise ValueError(f"{name} has {len(video)} frames; expected at least 2.")
    if most is not None and len(video) > most:
        raise ValueError(
            f"{name} has {len(video)} frames; expected 2 to {most}: read_video(path, frames={most}), "
            "or generate(..., windows=True) for a longer grid."
        )
