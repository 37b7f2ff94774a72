"""What the baselines that optimise a scene share: one step of score distillation, and one loop.

Each asks a guidance model about renders of its own choice. What is the same: cameras stand evenly around the object
from a random azimuth u on, all of them see the chosen moments, and the model, conditioned on the video's frames of
these moments, predicts the clean renders (`sds.py`):

    x = render(u + 360 i / views, moments),     target = x0(x_t)         one noise level t for all

Their `optimise_steps(video, model, n_steps, seed, ...)` have in common: a `video` `(t, 3, h, w)` of an object over
white, in [0, 1], as large as the model's frames, seen from azimuth 0; `base`, the multi-view model without motion
modules; `n_steps` of all stages together; a `seed` of everything random; `fov_deg`, the vertical field of view;
`guidance` of the model, 1 is none; `pixels`, at which a step takes its gradient; `guidance_every`, the steps that one
guidance step serves. They raise a ValueError of what `check_inputs` refuses.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from fourd_minimal.cameras import circular_trajectory
from fourd_minimal.sds import score_distillation
from fourd_minimal.systems.dynamic_nerf import DynamicNeRF, Pixels, pixels_of
from fourd_minimal.systems.four_diffusion import FourDM
from fourd_minimal.systems.guidance import noise_predictor
from fourd_minimal.systems.pixels import check_pixels
from fourd_minimal.systems.scene_distillation import off_white

Scene = TypeVar("Scene")


class Guided(NamedTuple):
    """Renders, and what the guidance model makes of them."""

    c2w: Float[Tensor, "v 4 4"]
    times: Float[Tensor, " t"]
    rgb: Float[Tensor, "t v 3 h w"]
    """The renders, in [0, 1]."""
    alpha: Float[Tensor, "t v 1 h w"]
    target: Float[Tensor, "t v 3 h w"]
    """The predicted clean renders, in about [0, 1], without gradient."""


def check_inputs(video: Float[Tensor, "t 3 h w"], model: FourDM, n_steps: int, least: int) -> None:
    """Refuse a video of another size or with NaN or outside [0, 1], a model of latents, fewer steps than `least`."""
    check_pixels("video", video)
    size, channels = model.config.image_size, model.config.unet.image_channels
    if video.ndim != 4 or tuple(video.shape[1:]) != (3, size, size):
        raise ValueError(f"video has shape {tuple(video.shape)}; expected (t, 3, {size}, {size}).")
    if channels != 3:
        raise ValueError(f"base works on {channels} latent channels; expected 3 colours.")
    if n_steps < least:
        raise ValueError(f"n_steps is {n_steps}; expected at least {least}.")


def random_turn(views: int, generator: torch.Generator) -> Float[Tensor, " v"]:
    """Azimuths, in degrees, of cameras evenly around the object, from a random one on."""
    return (torch.rand((), generator=generator) + torch.arange(views)) * (360 / views)


def orbit(model: FourDM, azimuths_deg: Tensor, like: Tensor) -> Float[Tensor, "v 4 4"]:
    """Cameras at the elevation and distance that the model knows, on the device of another tensor."""
    return circular_trajectory(azimuths_deg, model.config.elevation_deg, model.config.radius).to(like)


@torch.no_grad()
def guided(
    scene: Any,
    video: Float[Tensor, "t 3 h w"],
    model: FourDM,
    azimuths_deg: Float[Tensor, " v"],
    t: Tensor | int,
    fov_deg: float,
    generator: torch.Generator,
    frames: slice = slice(None),
    **options: Any,
) -> Guided:
    """Render `frames` of a scene from all cameras, and let the guidance model predict the clean renders.

    Args:
        scene: anything with `render(c2w, fov_deg, time, size)`; the video spans its times [0, 1].
        video: of which `frames` alone condition the model.
        t: noise level.
        generator: of the noise.
        options: of `score_distillation`.
    """
    c2w, times = orbit(model, azimuths_deg, video), torch.linspace(0, 1, len(video), device=video.device)[frames]
    cameras, moments = c2w.expand(len(times), -1, 4, 4), times[:, None].expand(-1, len(c2w))
    seen = scene.render(cameras, fov_deg, moments, video.shape[-1])
    guess, t = noise_predictor(model, video[frames], azimuths_deg), torch.as_tensor(t, device=video.device)
    target = score_distillation(seen.rgb * 2 - 1, guess, model.schedule.abar, t, generator=generator, **options).target
    return Guided(c2w, times, seen.rgb, seen.alpha, (target + 1) / 2)


def target_pixels(scene: DynamicNeRF, found: Guided, fov_deg: float) -> Pixels:
    """The pixels of the target where it or the render shows something; elsewhere there is nothing to learn."""
    target, alpha = (rearrange(a, "t v c h w -> v t c h w") for a in (found.target, found.alpha))
    views, _, _, h, w = target.shape
    pixels = pixels_of(scene, target, alpha, found.c2w, fov_deg)
    pixels = pixels._replace(times=repeat(found.times, "t -> (v t h w)", v=views, h=h, w=w)).occupied()
    return pixels._replace(alpha=off_white(pixels.rgb[..., None, None]).flatten())


def descend(
    scene: Scene,
    optimiser: torch.optim.Optimizer,
    loss: Callable[[int], Tensor],
    n_steps: int,
    rate: Callable[[float], float] = lambda done: 1.0,
) -> Iterator[Scene]:
    """Follow the gradient of a loss, yielding the scene after every step.

    `loss` is a function of the step's number; `rate`, of the share of steps done, says what is left of the first rates.
    """
    starts = [group["lr"] for group in optimiser.param_groups]
    for step in range(n_steps):
        for group, start in zip(optimiser.param_groups, starts, strict=True):
            group["lr"] = start * rate(step / n_steps)
        optimiser.zero_grad()
        loss(step).backward()
        optimiser.step()
        yield scene
