"""Make weights, stage by stage, into a folder `from_pretrained` reads."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from fourd_minimal.configs.four_real_video import PRESETS, FourRealVideoPreset
from fourd_minimal.lab.contact_sheet import write_whole
from fourd_minimal.lab.presets import device
from fourd_minimal.lab.training import STAGES, train
from fourd_minimal.systems.four_real_video import FourRealVideo, Part


@dataclass(frozen=True)
class Train:
    """Train the base, its synchronisation layers, and both together. Stop it at any time: run again, and it goes on."""

    preset: Literal["smoke", "cpu", "gpu", "full"] = "cpu"
    """Where the settings below come from."""
    stage: Literal["all", "base", "sync", "joint"] = "all"
    """"sync" (the paper's recipe, the base frozen) and "joint" (everything trained) start from `base.safetensors`."""
    out: Path = Path("runs/four_real_video")
    """Where checkpoints and weights go."""
    start_from: Path | None = None
    """For stage "joint": a folder of an earlier run whose weights are trained on, into another folder."""
    settings: FourRealVideoPreset = field(default_factory=lambda: PRESETS["cpu"])
    """Every value of the preset, to be changed one by one."""

    def run(self) -> None:
        """Train, and leave one file for each stage in `out`."""
        if self.start_from:
            self._take_over(self.start_from)
        for stage in STAGES:
            if self.stage in (stage, "all") and getattr(self.settings, f"{stage}_steps"):
                self._stage(stage, self._start(stage))

    def _take_over(self, folder: Path) -> None:
        """Copy the stages before "joint", which are not trained again."""
        if self.stage != "joint" or folder.resolve() == self.out.resolve():
            raise ValueError("--start-from goes with --stage joint and with an --out of its own.")
        for name in ("base.safetensors", "soft_sync.safetensors"):
            if (folder / name).exists():
                write_whole(self.out / name, (folder / name).read_bytes())

    def _start(self, stage: Part) -> FourRealVideo | None:
        if stage == "base":
            return None
        earlier = stage == "joint" and self.start_from
        return FourRealVideo.from_pretrained(earlier or self.out, "soft" if earlier else "weighted")

    def _stage(self, stage: Part, base: FourRealVideo | None) -> None:
        start, steps = time.perf_counter(), getattr(self.settings, f"{stage}_steps")
        progress = tqdm(total=steps, desc=stage, unit="step")
        for step in train(stage, self.settings, self.out, base, device=device()):
            progress.update(step.number - progress.n)
            progress.set_postfix(loss=f"{step.loss:.4f}", refresh=False)
        progress.close()
        minutes = (time.perf_counter() - start) / 60
        made = f"fourd train --preset {self.preset} --stage {stage}"
        notes = dict(made_by=made, seed=self.settings.seed, device=str(device()), minutes=round(minutes, 1))
        step.averaged().save_pretrained(self.out, stage, **notes)
