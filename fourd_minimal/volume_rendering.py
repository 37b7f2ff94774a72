"""Volume rendering: the colour of a ray through a field of density and colour (NeRF, Mildenhall et al. 2020, eq. 3).

    alpha_i = 1 - exp(-sigma_i delta_i),    w_i = alpha_i prod_{j<i} (1 - alpha_j)
    C = sum_i w_i c_i + (1 - sum_i w_i) B                                              B: background

4Diffusion takes 256 samples between where a ray enters and leaves the box [-1, 1]^3, one at a random place of each
equal interval, and skips what a 32^3 grid marks as empty; the grid holds the highest density that each cell reaches
at any of 8 times. Cameras and times may differ from ray to ray: all views of all frames are one batch.

Departures: the paper gives neither the grid's threshold nor its decay; ours are assumed.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

Field = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Points in the box (n, 3), times in [0, 1] (n), directions of length 1 (n, 3) -> density per unit of length (n), and
colours (n, c): three of them, or whatever else is to be composited."""


class Seen(NamedTuple):
    """Rendered rays."""

    rgb: Float[Tensor, "*r c"]
    """Premultiplied by opacity, without a background."""
    opacity: Float[Tensor, "*r"]
    weights: Float[Tensor, "*r s"]

    def over(self, background: float | Float[Tensor, "*#r c"]) -> Float[Tensor, "*r c"]:
        """With a background: one number for a grey, one colour for all rays, or one for each."""
        return self.rgb + (1 - self.opacity)[..., None] * background


def composite(sigma: Float[Tensor, "*r s"], rgb: Float[Tensor, "*r s c"], deltas: Float[Tensor, "*r s"]) -> Seen:
    """Colour and opacity along rays.

    Args:
        sigma: density per unit of length, not negative.
        rgb: colour of each sample.
        deltas: length of each sample; 0 for one that does not count.

    >>> fog = torch.full((10,), 0.5)                                        # opacity is 1 - exp(-0.5 x 2): Beer-Lambert
    >>> composite(fog, torch.ones(10, 3), torch.full((10,), 0.2)).opacity
    tensor(0.6321)
    """
    dtype, wide = rgb.dtype, torch.promote_types(rgb.dtype, torch.float32)
    sigma, rgb, deltas = (a.to(wide) for a in (sigma, rgb, deltas))  # sums along the ray are float32 or wider
    thickness = sigma * deltas
    if (
        not torch.compiler.is_compiling()
        and thickness.numel()
        and not 0 <= thickness.min() <= thickness.max() < torch.inf
    ):
        raise ValueError("sigma or deltas is negative or not finite; expected densities and lengths of 0 or more.")
    before = F.pad(thickness.cumsum(-1)[..., :-1], (1, 0))
    weights = (-before).exp() * -torch.expm1(-thickness)
    return Seen(*(a.to(dtype) for a in ((weights[..., None] * rgb).sum(-2), weights.sum(-1), weights)))


def through_box(
    origins: Float[Tensor, "r 3"], directions: Float[Tensor, "r 3"], half: float = 1.0
) -> tuple[Float[Tensor, " r"], Float[Tensor, " r"]]:
    """Where rays enter and leave the box [-half, half]^3, not behind their origin; equal for one that misses it."""
    away = torch.where(directions.abs() < 1e-9, 1e-9, directions)
    a, b = (-half - origins) / away, (half - origins) / away
    near, far = torch.minimum(a, b).amax(-1).clamp(min=0), torch.maximum(a, b).amin(-1)
    return near, torch.maximum(near, far)


class Occupancy(nn.Module):
    """Which cells of a grid over the box [-1, 1]^3 hold anything at any time.

    Args:
        side: cells along each axis.
        threshold: density per unit of length from which a cell counts.
        decay: factor on the density of a cell at each update.
    """

    def __init__(self, side: int = 32, threshold: float = 0.5, decay: float = 0.8):
        super().__init__()
        self.side, self.threshold, self.decay = side, threshold, decay
        self.register_buffer("density", torch.full((side,) * 3, torch.inf))  # before the first update every cell counts

    @torch.no_grad()
    def update(
        self,
        density: Callable[[Float[Tensor, "n 3"], Float[Tensor, " n"]], Float[Tensor, " n"]],
        times: Float[Tensor, " t"],
        generator: torch.Generator | None = None,
    ) -> None:
        """Evaluate the density at a random point of every cell, at all these times.

        Args:
            density: of points in the box at times in [0, 1].
            times: in [0, 1].
            generator: of the points.
        """
        axis = torch.arange(self.side, device=self.density.device)
        corner = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
        inside = torch.rand(corner.shape, generator=generator).to(corner.device)
        points = (corner + inside) * (2 / self.side) - 1
        found = density(points.repeat(len(times), 1), times.repeat_interleave(len(points)))
        found = found.view(len(times), *self.density.shape).amax(0)
        known = torch.where(self.density.isinf(), 0.0, self.density * self.decay)
        self.density.copy_(torch.maximum(known, found))

    def holds(self, points: Float[Tensor, "*n 3"]) -> Bool[Tensor, "*n"]:
        """Whether the cells of these points are occupied."""
        x, y, z = ((points + 1) * (self.side / 2)).long().clamp(0, self.side - 1).unbind(-1)
        return self.density[x, y, z] > self.threshold


def render_rays(
    field: Field,
    rays_o: Float[Tensor, "r 3"],
    rays_d: Float[Tensor, "r 3"],
    times: Float[Tensor, " r"],
    n_samples: int = 256,
    occupancy: Occupancy | None = None,
    stratified: bool = False,
    generator: torch.Generator | None = None,
) -> Seen:
    """Render rays of any cameras and any times through a field in the box [-1, 1]^3.

    Args:
        field: evaluated only in occupied cells.
        rays_o, rays_d: origins, and directions of any length.
        times: of each ray, in [0, 1].
        n_samples: along each ray, inside the box.
        occupancy: None evaluates everywhere.
        stratified: a random place within each sample's interval, else its middle.
        generator: of these places.
    """
    directions = F.normalize(rays_d, dim=-1)
    near, far = through_box(rays_o, directions)
    where = torch.full((len(near), n_samples), 0.5, device=near.device)
    if stratified:
        where = torch.rand(where.shape, generator=generator).to(near.device)
    delta = (far - near) / n_samples
    depth = near[:, None] + delta[:, None] * (torch.arange(n_samples, device=near.device) + where)
    points = rays_o[:, None] + depth[..., None] * directions[:, None]
    active = (delta > 0)[:, None].expand(-1, n_samples)
    if occupancy is not None:
        active = active & occupancy.holds(points)
    everywhere = times[:, None].expand(-1, n_samples), directions[:, None].expand(-1, n_samples, -1)
    sigma, rgb = field(points[active], *(a[active] for a in everywhere))
    all_sigma = sigma.new_zeros(active.shape).masked_scatter(active, sigma)
    all_rgb = rgb.new_zeros(*active.shape, rgb.shape[1]).masked_scatter(active[..., None], rgb)
    return composite(all_sigma, all_rgb, delta[:, None].expand_as(all_sigma))
