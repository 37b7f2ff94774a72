"""Is 4DM better than its base, frame by frame? Against the truth, and against what needs no model.

The base makes every frame by itself, from noise that is new for every frame, or the same for all. New noise flickers;
shared noise may freeze. So flicker is measured by distance from the TRUTH's change, and a frozen video loses:

    first      root mean square of (x_{t+1} - x_t) - (the truth's)
    second     the same for (x_{t+2} - 2 x_{t+1} + x_t)

Pixels in [0, 1]; over the object: what it covers in the truth now, or in any frame of that view.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from fourd_minimal.systems.four_diffusion import FourDM

Videos = Float[Tensor, "b f v c h w"]


@dataclass(frozen=True)
class Score:
    """One line of the table."""

    method: str
    psnr: float
    """dB, all pixels, pooled."""
    psnr_object: float
    first: float
    second: float


def paste(truth: Videos, reference: Float[Tensor, "b f c h w"]) -> Videos:
    """Every view shows what the input shows."""
    return reference[:, :, None].expand_as(truth)


def base_per_frame(
    base: FourDM, reference: Tensor, cameras: Tensor, shared: bool, n_steps: int, guidance: float, seed: int
) -> Videos:
    """Every frame by itself; pixels in [-1, 1]."""
    b, f, c, h, w = reference.shape
    v, generator = cameras.shape[1], torch.Generator().manual_seed(seed)
    noise = torch.randn(b, 1 if shared else f, v, c, h, w, generator=generator).expand(b, f, -1, -1, -1, -1)
    alone = rearrange(noise, "b f v c h w -> (b f) 1 v c h w")
    poses = cameras.repeat_interleave(f, 0)
    *_, made = base.denoising(reference.flatten(0, 1)[:, None], poses, n_steps, guidance, noise=alone)
    return rearrange(made, "(b f) 1 v c h w -> b f v c h w", f=f)


def covered(truth: Videos) -> Bool[Tensor, "b f v c h w"]:
    """Where the object is, now or in any frame of the view; pixels in [0, 1], on white."""
    return (truth.amin(3, keepdim=True) < 0.99).amax(1, keepdim=True).expand_as(truth)


def score(method: str, made: Videos, truth: Videos) -> Score:
    """Pixels in [0, 1]."""
    on, error = covered(truth), (made - truth).square()
    changes = []
    for order in (1, 2):
        off = made.diff(n=order, dim=1) - truth.diff(n=order, dim=1)
        changes.append(off[on[:, order:]].square().mean().sqrt().item())
    db = (-10 * e.mean().log10().item() for e in (error, error[on]))
    return Score(method, *db, *changes)


def compare(
    model: FourDM,
    base: FourDM,
    truth: Videos,
    reference: Tensor,
    cameras: Tensor,
    n_steps: int = 32,
    guidance: float = 2.0,
    seeds: tuple[int, ...] = (0, 1, 2),
) -> tuple[list[Score], dict[str, Videos]]:
    """4DM, the base with both noises, and pasting; every method with every seed. Truth and reference in [-1, 1]."""
    makers: dict[str, Callable[[int], Tensor]] = {
        "paste the reference": lambda seed: paste(truth, reference),
        "base per frame, noise of its own": lambda s: base_per_frame(
            base, reference, cameras, False, n_steps, guidance, s
        ),
        "base per frame, shared noise": lambda s: base_per_frame(base, reference, cameras, True, n_steps, guidance, s),
        "4DM": lambda s: list(model.denoising(reference, cameras, n_steps, guidance, seed=s))[-1],
    }
    scores, films, real = [], {}, (truth + 1) / 2
    for name, make in makers.items():
        for seed in seeds:
            made = ((make(seed) + 1) / 2).clamp(0, 1)
            films.setdefault(name, made)
            scores.append(score(name, made, real))
    still = real[:, :1].expand_as(real)
    scores.append(score("the truth, frozen at its first frame", still, real))
    return scores, films
