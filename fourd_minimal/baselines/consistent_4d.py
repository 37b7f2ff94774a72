"""Consistent4D: planes in space and time, and an interpolator for what lies between two renders.

Jiang et al. 2024 (arXiv 2311.02848). A point's features are the product of what six planes hold where it falls on them
(K-planes, Fridovich-Keil et al. 2023); a cascade has them coarse and fine, and the fine level adds a residual:

    h_l = P_xy P_xz P_yz P_xt P_yt P_zt,    raw density and raw colour = f_1(h_1) + f_2(h_2)

Steps alternate: one compares renders with the video; the next is a guidance step, of four renders of one moment, by a
model conditioned on its frame (SDS). An eighth of these each also compare with an interpolator, in angle or in time:

    L_video = 500 |x - video|^2 + 50 |opacity - mask|^2
    L_sds  = 0.1 * 1/2 |x - sg[x - (1 - abar_t)(e - eps)]|^2 / images,    guidance 5
    L_icl  = 2500 |x_m - sg[I(x_a, x_b)]|^2            a, m, b: neighbours in angle, or in time; I: the interpolator

Weights, guidance, noise levels and distances to a neighbour are the paper's, or, where it is silent, its code's.

Departures. Our multi-view base sees the four renders together, at one noise level; Zero123 sees each alone. One frame
lies between, not two, by the caller's interpolator, not RIFE. No losses of the coarse level alone. Small planes, higher
rates that fall, gradients at some pixels. Left out: losses for smooth normals that face the camera (PyTorch
differentiates planes only once), elevations other than the video's, and the change to larger pictures.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fourd_minimal.baselines.optimisation import check_inputs, descend, guided, orbit, random_turn, target_pixels
from fourd_minimal.sds import draw_step
from fourd_minimal.systems.dynamic_nerf import DynamicNeRF, DynamicNeRFConfig, Pixels, adamw, pixels_of
from fourd_minimal.systems.four_diffusion import FourDM
from fourd_minimal.systems.scene_distillation import cameras_around, off_white

Interpolate = Callable[[Tensor, Tensor], Tensor]
"""Two batches of frames `(n, 3, h, w)` in [0, 1] -> what lies halfway."""

SMALL = DynamicNeRFConfig(
    n_levels=1, log2_table_size=1, width=32, n_samples=48, occupancy_side=24, moments=4, blob=5.0, blob_radius=0.8
)
"""For small pictures; what a config says of hash grids is not used."""


class KPlanes(nn.Module):
    """Features of points in space and time: the product of six planes, read bilinearly. Defaults: the coarse level's.

    `resolution` counts entries along x, y, z and t. Planes with time begin as ones, so that nothing moves; the others
    are uniform in [0.1, 0.5].

    >>> KPlanes((8, 8, 8, 2), n_features=4)(torch.zeros(5, 4)).shape
    torch.Size([5, 4])
    """

    def __init__(self, resolution: Sequence[int] = (50, 50, 50, 8), n_features: int = 16):
        super().__init__()
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
            place = x[None, None, :, pair]  # points along the last axis of the picture: three times as fast
            found = found * F.grid_sample(plane[None], place, padding_mode="border", align_corners=True)[0, :, 0]
        return found.T


class Residuals(nn.ModuleList):
    """An MLP for each level's features, side by side in the input; their outputs are summed."""

    def __init__(self, n_levels: int, n_features: int, width: int, out: int):
        super().__init__(
            nn.Sequential(nn.Linear(n_features, width, bias=False), nn.ReLU(), nn.Linear(width, out, bias=False))
            for _ in range(n_levels)
        )
        self.n_features = n_features

    def forward(self, features: Float[Tensor, "n f"]) -> Float[Tensor, "n out"]:
        return sum(mlp(part) for mlp, part in zip(self, features.split(self.n_features, 1), strict=True))


class Cascade(DynamicNeRF):
    """The field; `planes`: entries (along each axis of space, along time) of each level, the coarsest first.

    The paper has (50, 8) and (100, 16), for 32 frames, and 16 features.
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
        x = torch.cat([points, 2 * times[:, None] - 1], 1)
        return torch.cat([planes(x) for planes in self.planes], 1)


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

    Args: as in `optimisation.py`, half of the steps of the video, half guidance steps, and
        interpolate: what lies halfway between two frames; without it there is no such loss.
        nerf, planes, n_features: of the `Cascade`.
        video_weight, mask, sds, between: weights of the losses.
        between_every: guidance steps, of which one has the interpolator's loss: in time or in angle, with even chance.
        rate: of the planes at the start, it falls to a tenth; that of the MLPs is a quarter; assumed.
    """
    check_inputs(video, base, n_steps, least=2)
    scene = Cascade(nerf, planes, n_features, seed).to(video.device)
    known = pixels_of(scene, video[None], off_white(video)[None], cameras_around(base, 1).to(video), fov_deg)

    def loss(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed * 10_000_000 + step)
        if step % 16 == 0:
            scene.update_occupancy(generator)
        if step % 2 == 0:  # the video's own camera
            some = known.drawn(pixels, generator)
            off, opacity = _apart(scene, some, generator)
            return video_weight * off.square().mean() + mask * (opacity - some.alpha).square().mean()
        expected = guidance_pixels(scene, video, base, step / n_steps, guidance, fov_deg, generator)
        off, _ = _apart(scene, expected.drawn(pixels, generator), generator)
        share = len(expected.rgb) / base.config.views
        total = sds * 0.5 * (2 * off).square().sum(1).mean() * share  # of pixels in [-1, 1]
        if interpolate is not None and step // 2 % between_every == 0:
            expected = between_pixels(scene, base, interpolate, fov_deg, generator)
            off, _ = _apart(scene, expected.drawn(pixels, generator), generator)
            total = total + between * off.square().mean()
        return total

    falling = lambda done: 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done))  # noqa: E731
    yield from descend(scene, adamw(scene, rate, rate / 4), loss, n_steps, falling)
    scene.update_occupancy(torch.Generator().manual_seed(seed))


def _apart(scene: Cascade, expected: Pixels, generator) -> tuple[Float[Tensor, "p 3"], Float[Tensor, " p"]]:
    """How far renders over white are from what is expected of these pixels; and their opacity."""
    colour, opacity = scene.render_pixels(*expected[:3], generator)
    return colour + (1 - opacity)[:, None] - expected.rgb, opacity


def guidance_pixels(
    scene: Cascade, video: Tensor, base: FourDM, progress: float, guidance: float, fov_deg: float, generator
) -> Pixels:
    """Views of one moment from a random angle on, with the colours of L_sds's target."""
    frame = int(torch.randint(len(video), (), generator=generator))
    azimuths, abar = random_turn(base.config.views, generator), base.schedule.abar
    t = draw_step(2 * progress, len(abar), highest=(0.98, 0.25), lowest=(0.8, 0.2), generator=generator)
    options = dict(frames=slice(frame, frame + 1), guidance=guidance, form="eps")
    found = guided(scene, video, base, azimuths, t, fov_deg, generator, **options)
    weight = (1 - abar[t]).to(video)
    return target_pixels(scene, found._replace(target=torch.lerp(found.rgb, found.target, weight)), fov_deg)


@torch.no_grad()
def between_pixels(
    scene: Cascade, base: FourDM, interpolate: Interpolate, fov_deg: float, generator: torch.Generator
) -> Pixels:
    """A view between two others, close in angle or in time, with the colours that the interpolator finds there."""
    place, moment, apart, turning = torch.rand(4, generator=generator).tolist()
    aside = torch.tensor([-1.0, 0.0, 1.0])
    degrees, times = (5 + 10 * apart, 0.0) if turning < 0.5 else (0.0, 1 / 16)
    like = next(scene.parameters())
    c2w, time = orbit(base, 360 * place + degrees * aside, like), times + (1 - 2 * times) * moment + times * aside
    a, b = scene.render(c2w[::2], fov_deg, time[::2].to(like), base.config.image_size).rgb.clamp(0, 1).split(1)
    made = interpolate(a, b)
    pixels = pixels_of(scene, made[None], torch.ones_like(made[None, :, :1]), c2w[1:2], fov_deg)
    return pixels._replace(times=torch.full_like(pixels.times, time[1].item()))
