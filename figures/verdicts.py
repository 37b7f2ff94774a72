"""From the scores of an ablation to verdicts: pooled numbers, intervals, and the paper's claims.

A run's scores are what `ablation.score` makes: for each setting ("simple, 1": family, sampling steps) and region, lists
with one entry per scene. A claim compares two arms on the same scenes, all families in one exam, moving pixels. It

    holds               if the whole 95% interval of the gain lies above 0
    does not hold       if it lies below
    cannot be told      otherwise, at this scale

The interval covers other scenes and other seeds. The rule stood before the numbers did.
"""

from collections.abc import Mapping, Sequence
from itertools import chain

import torch

from fourd_minimal.training.evaluation import TRIVIAL, in_words, paired
from fourd_minimal.training.multiview_evaluation import Score, gain
from fourd_minimal.training.tables import table

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


def paired_gain(
    ours: list[dict], other: list[dict], setting: str, region: str, draws: int = 4000
) -> tuple[float, float, float]:
    """PSNR gained over another arm on the same scenes, in dB, with the ends of a 95% interval over scenes and seeds.

    The interval is that of `evaluation.paired`.

    Raises:
        ValueError: different numbers of runs, unless one arm has a single one.
    """
    if len(ours) != len(other) and 1 not in (len(ours), len(other)):
        raise ValueError(f"ours has {len(ours)} runs and other {len(other)}; expected as many, or one,.")
    return paired([[run["scores"][setting][region][0] for run in runs] for runs in (ours, other)], draws)


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


def gain_table(scores: Sequence[Score], questions: Mapping[str, tuple[str, str]], judge: bool = True) -> str:
    """Questions down; PSNR over the object, and how much nearer the differences are to the truth's.

    Args:
        scores: of all methods that are asked about.
        questions: each with the method that should be better, and the other.
        judge: say the verdict beside each gain.
    """
    rows = []
    for question, (better, other) in questions.items():
        gains = (gain(scores, better, other, what) for what in ("error", "first", "second"))
        rows.append([question, *(in_words(found, judge) for found in gains)])
    return table(["", "PSNR, object", "first difference", "second difference"], rows)
