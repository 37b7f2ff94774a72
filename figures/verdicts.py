"""From the scores of an ablation to verdicts: pooled numbers, intervals, and the paper's claims.

A run's scores are what `ablation.score` makes: for each setting ("simple, 1": family, sampling steps) and region, lists
with one entry per scene. A claim compares two arms on the same scenes, all families in one exam, moving pixels. It

    holds               if the whole 95% interval of the gain lies above 0
    does not hold       if it lies below
    cannot be told      otherwise, at this scale

The interval covers other scenes and other seeds. The rule stood before the numbers did.
"""

import math
from collections.abc import Sequence
from itertools import chain
from statistics import mean, stdev

import torch

from fourd_minimal.training.evaluation import TRIVIAL

STUDENT_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}
"""Half width of a 95% interval of the mean of n runs, in standard errors (Student's t)."""
BEST_TRIVIAL = "best trivial"
"""Stands for the best completion that needs no model."""
_SEQUENTIAL, _PSEUDO = "sequential, ", "soft, pseudo-4D only"
CLAIMS = {
    "trained parallel beats trained sequential": ("soft", _SEQUENTIAL + "attention trained"),
    "... also with the same kind of adapter": ("soft", _SEQUENTIAL + "adapter trained"),
    "... hard against that adapter, at equal size": ("hard", _SEQUENTIAL + "adapter trained"),
    "soft beats hard": ("soft", "hard"),
    "... also as hard of its own size": ("soft", "hard, as large as soft"),
    "untrained, eq. 12 beats eq. 5": ("average, eq. 12", _SEQUENTIAL + "eq. 5"),
    "untrained, eq. 13 beats eq. 12": ("weighted, eq. 13", "average, eq. 12"),
    "pseudo-4D alone beats no training": (_PSEUDO, "weighted, eq. 13"),
    "... and every trivial completion": (_PSEUDO, BEST_TRIVIAL),
    "3D data adds to pseudo-4D": ("soft", _PSEUDO),
    "... on surfaces that the fixed view hides": ("soft", _PSEUDO, "hidden"),
    "(ours) true grids alone beat the two stages": ("soft, 3D only", "soft"),
    "(ours) unfreezing the base adds to that": ("soft, 3D only, everything unfrozen", "soft, 3D only"),
}
"""Claim -> the arm that should be better, the other, and the region, "moving" where none is named."""
Results = dict[str, list[dict]]


def pooled_psnr(entry: list[list[float]]) -> float:
    """PSNR in dB of one run's pooled error. NaN where there are no such pixels."""
    error, count, _ = entry
    return -10 * (torch.tensor(error).sum() / torch.tensor(count).sum()).log10().item()


def pooled_ssim(entry: list[list[float]]) -> float:
    """Mean structural similarity over one run's pixels. NaN where there are none."""
    _, count, similar = entry
    return (3 * torch.tensor(similar).sum() / torch.tensor(count).sum()).item()  # three colours share one value


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean over seeds and half the width of its 95% interval (Student's t); 0 for a single value."""
    if len(values) < 2:
        return mean(values), 0.0
    return mean(values), STUDENT_95[len(values)] * stdev(values) / len(values) ** 0.5


def paired_gain(
    ours: list[dict], other: list[dict], setting: str, region: str, draws: int = 4000
) -> tuple[float, float, float]:
    """PSNR gained over another arm on the same scenes, in dB, with the ends of a 95% interval over scenes and seeds.

    An arm's errors are averaged over seeds, then pooled. Scenes: a bootstrap that draws the same scenes for both arms.
    Seeds, where there are any: Student's t over the gains of runs with the same seed. The two half widths are added as
    the sides of a right angle, since the two chances are independent.

    Raises:
        ValueError: different numbers of runs, unless one arm has a single one.
    """
    if len(ours) != len(other) and 1 not in (len(ours), len(other)):
        raise ValueError(f"ours has {len(ours)} runs and other {len(other)}; expected as many, or one,.")
    return paired([[run["scores"][setting][region][0] for run in runs] for runs in (ours, other)], draws)


def paired(runs: Sequence[Sequence[Sequence[float]]], draws: int = 4000) -> tuple[float, float, float]:
    """The same from errors alone: for each of two arms, a list per run of one error per scene."""
    errors = [torch.tensor(arm) for arm in runs]
    means = [error.mean(0) for error in errors]
    count = len(means[0])
    scenes = torch.randint(count, (draws, count), generator=torch.Generator().manual_seed(0))
    low, high = _decibels(means[1][scenes], means[0][scenes]).quantile(torch.tensor([0.025, 0.975])).tolist()
    gain = _decibels(means[1], means[0]).item()
    _, half = interval(_decibels(errors[1], errors[0]).tolist())
    return gain, gain - math.hypot(gain - low, half), gain + math.hypot(high - gain, half)


def _decibels(error: torch.Tensor, than: torch.Tensor) -> torch.Tensor:
    """How much larger the pooled error is; runs broadcast."""
    return 10 * (error.sum(-1) / than.sum(-1)).log10()


def one_exam(results: Results, steps: str) -> Results:
    """Runs with a single setting "exam", all families' scenes one after the other; and the best trivial completion."""
    regions, exams = ("moving", "hidden"), {}
    for name, runs in results.items():
        exams[name] = []
        for run in runs:
            families = [scores for setting, scores in run["scores"].items() if setting.endswith(f", {steps}")]
            both = {r: [list(chain(*(f[r][i] for f in families))) for i in range(3)] for r in regions}
            exams[name].append({"seed": run.get("seed", 0), "scores": {"exam": both}})
    trivial = [exams[name] for name in TRIVIAL if name in exams]
    if trivial:
        exams[BEST_TRIVIAL] = max(trivial, key=lambda runs: pooled_psnr(runs[0]["scores"]["exam"]["moving"]))
    return exams


def share_of_flat_data(results: Results, steps: str) -> float | None:
    """How much pseudo-4D alone brings of what true grids bring over eq. 13, untrained; None where an arm is missing."""
    arms = _PSEUDO, "soft, 3D only", "weighted, eq. 13"
    if not set(arms) <= set(results):
        return None
    flat, true, untrained = (one_exam({name: results[name]}, steps)[name] for name in arms)
    gains = [paired_gain(runs, untrained, "exam", "moving")[0] for runs in (flat, true)]
    return gains[0] / gains[1]


def verdict(low: float, high: float) -> str:
    """One of three.

    >>> verdict(0.1, 0.3), verdict(-0.3, -0.1), verdict(-0.1, 0.3)
    ('holds', 'does not hold', 'cannot tell at this scale')
    """
    return "holds" if low > 0 else "does not hold" if high < 0 else "cannot tell at this scale"


def told(gain: tuple[float, float, float], judged: bool = True) -> str:
    """A gain and the ends of its interval, behind the verdict on them.

    >>> told((0.2, 0.1, 0.3)), told((0.2, 0.1, 0.3), judged=False)
    ('holds: +0.20 (+0.10 to +0.30)', '+0.20 (+0.10 to +0.30)')
    """
    middle, low, high = gain
    return (f"{verdict(low, high)}: " if judged else "") + f"{middle:+.2f} ({low:+.2f} to {high:+.2f})"


def judge(results: Results, steps: Sequence[str]) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Every claim whose arms are there: claim -> sampling steps -> gain in dB and the ends of its interval."""
    exams = {n: one_exam(results, n) for n in steps}
    judged: dict[str, dict[str, tuple[float, float, float]]] = {}
    for claim, (ours, other, *region) in CLAIMS.items():
        for n, runs in exams.items():
            if ours in runs and other in runs:
                found = paired_gain(runs[ours], runs[other], "exam", *(region or ["moving"]))
                judged.setdefault(claim, {})[n] = found
    return judged
