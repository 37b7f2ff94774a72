"""The weights of 4Real-Video, stage by stage, into a folder that `from_pretrained` reads."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fourd_minimal.configs.four_real_video import PRESETS, FourRealVideoPreset
from fourd_minimal.configs.presets import device
from fourd_minimal.systems.four_real_video import FourRealVideo, FourRealVideoConfig, Part
from fourd_minimal.systems.weights import load_weights
from fourd_minimal.training.devices import PLAIN, Scale
from fourd_minimal.training.four_real_video import STAGES, train
from fourd_minimal.training.run import announced, copied, every, how_made, watched, written


@dataclass(frozen=True)
class Train:
    """Train the base, its synchronisation layers, and both together. Stop it at any time: run again, and it goes on."""

    preset: Literal["smoke", "cpu", "gpu", "full"] = "cpu"
    """The settings below come from this preset."""
    stage: Literal["all", "base", "sync", "joint"] = "all"
    """The stage to train. "sync" (the paper's recipe, the base frozen) and "joint" (everything trained) start from
    `base.safetensors`."""
    out: Path = Path("runs/four_real_video")
    """Checkpoints and weights go into this folder."""
    start_from: Path | None = None
    """Stage "joint" goes on from these weights: "toy", or the folder of an earlier run, which is not written into."""
    settings: FourRealVideoPreset = field(default_factory=lambda: PRESETS["cpu"])
    """The values of the preset, each of which can be changed."""
    scale: Scale = PLAIN
    """The devices, precision and memory of a run, whose result they change by rounding only."""
    checkpoint_every: int | None = None
    """Steps between checkpoints; left out, 100, or 1000 in the preset `full`, whose checkpoints have gigabytes."""

    def run(self) -> None:
        """Train, and leave one file for each stage in `out`."""
        if self.start_from:
            self._take_over(self._earlier)
        for stage in STAGES:
            if self.stage in (stage, "all") and getattr(self.settings, f"{stage}_steps"):
                self._stage(stage, self._start(stage))

    @property
    def _earlier(self) -> Path:
        return FourRealVideo.folder(self.start_from)

    def _take_over(self, folder: Path) -> None:
        """Copy the stages before "joint", which are not trained again."""
        if self.stage != "joint" or folder.resolve() == self.out.resolve():
            raise ValueError("--start-from goes with --stage joint and with an --out of its own.")
        for name in ("base.safetensors", "soft_sync.safetensors"):
            if (folder / name).exists():
                copied(name, folder, self.out)

    def _start(self, stage: Part) -> FourRealVideo | None:
        if stage == "base":
            return None
        if stage == "joint" and self.start_from:
            return FourRealVideo.from_pretrained(self._earlier, "soft")
        return FourRealVideo.from_pretrained(self.out, "weighted")

    def _stage(self, stage: Part, base: FourRealVideo | None) -> None:
        announced("four_real_video", stage, self)
        run = train(stage, self.settings, self.out, base, every(self), device(), self.scale)
        step = watched(run, getattr(self.settings, f"{stage}_steps"), stage)
        command = f"fourd train --preset {self.preset} --stage {stage}"
        notes = how_made(command, self.settings, PRESETS[self.preset], step.seconds)
        if stage == "joint" and self.start_from:
            notes["made_by"] += f" --start-from {self.start_from}"
            if FourRealVideo.has_joint(self._earlier):
                *_, notes["after"] = load_weights(self._earlier / "soft_joint.safetensors", FourRealVideoConfig)
        written(step, lambda model: model.save_pretrained(self.out, stage, **notes))
