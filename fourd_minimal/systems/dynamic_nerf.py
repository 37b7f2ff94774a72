"""A dynamic NeRF: a moving scene as a field in space and time, and its renderings.

4Diffusion, section 3.3. Two hash grids (`hash_grid.py`), one over space, one over space and time; their features are
summed, and two small MLPs read density and colour from them:

    h = P_xyz(x) + P_xyzt(x, t)
    sigma = softplus(f(h) + b (1 - |x| / r)),    c = sigmoid(g(h))

What never moves can live in the first grid alone. The term b is a blob at the start: with no density anywhere, nothing
would have a gradient. The colour does not depend on the direction. A picture is composited along rays
(`volume_rendering.py`) over one colour, white by default.

Departures: a pixel may be the mean of several rays (`rays_per_side`; the paper has one), since toys have few pixels;
the occupancy grid's threshold of density is assumed.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from jaxtyping import Float
from torch import Tensor, nn

from fourd_minimal.cameras import check_poses, pixel_grid, rays
from fourd_minimal.hash_grid import HashGrid
from fourd_minimal.systems.pixels import check_pixels
from fourd_minimal.volume_rendering import Occupancy, render_rays

AT_ONCE = 2**20
"""Samples along rays that are held in memory together without gradients."""


class Picture(NamedTuple):
    """Renderings, of any number of cameras."""

    rgb: Float[Tensor, "*b 3 h w"]
    """In [0, 1], over the background."""
    alpha: Float[Tensor, "*b 1 h w"]


@dataclass(frozen=True)
class DynamicNeRFConfig:
    """Sizes; the defaults are the paper's."""

    n_levels: int = 16
    n_features: int = 2
    log2_table_size: int = 19
    base_resolution: int = 16
    per_level_scale: float = 1.447269
    width: int = 64
    """Width of both MLPs, which have one hidden layer and no bias."""
    blob: float = 10.0
    blob_radius: float = 0.5
    n_samples: int = 256
    """Samples along the part of a ray inside the box."""
    rays_per_side: int = 1
    """A pixel is the mean of this many rays, squared."""
    occupancy_side: int = 32
    threshold: float = 0.5
    """Density per unit of length from which a cell is occupied; assumed."""
    moments: int = 8
    """Times at which a cell's density is taken before it counts as empty."""

    def __post_init__(self):
        counts = "n_levels n_features log2_table_size base_resolution width n_samples rays_per_side occupancy_side"
        for name in (*counts.split(), "moments"):
            if getattr(self, name) < 1:
                raise ValueError(f"nerf.{name} is {getattr(self, name)}; expected at least 1.")


class DynamicNeRF(nn.Module):
    """A field over the box [-1, 1]^3 and the times [0, 1]; `seed` is of the tables and the MLPs."""

    def __init__(self, config: DynamicNeRFConfig, seed: int = 0):
        super().__init__()
        self.config = config
        sizes = "n_levels n_features log2_table_size base_resolution per_level_scale"
        grid = {name: getattr(config, name) for name in sizes.split()}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.space, self.space_time = HashGrid(3, **grid), HashGrid(4, **grid)
            self.to_density, self.to_colour = (self._mlp(out) for out in (1, 3))
        self.occupancy = Occupancy(config.occupancy_side, config.threshold)

    def _mlp(self, out: int) -> nn.Sequential:
        first = nn.Linear(self.space.out_dim, self.config.width, bias=False)
        return nn.Sequential(first, nn.ReLU(), nn.Linear(self.config.width, out, bias=False))

    def density(self, points: Float[Tensor, "n 3"], times: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Per unit of length, at points in the box and times in [0, 1]."""
        return self._density(points, self._features(points, times))

    def forward(
        self, points: Float[Tensor, "n 3"], times: Float[Tensor, " n"], directions: Float[Tensor, "n 3"] | None = None
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 3"]]:
        """Density, and colour in [0, 1], which is the same from all directions."""
        features = self._features(points, times)
        return self._density(points, features), self.to_colour(features).sigmoid()

    def _features(self, points: Tensor, times: Tensor) -> Tensor:
        inside = (points + 1) / 2
        return self.space(inside) + self.space_time(torch.cat([inside, times[:, None]], 1))

    def _density(self, points: Tensor, features: Tensor) -> Tensor:
        blob = self.config.blob * (1 - points.norm(dim=1) / self.config.blob_radius)
        return F.softplus(self.to_density(features)[:, 0] + blob)

    def with_orientation(
        self, points: Float[Tensor, "n 3"], times: Float[Tensor, " n"], directions: Float[Tensor, "n 3"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 4"]]:
        """As `forward`, with a fourth colour: max(0, n . d)^2 for the normal n = -grad sigma / |grad sigma| and the ray
        direction d. Composited, it is the orientation loss of Ref-NeRF (Verbin et al. 2022, eq. 11)."""
        with torch.enable_grad():
            points = points if points.requires_grad else points.detach().requires_grad_()
            sigma, rgb = self(points, times)
            (gradient,) = torch.autograd.grad(sigma.sum(), points, create_graph=True)
        facing_away = (-F.normalize(gradient, dim=1) * directions).sum(1, keepdim=True)
        return sigma, torch.cat([rgb, facing_away.clamp(min=0).square()], 1)

    def pixel_rays(
        self, c2w: Float[Tensor, "b 4 4"], fov_deg: float, size: tuple[int, int], per_side: int | None = None
    ) -> tuple[Float[Tensor, "b 3"], Float[Tensor, "b h w s 3"]]:
        """Origins, and the directions of every pixel's rays."""
        return rays(c2w, fov_deg, size, pixel_grid(size, per_side or self.config.rays_per_side).to(c2w))

    def render_pixels(
        self,
        rays_o: Float[Tensor, "p 3"],
        rays_d: Float[Tensor, "p s 3"],
        times: Float[Tensor, " p"],
        generator: torch.Generator | None = None,
        orientation: bool = False,
    ) -> tuple[Float[Tensor, "p c"], Float[Tensor, " p"]]:
        """Colour, over no background, and opacity of pixels, each the mean of its rays.

        Args:
            rays_o, rays_d: of each pixel: one origin, several directions.
            times: in [0, 1].
            generator: for samples at random places of each interval, as in training; at their middle without.
            orientation: composite the orientation loss as a fourth colour.
        """
        n = rays_d.shape[1]
        rendered = render_rays(
            self.with_orientation if orientation else self,
            rays_o.repeat_interleave(n, 0),
            rays_d.flatten(0, 1),
            times.repeat_interleave(n),
            n_samples=self.config.n_samples,
            occupancy=self.occupancy,
            stratified=generator is not None,
            generator=generator,
        )
        opacity = reduce(rendered.opacity, "(p s) -> p", "mean", s=n)
        return reduce(rendered.rgb, "(p s) c -> p c", "mean", s=n), opacity

    def update_occupancy(self, generator: torch.Generator | None = None) -> None:
        """Update the occupancy grid; between steps of training."""
        moments = torch.linspace(0, 1, self.config.moments, device=self.occupancy.density.device)
        self.occupancy.update(self.density, moments, generator)

    def render(
        self,
        c2w: Float[Tensor, "*b 4 4"],
        fov_deg: float,
        time: float | Float[Tensor, "*#b"],
        size: int | tuple[int, int],
        background: float | Float[Tensor, " 3"] = 1.0,
        rays_per_side: int | None = None,
    ) -> Picture:
        """Pictures from any number of cameras.

        Args:
            c2w, fov_deg: camera-to-world, and vertical field of view.
            time: in [0, 1], one for each camera or one for all.
            size: (h, w), or one number for square pictures.
            background: a colour in [0, 1]; white by default.
            rays_per_side: of a pixel; as configured when left out.

        Raises:
            ValueError: matrices that are no poses, or times outside [0, 1].
        """
        check_poses(c2w, fov_deg)
        size = (size, size) if isinstance(size, int) else tuple(size)
        batch, cameras = c2w.shape[:-2], c2w.reshape(-1, 4, 4)
        time = torch.as_tensor(time, dtype=cameras.dtype, device=cameras.device).expand(batch).reshape(-1)
        if ((time < 0) | (time > 1)).any():
            raise ValueError(f"time reaches from {time.min():g} to {time.max():g}; expected times in [0, 1].")

        # Every pixel's rays, a piece at a time.
        origin, directions = self.pixel_rays(cameras, fov_deg, size, rays_per_side)
        pixels = size[0] * size[1]
        pieces = (origin.repeat_interleave(pixels, 0), directions.flatten(0, 2), time.repeat_interleave(pixels))
        per_pixel = self.config.n_samples * directions.shape[3]
        at_once = len(pieces[0]) if torch.is_grad_enabled() else max(1, AT_ONCE // per_pixel)
        rendered = [self.render_pixels(*piece) for piece in zip(*(p.split(at_once) for p in pieces), strict=True)]
        colour, opacity = (torch.cat(part) for part in zip(*rendered, strict=True))

        # Over the background, and back to pictures.
        rgb = colour + (1 - opacity)[:, None] * background
        shape = dict(b=len(cameras), h=size[0], w=size[1])
        rgb = rearrange(rgb, "(b h w) c -> b c h w", **shape).reshape(*batch, 3, *size)
        return Picture(rgb, rearrange(opacity, "(b h w) -> b 1 h w", **shape).reshape(*batch, 1, *size))


def adamw(scene: DynamicNeRF, grids: float = 1e-2, mlps: float = 1e-3) -> torch.optim.AdamW:
    """The paper's optimiser, with its rates: one for linear layers, one for all else. The paper names no weight decay,
    and here there is none; its code leaves torch's 0.01."""
    linear = [p for layer in scene.modules() if isinstance(layer, nn.Linear) for p in layer.parameters()]
    tables = [p for p in scene.parameters() if all(p is not other for other in linear)]
    groups = [dict(params=tables, lr=grids), dict(params=linear, lr=mlps)]
    return torch.optim.AdamW(groups, betas=(0.9, 0.99), eps=1e-15, weight_decay=0.0, fused=True)


class Pixels(NamedTuple):
    """Pixels of frames, each with its rays."""

    rays_o: Float[Tensor, "p 3"]
    rays_d: Float[Tensor, "p s 3"]
    times: Float[Tensor, " p"]
    rgb: Float[Tensor, "p 3"]
    alpha: Float[Tensor, " p"]

    def drawn(self, n: int, generator: torch.Generator) -> "Pixels":
        """Some of them, each as likely as any other, on the same device."""
        chosen = torch.randint(len(self.rgb), (n,), generator=generator).to(self.rgb.device)
        return Pixels(*(values[chosen] for values in self))

    def occupied(self) -> "Pixels":
        """Those that are not background in both opacity and colour; all, where none is left."""
        found = (self.alpha > 0.01) | (self.rgb < 0.9).any(1)
        return Pixels(*(values[found] for values in self)) if found.any() else self


def pixels_of(
    scene: DynamicNeRF,
    rgb: Float[Tensor, "v t 3 h w"],
    alpha: Float[Tensor, "v t 1 h w"],
    c2w: Float[Tensor, "cameras 4 4"],
    fov_deg: float,
) -> Pixels:
    """Every pixel of every frame; frames are spread evenly over the times [0, 1]."""
    views, frames, _, *size = rgb.shape
    origin, directions = scene.pixel_rays(c2w, fov_deg, tuple(size))
    times = torch.linspace(0, 1, frames, device=rgb.device)
    shape = dict(v=views, t=frames, h=size[0], w=size[1])
    return Pixels(
        repeat(origin, "v c -> (v t h w) c", **shape),
        repeat(directions, "v h w s c -> (v t h w) s c", **shape),
        repeat(times, "t -> (v t h w)", **shape),
        rearrange(rgb, "v t c h w -> (v t h w) c"),
        rearrange(alpha, "v t 1 h w -> (v t h w)"),
    )


def reconstruction_loss(
    scene: DynamicNeRF, pixels: Pixels, generator: torch.Generator, mask: float = 0.1
) -> Float[Tensor, ""]:
    """Squared errors of colour, over a random background, and of opacity.

    Over a white background alone, white surfaces and empty space look the same, and ghosts appear in other views. With
    a mask of 0 that is so: opacity counts as unknown.
    """
    colour, opacity = scene.render_pixels(*pixels[:3], generator)
    background = torch.rand(len(opacity), 1, generator=generator).to(colour) if mask else 1.0
    expected = pixels.rgb - (1 - pixels.alpha)[:, None] * (1 - background)  # given over white
    error = colour + (1 - opacity)[:, None] * background - expected
    return error.square().mean() + mask * (opacity - pixels.alpha).square().mean()


def fit_steps(
    scene: DynamicNeRF,
    rgb: Float[Tensor, "v t 3 h w"],
    alpha: Float[Tensor, "v t 1 h w"],
    c2w: Float[Tensor, "cameras 4 4"],
    fov_deg: float,
    n_steps: int = 800,
    n_pixels: int = 512,
    rate: float = 2e-2,
    mask: float = 0.1,
    seed: int = 0,
) -> Iterator[float]:
    """Fit a scene, in place, to frames from known cameras; yields the loss of every step.

    Args:
        scene: the start.
        rgb, alpha: frames over white, and their opacity, in [0, 1].
        c2w, fov_deg: one camera per view.
        n_steps, n_pixels: of AdamW, each at so many pixels of any frame.
        rate: of the grids at the start, it falls to a twentieth; that of the MLPs is a quarter.
        mask: weight of the opacity's error; 0: opacity is unknown, and the background white.
        seed: of everything random.

    Raises:
        ValueError: another number of cameras than of views, colours or opacities outside [0, 1], no poses.
    """
    if len(c2w) != len(rgb):
        raise ValueError(f"c2w is for {len(c2w)} views and rgb has {len(rgb)}; expected one camera per view.")
    check_pixels("rgb", rgb)
    check_pixels("alpha", alpha)
    check_poses(c2w, fov_deg)
    everything, optimiser = pixels_of(scene, rgb, alpha, c2w, fov_deg), adamw(scene)
    for step in range(n_steps):
        generator = torch.Generator().manual_seed(seed * 10_000_000 + step)
        for group, share in zip(optimiser.param_groups, (1.0, 0.25), strict=True):
            group["lr"] = rate * share * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / n_steps)))
        if step % (16 if step < 256 else 64) == 0:  # the start changes fastest
            scene.update_occupancy(generator)
        loss = reconstruction_loss(scene, everything.drawn(n_pixels, generator), generator, mask)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        yield loss.item()
    scene.update_occupancy(torch.Generator().manual_seed(seed))
