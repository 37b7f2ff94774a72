"""Is a completed grid right? Against the truth, beside completions that need no model, with intervals over scenes.

PSNR is pooled: one mean squared error over all scenes, then decibels. (The mean of per-scene PSNRs is inflated by
scenes where nothing moves.) Only unknown cells count, over all pixels and over moving pixels: those covered by an
object now, or in the first frame of the same view. The background hides everything else.

Two numbers ask, by the scene's true geometry, whether frames agree with each other:

    flicker               the colour of a surface point now, and at the next time in the same view
    reprojection error    the colour of a surface point here, and from the next viewpoint at the same time

Both are mean absolute differences of colours in [0, 1] over surface points that both frames see. The truth itself does
not score 0, since pixels are coarse and faces turn in the light: compare with its number. Neither asks whether the
frames are right: frames without an object agree perfectly.
"""

import math
from collections.abc import Callable, Sequence
from statistics import mean, stdev

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from fourd_minimal.cameras import look_up, pixel_grid, project, rays
from fourd_minimal.data.procedural import HELD_OUT, sample_scenes
from fourd_minimal.data.scene_record import SceneRecord
from fourd_minimal.systems.conditioning import known_cells
from fourd_minimal.systems.four_real_video import FourRealVideo

Grids = Float[Tensor, "n v t 3 h w"]
Pixels = Bool[Tensor, "n v t 1 h w"]
STUDENT_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}
"""Half width of a 95% interval of the mean of n runs, in standard errors (Student's t)."""


def copy_row(grids: Grids) -> Grids:
    """Every view sees what the fixed view sees."""
    return grids[:, :1].expand_as(grids)


def copy_column(grids: Grids) -> Grids:
    """Time never passes."""
    return grids[:, :, :1].expand_as(grids)


def sum_of_differences(grids: Grids) -> Grids:
    """What changed with the view plus what changed with time: I[v, 0] + I[0, t] - I[0, 0]."""
    return (grids[:, :1] + grids[:, :, :1] - grids[:, :1, :1]).clamp(0, 1)


TRIVIAL: dict[str, Callable[[Grids], Grids]] = {
    "copy row": copy_row,
    "copy column": copy_column,
    "sum of differences": sum_of_differences,
}
"""Completions that need no model, from the first row and the first column alone; pixels in [0, 1]."""


def predict(model: FourRealVideo, grids: Grids, n_steps: int, seed: int = 0, batch: int = 16) -> Grids:
    """Complete grids from their first rows and columns; pixels in [0, 1] in and out."""
    device, parts = next(model.parameters()).device, []
    for i in range(0, len(grids), batch):
        *_, sample = model.sample_grid(grids[i : i + batch].to(device) * 2 - 1, n_steps, seed + i)
        parts.append(((sample + 1) / 2).clamp(0, 1).to(grids.device))
    return torch.cat(parts)


def held_out(model: FourRealVideo, family: str, scenes: int = 64) -> SceneRecord:
    """Scenes no training run has seen, at the model's size."""
    return sample_scenes(scenes, model.views, model.times, model.image_size, HELD_OUT, family)


def moving_pixels(alpha: Float[Tensor, "n v t 1 h w"]) -> Pixels:
    """Covered by an object now, or at the first time in the same view."""
    return torch.maximum(alpha, alpha[:, :, :1]) > 0.5


def squared_errors(
    predicted: Grids, truth: Grids, pixels: Pixels | None = None
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Per scene: the sum of squared errors over unknown cells (of the chosen pixels), and how many numbers it sums."""
    chosen = (~known_cells(*truth.shape[1:3]))[..., None, None, None].expand(*truth.shape[:3], 1, *truth.shape[4:])
    chosen = (chosen if pixels is None else chosen & pixels).expand_as(truth)
    error = torch.where(chosen, (predicted - truth).square(), 0.0)
    return error.flatten(1).sum(1), chosen.flatten(1).sum(1).float()


def psnr(predicted: Grids, truth: Grids, pixels: Pixels | None = None) -> float:
    """Pooled PSNR in dB over the unknown cells, of all pixels or of the chosen ones; pixels in [0, 1]."""
    error, count = squared_errors(predicted, truth, pixels)
    return -10 * (error.sum() / count.sum()).log10().item()


def from_view(
    record: SceneRecord, there: int, here: slice
) -> tuple[Float[Tensor, "n v t h w 2"], Bool[Tensor, "n v t 1 h w"]]:
    """Where the surfaces seen in views `here` lie in view `there` at the same time, and which of them it sees.

    It sees what is no deeper than its depth map, read at the nearest pixel: near edges that is a guess.
    """
    h, w = record.rgb.shape[-2:]
    depth = record.depth[:, here, :, 0]
    origins, directions = rays(record.c2w[:, here], record.fov_deg, (h, w))
    points = origins[:, :, None, None, None] + depth[..., None] * directions[:, :, None]
    camera = record.c2w[:, there, None, None, None, None]
    xy, distance = project(points, camera, record.fov_deg, (h, w))
    first = record.depth[:, there : there + 1].expand(-1, depth.shape[1], -1, -1, -1, -1)
    first = look_up(first, xy, "nearest")[:, :, :, 0]
    inside = ((xy >= 0) & (xy <= torch.tensor([w, h]).to(xy))).all(-1)
    seen = (depth > 0) & (first > 0) & inside & (distance < first + 0.1)  # 0.1: a pixel's slope on a unit-sized object
    return xy, rearrange(seen, "n v t h w -> n v t 1 h w")


def hidden_from_fixed_view(record: SceneRecord) -> Pixels:
    """Surfaces that the fixed view does not show at that time: what only another view can know.

    Raises:
        ValueError: a record without `in_fixed_view`, as of a rendered asset.
    """
    if record.in_fixed_view is None:
        raise ValueError("record has no in_fixed_view; take procedural scenes with geometry=True.")
    return (record.depth > 0) & ~record.in_fixed_view


def flicker(grids: Grids, record: SceneRecord) -> float:
    """Change of colour along the true optical flow, over the unknown views' objects, in [0, 1].

    Raises:
        ValueError: a record rendered without geometry.
    """
    if record.flow is None:
        raise ValueError("record has no flow; render it with geometry=True.")
    now, flow = grids[:, 1:, :-1], rearrange(record.flow[:, 1:, :-1], "n v t c h w -> n v t h w c")
    later = look_up(grids[:, 1:, 1:], pixel_grid(grids.shape[-2:])[:, :, 0].to(flow) + flow)
    both = record.visible[:, 1:, :-1] & (record.depth[:, 1:, :-1] > 0)
    return (later - now).abs()[both.expand_as(now)].mean().item()


def reprojection_error(grids: Grids, record: SceneRecord) -> float:
    """Change of colour from each view to the next, by true depth and cameras, at the unknown times, in [0, 1]."""
    errors = []
    for view in range(1, grids.shape[1]):
        xy, seen = from_view(record, view - 1, slice(view, view + 1))
        there = look_up(grids[:, view - 1 : view, 1:], xy[:, :, 1:])
        here, seen = grids[:, view : view + 1, 1:], seen[:, :, 1:]
        errors.append((there - here).abs()[seen.expand_as(here)])
    return torch.cat(errors).mean().item()


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean over seeds and half the width of its 95% interval (Student's t); 0 for a single value."""
    if len(values) < 2:
        return mean(values), 0.0
    return mean(values), STUDENT_95[len(values)] * stdev(values) / len(values) ** 0.5


def paired(runs: Sequence[Sequence[Sequence[float]]], draws: int = 4000) -> tuple[float, float, float]:
    """PSNR gained by the first of two methods on the same scenes, in dB, and the ends of its 95% interval.

    Errors are averaged over runs, then pooled over scenes. Scenes: a bootstrap that draws the same scenes for both
    methods. Seeds, where there are several: Student's t over the gains of runs with the same seed. The two half widths
    add as the sides of a right angle, since they are independent.

    Args:
        runs: for each of the two methods, a list per run of one squared error per scene.
        draws: of scenes, with replacement.
    """
    errors = [torch.tensor(arm) for arm in runs]
    means = [error.mean(0) for error in errors]
    count = len(means[0])
    scenes = torch.randint(count, (draws, count), generator=torch.Generator().manual_seed(0))
    low, high = _decibels(means[1][scenes], means[0][scenes]).quantile(torch.tensor([0.025, 0.975])).tolist()
    gain = _decibels(means[1], means[0]).item()
    _, half = interval(_decibels(errors[1], errors[0]).tolist())
    return gain, gain - math.hypot(gain - low, half), gain + math.hypot(high - gain, half)


def _decibels(error: Tensor, than: Tensor) -> Tensor:
    """How much larger the pooled error is; runs broadcast."""
    return 10 * (error.sum(-1) / than.sum(-1)).log10()


def gain_interval(ours: Grids, other: Grids, truth: Grids, pixels: Pixels | None = None) -> tuple[float, float]:
    """95% interval over scenes of the pooled PSNR gained over `other`, in dB."""
    return paired([[squared_errors(g, truth, pixels)[0].tolist()] for g in (ours, other)])[1:]


def verdict(low: float, high: float) -> str:
    """What the 95% interval of a gain says of the claim that there is one.

    >>> verdict(0.1, 0.3), verdict(-0.3, -0.1), verdict(-0.1, 0.3)
    ('holds', 'does not hold', 'cannot tell at this scale')
    """
    return "holds" if low > 0 else "does not hold" if high < 0 else "cannot tell at this scale"


def in_words(gain: tuple[float, float, float], judged: bool = True) -> str:
    """A gain with the ends of its interval, after the verdict.

    >>> in_words((0.2, 0.1, 0.3)), in_words((0.2, 0.1, 0.3), judged=False)
    ('holds: +0.20 (+0.10 to +0.30)', '+0.20 (+0.10 to +0.30)')
    """
    middle, low, high = gain
    return (f"{verdict(low, high)}: " if judged else "") + f"{middle:+.2f} ({low:+.2f} to {high:+.2f})"
