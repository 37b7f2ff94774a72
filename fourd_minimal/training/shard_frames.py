"""What the two papers train on, out of shards (`data/shards.py`): windows of grids, and orbits with a video.

Each batch is a function of the shards, the seed and the numbers of a step and its part. So a run that was interrupted
resumes exactly, on any number of devices, and every grid comes once in an epoch.

Departures: neither paper says which part of a render a training grid is. Ours begins anywhere, steps by any stride up
to a limit, and runs around the object in either direction (V2, arXiv 2506.18839, reverses the order of views as well).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fourd_minimal.data.shards import Shards
from fourd_minimal.systems.four_diffusion import FourDMConfig
from fourd_minimal.training.loop import seeded


def batch_generator(seed: int, number: int, part: int) -> torch.Generator:
    """The source of all that is random in one batch, apart from the noise that a trainer draws for it."""
    return seeded(seed, number, part, of="shards")


def grids(
    shards: Shards,
    n: int,
    views: int,
    times: int,
    size: tuple[int, int],
    number: int,
    part: int = 0,
    parts: int = 1,
    seed: int = 0,
    view_stride: int = 2,
    time_stride: int = 4,
) -> Float[Tensor, "n v t 3 h w"]:
    """Windows of `n` grids, for 4Real-Video; in [-1, 1].

    Args:
        shards: where from.
        n, views, times: how many grids, of which shape.
        size: (h, w) of the frames.
        number, part, parts: of the step, of its part, and how many of these a step has.
        seed: of everything random.
        view_stride, time_stride: at most so many stored views or times from one to the next; windows go round a ring.

    Raises:
        ValueError: more views or times than are stored.
    """
    generator, found = batch_generator(seed, number, part), []
    for i in shards.items(number, part, n, parts, seed):
        rows = window("views", shards.views, views, view_stride, generator, is_ring(shards.c2w(i)))
        columns = window("times", shards.times, times, time_stride, generator)
        if torch.randint(2, (), generator=generator):
            rows = rows[::-1]
        rgb = shards.read(i, rows, columns).rgb
        found.append(fitted(rgb.flatten(0, 1), size).unflatten(0, (views, times)))
    return torch.stack(found) * 2 - 1


def orbits(
    shards: Shards,
    config: FourDMConfig,
    n: int,
    times: int,
    number: int,
    part: int = 0,
    parts: int = 1,
    seed: int = 0,
    time_stride: int = 4,
) -> tuple[Float[Tensor, "n t v 3 s s"], Float[Tensor, "n t 3 s s"], Float[Tensor, "n v 4 4"]]:
    """Views evenly around `n` objects, and a video from another one, for 4DM.

    Args:
        shards: grids from all around, at the model's elevation.
        config: size and views.
        n, times: how many objects, and frames of each.
        number, part, parts, seed: see `grids`.
        time_stride: at most so many stored times from one frame to the next; the paper's 8 frames lie 4 apart.

    Returns:
        Clean views and the video in [-1, 1]; the poses of the views, of `FourDMConfig.camera_conditioning`.

    Raises:
        ValueError: cameras that do not stand evenly all around, a multiple of the model's views with one to spare, or
            at another elevation; more times than are stored.
    """
    generator, around = batch_generator(seed, number, part), shards.views
    if around % config.views or around == config.views:
        raise ValueError(f"shards hold {around} views; expected a larger multiple of the model's {config.views}.")
    frames, cameras = [], []
    for i in shards.items(number, part, n, parts, seed):
        c2w = shards.c2w(i)
        elevation_deg = torch.rad2deg(torch.asin(c2w[0, 1, 3] / c2w[0, :3, 3].norm())).item()
        if not is_ring(c2w) or abs(elevation_deg - config.elevation_deg) > 0.1:
            raise ValueError(
                f"shards hold views from an elevation of {elevation_deg:.1f} degrees; expected cameras evenly all "
                f"around, at the model's elevation of {config.elevation_deg:g}."
            )
        begin, video = (int(torch.randint(m, (), generator=generator)) for m in (around, around - config.views))
        even = [(begin + k * around // config.views) % around for k in range(config.views)]
        rows = [[v for v in range(around) if v not in even][video], *even]
        columns = window("times", shards.times, times, time_stride, generator)
        rgb = shards.read(i, rows, columns).rgb
        frames.append(fitted(rgb.flatten(0, 1), (config.image_size,) * 2).unflatten(0, rgb.shape[:2]))
        cameras.append(c2w[rows])
    recorded, *clean = (torch.stack(frames) * 2 - 1).unbind(1)
    return torch.stack(clean, 2), recorded, config.camera_conditioning(torch.stack(cameras))


def is_ring(c2w: Float[Tensor, "v 4 4"]) -> bool:
    """Whether the same motion leads from each camera to the next, and from the last to the first."""
    steps = c2w.roll(-1, 0) @ torch.linalg.inv(c2w)
    return bool((steps - steps[:1]).abs().max() < 1e-3)


def window(name: str, stored: int, asked: int, most: int, generator: torch.Generator, ring: bool = False) -> list[int]:
    """Indices from a random one on, at a random stride of at most `most`; those of a ring go on from the last to 0.

    Raises:
        ValueError: fewer are stored than asked for.
    """
    if asked > stored:
        raise ValueError(f"shards hold {stored} {name}; expected {asked}.")
    longest = min(most, (stored - 1) // max(1, asked - 1))
    stride = 1 + int(torch.randint(max(1, longest), (), generator=generator))
    room = stored if ring else stored - (asked - 1) * stride
    first = int(torch.randint(room, (), generator=generator))
    return [(first + k * stride) % stored for k in range(asked)]


def fitted(frames: Float[Tensor, "b 3 h w"], size: tuple[int, int]) -> Float[Tensor, "b 3 y x"]:
    """Whole frames of another size, without aliasing and not stretched, with white beside them.

    >>> fitted(torch.zeros(1, 3, 8, 8), (4, 8))[0, 0, 0]
    tensor([1., 1., 0., 0., 0., 0., 1., 1.])
    """
    (h, w), (y, x) = frames.shape[-2:], size
    scale = min(y / h, x / w)
    inner_y, inner_x = round(h * scale), round(w * scale)
    if (inner_y, inner_x) != (h, w):
        frames = F.interpolate(frames, (inner_y, inner_x), mode="bilinear", antialias=True, align_corners=False)
    top, left = (y - inner_y) // 2, (x - inner_x) // 2
    return F.pad(frames, (left, x - inner_x - left, top, y - inner_y - top), value=1.0)
