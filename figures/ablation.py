"""The ablation as one command: run what is missing, write the table."""

import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Literal

from figures.verdicts import judge, paired_gain, pooled_psnr, pooled_ssim, share_of_flat_data
from fourd_minimal.cli.main import program
from fourd_minimal.configs.four_real_video import PRESETS, FourRealVideoPreset
from fourd_minimal.configs.presets import device
from fourd_minimal.systems.four_real_video import FourRealVideo
from fourd_minimal.systems.weights import write_text
from fourd_minimal.training.evaluation import interval, verdict
from fourd_minimal.training.tables import made_by, table

REFERENCE = "soft"
"""The arm that all others are compared with, scene by scene."""
HEAD = [
    "design", "all", "moving", "hidden", "SSIM, moving", "flicker", "reprojection", "trained", "GFLOP", "rate",
    f"gain over {REFERENCE}",
]  # fmt: skip


@dataclass(frozen=True)
class Ablate:
    """Train every design of the paper on equal terms and compare them with the truth. Run it again, and it goes on."""

    weights: str = "toy"
    """Whose frozen base all designs share: "toy", or a folder that `fourd train` wrote."""
    preset: Literal["smoke", "cpu", "gpu", "full"] = "cpu"
    """Where the settings below come from; it must fit the weights."""
    out: Path = Path("runs/ablation")
    """Where the tables go, and a folder `ablation_runs` with one small file per finished run."""
    seeds: int = 3
    """Runs per trained design."""
    steps: int = 300
    """Training steps per run."""
    rate_steps: int = 150
    """Training steps of the short runs that choose each design's learning rate."""
    rates: tuple[float, ...] = (7e-4, 2e-3, 6e-3)
    """Learning rates to begin with; the search goes on beyond the end where the best one stands. One: no search."""
    scenes: int = 64
    """Held-out scenes per family."""
    families: tuple[str, ...] = ("simple", "hard")
    """Families of `data.procedural` for validation and for the test; better some that the preset trains on."""
    arms: tuple[str, ...] = ()
    """Which designs; all when left out."""
    settings: FourRealVideoPreset = field(default_factory=lambda: PRESETS["cpu"])
    """The preset's values, to be changed one by one; its seed, and the steps and rates on grids, are those above."""

    def run(self) -> None:
        """Go on where the last call stopped, then write `ablation.md` and `.json` of everything that is there."""
        from figures import ablation_runs as ablation

        unknown = [name for name in self.arms if name not in ablation.ARMS]
        if unknown:
            raise ValueError(f"--arms has {unknown[0]!r}; it must be among: {'; '.join(ablation.ARMS)}.")
        base = FourRealVideo.from_pretrained(self.weights, "weighted").to(device())
        if replace(base.config, sync=self.settings.model.sync) != self.settings.model:
            raise ValueError(
                f"--preset {self.preset} has another model than the weights '{self.weights}': train its own with "
                f"`fourd train --preset {self.preset}`, and name them with --weights."
            )
        sizes = dict(steps=self.steps, rate_steps=self.rate_steps, rates=self.rates)
        sizes |= dict(scenes=self.scenes, families=self.families)
        runs = ablation.Ablation(
            self.settings, base, self.out / "ablation_runs", seeds=tuple(range(self.seeds)), device=device(), **sizes
        )
        arms = {name: arm for name, arm in ablation.ARMS.items() if not self.arms or name in self.arms}
        trained = sum(arm.pseudo is not None for arm in arms.values())
        total = 4 + len(arms) - trained + trained * (1 + self.seeds)  # baselines, untrained, searches and runs
        began, there = time.perf_counter(), runs.finished(arms)
        for done in runs.run(arms):
            there += 1
            print(f"{there} of {total}, {(time.perf_counter() - began) / 60:.0f} min: {done}", flush=True)
        results = runs.results()
        text = self.report(results)
        for name, content in {"ablation.md": text, "ablation.json": json.dumps(results)}.items():
            write_text(self.out / name, content)
        print(text)

    def report(self, results: dict[str, list[dict]]) -> str:
        """One table per family and number of sampling steps."""
        trained = [run for runs in results.values() for run in runs if "device" in run]
        where = ", ".join(sorted({run["device"] for run in trained}))
        seconds = [run["seconds"] for run in trained if "seconds" in run]
        minutes = f", {mean(seconds) / 60:.1f} minutes each" if seconds else ""
        lines = [
            f"{self.steps} training steps, {self.seeds} seeds, {self.scenes} held-out scenes, base '{self.weights}', "
            f"preset {self.preset}, trained on {where}{minutes}. {made_by('python -m figures.ablation')}",
            "PSNR is pooled, in dB, over all, moving and hidden pixels (surfaces the fixed view does not show); +- "
            "is a 95% interval of the mean over seeds. Flicker and reprojection error: beside the truth's. GFLOP: "
            f"one evaluation of one grid. Last column: the moving pixels' gain over '{REFERENCE}' on the same scenes, "
            "with a 95% interval over scenes and seeds.",
        ]
        settings = next(iter(results.values()))[0]["scores"]
        steps = list(dict.fromkeys(setting.split(", ")[1] for setting in settings))
        if judged := judge(results, steps):
            lines.append("### Claims: gain on moving pixels, both families in one exam, with its 95% interval")
            rows = []
            for claim, found in judged.items():
                said = (
                    f"{g:+.2f} dB ({low:+.2f} to {high:+.2f}): {verdict(low, high)}" for g, low, high in found.values()
                )
                rows.append([claim, *said])
            lines.append(table(["claim", *(f"{n} sampling step{'s' * (n != '1')}" for n in steps)], rows))
        shares = {n: share for n in steps if (share := share_of_flat_data(results, n)) is not None}
        if shares:
            said = " and ".join(f"{share:.0%} with {n}" for n, share in shares.items())
            lines.append(f"Of what true grids bring over eq. 13, pseudo-4D alone brings {said} sampling steps.")
        for setting in settings:
            family, steps = setting.split(", ")
            lines.append(f"### Family {family}, {steps} sampling step{'s' * (steps != '1')}")
            lines.append(table(HEAD, [self._row(name, results, setting) for name in results]))
        return "\n\n".join(lines) + "\n"

    @staticmethod
    def _row(name: str, results: dict[str, list[dict]], setting: str) -> list[str]:
        runs = results[name]
        scores, cells = [run["scores"][setting] for run in runs], [name]
        for region in ("all", "moving", "hidden"):
            middle, half = interval([pooled_psnr(s[region]) for s in scores])
            cells.append(f"{middle:.2f}" + (f" +- {half:.2f}" if len(scores) > 1 else ""))
        cells.append(f"{interval([pooled_ssim(s['moving']) for s in scores])[0]:.3f}")
        cells += [f"{interval([s[k] for s in scores])[0]:.4f}" for k in ("flicker", "reprojection")]
        cells += [f"{runs[0]['parameters']:,}", f"{runs[0]['flops'] / 1e9:.2f}"] if runs[0]["flops"] else ["", ""]
        cells.append(f"{runs[0]['rate']:g}" if runs[0].get("rate") else "")
        if name in ("truth", REFERENCE) or REFERENCE not in results:
            return [*cells, ""]
        middle, low, high = paired_gain(runs, results[REFERENCE], setting, "moving")
        return [*cells, f"{middle:+.2f} ({low:+.2f} to {high:+.2f})"]


if __name__ == "__main__":
    program(Ablate, presets=PRESETS)
