"""Rectified flow: learn the velocity of straight paths from noise to data, then integrate it.

    x_sigma = (1 - sigma) x + sigma eps          sigma = 0 is data, sigma = 1 is pure noise
    dx_sigma / dsigma = eps - x                  the velocity, constant along each path

4Real-Video trains its base model and its synchronisation layers with the velocity-matching loss
(section 3.3); the method is Liu et al. 2022 (arXiv 2209.03003), and the logit-normal choice of
sigma and the shift are Esser et al. 2024 (arXiv 2403.03206, sections 3.1 and 5.3.2).

Departures: none in the mathematics. The paper gives neither its distribution of sigma nor its
sampler; logit-normal and Euler are the field's usual choices.

References: diffusers' `FlowMatchEulerDiscreteScheduler` (same sign and direction as here) and
`flow_matching`'s `CondOTProbPath` (whose time is 1 - sigma, so its velocity has the opposite sign).
"""

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor


def _like(sigma: Tensor | float, x: Tensor) -> Tensor:
    """Sigma with trailing axes of length one, so that it broadcasts against x."""
    sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
    return sigma.reshape(sigma.shape + (1,) * (x.ndim - sigma.ndim))


def _check_pair(x: Tensor, eps: Tensor) -> None:
    if x.shape != eps.shape:
        raise ValueError(f"eps has shape {tuple(eps.shape)}; expected that of x, {tuple(x.shape)}.")
    if not (x.is_floating_point() and eps.is_floating_point()):
        raise ValueError(f"x and eps have types {x.dtype} and {eps.dtype}; expected floating point.")


def add_noise(x: Float[Tensor, "..."], eps: Float[Tensor, "..."], sigma: Tensor | float) -> Float[Tensor, "..."]:
    """The point at `sigma` on the path from data to noise: x_sigma = (1 - sigma) x + sigma eps.

    Args:
        x: data, any shape.
        eps: standard normal noise, the shape of `x`.
        sigma: noise level in [0, 1]; a number, or a tensor over the leading axes of `x`
            (one level per sample, per frame, ...).

    Returns:
        x_sigma, the shape of `x`.

    Raises:
        ValueError: `eps` and `x` differ in shape or are no floating point, or `sigma` does not fit or is out of range.

    >>> x, eps = torch.zeros(2, 3), torch.ones(2, 3)
    >>> add_noise(x, eps, torch.tensor([0.0, 0.25]))
    tensor([[0.0000, 0.0000, 0.0000],
            [0.2500, 0.2500, 0.2500]])
    """
    _check_pair(x, eps)
    if isinstance(sigma, Tensor) and sigma.shape != x.shape[: sigma.ndim]:
        raise ValueError(f"sigma has shape {tuple(sigma.shape)}; expected leading axes of x, {tuple(x.shape)}.")
    sigma = _like(sigma, x)
    if not torch.compiler.is_compiling() and sigma.numel() and not 0 <= sigma.min() <= sigma.max() <= 1:
        raise ValueError(f"sigma lies in [{sigma.min():g}, {sigma.max():g}]; expected noise levels in [0, 1].")
    return (1 - sigma) * x + sigma * eps


def velocity(x: Float[Tensor, "..."], eps: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The target of velocity matching, d x_sigma / d sigma = eps - x.

    >>> velocity(torch.tensor([1.0]), torch.tensor([3.0]))
    tensor([2.])
    """
    _check_pair(x, eps)
    return eps - x


def shift_sigma(sigma: Tensor, shift: float) -> Tensor:
    """Move noise levels towards 1: sigma' = s sigma / (1 + (s - 1) sigma).

    An image of more pixels needs more noise to look as destroyed; s grows with resolution. s = 1 changes nothing.

    >>> shift_sigma(torch.tensor([0.0, 0.5, 1.0]), 3.0)
    tensor([0.0000, 0.7500, 1.0000])
    """
    if not 1e-4 <= shift <= 1e4:
        raise ValueError(f"shift is {shift}; expected a number from 1e-4 to 1e4 (1 changes nothing).")
    return shift * sigma / (1 + (shift - 1) * sigma)


def sample_sigma(
    n: int,
    shift: float = 1.0,
    distribution: str = "logit_normal",
    generator: torch.Generator | None = None,
) -> Float[Tensor, " {n}"]:
    """Draw `n` noise levels in (0, 1) to train on.

    Args:
        n: how many.
        shift: see `shift_sigma`.
        distribution: "logit_normal", the logistic function of a standard normal, which favours the middle where
            the task is hardest; or "uniform".
        generator: the source of randomness; the draw is made on its device.

    Raises:
        ValueError: an unknown distribution.

    >>> sample_sigma(3, generator=torch.Generator().manual_seed(0)).shape
    torch.Size([3])
    """
    device = generator.device if generator is not None else None
    if distribution == "logit_normal":
        sigma = torch.randn(n, generator=generator, device=device).sigmoid()
    elif distribution == "uniform":
        sigma = torch.rand(n, generator=generator, device=device)
    else:
        raise ValueError(f"distribution is {distribution!r}; expected 'logit_normal' or 'uniform'.")
    return shift_sigma(sigma, shift)


def sigma_steps(n_steps: int, shift: float = 1.0) -> Float[Tensor, " {n_steps}+1"]:
    """The noise levels a sampler visits: from 1 down to 0 evenly, then shifted.

    >>> sigma_steps(4)
    tensor([1.0000, 0.7500, 0.5000, 0.2500, 0.0000])
    """
    if n_steps < 1:
        raise ValueError(f"n_steps is {n_steps}; expected at least 1.")
    return shift_sigma(torch.linspace(1, 0, n_steps + 1), shift)


def euler(
    velocity_fn: Callable[[Tensor, float], Tensor], x: Float[Tensor, "..."], n_steps: int, shift: float = 1.0
) -> Iterator[Float[Tensor, "..."]]:
    """Integrate from noise to data: x <- x + (sigma_next - sigma) v(x, sigma).

    A generator, so the caller owns the loop: draw every state, stop early, or keep only the last one.

    Args:
        velocity_fn: `(x, sigma) -> v`, with sigma a Python number in (0, 1].
        x: standard normal noise.
        n_steps: how many times the model is called.
        shift: see `shift_sigma`.

    Yields:
        n_steps + 1 states; the first is `x`, the last the sample.

    The velocity towards a single point mu is (x - mu) / sigma. Its paths are straight, so one step is exact:

    >>> *_, sample = euler(lambda x, sigma: (x - 5.0) / sigma, torch.randn(4), n_steps=1)
    >>> sample
    tensor([5., 5., 5., 5.])
    """
    levels = sigma_steps(n_steps, shift).tolist()
    yield x
    for sigma, sigma_next in pairwise(levels):
        x = x + (sigma_next - sigma) * velocity_fn(x, sigma)
        yield x
