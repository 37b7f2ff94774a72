"""Do frames agree with each other where they must? By the scene's true geometry, along time and across views.

    flicker               the colour of a surface point now, and at the next time in the same view
    reprojection error    the colour of a surface point here, and from the next viewpoint at the same time

Both are mean absolute differences of colours in [0, 1], over surface points seen from both places. A picture that
follows the truth scores what the truth itself scores: not 0, since pixels are coarse and faces turn in the light. So
read them beside the truth's own number. Neither asks whether the picture is right: a frame without an object agrees
with itself perfectly. PSNR asks that.
"""

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from fourd_minimal.cameras import look_up, pixel_grid, project, rays
from fourd_minimal.data.scene_record import SceneRecord

Grids = Float[Tensor, "n v t 3 h w"]


def from_view(
    record: SceneRecord, there: int, here: slice
) -> tuple[Float[Tensor, "n v t h w 2"], Bool[Tensor, "n v t 1 h w"]]:
    """Where the surfaces seen in views `here` lie in view `there` at the same time, and which of them it sees.

    Seen is what is no deeper than the depth map there, read at the nearest pixel: near edges that is a guess.
    """
    h, w = record.rgb.shape[-2:]
    depth = record.depth[:, here, :, 0]
    origins, directions = rays(record.c2w[:, here], record.fov_deg, (h, w))
    points = origins[:, :, None, None, None] + depth[..., None] * directions[:, :, None]
    camera = record.c2w[:, there, None, None, None, None]
    xy, distance = project(points, camera, record.fov_deg, (h, w))
    first = record.depth[:, there : there + 1].expand(-1, depth.shape[1], -1, -1, -1, -1)
    first = look_up(first, xy, "nearest")[:, :, :, 0]
    inside = ((xy >= 0) & (xy <= torch.tensor([w, h]).to(xy))).all(-1)
    seen = (depth > 0) & (first > 0) & inside & (distance < first + 0.1)  # 0.1: a pixel's slope on a unit-sized object
    return xy, rearrange(seen, "n v t h w -> n v t 1 h w")


def hidden_from_fixed_view(record: SceneRecord) -> Bool[Tensor, "n v t 1 h w"]:
    """Surfaces that the given fixed view does not show at that time: what only another view can know.

    Raises:
        ValueError: a record that does not know, as of a rendered asset.
    """
    if record.in_fixed_view is None:
        raise ValueError("record has no in_fixed_view; take procedural scenes with geometry=True.")
    return (record.depth > 0) & ~record.in_fixed_view


def flicker(grids: Grids, record: SceneRecord) -> float:
    """Change of colour along the true optical flow, over the unknown views' objects, in [0, 1].

    Raises:
        ValueError: a record rendered without geometry.
    """
    if record.flow is None:
        raise ValueError("record has no flow; render it with geometry=True.")
    now, flow = grids[:, 1:, :-1], rearrange(record.flow[:, 1:, :-1], "n v t c h w -> n v t h w c")
    later = look_up(grids[:, 1:, 1:], pixel_grid(grids.shape[-2:])[:, :, 0].to(flow) + flow)
    both = record.visible[:, 1:, :-1] & (record.depth[:, 1:, :-1] > 0)
    return (later - now).abs()[both.expand_as(now)].mean().item()


def reprojection_error(grids: Grids, record: SceneRecord) -> float:
    """Change of colour from each view to the next, by true depth and cameras, at the unknown times, in [0, 1]."""
    errors = []
    for view in range(1, grids.shape[1]):
        xy, seen = from_view(record, view - 1, slice(view, view + 1))
        there = look_up(grids[:, view - 1 : view, 1:], xy[:, :, 1:])
        here, seen = grids[:, view : view + 1, 1:], seen[:, :, 1:]
        errors.append((there - here).abs()[seen.expand_as(here)])
    return torch.cat(errors).mean().item()
