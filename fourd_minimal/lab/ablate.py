"""The ablation as one command: run what is missing, write the table."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from fourd_minimal.configs.four_real_video import PRESETS, FourRealVideoPreset
from fourd_minimal.lab.ablation import ARMS, Ablation, interval, paired_gain, pooled_psnr, pooled_ssim
from fourd_minimal.lab.presets import device
from fourd_minimal.systems.four_real_video import FourRealVideo
from fourd_minimal.systems.weights import whole_file

REFERENCE = "soft"
"""The arm that all others are compared with, scene by scene."""


@dataclass(frozen=True)
class Ablate:
    """Train every design of the paper on equal terms and compare them with the truth. Run it again, and it goes on."""

    weights: str = "toy"
    """Whose frozen base all designs share: "toy", or a folder that `fourd train` wrote."""
    preset: Literal["smoke", "cpu", "gpu", "full"] = "cpu"
    """Where the settings below come from; it must fit the weights."""
    out: Path = Path("runs/ablation")
    """One small file per finished run, and the tables."""
    seeds: int = 3
    """Runs per trained design."""
    steps: int = 300
    """Training steps per run."""
    rate_steps: int = 60
    """Training steps of the short runs that choose each design's learning rate."""
    rates: tuple[float, ...] = (7e-4, 2e-3, 6e-3)
    """Learning rates to choose from."""
    scenes: int = 64
    """Held-out scenes per family."""
    arms: tuple[str, ...] = tuple(ARMS)
    """Which designs."""
    settings: FourRealVideoPreset = field(default_factory=lambda: PRESETS["cpu"])
    """Every value of the preset, to be changed one by one."""

    def run(self) -> None:
        """Go on where the last call stopped, then write `ablation.md` and, with all it is made of, `.json`."""
        unknown = [name for name in self.arms if name not in ARMS]
        if unknown:
            raise ValueError(f"--arms has {unknown[0]!r}; it must be among: {'; '.join(ARMS)}.")
        base = FourRealVideo.from_pretrained(self.weights, "weighted").to(device())
        if replace(base.config, sync=self.settings.model.sync) != self.settings.model:
            raise ValueError(f"--preset {self.preset} has another model than the weights '{self.weights}'.")
        known = dict(
            seeds=tuple(range(self.seeds)), steps=self.steps, rate_steps=self.rate_steps, rates=self.rates,
            scenes=self.scenes, device=device(),
        )  # fmt: skip
        ablation = Ablation(self.settings, base, self.out, **known)
        for done in ablation.run({name: ARMS[name] for name in self.arms}):
            print(done, flush=True)
        results = ablation.results()
        text = self.report(results)
        for name, content in {"ablation.md": text, "ablation.json": json.dumps(results)}.items():
            with whole_file(self.out / name) as draft:
                draft.write_bytes(content.encode())
        print(text)

    def report(self, results: dict[str, list[dict]]) -> str:
        """One table per family and number of sampling steps."""
        order = [name for name in ("truth", "copy row", "copy column", "sum of differences", *ARMS) if name in results]
        settings = list(next(iter(results.values()))[0]["scores"])
        lines = [
            f"{self.steps} training steps, {self.seeds} seeds, {self.scenes} held-out scenes, base '{self.weights}', "
            f"preset {self.preset}, {device()}. Made by `fourd ablate`. PSNR is pooled, in dB; +- is a 95% interval of "
            f"the mean over seeds; the last column is the gain over '{REFERENCE}' on the same scenes, moving pixels, "
            "with a 95% interval over scenes."
        ]
        for setting in settings:
            family, steps = setting.split(", ")
            lines.append(f"### Family {family}, {steps} sampling step{'s' * (steps != '1')}")
            lines.append(self._table(results, order, setting))
        return "\n\n".join(lines) + "\n"

    def _table(self, results: dict[str, list[dict]], order: list[str], setting: str) -> str:
        head = [
            "design", "all", "moving", "hidden", "SSIM, moving", "flicker", "reprojection",
            "trained", "GFLOP", f"gain over {REFERENCE}",
        ]  # fmt: skip
        rows = [head, ["---"] * len(head)]
        for name in order:
            runs = results[name]
            scores = [run["scores"][setting] for run in runs]
            cells = [name]
            if name == "truth":
                cells += ["", "", "", ""]
            else:
                for region in ("all", "moving", "hidden"):
                    middle, half = interval([pooled_psnr(s[region]) for s in scores])
                    cells.append(f"{middle:.2f}" + (f" +- {half:.2f}" if len(scores) > 1 else ""))
                cells.append(f"{interval([pooled_ssim(s['moving']) for s in scores])[0]:.3f}")
            cells += [f"{interval([s[k] for s in scores])[0]:.4f}" for k in ("flicker", "reprojection")]
            cells += [f"{runs[0]['parameters']:,}" if runs[0]["flops"] else "", f"{runs[0]['flops'] / 1e9:.2f}"]
            gain = ""
            if REFERENCE in results and name not in ("truth", REFERENCE):
                middle, low, high = paired_gain(runs, results[REFERENCE], setting, "moving")
                gain = f"{middle:+.2f} ({low:+.2f} to {high:+.2f})"
            rows.append([*cells, gain])
        return "\n".join("| " + " | ".join(row) + " |" for row in rows)
