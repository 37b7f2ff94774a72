"""Is 4DM better than its base, frame by frame? Against the truth, and against what needs no model.

The base makes every frame by itself, from noise that is new for every frame, or the same for all. New noise flickers;
shared noise may freeze. So flicker is measured by the distance from the TRUTH's change, and a frozen video loses:

    first      root mean square of (x_{t+1} - x_t) - (the truth's)
    second     the same for (x_{t+2} - 2 x_{t+1} + x_t)

Pixels in [0, 1]; over the object: what it covers in the truth in any frame of that view.

Departures: the paper's table has CLIP-I, CLIP-C (which compares frames of one video), FVD, LPIPS and PSNR; change over
time is measured here against the truth's, since a frozen video is best in CLIP-C.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from fourd_minimal.systems.four_diffusion import FourDM
from fourd_minimal.training.evaluation import interval, paired
from fourd_minimal.training.tables import table

Videos = Float[Tensor, "b f v c h w"]
PASTE, OWN, SHARED, OURS = "paste the video", "base, noise of its own", "base, shared noise", "4DM"
FROZEN = "the truth, frozen at its first frame"


@dataclass(frozen=True)
class Score:
    """One method, one seed; errors are sums over pixels and colours of the object, one per scene."""

    method: str
    seed: int
    psnr: float
    """dB, all pixels, pooled over scenes."""
    error: tuple[float, ...]
    first: tuple[float, ...]
    second: tuple[float, ...]
    count: tuple[tuple[int, int, int], ...]
    """Pixels and colours behind the three, per scene."""

    @property
    def psnr_object(self) -> float:
        """dB over the object, pooled."""
        return -10 * torch.tensor(self._mean(self.error, 0)).log10().item()

    def change(self, order: int) -> float:
        """Distance from the truth's first or second difference, pooled."""
        return self._mean(self.first if order == 1 else self.second, order) ** 0.5

    def _mean(self, sums: Sequence[float], order: int) -> float:
        return sum(sums) / max(1, sum(c[order] for c in self.count))


def paste(truth: Videos, video: Float[Tensor, "b f c h w"]) -> Videos:
    """Every view shows what the input shows."""
    return video[:, :, None].expand_as(truth)


def base_per_frame(
    base: FourDM,
    video: Float[Tensor, "b f c h w"],
    cameras: Float[Tensor, "b v 4 4"],
    shared: bool,
    n_steps: int = 10,
    guidance: float = 2.0,
    seed: int = 0,
) -> Videos:
    """Every frame by itself, by the base without motion modules; pixels in [-1, 1].

    Args:
        base, video, cameras: the model, the input videos, and cameras relative to the video's.
        shared: every frame begins with the noise of the first; else with its own.
        n_steps, guidance, seed: of DDIM; guidance 1 is none.
    """
    b, f, c, h, w = video.shape
    v, generator = cameras.shape[1], torch.Generator().manual_seed(seed)
    noise = torch.randn(b, 1 if shared else f, v, c, h, w, generator=generator).to(video).expand(b, f, -1, -1, -1, -1)
    alone = rearrange(noise, "b f v c h w -> (b f) 1 v c h w")
    poses = cameras.repeat_interleave(f, 0)
    *_, made = base.denoising(video.flatten(0, 1)[:, None], poses, n_steps, guidance, noise=alone)
    return rearrange(made, "(b f) 1 v c h w -> b f v c h w", f=f)


def covered(truth: Videos) -> Bool[Tensor, "b f v c h w"]:
    """Where the object is in any frame of the view; pixels in [0, 1], on white."""
    return (truth.amin(3, keepdim=True) < 0.99).amax(1, keepdim=True).expand_as(truth)


def score(method: str, made: Videos, truth: Videos, seed: int = 0) -> Score:
    """How far a method is from the truth; pixels in [0, 1]."""
    on, error = covered(truth), (made - truth).square()
    sums, counts = [], []
    for order in (0, 1, 2):
        if truth.shape[1] <= order:  # a single frame has no change
            off, where = error[:, :0], on[:, :0]
        else:
            off = (made.diff(n=order, dim=1) - truth.diff(n=order, dim=1)).square() if order else error
            where = on[:, order:]
        sums.append(tuple((off * where).flatten(1).sum(1).tolist()))
        counts.append(where.flatten(1).sum(1).tolist())
    psnr = -10 * error.mean().log10().item()
    return Score(method, seed, psnr, *sums, tuple(zip(*counts, strict=True)))


def compare(
    model: FourDM,
    base: FourDM,
    truth: Videos,
    video: Float[Tensor, "b f c h w"],
    cameras: Float[Tensor, "b v 4 4"],
    n_steps: int = 10,
    guidance: float = 2.0,
    seeds: Sequence[int] = (0, 1, 2),
    only: Collection[str] = (PASTE, FROZEN, OWN, SHARED, OURS),
) -> Iterator[tuple[Score, Videos]]:
    """Every method with every seed, one after the other: its score, and its videos in [0, 1].

    Args:
        model, base: 4DM, and the same without motion modules.
        truth, video, cameras: all views and the input videos, in [-1, 1]; cameras relative to the video's. Where the
            truth has a single frame, only the base is compared.
        n_steps, guidance, seeds: of DDIM; guidance 1 is none.
        only: these methods.
    """
    options = n_steps, guidance
    methods: dict[str, Callable[[int], Tensor]] = {
        OWN: lambda seed: base_per_frame(base, video, cameras, False, *options, seed),
        SHARED: lambda seed: base_per_frame(base, video, cameras, True, *options, seed),
        OURS: lambda seed: list(model.denoising(video, cameras, *options, seed=seed))[-1],
    }
    real = (truth + 1) / 2
    without_model = {PASTE: (paste(truth, video) + 1) / 2, FROZEN: real[:, :1].expand_as(real)}
    if truth.shape[1] == 1:  # no motion to compare
        only = {PASTE, OWN} & set(only)
    for name, made in without_model.items():
        if name in only:
            yield score(name, made, real), made
    for name, make in methods.items():
        for seed in seeds if name in only else ():
            made = ((make(seed) + 1) / 2).clamp(0, 1)
            yield score(name, made, real, seed), made


def score_table(scores: Sequence[Score]) -> str:
    """Methods down; mean over seeds, with the half width of its 95% interval over them."""
    rows = []
    for method in dict.fromkeys(s.method for s in scores):
        runs = [s for s in scores if s.method == method]
        columns = [[s.psnr for s in runs], [s.psnr_object for s in runs]]
        if runs[0].count[0][1]:
            columns += [[s.change(order) for s in runs] for order in (1, 2)]
        cells = []
        for digits, values in zip((2, 2, 4, 4), columns, strict=False):
            middle, half = interval(values)
            cells.append(f"{middle:.{digits}f}" + (f" ± {half:.{digits}f}" if len(values) > 1 else ""))
        rows.append([method, *cells])
    head = ["method", "PSNR, all pixels, dB", "PSNR, object, dB", "first difference", "second difference"]
    return table(head[: len(rows[0])], rows)


def gain(scores: Sequence[Score], better: str, other: str, what: str = "error") -> tuple[float, float, float]:
    """How much nearer to the truth one method is than another, in dB, with its 95% interval over scenes and seeds.

    `what` is "error" (PSNR over the object), "first" or "second" (the same for the differences).
    """
    return paired([[getattr(s, what) for s in scores if s.method == method] for method in (better, other)])
