"""Isotropic Gaussians: a cloud of soft balls, rendered for any camera, in plain PyTorch.

Supplement of 4Real-Video, section 6. Balls and not ellipsoids, since that "effectively reduces artifacts when viewing
the 3D representation from viewpoints distinct from the training perspectives". A ball has a position p, a radius, a
colour and an opacity; it projects to a soft ellipse, and ellipses are composited from front to back:

    C = sum_k c_k alpha_k prod_{j<k} (1 - alpha_j),    alpha_k(x) = o_k exp(-1/2 (x - x_k)^T S_k^-1 (x - x_k))

The cloud moves over time, by an MLP of position and time, `TemporalDeformation`: dp^t of eq. 11. (The whole of eq. 11,
and how a cloud is fitted to a grid, is in `systems/deformable_gaussians.py`.)

Speed: a picture is cut into tiles, and each tile reads only the ellipses that reach it. Inside a tile an ellipse's
exponent is a quadratic polynomial of the pixel, so all of them at once are one matrix product.

Departures: the paper gives neither the renderer nor the size of its MLP. The projection is that of 3D Gaussian
splatting (Kerbl et al. 2023, equation 5) in the case of balls.
"""

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

BLUR = 0.3
"""Variance, in squared pixels, that a pixel's own extent adds to every ellipse (as in 3D Gaussian splatting)."""
FAINT = 1e-3
"""An ellipse ends where its alpha is below this."""
NEAR = 0.05
"""What is nearer to the camera than this, or behind it, is not rendered; scene units."""
AT_ONCE = 2**22
"""Pixels times ellipses that are processed at once: bounds the memory."""


@dataclass(frozen=True)
class Ellipses:
    """`n` Gaussians projected into each of `b` cameras: one ellipse each."""

    xy: Float[Tensor, "b n 2"]
    """Centres in pixels."""
    depth: Float[Tensor, "b n"]
    """Along the viewing axis, in scene units; behind the camera it is negative."""
    conic: Float[Tensor, "b n 3"]
    """xx, xy and yy of the inverse covariance, per squared pixel."""
    spread: Float[Tensor, "b n 2"]
    """Standard deviations along x and along y, in pixels."""


@dataclass(frozen=True)
class Picture:
    """Rendered pictures."""

    rgb: Float[Tensor, "*b 3 h w"]
    """In [0, 1] where the colours are; black where nothing is, unless there is a background."""
    alpha: Float[Tensor, "*b 1 h w"]
    """Coverage by Gaussians, in [0, 1]."""
    depth: Float[Tensor, "*b 1 h w"]
    """Mean depth of what covers the pixel, in scene units; 0 where nothing does."""


def project(
    points: Float[Tensor, "#b n 3"],
    radius: Float[Tensor, " n"],
    c2w: Float[Tensor, "b 4 4"],
    fov_deg: float,
    size: tuple[int, int],
    blur: float = BLUR,
) -> Ellipses:
    """Isotropic Gaussians projected into cameras.

    With u = (x/z, y/z) and the focal length f in pixels, the covariance r^2 I becomes (f r / z)^2 (I + u u^T): a ball
    off the axis looks longer. To it comes `blur` I.

    Args:
        points: positions in the world.
        radius: standard deviations, in scene units.
        c2w: camera-to-world, looking along -z.
        fov_deg: vertical field of view.
        size: (h, w) of the picture.
        blur: in squared pixels.

    >>> camera = torch.eye(4)
    >>> camera[2, 3] = 4.0                                        # 4 units in front of the origin
    >>> seen = project(torch.zeros(1, 1, 3), torch.tensor([0.1]), camera[None], 36.0, (32, 32))
    >>> seen.xy[0, 0].tolist(), seen.depth.item()
    ([16.0, 16.0], 4.0)
    """
    h, w = size
    focal = h / (2 * math.tan(math.radians(fov_deg) / 2))
    local = (points - c2w[:, None, :3, 3]) @ c2w[:, :3, :3]
    depth = -local[..., 2]
    z = depth.clamp(min=NEAR)
    slope = torch.stack([local[..., 0], -local[..., 1]], -1) / z[..., None]
    half = torch.tensor([w / 2, h / 2]).to(slope)
    bound = 1.3 * half / focal  # far outside of the picture the linear approximation explodes: hold it
    u = torch.maximum(torch.minimum(slope, bound), -bound)
    across = (focal * radius / z).clamp(max=1e6).square()  # larger ones fill any picture, and their squares overflow
    variance = across[..., None] * (1 + u.square()) + blur
    mixed = across * u[..., 0] * u[..., 1]
    det = variance[..., 0] * variance[..., 1] - mixed.square()
    conic = torch.stack([variance[..., 1], -mixed, variance[..., 0]], -1) / det[..., None]
    return Ellipses(focal * slope + half, depth, conic, variance.sqrt())


def composite(alpha: Float[Tensor, "*b k p"]) -> Float[Tensor, "*b k p"]:
    """The weight of each of `k` layers, front first: alpha_k prod_{j<k} (1 - alpha_j).

    Args:
        alpha: in [0, 1).

    >>> composite(torch.tensor([[0.5], [0.5], [0.5]])).flatten()
    tensor([0.5000, 0.2500, 0.1250])
    """
    log_transmittance = torch.log1p(-alpha)
    return alpha * (log_transmittance.cumsum(-2) - log_transmittance).exp()


def _tile_lists(
    low: Float[Tensor, "b n 2"], high: Float[Tensor, "b n 2"], tiles: tuple[int, int], tile: int
) -> tuple[Int[Tensor, " entries"], Int[Tensor, " all_tiles"]]:
    """Which ellipses, in their order, reach each tile: one long list of indices into b * n, and how many per tile."""
    touched = []
    for axis, count in zip((1, 0), tiles, strict=True):  # down, across
        first = torch.arange(count, device=low.device)[:, None] * tile
        touched.append((low[:, None, :, axis] < first + tile) & (high[:, None, :, axis] > first))
    touched = touched[0][:, :, None] & touched[1][:, None]  # b, down, across, n
    image, _, _, which = touched.nonzero(as_tuple=True)
    return image * low.shape[1] + which, touched.sum(-1).flatten()


def _monomials(tile: int, like: Tensor) -> Float[Tensor, "6 pixels"]:
    """x^2, x y, y^2, x, y and 1 of every pixel of a tile, in pixels from its centre."""
    along = torch.arange(tile, device=like.device, dtype=like.dtype) + 0.5 - tile / 2
    y, x = (a.flatten() for a in torch.meshgrid(along, along, indexing="ij"))
    return torch.stack([x * x, x * y, y * y, x, y, torch.ones_like(x)])


def render(
    points: Float[Tensor, "#b n 3"],
    radius: Float[Tensor, " radii"],
    colour: Float[Tensor, "colours 3"],
    opacity: Float[Tensor, " opacities"],
    c2w: Float[Tensor, "b 4 4"],
    fov_deg: float,
    size: tuple[int, int],
    tile: int = 8,
    blur: float = BLUR,
) -> Picture:
    """Pictures of Gaussians, one per camera, differentiable in everything but the order.

    Args:
        points: positions in the world; their own for each camera where the cloud moves.
        radius: standard deviations in scene units, above 0.
        colour: in [0, 1].
        opacity: alpha at the centre, in [0, 1); cut at 0.99.
        c2w: camera-to-world.
        fov_deg: vertical field of view in (0, 180).
        size: (h, w).
        tile: side of a tile in pixels.
        blur: what a pixel's own extent adds, in squared pixels: more where the cloud was fitted to larger pixels.

    Raises:
        ValueError: no Gaussians, counts that differ, a field of view out of range, or a pose without a rotation.

    >>> camera = torch.eye(4)
    >>> camera[2, 3] = 4.0
    >>> ball = torch.zeros(1, 1, 3), torch.tensor([0.3]), torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([0.9])
    >>> seen = render(*ball, camera[None], 36.0, (16, 16))
    >>> seen.rgb[0, :, 8, 8], seen.depth[0, 0, 8, 8]
    (tensor([0.8414, 0.0000, 0.0000]), tensor(4.))
    """
    _check(points, radius, colour, opacity, c2w, fov_deg)
    wide = torch.promote_types(points.dtype, torch.float32)  # places, depths and sums are float32 or wider throughout
    cloud = (a.to(wide) for a in (points, radius, colour, opacity, c2w))
    with torch.autocast(points.device.type, enabled=False):
        seen = _render(*cloud, fov_deg, size, tile, blur)
    return Picture(seen.rgb.to(points.dtype), seen.alpha.to(points.dtype), seen.depth.to(points.dtype))


def _render(points, radius, colour, opacity, c2w, fov_deg: float, size: tuple[int, int], tile: int, blur: float):
    (h, w), b, n = size, len(c2w), len(radius)
    seen = project(points, radius, c2w, fov_deg, size, blur)
    # one row per ellipse, front first: centre, conic, log opacity, then what is composited: colour, depth, 1
    order = seen.depth.argsort(-1)
    log_opacity = opacity.clamp(1e-6, 0.99).log()
    own = [seen.xy, seen.conic, log_opacity[:, None].expand(b, n, 1), colour.expand(b, n, 3), seen.depth[..., None]]
    ordered = torch.cat([*own, torch.ones_like(own[-1])], -1).gather(1, order[..., None].expand(b, n, 11)).flatten(0, 1)

    # the ellipses that reach each tile; tiles sorted by how many those are
    down, across = math.ceil(h / tile), math.ceil(w / tile)
    with torch.no_grad():
        reach = (2 * (log_opacity - math.log(FAINT)).clamp(min=0)).sqrt()[:, None] * seen.spread
        reach = torch.where(seen.depth[..., None] > NEAR, reach, -math.inf)
        low, high = ((seen.xy + s * reach).gather(1, order[..., None].expand(b, n, 2)) for s in (-1, 1))
        entries, counts = _tile_lists(low, high, (down, across), tile)
        starts = counts.cumsum(0) - counts
        busy = counts.argsort(descending=True)
        lengths = counts[busy].tolist()

    # tile by tile, exponents as products of matrices
    powers = _monomials(tile, points)
    pieces, first = [ordered.new_zeros(0, tile * tile, 5)], 0
    while first < len(lengths) and (longest := lengths[first]):
        last = first  # tiles with lists of like length go together, so that little is padded
        room = max(1, AT_ONCE // (longest * tile * tile))
        while last < min(first + room, len(lengths)) and 2 * lengths[last] >= longest:
            last += 1
        here = busy[first:last]
        k = torch.arange(longest, device=points.device)
        mine = ordered[entries[(starts[here, None] + k).clamp(max=len(entries) - 1)]]
        # each exponent as coefficients of the monomials, about the centre of its tile
        centre = torch.stack([here % across, here // across % down], -1) * tile + tile / 2
        (dx, dy), (xx, xy, yy) = (mine[..., :2] - centre[:, None]).unbind(-1), mine[..., 2:5].unbind(-1)
        at_centre = mine[..., 5] - (xx * dx * dx + 2 * xy * dx * dy + yy * dy * dy) / 2
        at_centre = torch.where(k < counts[here, None], at_centre, -1e4)  # padding: nothing
        exponent = torch.stack([-xx / 2, -xy, -yy / 2, xx * dx + xy * dy, yy * dy + xy * dx, at_centre], -1) @ powers
        pieces.append(composite(exponent.exp()).mT @ mine[..., 6:])
        first = last

    # tiles back into pictures; those that nothing reaches stay empty
    drawn = ordered.new_zeros(b * down * across, tile * tile, 5).index_copy(0, busy[:first], torch.cat(pieces))
    tiles = dict(b=b, down=down, across=across, y=tile)
    drawn = rearrange(drawn, "(b down across) (y x) c -> b c (down y) (across x)", **tiles)[..., :h, :w]
    rgb, depth, alpha = drawn.split([3, 1, 1], 1)
    return Picture(rgb, alpha, depth / alpha.clamp(min=1e-6))


def _check(points, radius, colour, opacity, c2w, fov_deg) -> None:
    counts = dict(points=points.shape[-2], radius=len(radius), colour=len(colour), opacity=len(opacity))
    if len(set(counts.values())) > 1:
        raise ValueError(
            f"points, radius, colour, opacity are for {tuple(counts.values())} Gaussians; expected one count."
        )
    if not len(radius):
        raise ValueError("points has no Gaussians; expected at least one.")
    if not (radius.min() > 0 and radius.isfinite().all()):
        raise ValueError(f"radius reaches {radius.min():g}; expected finite numbers above 0.")
    if not (opacity.min() >= 0 and opacity.max() <= 1):
        raise ValueError(f"opacity lies in [{opacity.min():g}, {opacity.max():g}]; expected [0, 1].")
    if not (points.isfinite().all() and colour.isfinite().all()):
        raise ValueError("points or colour is not finite; expected finite numbers.")
    if not 1e-3 <= fov_deg <= 179.999:
        raise ValueError(f"fov_deg is {fov_deg}; expected an angle between 0 and 180, and not next to them.")
    turn = c2w[..., :3, :3].float()
    with torch.autocast(turn.device.type, enabled=False):
        off = (turn @ turn.mT - torch.eye(3).to(turn)).abs().amax()
    if not c2w.isfinite().all() or not off < 1e-3 or (torch.linalg.det(turn) < 0).any():
        raise ValueError(f"c2w is not made of rotations (R R^T is off by {off:.2g}, or R mirrors) or not finite.")


class TemporalDeformation(nn.Module):
    """dp^t_j of eq. 11: an MLP of a point's position and of time; no motion at the start.

    Both enter as they are and as sines and cosines.
    """

    def __init__(self, width: int = 64, harmonics: int = 3):
        super().__init__()
        self.harmonics = harmonics
        layers = [nn.Linear(3 + 12 + 1 + 2 * harmonics, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()]
        self.mlp = nn.Sequential(*layers, nn.Linear(width, 3))
        nn.init.zeros_(self.mlp[-1].weight)
        nn.init.zeros_(self.mlp[-1].bias)

    def forward(self, points: Float[Tensor, "n 3"], time: Float[Tensor, " b"]) -> Float[Tensor, "b n 3"]:
        """Offsets, in scene units; time in [0, 1]."""
        b, n = len(time), len(points)
        wide = torch.promote_types(points.dtype, torch.float32)
        a = math.pi * time[:, None].to(wide) * torch.arange(1, self.harmonics + 1, device=time.device)
        q = torch.cat([math.pi / 2 * points.to(wide), math.pi * points.to(wide)], -1)
        when = torch.cat([time[:, None], a.sin(), a.cos()], -1)
        where = torch.cat([points, q.sin(), q.cos()], -1)
        return self.mlp(torch.cat([where.expand(b, n, -1), when[:, None].expand(b, n, -1)], -1).to(points))
