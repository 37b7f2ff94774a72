"""One guidance step of score distillation: renders of a scene, and what a guidance model predicts for them.

4Diffusion, section 3.3. 4DM predicts clean frames for all views and frames at once, conditioned on the video; their
pixels are targets, which several optimisation steps may use. Any module with a differentiable loss of renders can
guide as well (`GuidanceModel`), such as one that works on latents.
"""

from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from fourd_minimal.cameras import circular_trajectory
from fourd_minimal.ddpm import NoiseSchedule
from fourd_minimal.sds import Distilled, Guess, draw_step, score_distillation
from fourd_minimal.systems.dynamic_nerf import DynamicNeRF, Pixels, pixels_of
from fourd_minimal.systems.four_diffusion import FourDM


@runtime_checkable
class GuidanceModel(Protocol):
    """A module that can guide without being 4DM, such as `pretrained/stable_guide.py`."""

    config: Any
    """With `views`, `times`, `image_size`, `elevation_deg` and `radius`, as 4DM's has them."""
    schedule: NoiseSchedule

    def distill(
        self,
        renders: Float[Tensor, "t v 3 h w"],
        azimuths_deg: Float[Tensor, " v"],
        t: Int[Tensor, ""],
        guidance: float,
        rescale: float,
        generator: torch.Generator | None = None,
    ) -> Distilled:
        """Score distillation of renders in [0, 1], `image_size` large; the loss has a gradient at them."""
        ...


def noise_predictor(model: FourDM, video: Float[Tensor, "t 3 h w"], azimuths_deg: Float[Tensor, " v"]) -> Guess:
    """The conditional and the unconditional noise that a model predicts in renders `(t, v, 3, h, w)`."""
    reference, cameras = video[None] * 2 - 1, model.cameras(azimuths_deg.tolist())[None].to(video)
    with_video = torch.tensor([True, False], device=video.device)

    def predict(z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        z, c2w, given = (a.expand(2, *a.shape[1:]) for a in (z[None], cameras, reference))
        clean = model.denoise(z, t.expand(2), c2w, given, with_video)
        conditional, unconditional = model.schedule.eps_from_x0(z, clean, t.expand(2))
        return conditional, unconditional

    return predict


@torch.no_grad()
def guidance_step(
    scene: DynamicNeRF,
    video: Float[Tensor, "t 3 h w"] | None,
    model: FourDM | GuidanceModel,
    size: int,
    fov_deg: float,
    progress: float,
    guidance: float,
    rescale: float,
    generator: torch.Generator,
) -> Pixels:
    """Render all frames of evenly spaced views from a random azimuth on, and predict their targets, all at one t.

    Args:
        scene: not changed.
        video: the condition, in [0, 1]; None for a model that is not 4DM.
        model: predicts.
        size: of the renders, in pixels per side; they are resized for the model.
        fov_deg: vertical field of view.
        progress: of annealing, see `sds.draw_step`.
        guidance, rescale: see `sds.score_distillation`.
        generator: of azimuth, t and noise.

    Returns:
        all pixels, with 4DM's target colours in [0, 1]; with another model, with the changes of colour it asks for.
    """
    # Render: one time for each frame, one camera for each view.
    cfg, device = model.config, scene.occupancy.density.device
    frames, views = cfg.times if video is None else len(video), cfg.views
    azimuth = (torch.rand((), generator=generator) + torch.arange(views)) * (360 / views)
    c2w = circular_trajectory(azimuth, cfg.elevation_deg, cfg.radius).to(device)
    times = torch.linspace(0, 1, frames, device=device)[:, None].expand(-1, views)
    rendered = scene.render(c2w.expand(frames, -1, 4, 4), fov_deg, times, size, rays_per_side=1)
    alpha = rearrange(rendered.alpha, "t v 1 h w -> v t 1 h w")
    with torch.enable_grad():
        renders = rendered.rgb.detach().requires_grad_(isinstance(model, GuidanceModel))
        x = F.interpolate(renders.flatten(0, 1), (cfg.image_size,) * 2, mode="bilinear", antialias=True)
        x = x.unflatten(0, (frames, views))
    t = draw_step(progress, len(model.schedule.abar), generator=generator).to(device)
    options = dict(guidance=guidance, rescale=rescale, generator=generator)

    # A model with a loss of its own: the gradient at the renders, as the change of colour whose error has that slope.
    if isinstance(model, GuidanceModel):
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(model.distill(x, azimuth, t, **options).loss, renders)
        change = rearrange(gradient * (-frames * views / 4), "t v c h w -> v t c h w")
        return pixels_of(scene, change, alpha, c2w, fov_deg)

    # 4DM: the predicted clean frames, as large as the renders.
    predict = noise_predictor(model, video, azimuth)
    x0 = score_distillation(x * 2 - 1, predict, model.schedule.abar, t, **options).target
    target = F.interpolate((x0.flatten(0, 1) + 1) / 2, (size,) * 2, mode="bilinear", antialias=True)
    target = rearrange(target, "(t v) c h w -> v t c h w", t=frames)
    return pixels_of(scene, target, alpha, c2w, fov_deg)
