"""4Real: Gaussians of the freeze-time video, then a deformation over time that a video model guides.

Yu et al. 2024, "4Real: Towards Photorealistic 4D Scene Generation via Video Diffusion Models" (arXiv 2406.07472): the
optimisation, scene by scene, that 4Real-Video replaces by one pass of a model. In two stages:

    canonical    a cloud is fitted to the freeze-time video, at time 0
    moving       p(t) = p + dp^t(p, t), dp^t an MLP, is fitted to the fixed-view video; for other views and times the
                 base video model is the guidance model (score distillation)

Each moving step renders the first row of the grid, and one other row or column, x. It is noised, and the model,
conditioned on its first frame, which is known, predicts the clean video:

    x_sigma = (1 - sigma) x + sigma eps,     L = |x_row0 - fixed_view|^2 + w |x - sg[x_hat(x_sigma)]|^2

x - x_hat = sigma (v_hat - v): L's gradient at the renders is that of score distillation on velocities, times sigma.

Departures. Cameras are given: an advantage over the paper, which estimates them. Both videos are given and agree, so
nothing compensates for a freeze-time video that moves (eq. 11). The moving stage goes on with the whole cloud: dp^t
alone was worse by 4 dB on moving pixels. Columns are used as well as rows. Counts, rates and noise levels are for small
pictures, tried on four scenes outside the test set.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from einops import repeat
from jaxtyping import Float
from torch import Tensor, nn

from fourd_minimal.baselines.optimisation import descend
from fourd_minimal.rectified_flow import add_noise
from fourd_minimal.systems.deformable_gaussians import RATES, DeformableGaussians, fit_steps, random_scene
from fourd_minimal.systems.four_real_video import FourRealVideo
from fourd_minimal.systems.pixels import check_pixels
from fourd_minimal.video_dit import Context

MOVING = "points", "log_radius", "colour_logit", "opacity_logit", "background", "motion"
"""What the second stage moves."""


@torch.no_grad()
def denoised(
    base: FourRealVideo,
    x: Float[Tensor, "f 3 h w"],
    first: Float[Tensor, "3 h w"],
    context: Context,
    sigma: Float[Tensor, " 1"],
    generator: torch.Generator | None = None,
) -> Float[Tensor, "f 3 h w"]:
    """x_hat of the header: the clean video that the base's video model predicts of renders x, all in [0, 1].

    `first`, the known first frame, conditions it and begins x_hat. A row is "dynamic" `context`, a column "freeze".
    """
    eps = torch.randn(x.shape, generator=generator).to(x)
    noisy = add_noise((2 * x - 1)[None], eps[None], sigma)
    known = torch.arange(len(x), device=x.device)[None] == 0
    clean = base.denoise_video(noisy, sigma, known, (2 * first - 1).expand(1, len(x), -1, -1, -1), context)[0]
    return torch.cat([first[None], ((clean[1:] + 1) / 2).clamp(0, 1)])


def optimise_steps(
    fixed_view: Float[Tensor, "t 3 h w"],
    freeze_time: Float[Tensor, "v 3 h w"],
    base: FourRealVideo,
    c2w: Float[Tensor, "cameras 4 4"],
    fov_deg: float,
    n_steps: int,
    seed: int = 0,
    n_points: int = 400,
    canonical: float = 0.4,
    sds: float = 1.0,
    sigmas: tuple[float, float] = (0.1, 0.7),
    rate: float = 2.0,
) -> Iterator[DeformableGaussians]:
    """Optimise a scene, yielding it after every step.

    Args:
        fixed_view, freeze_time: in [0, 1], as large as the base's frames, with the same first frame.
        base: the guidance model; see `denoised`.
        c2w, fov_deg: of the freeze-time video; its first camera is that of the fixed view.
        n_steps, seed, n_points: of both stages together; of everything random; of Gaussians.
        canonical: share of the steps that the first stage takes.
        sds: w of the header.
        sigmas: between which noise levels are drawn.
        rate: of the second stage, times those of `fit_steps`.

    Raises:
        ValueError: videos of another size or range or with more frames than the base knows, another number of cameras
            than of views, fewer steps than stages, or noise levels outside (0, 1].
    """
    for name, video, most in (("fixed_view", fixed_view, base.times), ("freeze_time", freeze_time, base.views)):
        check_pixels(name, video)
        if video.ndim != 4 or tuple(video.shape[1:]) != (3, *base.image_size) or not 2 <= len(video) <= most:
            expected = ", ".join(map(str, (f"2 to {most}", 3, *base.image_size)))
            raise ValueError(f"{name} has shape {tuple(video.shape)}; expected ({expected}).")
    if len(c2w) != len(freeze_time):
        raise ValueError(f"c2w is for {len(c2w)} views and freeze_time has {len(freeze_time)}; expected one each.")
    if n_steps < 2:
        raise ValueError(f"n_steps is {n_steps}; expected at least 2, one for each stage.")
    if not 0 < sigmas[0] <= sigmas[1] <= 1:
        raise ValueError(f"sigmas is {sigmas}; expected noise levels in (0, 1], the lower first.")
    scene = random_scene(n_points, seed).to(fixed_view.device)
    still = min(max(1, round(canonical * n_steps)), n_steps - 1)
    for _ in fit_steps(scene, freeze_time[:, None], c2w, fov_deg, still, batch=len(c2w), seed=seed):
        yield scene
    generator = torch.Generator().manual_seed(seed)
    moments = torch.linspace(0, 1, len(fixed_view), device=fixed_view.device)
    row = c2w[:1].expand(len(moments), -1, -1), moments

    def loss(step: int) -> Tensor:
        if step % 2 == 0:  # another row: a video from where no camera stood
            view = int(torch.randint(1, len(c2w), (), generator=generator))
            other, known = (c2w[view].expand_as(row[0]), moments), (freeze_time[view], "dynamic")
        else:  # another column: the same cameras at a later moment
            time = int(torch.randint(1, len(moments), (), generator=generator))
            other, known = (c2w, moments[time].expand(len(c2w))), (fixed_view[time], "freeze")
        cameras, times = (torch.cat(both) for both in zip(row, other, strict=True))
        recorded, x = scene.render(cameras, fov_deg, times, base.image_size).rgb.tensor_split([len(moments)])
        sigma = torch.empty(1).uniform_(*sigmas, generator=generator).to(x)
        expected = denoised(base, x.detach(), *known, sigma, generator)
        return F.mse_loss(recorded, fixed_view) + sds * F.mse_loss(x, expected)

    parts = {name: getattr(scene, name).requires_grad_(True) for name in MOVING}
    parts = {name: [*part.parameters()] if isinstance(part, nn.Module) else [part] for name, part in parts.items()}
    groups = [dict(params=part, lr=rate * RATES[name]) for name, part in parts.items()]
    optimiser = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15)
    falling = lambda done: 0.05 + 0.475 * (1 + math.cos(math.pi * done))  # noqa: E731
    yield from descend(scene, optimiser, loss, n_steps - still, falling)


@torch.no_grad()
def rendered(
    scene: DeformableGaussians,
    fixed_view: Float[Tensor, "t 3 h w"],
    freeze_time: Float[Tensor, "v 3 h w"],
    c2w: Float[Tensor, "v 4 4"],
    fov_deg: float,
) -> Float[Tensor, "v t 3 h w"]:
    """The grid that a scene shows, with the given frames in its first row and column."""
    times = torch.linspace(0, 1, len(fixed_view), device=c2w.device).expand(len(c2w), -1)
    cameras = repeat(c2w, "v a b -> v t a b", t=len(fixed_view))
    grid = scene.render(cameras, fov_deg, times, tuple(fixed_view.shape[-2:])).rgb.clamp(0, 1)
    grid[:, 0], grid[0] = freeze_time, fixed_view
    return grid
