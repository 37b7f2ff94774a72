"""How a freeze-time video's camera moved, where it is not known: a circle around the scene, fitted to tracks.

The camera stands on a circle around the world's y axis, looks at the origin, and moves in even steps:

    c2w_i = circular_trajectory(sweep_deg * i / (v - 1), elevation_deg, radius)

The sweep and the elevation are searched for on a grid that is refined: the best are those at which the rays of each
track come nearest to one point. The radius only sets the scale of the world, and is given.

Departures: the paper needs no poses, since its points are tracked into every frame's own coordinates. Here a frame is a
camera's view, and where the camera's motion is unknown, a circle is assumed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from fourd_minimal.cameras import circular_trajectory, project, rays

Tracker = Callable[[Tensor, int, Tensor], tuple[Tensor, Tensor]]
"""(video `(v, 3, h, w)`, frame, its pixel positions `(n, 2)`) -> positions in all frames `(v, n, 2)`, seen `(v, n)`."""


LEAST_PX = 0.7
"""A track that moves less does not count."""


@dataclass(frozen=True)
class Orbit:
    """A part of a circle of cameras."""

    sweep_deg: float
    """Azimuth of the last camera; that of the first is 0."""
    elevation_deg: float
    radius: float
    error_px: float = 0.0
    """Mean distance of tracks from the points they were fitted with."""

    def c2w(self, views: int) -> Float[Tensor, "v 4 4"]:
        """Its cameras, evenly spaced."""
        return circular_trajectory(torch.linspace(0, self.sweep_deg, views), self.elevation_deg, self.radius)


def fit_orbit(
    tracks: Float[Tensor, "v n 2"],
    seen: Bool[Tensor, "v n"],
    fov_deg: float,
    size: tuple[int, int],
    radius: float = 4.0,
    max_sweep_deg: float = 120.0,
    rounds: int = 5,
) -> Orbit:
    """The orbit whose rays meet best.

    Args:
        tracks: pixel positions of points in every frame.
        seen: where they are to be believed.
        fov_deg, size: vertical field of view, and (h, w) of the frames.
        radius: of the orbit, in scene units.
        max_sweep_deg: how far it may go, either way.
        rounds: how often the grid of guesses is refined.

    Raises:
        ValueError: fewer than 3 views, or fewer than 8 tracks seen in most of them.
    """
    views, good = len(tracks), seen.sum(0) > len(tracks) / 2
    if views < 3 or good.sum() < 8:
        raise ValueError(f"tracks has {views} views and {int(good.sum())} points seen in most; expected 3 and 8.")
    tracks, seen = tracks[:, good], seen[:, good]
    sweep, elevation = 0.0, 10.0
    reach = max_sweep_deg, 60.0
    for _ in range(rounds):
        guesses = torch.cartesian_prod(
            torch.linspace(sweep - reach[0], sweep + reach[0], 33).clamp(-max_sweep_deg, max_sweep_deg),
            torch.linspace(elevation - reach[1], elevation + reach[1], 13).clamp(-80, 80),
        )
        errors = torch.cat([_errors(g, tracks, seen, fov_deg, size, radius) for g in guesses.split(64)])
        sweep, elevation = guesses[errors.argmin()].tolist()
        reach = reach[0] / 8, reach[1] / 3
    return Orbit(sweep, elevation, radius, errors.min().item())


def _errors(
    guesses: Float[Tensor, "k 2"], tracks: Tensor, seen: Tensor, fov_deg: float, size: tuple[int, int], radius: float
) -> Float[Tensor, " k"]:
    """How far, in pixels, tracks run from the points they meet in, for each guess of (sweep, elevation)."""
    c2w = circular_trajectory(guesses[:, :1] * torch.linspace(0, 1, len(tracks)), guesses[:, 1:], radius)
    _, local = rays(torch.eye(4), fov_deg, size, tracks)
    direction = torch.einsum("kvij,vnj->kvni", c2w[..., :3, :3], local)
    points = triangulate(c2w[..., :3, 3], direction, seen)
    xy, depth = project(points[:, None], c2w[:, :, None], fov_deg, size)
    most = size[0] / 16  # a lost track counts, but no more than this
    off = torch.where(depth > 0.1, (xy - tracks).norm(dim=-1), most).nan_to_num(most).clamp(max=most)
    return (off * seen).sum((1, 2)) / seen.sum()


def look_up(maps: Float[Tensor, "v c h w"], xy: Float[Tensor, "v n 2"], mode: str = "bilinear") -> Tensor:
    """Pictures at pixel positions, `(v, n, c)`; the first pixel's centre is at (0.5, 0.5)."""
    h, w = maps.shape[-2:]
    at = 2 * xy / torch.tensor([w, h]).to(xy) - 1
    found = F.grid_sample(maps, at[:, None], mode=mode, padding_mode="border", align_corners=False)
    return found[:, :, 0].mT


def flow_tracks(video: Float[Tensor, "v 3 h w"], frame: int, xy: Float[Tensor, "n 2"]) -> tuple[Tensor, Tensor]:
    """Optical flow from each frame to the next, followed outwards from `frame`; seen while the flow back agrees."""
    import cv2  # slow to import

    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    scale = max(1, 256 // min(video.shape[-2:]))  # DIS works on patches of 8 pixels: small frames are enlarged
    large = F.interpolate(video, scale_factor=scale, mode="bicubic").clamp(0, 1) if scale > 1 else video
    grey = [cv2.cvtColor((f.permute(1, 2, 0).numpy() * 255).astype(np.uint8), cv2.COLOR_RGB2GRAY) for f in large]

    def flow(a: int, b: int) -> Tensor:
        return torch.from_numpy(dis.calc(grey[a], grey[b], None)).permute(2, 0, 1)[None]

    places, seen = {frame: xy}, {frame: torch.ones(len(xy), dtype=torch.bool)}
    for order in (range(frame, len(video) - 1), range(frame, 0, -1)):
        for here in order:
            there = here + (1 if order.step > 0 else -1)
            step = look_up(flow(here, there), places[here][None] * scale)[0]
            moved = places[here] * scale + step
            back = look_up(flow(there, here), moved[None])[0]
            places[there] = moved / scale
            agree = (step + back).norm(dim=-1) < 0.5 * scale
            h, w = video.shape[-2:]
            inside = ((places[there] >= 0) & (places[there] <= torch.tensor([w, h]))).all(-1)
            seen[there] = seen[here] & agree & inside
    order = range(len(video))
    return torch.stack([places[i] for i in order]), torch.stack([seen[i] for i in order])


def triangulate(
    origin: Float[Tensor, "*k v 3"], direction: Float[Tensor, "*k v n 3"], seen: Bool[Tensor, "v n"]
) -> Float[Tensor, "*k n 3"]:
    """The points nearest to all rays of their tracks (least squares); a point seen once or not at all is NaN.

    Leading axes are other guesses of where the cameras are.
    """
    unit = F.normalize(direction, dim=-1)
    across = torch.eye(3) - unit[..., :, None] * unit[..., None, :]  # what of a vector is not along the ray
    across = across * seen[..., None, None]
    left, right = across.sum(-4), (across @ origin[..., None, :, None]).sum(-4)
    points = torch.linalg.solve(left + 1e-6 * torch.eye(3), right)[..., 0]
    return torch.where((seen.sum(0) > 1)[:, None], points, torch.nan)


def orbit_of(
    video: Float[Tensor, "v 3 h w"],
    fov_deg: float,
    tracker: Tracker = flow_tracks,
    radius: float = 4.0,
) -> Orbit:
    """The orbit of a freeze-time video's camera, from tracks that begin at the corners of every frame.

    Tracks that do not move are left out. A tracker needs texture: on animated characters of 128 pixels optical flow
    finds a sweep of 50 degrees to 6, the elevation to 4; on faces of one colour, as in our own worlds, it does not.

    Args:
        video: in [0, 1].
        fov_deg: vertical field of view.
        tracker: follows points.
        radius: of the orbit.

    Raises:
        ValueError: too few tracks; see `fit_orbit`.
    """
    tracks, seen = [], []
    for frame, picture in enumerate(video):
        begun = corners(picture)
        there, found = tracker(video, frame, begun)
        moves = ((there - begun).norm(dim=-1) * found).amax(0) > LEAST_PX
        tracks.append(there[:, moves])
        seen.append(found[:, moves])
    return fit_orbit(torch.cat(tracks, 1), torch.cat(seen, 1), fov_deg, tuple(video.shape[-2:]), radius)


def corners(picture: Float[Tensor, "3 h w"], most: int = 300) -> Float[Tensor, "n 2"]:
    """Where a picture differs from its surroundings in every direction: OpenCV's choice (Shi and Tomasi 1994)."""
    import cv2  # slow to import

    grey = cv2.cvtColor(np.ascontiguousarray(picture.permute(1, 2, 0).numpy()), cv2.COLOR_RGB2GRAY)
    found = cv2.goodFeaturesToTrack(grey, most, 0.01, 3)
    return torch.zeros(0, 2) if found is None else torch.from_numpy(found[:, 0]) + 0.5
