"""The weights of the text-to-video model, into a folder that `from_pretrained` reads."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fourd_minimal.configs.presets import device
from fourd_minimal.configs.text_to_video import TEXT_TO_VIDEO, TextToVideoPreset
from fourd_minimal.systems.four_real_video import FourRealVideo
from fourd_minimal.training.devices import PLAIN, Scale
from fourd_minimal.training.run import announced, every, how_made, watched, written
from fourd_minimal.training.text_to_video import train_text_to_video


@dataclass(frozen=True)
class TrainText:
    """Train the text-to-video model. Stop it at any time: run again, and it goes on."""

    preset: Literal["smoke", "cpu", "gpu", "full"] = "cpu"
    """The settings below come from this preset."""
    out: Path = Path("runs/text_to_video")
    """The checkpoint and the weights go into this folder."""
    start_from: Path | None = None
    """Training starts from the base model of these weights: "toy", or a folder of `fourd train`; by default from random
    weights."""
    settings: TextToVideoPreset = field(default_factory=lambda: TEXT_TO_VIDEO["cpu"])
    """The values of the preset, each of which can be changed."""
    scale: Scale = PLAIN
    """The devices, precision and memory of a run, whose result they change by rounding only."""
    checkpoint_every: int | None = None
    """Steps between checkpoints; left out, 100, or 1000 in the preset `full`, whose checkpoints have gigabytes."""

    def run(self) -> None:
        """Train, and leave `text_to_video.safetensors` in `out`."""
        base = FourRealVideo.from_pretrained(self.start_from, "weighted").base if self.start_from else None
        announced("text_to_video", None, self)
        run = train_text_to_video(self.settings, self.out, base, every(self), device(), self.scale)
        step = watched(run, self.settings.steps, "text to video")
        command = f"fourd train-text --preset {self.preset}"
        command += f" --start-from {self.start_from}" if self.start_from else ""
        notes = how_made(command, self.settings, TEXT_TO_VIDEO[self.preset], step.seconds)
        written(step, lambda model: model.save_pretrained(self.out, **notes))
