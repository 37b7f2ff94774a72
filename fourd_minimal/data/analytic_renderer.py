"""Exact pictures of moving ellipsoids and boxes: every ray of every view and time in one batch.

An object is a unit ball or the cube [-1, 1]^3 under an affine map that changes over time. A ray is taken into the
object's own space by the inverse map, where the ball is a quadratic equation and the cube three slabs. The parameter
along the ray is unchanged by an affine map, so the smallest hit over all objects is the depth in the camera.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from fourd_minimal.cameras import pixel_grid, project, rays
from fourd_minimal.data.scene_record import SceneRecord

AT_ONCE = 16
"""Scenes rendered together; memory grows with it."""


@dataclass(frozen=True)
class MovingObjects:
    """`n` scenes of `k` objects at `t` times. The first `n_balls` are balls, the others boxes.

    An absent object has a map that shrinks it to nothing.
    """

    to_world: Float[Tensor, "n t k 3 4"]
    """Object to world at each time; its 3x3 part must be invertible."""
    n_balls: int
    colours: Float[Tensor, "n k 6 3"]
    """In [0, 1], one for each direction the surface faces: +x, -x, +y, -y, +z, -z of the object."""
    checker: Float[Tensor, " k"]
    """Squares per unit of object space on the tops of boxes (colours 2 and 3); 0 for none."""
    light: Float[Tensor, "n 3"]
    """Unit vector towards the light."""
    background: Float[Tensor, "n 2 3"]
    """Colour in [0, 1] at the top and at the bottom of the picture."""

    def scenes(self, s: slice) -> "MovingObjects":
        """Some of the scenes."""
        rest = (self.colours[s], self.checker, self.light[s], self.background[s])
        return MovingObjects(self.to_world[s], self.n_balls, *rest)


def _inverse(to_world: Float[Tensor, "*b 3 4"]) -> tuple[Float[Tensor, "*b 3 3"], Float[Tensor, "*b 3"]]:
    """World to object, as a matrix and an offset."""
    matrix = torch.linalg.inv(to_world[..., :3])
    return matrix, -torch.einsum("...ij,...j->...i", matrix, to_world[..., 3])


def trace(
    objects: MovingObjects, origins: Float[Tensor, "n v 3"], directions: Float[Tensor, "n v #t p 3"]
) -> tuple[Float[Tensor, "n v t p"], Tensor]:
    """The first hit of every ray.

    Args:
        objects: what to hit.
        origins: one per camera.
        directions: of length 1 along the viewing axis; the same at all times when their `t` axis is 1.

    Returns:
        depth (infinite where nothing is hit) and the index of the object hit.
    """
    matrix, offset = _inverse(objects.to_world)
    m = objects.n_balls
    o = torch.einsum("ntkij,nvj->nvtki", matrix, origins) + offset[:, None]
    hits = []
    if m:  # |o + s d|^2 = 1, written as a s^2 + 2 b s + c = 0 with a and b linear in products of the world direction
        quadric = rearrange(
            torch.einsum("ntkli,ntklj->ntkij", matrix[:, :, :m], matrix[:, :, :m]), "... i j -> ... (i j)"
        )
        squares = (directions[..., :, None] * directions[..., None, :]).flatten(-2)
        a = squares @ quadric[:, None].mT
        b = directions @ torch.einsum("nvtki,ntkij->nvtjk", o[:, :, :, :m], matrix[:, :, :m])
        c = o[:, :, :, None, :m].square().sum(-1) - 1
        near = (-b - (b * b - a * c).sqrt()) / a  # NaN where the ray misses: comparisons with it are False
        hits.append(torch.where(near > 0, near, torch.inf))
    if m < matrix.shape[2]:  # enters the last of three slabs before it leaves the first
        flat = rearrange(matrix[:, None, :, m:], "n 1 t k i j -> n 1 t j (i k)")
        inverse = rearrange(directions @ flat, "n v t p (i k) -> i n v t p k", i=3).reciprocal()
        inverse = inverse.clamp(-1e20, 1e20)  # a ray along a face: finite, because infinity times 0 is NaN
        middle, half = -rearrange(o[:, :, :, None, m:], "n v t 1 k i -> i n v t 1 k") * inverse, inverse.abs()
        near, far = (middle - half).amax(0), (middle + half).amin(0)
        hits.append(torch.where((near < far) & (near > 0), near, torch.inf))
    return torch.cat(hits, -1).min(-1)


def _surface(objects: MovingObjects, points: Tensor, scene: Tensor, time: Tensor, k: Tensor) -> Tensor:
    """Colours (hits, 3) of points on objects, each with the index of its scene, time and object."""
    matrix, offset = _inverse(objects.to_world)
    world_to_object = matrix[scene, time, k]
    local = torch.einsum("hij,hj->hi", world_to_object, points) + offset[scene, time, k]
    magnitude, axis = local.abs().max(-1)
    sign = local.gather(-1, axis[:, None])[:, 0] < 0
    ball = k < objects.n_balls
    face_normal = F.one_hot(axis, 3) * torch.where(sign, -1.0, 1.0)[:, None]
    normal = torch.where(ball[:, None], local, face_normal)
    normal = F.normalize(torch.einsum("hij,hi->hj", world_to_object, normal), dim=-1)  # inverse transpose
    face = 2 * axis + sign
    rate = objects.checker.to(local)[k]
    odd = ((local[:, 0] * rate).floor() + (local[:, 2] * rate).floor()) % 2
    face = torch.where((rate > 0) & (face == 2), 2 + odd.long(), face)
    shade = 0.45 + 0.55 * (normal * objects.light[scene]).sum(-1).clamp(min=0)
    return objects.colours[scene, k, face] * shade[:, None]


def _directions(c2w: Tensor, fov_deg: float, size: tuple[int, int], samples: int) -> tuple[Tensor, Tensor]:
    pixels = pixel_grid(size, samples).to(c2w).flatten(0, 2)
    origins, directions = rays(c2w, fov_deg, size, pixels)
    return origins, directions[:, :, None]


def _colours(objects: MovingObjects, c2w: Tensor, fov_deg: float, size: tuple[int, int], samples: int):
    """RGB on the background and alpha, averaged over samples^2 rays per pixel."""
    origins, directions = _directions(c2w, fov_deg, size, samples)
    depth, which = trace(objects, origins, directions)
    n, v, t, p = depth.shape
    ramp = repeat(torch.linspace(0, 1, size[0]).to(c2w), "h -> (h w s) 1", w=size[1], s=samples**2)
    backdrop = torch.lerp(objects.background[:, :1], objects.background[:, 1:], ramp)
    rgb = repeat(backdrop, "n p c -> n v t p c", v=v, t=t).clone()
    hit = depth.isfinite()
    scene, view, time, ray = hit.nonzero(as_tuple=True)
    points = origins[scene, view] + depth[hit][:, None] * directions[scene, view, 0, ray]
    rgb[hit] = _surface(objects, points, scene, time, which[hit])
    shape = dict(h=size[0], w=size[1])
    rgb = rearrange(rgb, "n v t (h w s) c -> n v t c h w s", **shape).mean(-1)
    alpha = rearrange(hit.float(), "n v t (h w s) -> n v t 1 h w s", **shape).mean(-1)
    return rgb, alpha


def _geometry(objects: MovingObjects, c2w: Tensor, fov_deg: float, size: tuple[int, int]):
    """Depth, flow to the next time, whether it is still seen there, and from view 0; at the pixels' centres."""
    origins, directions = _directions(c2w, fov_deg, size, 1)
    depth, which = trace(objects, origins, directions)
    n, v, t, p = depth.shape
    hit = depth.isfinite()
    points = origins[:, :, None, None] + torch.where(hit, depth, 1.0)[..., None] * directions

    # where the surface point goes by the next time
    scene = torch.arange(n, device=depth.device)[:, None, None, None]
    time = torch.arange(t, device=depth.device)[:, None]
    matrix, offset = _inverse(objects.to_world)
    local = torch.einsum("...ij,...j->...i", matrix[scene, time, which], points) + offset[scene, time, which]
    later = objects.to_world[scene, (time + 1).clamp(max=t - 1), which]
    moved = torch.where(hit[..., None], torch.einsum("...ij,...j->...i", later[..., :3], local) + later[..., 3], points)

    # trace again at the next time, along the ray through the landing point: is something else in front?
    ahead = replace(objects, to_world=objects.to_world[:, torch.arange(1, t + 1).clamp(max=t - 1)])
    landing, inside, first, distance = _seen(ahead, c2w, origins, moved, fov_deg, size)
    visible = inside & torch.where(hit, first > distance - 1e-3, ~first.isfinite())
    flow = landing - pixel_grid(size)[:, :, 0].to(c2w).flatten(0, 1)

    # and now, from view 0
    _, inside, first, distance = _seen(objects, c2w[:, :1], origins[:, :1].expand_as(origins), points, fov_deg, size)
    in_fixed_view = hit & inside & (first > distance - 1e-3)
    shape = dict(h=size[0], w=size[1])
    return (
        rearrange(torch.where(hit, depth, 0.0), "n v t (h w) -> n v t 1 h w", **shape),
        rearrange(flow, "n v t (h w) c -> n v t c h w", **shape),
        rearrange(visible, "n v t (h w) -> n v t 1 h w", **shape),
        rearrange(in_fixed_view, "n v t (h w) -> n v t 1 h w", **shape),
    )


def _seen(objects: MovingObjects, c2w: Tensor, origins: Tensor, points: Tensor, fov_deg: float, size: tuple[int, int]):
    """Where points land in the pictures of cameras, whether inside, the depth of what is seen there, and their own."""
    xy, distance = project(points, c2w[:, :, None, None], fov_deg, size)
    first, _ = trace(objects, origins, (points - origins[:, :, None, None]) / distance[..., None])
    inside = ((xy >= 0) & (xy <= torch.tensor([size[1], size[0]]).to(xy))).all(-1)
    return xy, inside, first, distance


def render(
    objects: MovingObjects,
    c2w: Float[Tensor, "n v 4 4"],
    fov_deg: float,
    size: tuple[int, int],
    antialias: int = 2,
    geometry: bool = True,
) -> SceneRecord:
    """All views and times of all scenes.

    Args:
        objects: the scenes.
        c2w: cameras, which stand still over time.
        fov_deg: vertical field of view.
        size: (h, w).
        antialias: rays per side of a pixel.
        geometry: also depth, flow and visibility; without it depth is zeros and the others are None.
    """
    parts = []
    for first in range(0, len(c2w), AT_ONCE):
        scenes = slice(first, first + AT_ONCE)
        some, cameras = objects.scenes(scenes), c2w[scenes]
        rgb, alpha = _colours(some, cameras, fov_deg, size, antialias)
        known = _geometry(some, cameras, fov_deg, size) if geometry else (torch.zeros_like(alpha),)
        parts.append((rgb, alpha, *known))
    rgb, alpha, depth, *rest = (torch.cat(p) for p in zip(*parts, strict=True))
    return SceneRecord(rgb.clamp(0, 1), alpha, depth, c2w, fov_deg, *rest)
