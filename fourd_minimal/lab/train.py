"""Make weights, stage by stage, into a folder `from_pretrained` reads."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from fourd_minimal.configs.four_real_video import PRESETS, FourRealVideoPreset
from fourd_minimal.lab.presets import device
from fourd_minimal.lab.training import STAGES, train
from fourd_minimal.systems.four_real_video import SHIPPED, FourRealVideo, FourRealVideoConfig, Part
from fourd_minimal.systems.weights import load_weights, whole_file


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
    """For stage "joint": "toy", or a folder of an earlier run, whose weights are trained on, into another folder."""
    settings: FourRealVideoPreset = field(default_factory=lambda: PRESETS["cpu"])
    """Every value of the preset, to be changed one by one."""

    def run(self) -> None:
        """Train, and leave one file for each stage in `out`."""
        if self.start_from:
            self._take_over(self._earlier)
        for stage in STAGES:
            if self.stage in (stage, "all") and getattr(self.settings, f"{stage}_steps"):
                self._stage(stage, self._start(stage))

    @property
    def _earlier(self) -> Path:
        return SHIPPED.get(str(self.start_from), self.start_from)

    def _take_over(self, folder: Path) -> None:
        """Copy the stages before "joint", which are not trained again."""
        if self.stage != "joint" or folder.resolve() == self.out.resolve():
            raise ValueError("--start-from goes with --stage joint and with an --out of its own.")
        for name in ("base.safetensors", "soft_sync.safetensors"):
            if (folder / name).exists():
                with whole_file(self.out / name) as draft:
                    draft.write_bytes((folder / name).read_bytes())

    def _start(self, stage: Part) -> FourRealVideo | None:
        if stage == "base":
            return None
        if stage == "joint" and self.start_from:
            return FourRealVideo.from_pretrained(self._earlier, "soft")
        return FourRealVideo.from_pretrained(self.out, "weighted")

    def _stage(self, stage: Part, base: FourRealVideo | None) -> None:
        progress = tqdm(total=getattr(self.settings, f"{stage}_steps"), desc=stage, unit="step")
        for step in train(stage, self.settings, self.out, base, device=device()):
            progress.update(step.number - progress.n)
            progress.set_postfix(loss=f"{step.loss:.4f}", refresh=False)
        progress.close()
        notes = dict(
            made_by=f"fourd train --preset {self.preset} --stage {stage}",
            settings={k: v for k, v in asdict(self.settings).items() if v != asdict(PRESETS[self.preset])[k]},
            device=str(device()),
            minutes=round(step.seconds / 60, 1),
        )
        if stage == "joint" and self.start_from:
            notes["made_by"] += f" --start-from {self.start_from}"
            if FourRealVideo.has_joint(self._earlier):
                *_, notes["after"] = load_weights(self._earlier / "soft_joint.safetensors", FourRealVideoConfig)
        step.averaged().save_pretrained(self.out, stage, **notes)
