"""Cameras on a circle: their poses, the rays of their pixels, and the projection of points.

Conventions (the one place): camera-to-world matrices `c2w`, x right, y up, looking along -z (OpenGL, NeRF); the world
is y-up; the object fits the unit ball. Azimuth 0 stands on +z and turns towards +x; elevation lifts towards +y; angles
are in degrees, radius in scene units, the field of view is vertical. Pixel (0, 0) is the top left pixel and its centre
is at (0.5, 0.5); x runs right and y down.

4Real-Video renders its animated assets from "cameras on a circular trajectory around each asset" (section 3.3).

Departures: the paper states neither radius nor field of view; every caller passes its own.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor


def circular_trajectory(
    azimuth_deg: Tensor | float, elevation_deg: Tensor | float = 0.0, radius: Tensor | float = 1.0
) -> Float[Tensor, "*batch 4 4"]:
    """Cameras around the origin, looking at it: position = r (sin a cos e, sin e, cos a cos e).

    The three arguments broadcast together and give the leading axes of the result.

    Args:
        azimuth_deg: 0 looks from +z, 90 from +x.
        elevation_deg: in (-90, 90); positive looks down on the scene.
        radius: distance from the origin, above 0.

    Raises:
        ValueError: a camera straight above or below, where "up" has no meaning, or a radius of 0 or less.

    >>> circular_trajectory(torch.tensor([0.0, 90.0]), radius=2.0)[:, :3, 3].round().abs()
    tensor([[0., 0., 2.],
            [2., 0., 0.]])
    """
    given = (azimuth_deg, elevation_deg, radius)
    device = next((a.device for a in given if isinstance(a, Tensor)), None)
    azimuth, elevation, radius = torch.broadcast_tensors(
        *(torch.as_tensor(a, dtype=torch.float32, device=device) for a in given)
    )
    if not all(angle.isfinite().all() for angle in (azimuth, elevation, radius)):
        raise ValueError("azimuth_deg, elevation_deg or radius is not finite; expected finite numbers.")
    if (elevation.abs() >= 90).any():
        raise ValueError(f"elevation_deg reaches {elevation.abs().max():g}; expected more than -90 and less than 90.")
    if (radius <= 0).any():
        raise ValueError(f"radius reaches {radius.min():g}; expected a value above 0.")
    a, e = torch.deg2rad(azimuth), torch.deg2rad(elevation)
    sin_a, cos_a, sin_e, cos_e = a.sin(), a.cos(), e.sin(), e.cos()
    zero, one = torch.zeros_like(a), torch.ones_like(a)
    right = torch.stack([cos_a, zero, -sin_a], -1)
    up = torch.stack([-sin_a * sin_e, cos_e, -cos_a * sin_e], -1)
    back = torch.stack([sin_a * cos_e, sin_e, cos_a * cos_e], -1)
    columns = torch.stack([right, up, back, back * radius[..., None]], -1)
    return torch.cat([columns, torch.stack([zero, zero, zero, one], -1)[..., None, :]], -2)


def check_poses(c2w: Float[Tensor, "*b 4 4"], fov_deg: float) -> None:
    """Raise a ValueError unless these are rotations and a field of view."""
    _half_height(fov_deg)
    if not c2w.isfinite().all():
        raise ValueError("c2w has values that are not finite; expected poses.")
    turn = c2w[..., :3, :3].to(torch.promote_types(c2w.dtype, torch.float32))
    with torch.autocast(turn.device.type, enabled=False):
        off = (turn @ turn.mT - torch.eye(3).to(turn)).abs().amax()
    if not off < 1e-3 or (torch.linalg.det(turn) < 0).any():
        raise ValueError(f"c2w is not made of rotations (R R^T is off by {off:.2g}, or R mirrors); expected poses.")


def _half_height(fov_deg: float) -> float:
    """Half the height of the picture at a depth of 1."""
    if not 1e-3 <= fov_deg <= 179.999:
        raise ValueError(f"fov_deg is {fov_deg}; expected an angle between 0 and 180, and not next to them.")
    return math.tan(math.radians(fov_deg) / 2)


def pixel_grid(size: tuple[int, int], samples: int = 1) -> Float[Tensor, "h w s 2"]:
    """Positions (x, y) inside every pixel of an (h, w) image: samples^2 per pixel, evenly spaced.

    >>> pixel_grid((1, 2))[0, :, 0]
    tensor([[0.5000, 0.5000],
            [1.5000, 0.5000]])
    """
    h, w = size
    if min(h, w, samples) < 1:
        raise ValueError(f"size is {(h, w)} with {samples} samples; expected at least 1 of each.")
    y, x = (((torch.arange(n * samples) + 0.5) / samples) for n in (h, w))
    yx = torch.stack(torch.meshgrid(y, x, indexing="ij"), -1)
    return rearrange(yx.flip(-1), "(h sy) (w sx) c -> h w (sy sx) c", sy=samples, sx=samples)


def look_up(frames: Float[Tensor, "*b c h w"], xy: Float[Tensor, "*b h w 2"], mode: str = "bilinear") -> Tensor:
    """Frames at pixel positions (x, y), interpolated; outside of a frame its border continues.

    >>> look_up(torch.tensor([[[[0.0, 1.0]]]]), torch.tensor([[[[0.5, 0.5], [1.0, 0.5]]]]))
    tensor([[[[0.0000, 0.5000]]]])
    """
    batch, (h, w) = frames.shape[:-3], frames.shape[-2:]
    at = 2 * xy.flatten(0, -4) / torch.tensor([w, h]).to(xy) - 1
    found = F.grid_sample(frames.flatten(0, -4), at, mode=mode, padding_mode="border", align_corners=False)
    return found.unflatten(0, batch)


def rays(
    c2w: Float[Tensor, "*batch 4 4"], fov_deg: float, size: tuple[int, int], pixels: Float[Tensor, "*p 2"] | None = None
) -> tuple[Float[Tensor, "*batch 3"], Float[Tensor, "*out 3"]]:
    """The ray of every pixel: origins (one per camera) and directions (`*batch`, then the pixels' axes).

    Directions have length 1 along the viewing axis, so `origin + depth * direction` is the point at that depth.

    Args:
        c2w: camera-to-world.
        fov_deg: vertical field of view in (0, 180).
        size: (h, w) of the image.
        pixels: positions (x, y) in pixels; the centres of all of them, (h, w, 2), when left out.

    >>> origin, direction = rays(torch.eye(4), 90.0, (2, 2))
    >>> direction[0, 0]
    tensor([-0.5000,  0.5000, -1.0000])
    """
    h, w = size
    if pixels is None:
        pixels = pixel_grid(size)[:, :, 0].to(c2w)
    tan = _half_height(fov_deg)
    x = (pixels[..., 0] - w / 2) * (2 * tan / h)
    y = (h / 2 - pixels[..., 1]) * (2 * tan / h)
    local = torch.stack([x, y, -torch.ones_like(x)], -1)
    with torch.autocast(c2w.device.type, enabled=False):  # directions in half precision miss by pixels
        flat = torch.einsum("...ij,pj->...pi", c2w[..., :3, :3], local.reshape(-1, 3))
    return c2w[..., :3, 3], flat.reshape(*c2w.shape[:-2], *local.shape)


def project(
    points: Float[Tensor, "*batch 3"], c2w: Float[Tensor, "*cam 4 4"], fov_deg: float, size: tuple[int, int]
) -> tuple[Float[Tensor, "*out 2"], Float[Tensor, "*out"]]:
    """Points in the world projected into the picture: pixel positions (x, y) and depths along the viewing axis.

    `points` and `c2w` broadcast over their leading axes. A depth of 0 or less lies behind the camera: its pixel
    position means nothing.

    >>> xy, depth = project(torch.tensor([0.0, 0.0, 0.0]), circular_trajectory(30.0, 20.0, 4.0), 40.0, (32, 32))
    >>> xy.round(), depth.round()
    (tensor([16., 16.]), tensor(4.))
    """
    h, w = size
    with torch.autocast(c2w.device.type, enabled=False):
        local = torch.einsum("...ji,...j->...i", c2w[..., :3, :3], points - c2w[..., :3, 3])
    depth = -local[..., 2]
    focal = h / (2 * _half_height(fov_deg))
    safe = torch.where(depth.abs() < 1e-8, 1e-8, depth)
    x = w / 2 + focal * local[..., 0] / safe
    y = h / 2 - focal * local[..., 1] / safe
    return torch.stack([x, y], -1), depth
