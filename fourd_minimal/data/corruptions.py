"""Seven ways to corrupt a grid of frames on purpose, each by a known amount: what a metric must see, or admit to miss.

    blur              every frame loses its detail
    noise             every pixel is off by itself
    colour shift      all colours are a little too red and too little blue
    frozen motion     every view stays near its first moment
    time shuffle      the right moments in the wrong order
    swapped views     the right views in the wrong order
    wrong viewpoint   everything is seen from a neighbouring camera

The first three corrupt pixels and leave the story whole; the others leave every frame, or nearly, a perfect picture.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Grid = Float[Tensor, "v t 3 h w"]


def blur(grid: Grid, amount: float) -> Grid:
    """A Gaussian of so many pixels' standard deviation; frames are mirrored at their borders."""
    if amount == 0:
        return grid
    reach = min(max(1, round(3 * amount)), grid.shape[-1] - 1)
    bell = (-torch.arange(-reach, reach + 1, device=grid.device).square() / (2 * amount**2)).exp()
    window = (bell / bell.sum()).expand(3, 1, 1, -1)
    frames = F.pad(grid.flatten(0, 1), (reach,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(frames, window, groups=3), window.mT, groups=3).view_as(grid)


def noise(grid: Grid, amount: float) -> Grid:
    """Gaussian, of this standard deviation."""
    drawn = torch.randn(grid.shape, generator=torch.Generator().manual_seed(0)).to(grid)
    return (grid + amount * drawn).clamp(0, 1)


def colour_shift(grid: Grid, amount: float) -> Grid:
    """So much red more and so much blue less."""
    return (grid + torch.tensor([amount, 0.0, -amount]).to(grid)[:, None, None]).clamp(0, 1)


def frozen_motion(grid: Grid, amount: float) -> Grid:
    """Time runs slower, by this share: at 1 it stands still. Frames are the nearest given ones."""
    times = torch.arange(grid.shape[1], device=grid.device)
    return grid[:, (times * (1 - amount)).round().long()]


def time_shuffle(grid: Grid, amount: float) -> Grid:
    """This share of the moments trade places, the same in all views."""
    return grid[:, _traded(grid.shape[1], amount)]


def swapped_views(grid: Grid, amount: float) -> Grid:
    """This share of the views trade places, at all times."""
    return grid[_traded(grid.shape[0], amount)]


def wrong_viewpoint(grid: Grid, amount: float) -> Grid:
    """Each view shows what a camera so many places further sees; the last ones see on around."""
    return grid.roll(-round(amount), 0)


def _traded(n: int, share: float) -> Tensor:
    """An order in which the chosen places, themselves in any order, each hand what they have to the next of them."""
    chosen = torch.randperm(n, generator=torch.Generator().manual_seed(0))[: max(2, round(share * n)) if share else 0]
    order = torch.arange(n)
    order[chosen] = chosen.roll(1)
    return order


CORRUPTIONS: dict[str, tuple[Callable[[Tensor, float], Tensor], tuple[float, ...]]] = {
    "blur": (blur, (0.5, 1.0, 2.0)),
    "noise": (noise, (0.03, 0.1, 0.3)),
    "colour shift": (colour_shift, (0.03, 0.1, 0.3)),
    "frozen motion": (frozen_motion, (0.3, 0.6, 1.0)),
    "time shuffle": (time_shuffle, (0.3, 0.6, 1.0)),
    "swapped views": (swapped_views, (0.3, 0.6, 1.0)),
    "wrong viewpoint": (wrong_viewpoint, (1.0, 2.0, 3.0)),
}
"""Each with three strengths, from faint to gross."""
