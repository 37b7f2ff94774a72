"""Consistent4D: planes in space and time, and an interpolator that says what lies between two renders.

Jiang et al. 2024 (arXiv 2311.02848). A point's features are the product of what six planes hold where it falls on them
(K-planes, Fridovich-Keil et al. 2023); a cascade has them coarse and fine, and the fine level adds a residual:

    h_l = P_xy P_xz P_yz P_xt P_yt P_zt,    raw density and raw colour = f_1(h_1) + f_2(h_2)

Steps alternate. One compares the video with renders of its own camera; the next asks an image-conditioned model about
four renders of one moment, given that moment's frame (SDS), and now and then an interpolator about what lies between:

    L_video = 500 |x - video|^2 + 50 |opacity - mask|^2
    L_sds  = 0.1 * 1/2 |x - sg[x - (1 - abar_t)(e - eps)]|^2 / images,    guidance 5
    L_icl  = 2500 |x_m - sg[I(x_a, x_b)]|^2            a, m, b: neighbours in angle, or in time; I: the interpolator

Weights, guidance and noise levels are the paper's, the last brought to `n_steps`; so are the angle to a neighbour, 5 to
15 degrees, the time to it, a sixteenth of the video, and how often: at an eighth of the looks each. (Where the paper is
silent, its code speaks.)

Departures. The model is our multi-view base, which sees the four renders together, at one noise level; Zero123 there
sees each alone. One frame lies between, not two. The interpolator is the caller's; theirs is RIFE. Losses are of both
levels together; there, also of the coarse one alone, which takes half as long again and did not help in a minute of a
CPU. Gradients are taken at some pixels, drawn anew. For small pictures: few and small planes, higher rates that fall.
Left out: losses for smooth normals that face the camera (PyTorch differentiates planes only once), elevations other
than the video's, and the change to larger pictures.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fourd_minimal.cameras import circular_trajectory
from fourd_minimal.sds import draw_step, score_distillation
from fourd_minimal.systems.dynamic_nerf import DynamicNeRF, DynamicNeRFConfig, Pixels, adamw, pixels_of
from fourd_minimal.systems.four_diffusion import FourDM
from fourd_minimal.systems.guidance import noise_predictor
from fourd_minimal.systems.pixels import check_pixels
from fourd_minimal.systems.scene_distillation import cameras_around, off_white

Interpolate = Callable[[Tensor, Tensor], Tensor]
"""Two batches of frames `(n, 3, h, w)` in [0, 1] -> what lies halfway."""

SMALL = DynamicNeRFConfig(
    n_levels=1, log2_table_size=1, width=32, n_samples=48, occupancy_side=24, moments=4, blob=5.0, blob_radius=0.8
)
"""For small pictures; what a config says of hash grids is not used."""


class KPlanes(nn.Module):
    """Features of points in space and time: the product of six planes, read bilinearly. Defaults: the coarse level's.

    Planes with time begin as ones, so that nothing moves; the others are uniform in [0.1, 0.5].

    Args:
        resolution: entries along x, y, z and t, at least 1 each.
        n_features: of each plane, and of a point.

    Raises:
        ValueError: another number of axes than four, or an axis without entries.

    >>> KPlanes((8, 8, 8, 2), n_features=4)(torch.zeros(5, 4)).shape
    torch.Size([5, 4])
    """

    def __init__(self, resolution: Sequence[int] = (50, 50, 50, 8), n_features: int = 16):
        super().__init__()
        if len(resolution) != 4 or min(resolution) < 1:
            raise ValueError(f"resolution is {tuple(resolution)}; expected four counts, of at least 1 each,.")
        self.pairs = list(combinations(range(4), 2))
        sides = [(n_features, resolution[j], resolution[i]) for i, j in self.pairs]
        self.planes = nn.ParameterList(
            torch.ones(side) if 3 in pair else 0.1 + 0.4 * torch.rand(side)
            for side, pair in zip(sides, self.pairs, strict=True)
        )

    def forward(self, x: Float[Tensor, "n 4"]) -> Float[Tensor, "n f"]:
        """Features of points (x, y, z, t) in [-1, 1]; beyond the rim is the rim."""
        found = 1.0
        for plane, pair in zip(self.planes, self.pairs, strict=True):
            where = x[None, None, :, pair]  # points along the last axis of the picture: three times as fast
            found = found * F.grid_sample(plane[None], where, padding_mode="border", align_corners=True)[0, :, 0]
        return found.T


class Residuals(nn.ModuleList):
    """An MLP for each level's features, side by side in the input; what they say is summed."""

    def __init__(self, n_levels: int, n_features: int, width: int, out: int):
        super().__init__(
            nn.Sequential(nn.Linear(n_features, width, bias=False), nn.ReLU(), nn.Linear(width, out, bias=False))
            for _ in range(n_levels)
        )
        self.n_features = n_features

    def forward(self, features: Float[Tensor, "n f"]) -> Float[Tensor, "n out"]:
        return sum(mlp(part) for mlp, part in zip(self, features.split(self.n_features, 1), strict=True))


class Cascade(DynamicNeRF):
    """The field.

    Args:
        config: of MLPs and rendering.
        planes: entries (along each axis of space, along time) of each level, the coarsest first; the paper's are
            (50, 8) and (100, 16), for 32 frames.
        n_features: of each level; 16 in the paper.
        seed: of planes and MLPs.
    """

    def __init__(
        self,
        config: DynamicNeRFConfig = SMALL,
        planes: Sequence[tuple[int, int]] = ((16, 4), (32, 8)),
        n_features: int = 8,
        seed: int = 0,
    ):
        super().__init__(config, seed)
        del self.space, self.space_time
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.planes = nn.ModuleList(KPlanes((side, side, side, times), n_features) for side, times in planes)
            self.to_density, self.to_colour = (Residuals(len(planes), n_features, config.width, out) for out in (1, 3))

    def _features(self, points: Tensor, times: Tensor) -> Tensor:
        where = torch.cat([points, 2 * times[:, None] - 1], 1)
        return torch.cat([planes(where) for planes in self.planes], 1)


def optimise_steps(
    video: Float[Tensor, "t 3 h w"],
    base: FourDM,
    n_steps: int,
    seed: int = 0,
    interpolate: Interpolate | None = None,
    nerf: DynamicNeRFConfig = SMALL,
    planes: Sequence[tuple[int, int]] = ((16, 4), (32, 8)),
    n_features: int = 8,
    fov_deg: float = 36.0,
    video_weight: float = 500.0,
    mask: float = 50.0,
    sds: float = 0.1,
    guidance: float = 5.0,
    between: float = 2500.0,
    between_every: int = 4,
    pixels: int = 512,
    rate: float = 4e-2,
) -> Iterator[Cascade]:
    """Optimise a scene, yielding it after every step.

    Args:
        video: of an object over white, in [0, 1], as large as the model's frames, seen from azimuth 0.
        base: the model that knows views of single frames.
        n_steps: half of them of the video, half with a look of the model.
        seed: of everything random.
        interpolate: what lies halfway between two frames; without it there is no such loss.
        nerf, planes, n_features: of the `Cascade`.
        fov_deg: vertical field of view.
        video_weight, mask, sds, between: weights of the losses.
        guidance: of the model.
        between_every: looks, of which one has the interpolator's loss: in time or in angle, with even chance.
        pixels: at which each loss takes its gradient.
        rate: of the planes at the start, it falls to a tenth; that of the MLPs is a quarter; assumed.

    Raises:
        ValueError: fewer than two steps; a video of another size, with NaN, or outside [0, 1]; a model of latents.
    """
    check_pixels("video", video)
    size = base.config.image_size
    if video.ndim != 4 or tuple(video.shape[1:]) != (3, size, size):
        raise ValueError(f"video has shape {tuple(video.shape)}; expected (t, 3, {size}, {size}).")
    if base.config.unet.image_channels != 3:
        raise ValueError(f"base works on {base.config.unet.image_channels} latent channels; expected 3 colours.")
    if n_steps < 2:
        raise ValueError(f"n_steps is {n_steps}; expected at least 2, one of the video and one of a look,.")
    scene = Cascade(nerf, planes, n_features, seed).to(video.device)
    optimiser = adamw(scene, rate, rate / 4)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / n_steps))
    )
    known = pixels_of(scene, video[None], off_white(video)[None], cameras_around(base, 1).to(video), fov_deg)
    for step in range(n_steps):
        generator = torch.Generator().manual_seed(seed * 10_000_000 + step)
        if step % 16 == 0:
            scene.update_occupancy(generator)
        if step % 2 == 0:
            some = known.drawn(pixels, generator)
            off, opacity = _apart(scene, some, generator)
            loss = video_weight * off.square().mean() + mask * (opacity - some.alpha).square().mean()
        else:
            expected = _look(scene, video, base, step / n_steps, guidance, fov_deg, generator)
            off, _ = _apart(scene, expected.drawn(pixels, generator), generator)
            images = base.config.views
            loss = sds * 0.5 * (2 * off).square().sum(1).mean() * len(expected.rgb) / images  # of pixels in [-1, 1]
            if interpolate is not None and step // 2 % between_every == 0:
                expected = _between(scene, base, interpolate, fov_deg, generator)
                off, _ = _apart(scene, expected.drawn(pixels, generator), generator)
                loss = loss + between * off.square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        yield scene
    scene.update_occupancy(torch.Generator().manual_seed(seed))


def _apart(
    scene: Cascade, expected: Pixels, generator: torch.Generator
) -> tuple[Float[Tensor, "p 3"], Float[Tensor, " p"]]:
    """How far renders over white are from what is wanted of these pixels; and their opacity."""
    colour, opacity = scene.render_pixels(*expected[:3], generator)
    return colour + (1 - opacity)[:, None] - expected.rgb, opacity


@torch.no_grad()
def _look(
    scene: Cascade,
    video: Tensor,
    base: FourDM,
    progress: float,
    guidance: float,
    fov_deg: float,
    generator: torch.Generator,
) -> Pixels:
    """Four views of one moment from a random angle on, with the colours that the model would like to see there."""
    views = base.config.views
    frame = int(torch.randint(len(video), (), generator=generator))
    azimuth = (torch.rand((), generator=generator) + torch.arange(views)) * (360 / views)
    c2w = circular_trajectory(azimuth, base.config.elevation_deg, base.config.radius).to(video)
    time = frame / max(1, len(video) - 1)
    seen = scene.render(c2w, fov_deg, time, base.config.image_size)
    abar = base.schedule.abar
    t = draw_step(2 * progress, len(abar), highest=(0.98, 0.25), lowest=(0.8, 0.2), generator=generator)
    given = (seen.rgb * 2 - 1)[None], noise_predictor(base, video[frame : frame + 1], azimuth), abar, t.to(video.device)
    moved = score_distillation(*given, guidance=guidance, form="eps", generator=generator).target - given[0]
    rgb = seen.rgb + (1 - abar[t]).to(video) * moved[0] / 2
    looked = pixels_of(scene, rgb[:, None], seen.alpha[:, None], c2w, fov_deg)
    looked = looked._replace(times=torch.full_like(looked.times, time))
    held = (looked.alpha > 0.01) | (looked.rgb < 0.9).any(1)  # elsewhere there is nothing to pull
    return Pixels(*(values[held] for values in looked)) if held.any() else looked


@torch.no_grad()
def _between(
    scene: Cascade, base: FourDM, interpolate: Interpolate, fov_deg: float, generator: torch.Generator
) -> Pixels:
    """A view between two others, close in angle or in time, with the colours that the interpolator finds there."""
    place, moment, apart, turning = torch.rand(4, generator=generator).tolist()
    aside = torch.tensor([-1.0, 0.0, 1.0])
    degrees, times = (5 + 10 * apart, 0.0) if turning < 0.5 else (0.0, 1 / 16)
    azimuth = 360 * place + degrees * aside
    time = times + (1 - 2 * times) * moment + times * aside
    device = next(scene.parameters()).device
    c2w = circular_trajectory(azimuth, base.config.elevation_deg, base.config.radius).to(device)
    a, b = scene.render(c2w[::2], fov_deg, time[::2].to(device), base.config.image_size).rgb.clamp(0, 1).split(1)
    made = interpolate(a, b)
    seen = pixels_of(scene, made[None], torch.ones_like(made[None, :, :1]), c2w[1:2], fov_deg)
    return seen._replace(times=torch.full_like(seen.times, time[1].item()))
