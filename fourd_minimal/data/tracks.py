"""Points followed through a freeze-time video and lifted to 3D: where a cloud of Gaussians, and eq. 11's dp^v, begin.

Supplement of 4Real-Video, section 6: points of several frames are tracked through the video, lifted by their
depth, and "aligned towards a central frame". What a frame's own point p_i has over the central frame's is

    dp^v_i = p_i - p                     the view-dependent deformation of eq. 11

A tracker and a depth source are arguments:

    true_tracks(record), true_depth(record)      of a scene whose geometry is known: then dp^v is 0
    flow_tracks                                  any video: optical flow of OpenCV (DIS), chained from frame to frame
    no depth                                     triangulated: where the rays of a track meet best; points whose rays
                                                 miss it by a pixel, or hardly cross, are dropped

p_i lies on the ray of frame i through the tracked pixel, as deep as p is for that camera.

Departures: the paper's tracker and depth are learned models; ours are known or classical, and our cameras are known.
The paper's 3D tracker gives every frame a depth of its own; looked up in a depth map, one of a slanted face is off by
more than it tells, so frames here differ across their rays only.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from fourd_minimal.cameras import pixel_grid, project, rays
from fourd_minimal.data.poses import Tracker, flow_tracks, look_up, triangulate
from fourd_minimal.data.scene_record import SceneRecord


@dataclass(frozen=True)
class TrackedPoints:
    """A cloud aligned to the central frame."""

    points: Float[Tensor, "n 3"]
    colour: Float[Tensor, "n 3"]
    radius: Float[Tensor, " n"]
    """Half a pixel, at the point's depth in the frame where it began."""
    view_offsets: Float[Tensor, "v n 3"]
    """dp^v: where a frame shows the point, beyond where its camera should see it."""


def true_depth(record: SceneRecord, scene: int = 0) -> Float[Tensor, "v h w"]:
    """Depth of the freeze-time video's frames; 0 where nothing is."""
    return record.depth[scene, :, 0, 0]


def true_tracks(record: SceneRecord, scene: int = 0) -> Tracker:
    """A tracker that knows the scene: surfaces are lifted by their depth and projected into every frame.

    What is no surface is seen nowhere.
    """

    def track(video: Tensor, frame: int, xy: Float[Tensor, "n 2"]) -> tuple[Tensor, Tensor]:
        c2w, size = record.c2w[scene], record.rgb.shape[-2:]
        depths = true_depth(record, scene)
        depth = look_up(depths[frame, None, None], xy[None], "nearest")[0, :, 0]
        origin, direction = rays(c2w[frame], record.fov_deg, tuple(size), xy)
        points = origin + depth[:, None] * direction
        there, distance = project(points, c2w[:, None], record.fov_deg, size)
        first = look_up(depths[:, None], there, "nearest")[..., 0]
        inside = ((there >= 0) & (there <= torch.tensor([size[1], size[0]]).to(there))).all(-1)
        return there, inside & (depth > 0) & (first > 0) & (distance < first + 0.1)

    return track


def track_points(
    video: Float[Tensor, "v 3 h w"],
    c2w: Float[Tensor, "cameras 4 4"],
    fov_deg: float,
    tracker: Tracker = flow_tracks,
    depth: Float[Tensor, "depths h w"] | None = None,
    mask: Bool[Tensor, "masks h w"] | None = None,
    every: int = 1,
    keyframes: Sequence[int] | None = None,
) -> TrackedPoints:
    """A cloud from a freeze-time video, aligned to its central frame.

    Args:
        video: in [0, 1].
        c2w, fov_deg: of its frames.
        tracker: follows points.
        depth: maps from any source, 0 where nothing is; triangulated from the tracks when left out.
        mask: which pixels become points; those with a depth, or all, when left out.
        every: one pixel of so many, in each direction.
        keyframes: where tracks begin; all frames when left out.

    Everything is on the CPU.

    Raises:
        ValueError: counts that differ, pixels out of range, poses without a rotation, or no pixel became a point.
    """
    v, _, h, w = video.shape
    for name, value in dict(c2w=c2w, depth=depth, mask=mask).items():
        if value is not None and len(value) != v:
            raise ValueError(f"{name} is for {len(value)} frames and video has {v}.")
    if not 0 <= video.min() <= video.max() <= 1:
        raise ValueError(f"video has values from {video.min():.2f} to {video.max():.2f}; expected 0 to 1.")
    off = (c2w[:, :3, :3] @ c2w[:, :3, :3].mT - torch.eye(3)).abs().max()
    if not off < 1e-3:
        raise ValueError(f"c2w is not made of rotations (R R^T is off by {off:.2g}); expected poses.")
    if mask is None:
        mask = torch.ones(v, h, w, dtype=torch.bool) if depth is None else depth > 0
    pixels, parts = pixel_grid((h, w))[:, :, 0], []
    for frame in range(v) if keyframes is None else keyframes:
        chosen = torch.zeros(h, w, dtype=torch.bool)
        chosen[frame % every :: every, frame % every :: every] = True
        xy = pixels[chosen & mask[frame]]
        if len(xy):
            parts.append(_tracked(video, c2w, fov_deg, tracker, depth, frame, xy))
    kept = [p for p in parts if len(p.points)]
    if not kept:
        raise ValueError("No pixel of the video became a point: the mask, the depth or the tracks are empty.")
    fields = ([getattr(p, name) for p in kept] for name in ("points", "colour", "radius"))
    return TrackedPoints(*map(torch.cat, fields), torch.cat([p.view_offsets for p in kept], 1))


def _tracked(video, c2w, fov_deg, tracker, depth, frame, xy) -> TrackedPoints:
    """The points that begin in one frame."""
    v, _, h, w = video.shape
    there, seen = tracker(video, frame, xy)
    origin, direction = _rays_at(c2w, fov_deg, (h, w), there)
    if depth is None:
        points = triangulate(origin, direction, seen)
    else:
        z = look_up(depth[frame, None, None], xy[None], "nearest")[0]
        points = origin[frame] + z * direction[frame]
    _, z = project(points, c2w[:, None], fov_deg, (h, w))
    good = points.isfinite().all(-1) & (z > 0).all(0)
    if depth is None:
        good &= _well_met(points, there, seen, origin, c2w, fov_deg, (h, w))
    own = origin[:, None] + z[..., None] * direction  # p_i: on the ray of frame i
    offsets = _smooth(own - points, seen & good, points)
    centre = offsets[v // 2]  # where the central frame shows a point, there it is
    points, offsets = points + centre, offsets - centre
    pixel = 2 * np.tan(np.deg2rad(fov_deg) / 2) / h  # at a depth of 1
    colour = look_up(video[frame, None], xy[None])[0]
    radius = 0.5 * pixel * z[frame]
    return TrackedPoints(points[good], colour[good], radius[good], offsets[:, good])


def _rays_at(c2w, fov_deg, size, xy: Float[Tensor, "v n 2"]) -> tuple[Float[Tensor, "v 3"], Float[Tensor, "v n 3"]]:
    """Each frame's rays through its own pixel positions."""
    origin, local = rays(torch.eye(4), fov_deg, size, xy)
    return c2w[:, :3, 3], local @ c2w[:, :3, :3].mT


def _well_met(points, there, seen, origin, c2w, fov_deg, size) -> Bool[Tensor, " n"]:
    """Whether the rays of a track pass within a pixel of their point, and cross there by 3 degrees or more."""
    xy, _ = project(points, c2w[:, None], fov_deg, size)
    miss = ((xy - there).norm(dim=-1) * seen).amax(0)
    towards = F.normalize(origin[:, None] - points, dim=-1)
    towards = torch.where(
        seen[..., None], towards, (towards * seen[..., None]).sum(0) / seen.sum(0).clamp(min=1)[:, None]
    )
    apart = torch.einsum("vnc,unc->vun", towards, F.normalize(towards, dim=-1)).amin((0, 1))
    return (miss < 1) & (apart < math.cos(math.radians(3)))


def _smooth(
    offsets: Float[Tensor, "v n 3"], seen: Bool[Tensor, "v n"], points: Float[Tensor, "n 3"], k: int = 12
) -> Float[Tensor, "v n 3"]:
    """In every frame the median offset of the `k` nearest points that it sees; 0 where it sees none.

    A single track is off by a good part of a pixel; neighbours move together.
    """
    smooth = torch.zeros_like(offsets)
    for own, sees, out in zip(offsets, seen, smooth, strict=True):
        if sees.any():
            some = min(k, int(sees.sum()))
            for part, found in zip(points.split(4096), out.split(4096), strict=True):  # bounds the memory
                near = torch.cdist(part, points[sees]).topk(some, largest=False).indices
                found[:] = own[sees][near].median(1).values
    return smooth
