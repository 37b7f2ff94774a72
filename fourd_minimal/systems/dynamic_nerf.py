"""A scene that moves, as a field in space and time, and what cameras see of it.

4Diffusion, section 3.2. Two hash grids (`hash_grid.py`), one over space, one over space and time; their features are
summed, and two small MLPs read density and colour from them:

    h = P_xyz(x) + P_xyzt(x, t)
    sigma = softplus(f(h) + b (1 - |x| / r)),    c = sigmoid(g(h))

What never moves can live in the first grid alone. The term b is a blob at the start: with no density anywhere, nothing
would have a gradient. The colour does not depend on where it is seen from. A picture is composited along rays
(`volume_rendering.py`) over one colour, white unless asked otherwise.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from fourd_minimal.cameras import rays
from fourd_minimal.gaussians import check_poses
from fourd_minimal.hash_grid import HashGrid
from fourd_minimal.volume_rendering import Occupancy, Seen, render_rays

AT_ONCE = 2**20
"""Samples along rays that are held in memory together where nobody asks for gradients."""


class Picture(NamedTuple):
    """What cameras see."""

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
    """Of both MLPs, which have one hidden layer and no bias."""
    blob: float = 10.0
    blob_radius: float = 0.5
    n_samples: int = 256
    """Along the stretch of a ray that lies in the box."""
    occupancy_side: int = 32
    threshold: float = 0.5
    """Density per unit of length from which a cell counts; assumed."""
    moments: int = 8
    """Times at which a cell is looked at before it counts as empty."""


class DynamicNeRF(nn.Module):
    """A field over the box [-1, 1]^3 and the times [0, 1].

    Args:
        config: sizes.
        seed: of the tables and the MLPs.
    """

    def __init__(self, config: DynamicNeRFConfig, seed: int = 0):
        super().__init__()
        self.config = config
        grid = dict(
            n_levels=config.n_levels,
            n_features=config.n_features,
            log2_table_size=config.log2_table_size,
            base_resolution=config.base_resolution,
            per_level_scale=config.per_level_scale,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.space, self.space_time = HashGrid(3, **grid), HashGrid(4, **grid)
            self.to_density, self.to_colour = (
                nn.Sequential(
                    nn.Linear(self.space.out_dim, config.width, bias=False),
                    nn.ReLU(),
                    nn.Linear(config.width, out, bias=False),
                )
                for out in (1, 3)
            )
        self.occupancy = Occupancy(config.occupancy_side, config.threshold)

    def forward(
        self, points: Float[Tensor, "n 3"], times: Float[Tensor, " n"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 3"]]:
        """Density per unit of length, and colour in [0, 1], at points in the box and times in [0, 1]."""
        inside = (points + 1) / 2
        features = self.space(inside) + self.space_time(torch.cat([inside, times[:, None]], 1))
        blob = self.config.blob * (1 - points.norm(dim=1) / self.config.blob_radius)
        return F.softplus(self.to_density(features)[:, 0] + blob), self.to_colour(features).sigmoid()

    def look(
        self,
        rays_o: Float[Tensor, "r 3"],
        rays_d: Float[Tensor, "r 3"],
        times: Float[Tensor, " r"],
        generator: torch.Generator | None = None,
    ) -> Seen:
        """What rays see; with a generator, at random places of each stretch, as for training."""
        options = dict(n_samples=self.config.n_samples, occupancy=self.occupancy, stratified=generator is not None)
        return render_rays(self, rays_o, rays_d, times, generator=generator, **options)

    def update_occupancy(self, generator: torch.Generator | None = None) -> None:
        """Look again where there is something; between steps of training."""
        moments = torch.linspace(0, 1, self.config.moments, device=self.occupancy.density.device)
        self.occupancy.update(self, moments, generator)

    def render(
        self,
        c2w: Float[Tensor, "*b 4 4"],
        fov_deg: float,
        time: float | Float[Tensor, "*#b"],
        size: int | tuple[int, int],
        background: float | Float[Tensor, " 3"] = 1.0,
    ) -> Picture:
        """What cameras see.

        Args:
            c2w: camera-to-world, any number of them.
            fov_deg: vertical field of view.
            time: in [0, 1], one for each camera or one for all.
            size: (h, w), or one number for square pictures.
            background: a colour in [0, 1]; white by default.

        Raises:
            ValueError: poses that are none, or times outside [0, 1].
        """
        check_poses(c2w, fov_deg)
        size = (size, size) if isinstance(size, int) else tuple(size)
        batch, cameras = c2w.shape[:-2], c2w.reshape(-1, 4, 4)
        time = torch.as_tensor(time, dtype=cameras.dtype, device=cameras.device).expand(batch).reshape(-1)
        if ((time < 0) | (time > 1)).any():
            raise ValueError(f"time reaches from {time.min():g} to {time.max():g}; times in [0, 1] are wanted.")
        origin, direction = rays(cameras, fov_deg, size)
        rays_o = origin[:, None, None].expand_as(direction).reshape(-1, 3)
        pieces = (rays_o, direction.reshape(-1, 3), time.repeat_interleave(size[0] * size[1]))
        at_once = len(rays_o) if torch.is_grad_enabled() else max(1, AT_ONCE // self.config.n_samples)
        seen = [self.look(*piece) for piece in zip(*(p.split(at_once) for p in pieces), strict=True)]
        rgb, alpha = torch.cat([s.over(background) for s in seen]), torch.cat([s.opacity for s in seen])
        shape = dict(b=len(cameras), h=size[0], w=size[1])
        rgb = rearrange(rgb, "(b h w) c -> b c h w", **shape)
        alpha = rearrange(alpha, "(b h w) -> b 1 h w", **shape)
        return Picture(rgb.reshape(*batch, 3, *size), alpha.reshape(*batch, 1, *size))
