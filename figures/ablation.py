"""The ablation's programs and its verdicts: run what is missing, write the table.

A claim compares two arms on the same scenes, all families together, over moving pixels. It

    holds               if the whole 95% interval of the gain lies above 0
    does not hold       if it lies below
    cannot be told      otherwise, at this scale

The interval covers other scenes and other seeds. The rule stood before the numbers did.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from statistics import mean
from typing import Literal

import torch

from figures.ablation_runs import ARMS, Ablation
from figures.page import Page, check_choice, check_counts
from fourd_minimal.cli.main import program
from fourd_minimal.configs.four_real_video import PRESETS, FourRealVideoPreset
from fourd_minimal.configs.presets import device
from fourd_minimal.systems.four_real_video import FourRealVideo
from fourd_minimal.training.evaluation import TRIVIAL, interval, paired, verdict
from fourd_minimal.training.tables import made_by, table

REFERENCE = "soft"
"""The arm that all others are compared with, scene by scene."""
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
HEAD = [
    "design", "all", "moving", "hidden", "SSIM, moving", "flicker", "reprojection", "trained", "GFLOP", "rate",
    f"gain over {REFERENCE}",
]  # fmt: skip
Results = dict[str, list[dict]]
"""Arm -> its runs, one for each seed, as `ablation_runs` writes them."""


def pooled_psnr(entry: list[list[float]]) -> float:
    """PSNR in dB of one run's pooled error. NaN where there are no such pixels."""
    error, count, _ = entry
    return -10 * (torch.tensor(error).sum() / torch.tensor(count).sum()).log10().item()


def pooled_ssim(entry: list[list[float]]) -> float:
    """Mean structural similarity over one run's pixels. NaN where there are none."""
    _, count, similar = entry
    return (3 * torch.tensor(similar).sum() / torch.tensor(count).sum()).item()  # three colours share one value


def paired_gain(ours: list[dict], other: list[dict], setting: str, region: str) -> tuple[float, float, float]:
    """PSNR gained over another arm on the same scenes, in dB, with its 95% interval over scenes and seeds."""
    return paired([[run["scores"][setting][region][0] for run in runs] for runs in (ours, other)])


def together(results: Results, steps: str) -> Results:
    """Runs with a single setting "all", all families' scenes one after the other; and the best trivial completion."""
    found: Results = {}
    for name, runs in results.items():
        found[name] = []
        for run in runs:
            families = [scores for setting, scores in run["scores"].items() if setting.endswith(f", {steps}")]
            both = {r: [list(chain(*(f[r][i] for f in families))) for i in range(3)] for r in ("moving", "hidden")}
            found[name].append({"scores": {"all": both}})
    if trivial := [found[name] for name in TRIVIAL if name in found]:
        found[BEST_TRIVIAL] = max(trivial, key=lambda runs: pooled_psnr(runs[0]["scores"]["all"]["moving"]))
    return found


def judge(results: Results, steps: Sequence[str]) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Every claim whose arms are there: claim -> sampling steps -> gain in dB and the ends of its interval."""
    judged: dict[str, dict[str, tuple[float, float, float]]] = {}
    for n in steps:
        runs = together(results, n)
        for claim, (ours, other, *region) in CLAIMS.items():
            if ours in runs and other in runs:
                found = paired_gain(runs[ours], runs[other], "all", *(region or ["moving"]))
                judged.setdefault(claim, {})[n] = found
    return {claim: judged[claim] for claim in CLAIMS if claim in judged}


def share_of_flat_data(results: Results, steps: str) -> float | None:
    """How much pseudo-4D alone brings of what true grids bring over eq. 13, untrained; None where an arm is missing."""
    arms = _PSEUDO, "soft, 3D only", "weighted, eq. 13"
    if not set(arms) <= set(results):
        return None
    flat, true, untrained = (together(results, steps)[name] for name in arms)
    gains = [paired_gain(runs, untrained, "all", "moving")[0] for runs in (flat, true)]
    return gains[0] / gains[1]


@dataclass(frozen=True)
class Ablate:
    """Train every design of the paper on equal terms and compare them with the truth. Run it again, and it goes on."""

    weights: str = "toy"
    """All designs share this frozen base: "toy", or a folder that `fourd train` wrote."""
    preset: Literal["smoke", "cpu", "gpu", "full"] = "cpu"
    """The settings below come from this preset, which must fit the weights."""
    out: Path = Path("runs/ablation")
    """The tables go into this folder, and into its `ablation_runs` one small file per finished run."""
    seeds: int = 3
    """Each trained design runs so often, at most 10 times."""
    steps: int = 300
    """Each run takes so many training steps."""
    rate_steps: int = 150
    """The short runs that choose each design's learning rate take so many."""
    rates: tuple[float, ...] = (7e-4, 2e-3, 6e-3)
    """Learning rates to begin with; the search goes on beyond the end where the best one stands. One: no search."""
    scenes: int = 64
    """So many held-out scenes of each family are the test."""
    families: tuple[str, ...] = ("simple", "hard")
    """Validation and test are of these families of `data.procedural`; better some that the preset trains on."""
    arms: tuple[str, ...] = ()
    """Only these designs run; all by default."""
    settings: FourRealVideoPreset = field(default_factory=lambda: PRESETS["cpu"])
    """The preset's values, to be changed one by one; its seed, and the steps and rates on grids, are those above."""

    def run(self) -> None:
        """Go on where the last call stopped, then write `ablation.md` and `.json` of everything that is there."""
        check_counts(self, seeds=1, steps=1, rate_steps=1, scenes=1)
        if not self.rates or not all(0 < rate < 1 for rate in self.rates) or self.seeds > 10:
            raise ValueError(f"--rates is {self.rates}, --seeds {self.seeds}; expected rates in (0, 1), 1 to 10 seeds.")
        for name in self.arms:
            check_choice("--arms", name, ARMS)
        base = FourRealVideo.from_pretrained(self.weights, "weighted").to(device())
        if replace(base.config, sync=self.settings.model.sync) != self.settings.model:
            raise ValueError(
                f"--preset {self.preset} has another model than the weights '{self.weights}': train its own with "
                f"`fourd train --preset {self.preset}`, and name them with --weights."
            )
        sizes = dict(steps=self.steps, rate_steps=self.rate_steps, rates=self.rates)
        sizes |= dict(scenes=self.scenes, families=self.families, seeds=tuple(range(self.seeds)), device=device())
        runs = Ablation(self.settings, base, self.out / "ablation_runs", **sizes)
        began = time.perf_counter()
        for done in runs.run({name: arm for name, arm in ARMS.items() if not self.arms or name in self.arms}):
            print(f"{(time.perf_counter() - began) / 60:.0f} min: {done}", flush=True)
        results, page = runs.results(), Page("ablation", self.out)
        page.say(*self.report(results))
        page.write(results)

    def report(self, results: Results) -> list[str]:
        """The claims, then one table per family and number of sampling steps."""
        trained = [run for runs in results.values() for run in runs if "device" in run]
        on = ", ".join(sorted({run["device"] for run in trained}))
        seconds = [run["seconds"] for run in trained if "seconds" in run]
        minutes = f", {mean(seconds) / 60:.1f} minutes each" if seconds else ""
        parts = [
            f"{self.steps} training steps, {self.seeds} seeds, {self.scenes} held-out scenes, base '{self.weights}', "
            f"preset {self.preset}, trained on {on}{minutes}. {made_by('python -m figures.ablation')}",
            "PSNR is pooled, in dB, over all, moving and hidden pixels (surfaces the fixed view does not show); +- "
            "is a 95% interval of the mean over seeds. Flicker and reprojection error: beside the truth's. GFLOP: "
            f"one evaluation of one grid. Last column: the moving pixels' gain over '{REFERENCE}' on the same scenes, "
            "with a 95% interval over scenes and seeds.",
        ]
        settings = next(iter(results.values()))[0]["scores"]
        steps = list(dict.fromkeys(setting.split(", ")[1] for setting in settings))
        if judged := judge(results, steps):
            parts.append("### Claims: gain on moving pixels, both families together, with its 95% interval")
            rows = []
            for claim, found in judged.items():
                cells = (
                    f"{g:+.2f} dB ({low:+.2f} to {high:+.2f}): {verdict(low, high)}" for g, low, high in found.values()
                )
                rows.append([claim, *cells])
            parts.append(table(["claim", *(f"{n} sampling step{'s' * (n != '1')}" for n in steps)], rows))
        shares = {n: share for n in steps if (share := share_of_flat_data(results, n)) is not None}
        if shares:
            text = " and ".join(f"{share:.0%} with {n}" for n, share in shares.items())
            parts.append(f"Of what true grids bring over eq. 13, pseudo-4D alone brings {text} sampling steps.")
        for setting in settings:
            family, n = setting.split(", ")
            parts.append(f"### Family {family}, {n} sampling step{'s' * (n != '1')}")
            parts.append(table(HEAD, [self._row(name, results, setting) for name in results]))
        return parts

    @staticmethod
    def _row(name: str, results: Results, setting: str) -> list[str]:
        runs = results[name]
        scores, cells = [run["scores"][setting] for run in runs], [name]
        for region in ("all", "moving", "hidden"):
            middle, half = interval([pooled_psnr(s[region]) for s in scores])
            cells.append(f"{middle:.2f}" + (f" +- {half:.2f}" if len(scores) > 1 else ""))
        cells.append(f"{mean(pooled_ssim(s['moving']) for s in scores):.3f}")
        cells += [f"{mean(s[k] for s in scores):.4f}" for k in ("flicker", "reprojection")]
        cells += [f"{runs[0]['parameters']:,}", f"{runs[0]['flops'] / 1e9:.2f}"] if runs[0]["flops"] else ["", ""]
        cells.append(f"{runs[0]['rate']:g}" if runs[0].get("rate") else "")
        if name in ("truth", REFERENCE) or REFERENCE not in results:
            return [*cells, ""]
        middle, low, high = paired_gain(runs, results[REFERENCE], setting, "moving")
        return [*cells, f"{middle:+.2f} ({low:+.2f} to {high:+.2f})"]


if __name__ == "__main__":
    program(Ablate, presets=PRESETS)
