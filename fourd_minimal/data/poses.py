"""Where a freeze-time video's camera went, when nobody says: a circle around the scene, fitted to tracks.

The camera stands on a circle around the world's y axis, looks at the origin, and moves in even steps:

    c2w_i = circular_trajectory(sweep_deg * i / (v - 1), elevation_deg, radius)

Two numbers, the sweep and the elevation, are searched for on a grid that is refined: right is where the rays of a track
come nearest to one point. The radius only sets the scale of the world, and is given.

Departures: the paper needs no poses, since its points are tracked into every frame's own coordinates. Here a frame is a
camera's view, and where nobody says how the camera moved, a circle is assumed.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fourd_minimal.cameras import circular_trajectory, project, rays
from fourd_minimal.data.tracks import Tracker, flow_tracks, triangulate


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


def orbit_of(
    video: Float[Tensor, "v 3 h w"],
    fov_deg: float,
    tracker: Tracker = flow_tracks,
    radius: float = 4.0,
    least_px: float = 0.7,
) -> Orbit:
    """The orbit of a freeze-time video's camera, from tracks that begin at the corners of every frame.

    What does not move tells nothing, so still tracks are left out. A tracker needs texture: on four animated characters
    of 128 pixels optical flow finds a sweep of 50 degrees to 6, the elevation to 4 (the tests repeat it); on
    faces of one colour, as in our own worlds, it does not.

    Args:
        video: in [0, 1].
        fov_deg: vertical field of view.
        tracker: follows points.
        radius: of the orbit.
        least_px: how far a track must go to count.

    Raises:
        ValueError: too few tracks; see `fit_orbit`.
    """
    tracks, seen = [], []
    for frame, picture in enumerate(video):
        begun = corners(picture)
        there, found = tracker(video, frame, begun)
        moves = ((there - begun).norm(dim=-1) * found).amax(0) > least_px
        tracks.append(there[:, moves])
        seen.append(found[:, moves])
    return fit_orbit(torch.cat(tracks, 1), torch.cat(seen, 1), fov_deg, tuple(video.shape[-2:]), radius)


def corners(picture: Float[Tensor, "3 h w"], most: int = 300) -> Float[Tensor, "n 2"]:
    """Where a picture can be told from its surroundings: OpenCV's choice (Shi and Tomasi 1994)."""
    import cv2  # slow to import

    grey = cv2.cvtColor(np.ascontiguousarray(picture.permute(1, 2, 0).numpy()), cv2.COLOR_RGB2GRAY)
    found = cv2.goodFeaturesToTrack(grey, most, 0.01, 3)
    return torch.zeros(0, 2) if found is None else torch.from_numpy(found[:, 0]) + 0.5
