"""Score distillation: the gradient that a diffusion model gives to renders, for whatever was rendered.

4Diffusion, section 3.3 (DreamFusion, Poole et al. 2022, in the clean-image form of MVDream and ImageDream). Renders x
are noised, and the model predicts clean images with classifier-free guidance:

    z_t = sqrt(abar_t) x + sqrt(1 - abar_t) eps
    e   = e_uncond + g (e_cond - e_uncond)
    x0  = (z_t - sqrt(1 - abar_t) e) / sqrt(abar_t),     then  x0 <- 0.2 x0 std(x0_cond) / std(x0) + 0.8 x0
    L   = 1/2 |x - sg[x0]|^2 / images                    sg: no gradient

4D-AWARE: x is every view of every frame. ONE t for all of them, noise of its own for each, one joint prediction. A
single image, four views, or each frame on its own are the same call with another model.

Why this is score distillation: x - x0 = sqrt(1 - abar) / sqrt(abar) (e - eps), so that L's gradient at the renders is
DreamFusion's, times a weight that depends on t alone. `form="eps"` leaves the weight out.

Departures: the paper's eq. 10 has a factor of 2 and no division; this loss is divided by the number of images, as in
the authors' code, so that a step size fits any number of them. Bringing x0 to another spread is in their code too.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

Guess = Callable[[Tensor, Int[Tensor, ""]], tuple[Tensor, Tensor]]
"""Noisy images and t -> the conditional and the unconditional prediction of their noise."""


class Distilled(NamedTuple):
    """The result of one guidance step."""

    loss: Float[Tensor, ""]
    """Its gradient at the renders is the SDS gradient, divided by the number of images."""
    target: Float[Tensor, "*b c h w"]
    """The target of the renders, without gradient."""


def draw_step(
    progress: float,
    n_steps: int = 1000,
    highest: tuple[float, float] = (0.98, 0.25),
    lowest: tuple[float, float] = (0.98, 0.02),
    generator: torch.Generator | None = None,
) -> Int[Tensor, ""]:
    """One noise level for all views and frames: high at first, lower later (annealing).

    Args:
        progress: in [0, 1]; 4Diffusion reaches 1 after 5000 steps and stays there.
        n_steps: of the schedule.
        highest, lowest: ends of the range, as parts of the schedule, at the beginning and at the end.
        generator: of the draw.

    >>> [int(draw_step(progress)) > 900 for progress in (0.0, 1.0)]
    [True, False]
    """
    low, high = (a + (b - a) * min(max(progress, 0.0), 1.0) for a, b in (lowest, highest))
    return (n_steps * (low + (high - low) * torch.rand((), generator=generator))).long().clamp(0, n_steps - 1)


def score_distillation(
    x: Float[Tensor, "*b c h w"],
    guess: Guess,
    abar: Float[Tensor, " steps"],
    t: Int[Tensor, ""],
    guidance: float = 5.0,
    rescale: float = 0.2,
    form: str = "x0",
    generator: torch.Generator | None = None,
) -> Distilled:
    """One guidance step on renders.

    Args:
        x: renders in [-1, 1], or latents: one image, four views, or four views of eight frames.
        guess: the model; one without a condition returns the same noise twice.
        abar: what is left of the image's variance after each step of its schedule.
        t: one noise level for all.
        guidance: g; 1 is none.
        rescale: the share of x0 whose standard deviation is set to that of the prediction without guidance; 0 for none,
            as for an image of one colour, whose deviation is 0.
        form: "x0" is 4Diffusion's; "eps" has the gradient e - eps, and no rescaling.
        generator: of the noise, new for every image.

    Raises:
        ValueError: a step that the schedule does not have, or another form.

    >>> abar = torch.full((1000,), 0.5)
    >>> grey = lambda z, t: (z / 0.5**0.5, z / 0.5**0.5)                       # a model of one image: all zeros
    >>> score_distillation(torch.ones(2, 3, 8, 8), grey, abar, torch.tensor(500), rescale=0.0).loss   # 3 x 8 x 8 / 2
    tensor(96.)
    """
    if not 0 <= t < len(abar):
        raise ValueError(f"t is {t}; expected a step of the schedule, 0 to {len(abar) - 1}.")
    if not abs(guidance) <= 1e4 or not 0 <= rescale <= 1:
        raise ValueError(f"guidance, rescale are {guidance}, {rescale}; expected a finite number, and a share of 1.")
    if form not in ("x0", "eps"):
        raise ValueError(f"form is {form!r}; expected 'x0' or 'eps'.")
    wide = torch.promote_types(x.dtype, torch.float32)  # 1 - abar is small, and the loss a sum of many
    signal, noise = abar[t].to(x.device, wide).sqrt(), (1 - abar[t].to(x.device, wide)).sqrt()
    with torch.no_grad():
        eps = torch.randn(x.shape, generator=generator).to(x.device, wide)
        z = signal * x + noise * eps
        conditional, unconditional = (predicted.to(wide) for predicted in guess(z.to(x.dtype), t))
        e = unconditional + guidance * (conditional - unconditional)
        if form == "eps":
            target = x - (e - eps)
        else:
            target, unguided = (z - noise * e) / signal, (z - noise * conditional) / signal
            if rescale:
                target = target * (1 - rescale + rescale * unguided.std() / target.std())
    images = x[..., 0, 0, 0].numel()
    return Distilled(0.5 * (x - target).square().sum() / images, target.to(x.dtype))
