"""A diffusion upsampler for grids: the details of a large picture, given a small one.

Section 4.1 of 4Real-Video: the model works on small frames, and a diffusion-based upsampler enlarges them. The network
is the base model's DiT (`video_dit`), trained on large frames. Its condition is the small grid, enlarged by bicubic
interpolation, in the place of the base model's known frames; it predicts the difference to the large frames. So before
training it IS bicubic interpolation.

    x = up(s') + phi(d, up(s'), sigma, tau)           s' = (1 - tau) s + tau eps, the small frames
    d = w (x_sigma - (1 - sigma) up(s'))              w = (1 - sigma) r^2 / ((1 - sigma)^2 r^2 + sigma^2)

d is the best linear guess (Wiener's) of the difference from x_sigma, where the difference has the standard deviation r.
At sigma = 1 it is 0, and the network need not learn to ignore noise.

tau is the noise augmentation of cascaded diffusion (Ho et al. 2021, arXiv 2106.15282, section 4): generated small
frames are not quite those of training, and noise hides the difference. The network is conditioned on tau, and the
caller chooses it: 0 for true frames. `python -m figures.upsampler --tau` measures it on generated ones.

It works on grids: blocks attend in turn along the rows (times) and along the columns (views). A video is a grid of one
row.

Departures: the paper says no more than the words quoted, and its upsampler (to 288x512) is for videos. Conditioning,
parametrisation, d, tau, alternating axes and mirroring are ours; so is the factor, 2.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from fourd_minimal.rectified_flow import add_noise, euler
from fourd_minimal.systems.pixels import check_pixels
from fourd_minimal.systems.weights import Pretrained
from fourd_minimal.two_stream import columns, from_columns, from_rows, rows
from fourd_minimal.video_dit import VideoDiT, VideoDiTConfig, sigma_embedding

DETAIL = 0.1
"""r, the standard deviation assumed of x - up(s), pixels in [-1, 1]: 0.06 for `simple`, 0.11 for `creature`."""


@dataclass(frozen=True)
class UpsamplerConfig:
    """The network, and how it was trained."""

    dit: VideoDiTConfig = field(default_factory=VideoDiTConfig)
    """Of the large frames."""
    factor: int = 2
    """Large over small, in each direction."""
    shift: float = 3.0
    """Of noise levels towards 1, in training and in sampling; `rectified_flow.shift_sigma`."""
    most_augmentation: float = 0.1
    """The largest tau it was trained for, in [0, 1)."""

    def __post_init__(self):
        if self.factor < 2 or any(side % self.factor for side in self.dit.image_size):
            raise ValueError(f"factor is {self.factor}; expected 2 or more, dividing {self.dit.image_size}.")
        if self.dit.depth < 2:
            raise ValueError(f"depth is {self.dit.depth}; expected at least 2, a block for each axis of the grid.")
        if self.shift <= 0:
            raise ValueError(f"shift is {self.shift}; expected above 0.")
        if not 0 <= self.most_augmentation < 1:
            raise ValueError(f"most_augmentation is {self.most_augmentation}; expected in [0, 1).")

    @property
    def small_size(self) -> tuple[int, int]:
        """(h, w) of the frames it takes."""
        h, w = self.dit.image_size
        return h // self.factor, w // self.factor


def bicubic(frames: Float[Tensor, "*b c h w"], factor: int) -> Float[Tensor, "*b c fh fw"]:
    """Enlarge frames by bicubic interpolation, the baseline.

    >>> bicubic(torch.rand(2, 3, 8, 8), 2).shape
    torch.Size([2, 3, 16, 16])
    """
    batch = frames.reshape(-1, *frames.shape[-3:])
    large = F.interpolate(batch, scale_factor=factor, mode="bicubic", align_corners=False)
    return large.reshape(*frames.shape[:-3], *large.shape[1:])


def shrink(frames: Float[Tensor, "*b c h w"], factor: int) -> Float[Tensor, "*b c sh sw"]:
    """The mean of every `factor` x `factor` pixels.

    >>> shrink(torch.arange(4.0).reshape(1, 1, 2, 2), 2)
    tensor([[[[1.5000]]]])
    """
    small = F.avg_pool2d(frames.reshape(-1, *frames.shape[-3:]), factor)
    return small.reshape(*frames.shape[:-3], *small.shape[1:])


class Upsampler(Pretrained):
    """Small grids in, large grids out.

    >>> Upsampler.from_pretrained("toy").config.small_size
    (24, 24)
    """

    config_class, shipped, file = UpsamplerConfig, "upsampler_toy", "upsampler.safetensors"

    def __init__(self, config: UpsamplerConfig):
        super().__init__()
        self.config = config
        self.dit = VideoDiT(config.dit)
        dim = config.dit.dim
        self.augmentation_in = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))

    def denoise(
        self,
        x: Float[Tensor, "b v t c h w"],
        sigma: Float[Tensor, " b"],
        small: Float[Tensor, "b v t c sh sw"],
        tau: Float[Tensor, " b"],
    ) -> Float[Tensor, "b v t c h w"]:
        """Clean large frames from noisy ones and the small frames.

        Args:
            x, sigma: noisy large frames, and their noise level in [0, 1].
            small, tau: small frames in [-1, 1], augmented as in `add_noise(small, eps, tau)`, and their noise level.
        """
        _, v, t = x.shape[:3]
        enlarged = bicubic(small, self.config.factor)
        level = self.augmentation_in(sigma_embedding(tau, self.config.dit.dim))

        # d, and the conditions of rows and columns.
        sigma = sigma[:, None, None].expand(-1, v, t)
        seen = torch.ones_like(sigma, dtype=torch.bool)
        noise = sigma[..., None, None, None]
        guess = (1 - noise) * DETAIL**2 / ((1 - noise) ** 2 * DETAIL**2 + noise**2) * (x - (1 - noise) * enlarged)
        grids = guess, sigma, seen, enlarged
        as_rows = (rearrange(a, "b v t ... -> (b v) t ...") for a in grids)
        as_columns = (rearrange(a, "b v t ... -> (b t) v ...") for a in grids)
        tokens, c_time, angles_time, _ = self.dit.embed(*as_rows, "dynamic")
        _, c_view, angles_view, _ = self.dit.embed(*as_columns, "freeze")
        c_time = c_time + level.repeat_interleave(v, 0)[:, None]
        c_view = c_view + level.repeat_interleave(t, 0)[:, None]

        # Blocks along rows and columns in turn.
        for index, block in enumerate(self.dit.blocks):
            if index % 2 == 0:
                tokens = block(tokens, c_time, None, angles_time)
            else:
                along_views = columns(from_rows(tokens, v, t))
                tokens = rows(from_columns(block(along_views, c_view, None, angles_view), v, t))
        return enlarged + rearrange(self.dit.unembed(tokens, c_time), "(b v) t ... -> b v t ...", v=v)

    @torch.no_grad()  # as a decorator: the caller's own gradients are on again between two states
    def sample(
        self, small: Float[Tensor, "b v t c sh sw"], n_steps: int = 1, tau: float = 0.0, seed: int = 0
    ) -> Iterator[Float[Tensor, "b v t c h w"]]:
        """Noise to large frames, yielding every state; everything in [-1, 1]. The last state is the sample.

        Each prediction is the mean of two, of the frames and of their mirror image (self-ensemble, Lim et al. 2017,
        arXiv 1707.02921).
        """
        generator = torch.Generator().manual_seed(seed)  # on the CPU: a seed means the same on every device
        augmented = add_noise(small, torch.randn(small.shape, generator=generator).to(small), tau)
        noise = torch.randn((*small.shape[:-2], *self.config.dit.image_size), generator=generator).to(small)

        def velocity(x: Tensor, sigma: float) -> Tensor:
            noisy, given = (torch.cat([a, a.flip(-1)]) for a in (x, augmented))
            sigmas, taus = (torch.full((2 * len(x),), level, device=x.device) for level in (sigma, tau))
            straight, mirrored = self.denoise(noisy, sigmas, given, taus).chunk(2)
            return (x - (straight + mirrored.flip(-1)) / 2) / sigma

        yield from euler(velocity, noise, n_steps, self.config.shift)

    def upsample(
        self, grid: Float[Tensor, "v t 3 sh sw"], n_steps: int = 1, tau: float = 0.0, seed: int = 0
    ) -> Float[Tensor, "v t 3 h w"]:
        """Small frames in, large frames out; everything in [0, 1].

        Args:
            grid: views x times; a single video is `video[None]`.
            n_steps: Euler steps. One gives the mean of the large frames, more give one sample.
            tau: noise augmentation.
            seed: of the noise.

        Raises:
            ValueError: frames of another size than `config.small_size`, outside [0, 1] or NaN; tau beyond training.
        """
        check_pixels("grid", grid)
        if grid.ndim != 5 or tuple(grid.shape[2:]) != (3, *self.config.small_size):
            expected = (3, *self.config.small_size)
            raise ValueError(f"grid has shape {tuple(grid.shape)}; expected (views, times, *{expected}).")
        if not 0 <= tau <= self.config.most_augmentation:
            raise ValueError(f"tau is {tau}; expected in [0, {self.config.most_augmentation}].")
        *_, large = self.sample(grid[None].to(next(self.parameters())) * 2 - 1, n_steps, tau, seed)
        return ((large[0] + 1) / 2).clamp(0, 1).to(grid)
