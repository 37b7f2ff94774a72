"""Denoising diffusion: a fixed schedule of noise, three things a model may predict, and DDIM.

4Diffusion (section 3) builds on ImageDream and Stable Diffusion, whose forward process is, for t = 0 ... n - 1,

    z_t = sqrt(abar_t) x + sqrt(1 - abar_t) eps,    abar_t = prod_{s<=t} (1 - beta_s)

with betas that are linear in the square root. A model may predict the noise eps, the clean x0, or the velocity
v = sqrt(abar) eps - sqrt(1 - abar) x; each determines the other two.

    eps = (z - sqrt(abar) x0) / sqrt(1 - abar)         x0 = (z - sqrt(1 - abar) eps) / sqrt(abar)

DDIM (Song et al. 2021, equation 12) samples with a few of the steps:

    z_s = sqrt(abar_s) x0 + sqrt(1 - abar_s - eta^2 var) eps + eta sqrt(var) noise
"""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor


class NoiseSchedule:
    """Betas linear in the square root, as in Stable Diffusion.

    Args:
        n_steps: of the forward process.
        beta_start, beta_end: variances of the first and the last step, in (0, 1).

    Raises:
        ValueError: betas outside of (0, 1), or no steps.

    >>> schedule = NoiseSchedule()
    >>> schedule.abar[0], schedule.abar[-1]
    (tensor(0.9991), tensor(0.0047))
    """

    def __init__(self, n_steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012):
        if n_steps < 1 or not 0 < beta_start <= beta_end < 1:
            raise ValueError(
                f"n_steps, beta_start, beta_end are {n_steps}, {beta_start}, {beta_end}; "
                "expected at least 1 step and 0 < beta_start <= beta_end < 1."
            )
        betas = torch.linspace(beta_start**0.5, beta_end**0.5, n_steps, dtype=torch.float64).square()
        self.n_steps = n_steps
        self.abar = (1 - betas).cumprod(0).float()

    def _scales(self, x: Tensor, t: Int[Tensor, "*b"]) -> tuple[Tensor, Tensor]:
        """sqrt(abar) and sqrt(1 - abar), with as many axes as x; float32 or wider, since 1 - abar is small."""
        if not x.is_floating_point():
            raise ValueError(f"x has type {x.dtype}; expected floating point.")
        if t.shape != x.shape[: t.ndim]:
            raise ValueError(f"t has shape {tuple(t.shape)}; expected the leading axes of x, {tuple(x.shape)}.")
        if t.min() < 0 or t.max() >= self.n_steps:
            raise ValueError(f"t lies in {t.min()} to {t.max()}; expected steps 0 to {self.n_steps - 1}.")
        abar = self.abar.to(x.device)[t].reshape(*t.shape, *[1] * (x.ndim - t.ndim))
        abar = abar.to(torch.promote_types(x.dtype, torch.float32))
        return abar.sqrt(), (1 - abar).sqrt()

    def add_noise(self, x: Float[Tensor, "*b"], eps: Float[Tensor, "*b"], t: Int[Tensor, "*t"]) -> Float[Tensor, "*b"]:
        """z_t; `t` has the leading axes of `x`, or none.

        >>> NoiseSchedule().add_noise(torch.ones(1), torch.zeros(1), torch.tensor([999]))
        tensor([0.0683])
        """
        signal, noise = self._scales(x, t)
        return (signal * x + noise * eps).to(x.dtype)

    def velocity(self, x: Float[Tensor, "*b"], eps: Float[Tensor, "*b"], t: Int[Tensor, "*t"]) -> Float[Tensor, "*b"]:
        """v of (x, eps)."""
        signal, noise = self._scales(x, t)
        return (signal * eps - noise * x).to(x.dtype)

    def x0_from_eps(
        self, z: Float[Tensor, "*b"], eps: Float[Tensor, "*b"], t: Int[Tensor, "*t"]
    ) -> Float[Tensor, "*b"]:
        """The clean x, from z_t and its noise."""
        signal, noise = self._scales(z, t)
        return ((z - noise * eps) / signal).to(z.dtype)

    def eps_from_x0(self, z: Float[Tensor, "*b"], x0: Float[Tensor, "*b"], t: Int[Tensor, "*t"]) -> Float[Tensor, "*b"]:
        """The noise, from z_t and its clean x."""
        signal, noise = self._scales(z, t)
        return ((z - signal * x0) / noise).to(z.dtype)

    def x0_from_velocity(
        self, z: Float[Tensor, "*b"], v: Float[Tensor, "*b"], t: Int[Tensor, "*t"]
    ) -> Float[Tensor, "*b"]:
        """The clean x, from z_t and its velocity."""
        signal, noise = self._scales(z, t)
        return (signal * z - noise * v).to(z.dtype)

    def eps_from_velocity(
        self, z: Float[Tensor, "*b"], v: Float[Tensor, "*b"], t: Int[Tensor, "*t"]
    ) -> Float[Tensor, "*b"]:
        """The noise, from z_t and its velocity."""
        signal, noise = self._scales(z, t)
        return (noise * z + signal * v).to(z.dtype)

    def visited(self, n_steps: int) -> list[int]:
        """The steps that DDIM takes, the noisiest first: evenly spaced, and 1 at the end (ImageDream's choice).

        Few steps begin well below the noisiest level, 4 of 1000 at 751, though the sample begins as pure noise.

        >>> NoiseSchedule().visited(4)
        [751, 501, 251, 1]
        """
        if not 1 <= n_steps <= self.n_steps // 2:
            raise ValueError(f"n_steps is {n_steps}; expected 1 to {self.n_steps // 2}.")
        return [1 + i * (self.n_steps // n_steps) for i in reversed(range(n_steps))]


def ddim(
    eps_fn: Callable[[Tensor, Int[Tensor, ""]], Tensor],
    x: Float[Tensor, "*b"],
    schedule: NoiseSchedule,
    n_steps: int,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
    to_clean: bool = False,
) -> Iterator[Float[Tensor, "*b"]]:
    """From noise to a sample; yields the state after every step, the last is the sample.

    Args:
        eps_fn: `(z_t, t)` -> the noise that the model predicts, after guidance where there is any.
        x: the start, pure noise.
        schedule: of the forward process.
        n_steps: how many of its steps to visit.
        eta: 0 adds no noise on the way, 1 as much as DDPM.
        generator: of that noise.
        to_clean: end at abar = 1; otherwise at abar_0, as Stable Diffusion does, whose latents tolerate that noise.

    >>> point = torch.tensor([2.0])                                      # data that is one point: eps is known
    >>> schedule = NoiseSchedule()
    >>> exact = lambda z, t: schedule.eps_from_x0(z, point, t)
    >>> *_, sample = ddim(exact, torch.randn(1), schedule, 10, to_clean=True)
    >>> sample.round(decimals=1)
    tensor([2.])
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}; expected a number in [0, 1].")
    steps = schedule.visited(n_steps)
    for t, following in zip(steps, [*steps[1:], None], strict=True):
        now = torch.tensor(t, device=x.device)
        eps = eps_fn(x, now)
        clean = schedule.x0_from_eps(x, eps, now)
        end = 1.0 if to_clean else schedule.abar[0].item()
        abar, after = schedule.abar[t].item(), end if following is None else schedule.abar[following].item()
        variance = eta**2 * (1 - after) / (1 - abar) * (1 - abar / after)
        x = after**0.5 * clean + (1 - after - variance) ** 0.5 * eps
        if eta:
            x = x + variance**0.5 * torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        yield x
