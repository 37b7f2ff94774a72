"""Pseudo-4D: turn one video into a whole grid by moving its picture plane.

Section 3.3 of 4Real-Video trains the synchronisation layers first on videos to which sequences of continuous 2D affine
transformations are applied, which look like camera motion. Row v of the grid is the video under map M_v:

    grid[v, t](p) = video[t](M_v^-1 p)         M_v = exp(s_v G),   s_0 = 0 so that row 0 is the video itself

Such a grid costs nothing and every pixel's correspondence is known exactly: what is at p in view 0 is at M_v p in
view v, at all times. Its limit: it has no parallax, so a model trained on nothing else flattens the foreground.

Departures: the paper does not say how its sequences are drawn. Ours are the one-parameter groups exp(s G): continuous,
invertible, the identity at s = 0, with G a random sum of shift, rotation, zoom, stretch and shear; homographies are
ours, and add two terms of perspective. Points (x, y) run right and down from the centre, in units of half the height.
"""

import math

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor

AMPLITUDE = dict(shift=0.25, rotation=math.radians(20), zoom=0.25, stretch=0.15, shear=0.15, perspective=0.15)
"""Largest change of each kind from the first view to the last: half heights, radians, logarithms. Assumed."""


def random_motions(
    n: int, generator: torch.Generator | None = None, strength: float = 1.0, perspective: bool = False
) -> Float[Tensor, "n 3 3"]:
    """Random generators G of continuous motions of the picture plane, exp(s G).

    Args:
        n: how many.
        generator: source of randomness.
        strength: multiplies all of `AMPLITUDE`; 0 gives a static camera.
        perspective: homographies instead of affine maps.

    Raises:
        ValueError: `n` or `strength` is negative, or not finite.

    >>> random_motions(2, torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3, 3])
    """
    if n < 0 or not 0 <= strength <= 1e6:
        raise ValueError(f"n, strength are {n}, {strength}; expected a count, and a finite number of at least 0.")
    limit = {kind: strength * amplitude for kind, amplitude in AMPLITUDE.items()}
    draw = iter((2 * torch.rand(8, n, generator=generator) - 1).unbind())
    right, down = (limit["shift"] * next(draw) for _ in range(2))
    turn, zoom, stretch, shear = (limit[kind] * next(draw) for kind in ("rotation", "zoom", "stretch", "shear"))
    tilt = [limit["perspective"] * next(draw) * perspective for _ in range(2)]
    entries = [zoom + stretch, shear - turn, right, shear + turn, zoom - stretch, down, *tilt, torch.zeros(n)]
    return rearrange(torch.stack(entries, -1), "n (i j) -> n i j", i=3)


def maps_along(motions: Float[Tensor, "n 3 3"], path: Float[Tensor, "*n v"]) -> Float[Tensor, "n v 3 3"]:
    """M_v = exp(s_v G): the map from points of view 0 to every view.

    Args:
        motions: generators G.
        path: s for every view, `(v,)` or `(n, v)`; 0 is view 0 and 1 the end of the motion. Start it at 0.

    >>> maps_along(torch.zeros(1, 3, 3), torch.tensor([0.0, 1.0]))[0, 1]
    tensor([[1., 0., 0.],
            [0., 1., 0.],
            [0., 0., 1.]])
    """
    s = path.expand(len(motions), -1)[..., None, None]
    return torch.linalg.matrix_exp((s * motions[:, None]).contiguous())


def transform(points: Float[Tensor, "*b k 2"], maps: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b k 2"]:
    """Apply maps to points: M (x, y, 1), divided by its last entry.

    >>> quarter_turn = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    >>> transform(torch.tensor([[1.0, 0.0]]), quarter_turn)
    tensor([[0., 1.]])
    """
    moved = points @ maps[..., :2].mT + maps[..., None, :, 2]
    return moved[..., :2] / moved[..., 2:]


def pixel_centres(h: int, w: int) -> Float[Tensor, "h w 2"]:
    """(x, y) of every pixel's centre: y runs from -1 to 1, x from -w/h to w/h, at the picture's edges.

    >>> pixel_centres(2, 4)[0]
    tensor([[-1.5000, -0.5000],
            [-0.5000, -0.5000],
            [ 0.5000, -0.5000],
            [ 1.5000, -0.5000]])
    """
    y, x = ((2 * torch.arange(length) + 1 - length) / h for length in (h, w))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


def pseudo_grid(
    video: Float[Tensor, "n t c h w"], maps: Float[Tensor, "n v 3 3"]
) -> tuple[Float[Tensor, "n v t c h w"], Bool[Tensor, "n v h w"]]:
    """Turn videos into grids: row v is the video under map M_v.

    Args:
        video: frames, of any range.
        maps: `maps_along`; the first is the identity where row 0 is to be the video itself.

    Returns:
        the grids, bilinearly sampled, the picture mirrored beyond its edges; and which pixels of each view lie inside
        the video's picture (and, under strong perspective, before its horizon), at all times.

    Raises:
        ValueError: another number of videos than of maps.

    >>> maps = maps_along(random_motions(2), torch.linspace(0, 1, 4))
    >>> grid, inside = pseudo_grid(torch.rand(2, 3, 3, 8, 8), maps)
    >>> grid.shape, inside.shape
    (torch.Size([2, 4, 3, 3, 8, 8]), torch.Size([2, 4, 8, 8]))
    """
    n, t, _, h, w = video.shape
    v = maps.shape[1]
    if len(maps) != n:
        raise ValueError(f"maps has {len(maps)} sequences; expected one for each of the {n} videos.")
    points = rearrange(pixel_centres(h, w).to(maps), "h w xy -> (h w) xy").expand(n, v, -1, -1)
    back = torch.linalg.inv(maps)
    before_horizon = points @ back[..., 2, :2, None] + back[..., 2:, 2:] > 0
    source = transform(points, back) / torch.tensor([w / h, 1.0]).to(maps)
    source = rearrange(source, "n v (h w) xy -> (n v) h w xy", h=h)
    frames = repeat(video, "n t c h w -> (n v) (t c) h w", v=v)  # one map for all moments: one sampling
    wide = torch.promote_types(frames.dtype, source.dtype)  # places in half precision are off by pixels
    sampling = dict(padding_mode="reflection", align_corners=False)
    moved = torch.nn.functional.grid_sample(frames.to(wide), source.to(wide), **sampling).to(video.dtype)
    inside = (source.abs() <= 1).all(-1).unflatten(0, (n, v)) & before_horizon.view(n, v, h, w)
    return rearrange(moved, "(n v) (t c) h w -> n v t c h w", v=v, t=t), inside
