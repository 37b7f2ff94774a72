"""Every frame of the fixed-view video becomes a freeze-time video on its own: columns that know nothing of each other.

4Real-Video's experiments use MotionCtrl (Wang et al. 2024, arXiv 2312.03641) in this way: from one picture and a camera
path it makes a freeze-time video; from t pictures t of them, which side by side are a grid:

    x[:, t] ~ p(column | its first frame I[0, t]), for every t > 0          x[:, 0] is given

What one frame does not tell is drawn anew at every time: backs of objects, what they hide. So the rows flicker.

Departures. 4Real-Video's base in small has no camera conditioning. It knows the path from its first frame alone: a
column may go round the object in the wrong sense, or too far. MotionCtrl knows the path, so this is weaker than it.

Ours, off by default: `shared_noise` gives all columns the same noise, which ties the rows together and does not make
them right. With `candidates` the path gets in after all: of so many noises, the columns share the one that remakes the
given freeze-time video best from its first frame.
"""

from collections.abc import Iterator
from copy import copy
from functools import partial

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from fourd_minimal.rectified_flow import euler
from fourd_minimal.systems.four_real_video import FourRealVideo

Columns = Float[Tensor, "k b v c h w"]


def complete(
    fixed_view: Tensor,
    freeze_time: Tensor,
    base: FourRealVideo,
    n_steps: int = 8,
    seed: int = 0,
    shared_noise: bool = False,
    candidates: int = 1,
) -> Float[Tensor, "v t 3 h w"]:
    """As `FourRealVideo.generate`: two videos in, a grid out, in [0, 1]. Each frame of the fixed view starts a column.

    Args: as there, and
        base: only its base model is used. `from_pretrained("toy", sync="average")` loads the one that was trained on
            single videos; joint training changes it.
        shared_noise: the same for all columns.
        candidates: noises to choose the shared one from, by the first column. Each costs as much as a column.

    >>> base = FourRealVideo.from_pretrained("toy", sync="average")
    >>> complete(torch.zeros(3, 3, 24, 24), torch.zeros(2, 3, 24, 24), base, n_steps=1).shape
    torch.Size([2, 3, 3, 24, 24])
    """
    model = copy(base)  # `generate` as it is, with another sampler
    model.sample_grid = partial(sample_columns, base, shared_noise=shared_noise, candidates=candidates)
    return model.generate(fixed_view, freeze_time, n_steps, seed)


def sample_columns(
    base: FourRealVideo,
    clean: Float[Tensor, "b v t c h w"],
    n_steps: int = 8,
    seed: int = 0,
    known: Tensor | None = None,
    shared_noise: bool = False,
    candidates: int = 1,
) -> Iterator[Float[Tensor, "b v t c h w"]]:
    """As `FourRealVideo.sample_grid`, every column on its own: from noise to grids in [-1, 1], yielding every state."""
    if candidates < 1 or (candidates > 1 and not shared_noise):
        raise ValueError(f"candidates is {candidates}; expected 1, or more with shared_noise=True.")
    columns = rearrange(clean, "b v t c h w -> t b v c h w")
    given, unknown = columns[0], columns[1:]
    drawn = candidates if shared_noise else len(unknown)
    noise = torch.randn(drawn, *given.shape, generator=torch.Generator().manual_seed(seed)).to(clean)
    if shared_noise:
        noise = best_noise(base, given, noise, n_steps).expand_as(unknown)
    for state in walk(base, unknown, noise, n_steps):
        yield rearrange(torch.cat([given[None], state]), "t b v c h w -> b v t c h w")


@torch.no_grad()
def walk(base: FourRealVideo, columns: Columns, noise: Columns, n_steps: int) -> Iterator[Columns]:
    """Freeze-time videos from the first frames of `columns`, all as one batch."""
    clean = columns.flatten(0, 1)
    seen = (torch.arange(clean.shape[1], device=clean.device) == 0).expand(clean.shape[:2])
    first = seen[:, :, None, None, None]

    def velocity(x: Tensor, sigma: float) -> Tensor:
        levels = torch.full((len(x),), sigma, device=x.device)
        predicted = base.denoise_video(x, levels, seen, clean, "freeze")
        return torch.where(first, 0.0, (x - predicted) / sigma)

    for state in euler(velocity, torch.where(first, clean, noise.flatten(0, 1)), n_steps, base.config.shift):
        yield state.unflatten(0, columns.shape[:2])


def best_noise(
    base: FourRealVideo, given: Float[Tensor, "b v c h w"], noise: Columns, n_steps: int
) -> Float[Tensor, "1 b v c h w"]:
    """Of k noises for each grid, the one from which the base makes the given freeze-time video, as nearly as any."""
    if len(noise) == 1:
        return noise
    *_, made = walk(base, given.expand_as(noise), noise, n_steps)
    nearest = (made - given).square().flatten(2).mean(2).argmin(0)
    return noise[nearest, torch.arange(len(nearest), device=nearest.device)][None]
