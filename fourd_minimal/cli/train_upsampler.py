"""The weights of the upsampler, into a folder that `from_pretrained` reads."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fourd_minimal.configs.presets import device
from fourd_minimal.configs.upsampler import UPSAMPLERS, UpsamplerPreset
from fourd_minimal.systems.upsampler import Upsampler
from fourd_minimal.training.devices import PLAIN, Scale
from fourd_minimal.training.run import announced, every, how_made, watched, written
from fourd_minimal.training.upsampler import train_upsampler


@dataclass(frozen=True)
class TrainUpsampler:
    """Train the diffusion upsampler. Stop it at any time: run again, and it goes on."""

    preset: Literal["smoke", "cpu", "gpu", "full"] = "cpu"
    """The settings below come from this preset."""
    out: Path = Path("runs/upsampler")
    """The checkpoint and the weights go into this folder."""
    start_from: Path | None = None
    """Training goes on from these weights: "toy", or the folder of an earlier run, which is not written into."""
    settings: UpsamplerPreset = field(default_factory=lambda: UPSAMPLERS["cpu"])
    """The values of the preset, each of which can be changed."""
    scale: Scale = PLAIN
    """The devices, precision and memory of a run, whose result they change by rounding only."""
    checkpoint_every: int | None = None
    """Steps between checkpoints; left out, 100, or 1000 in the preset `full`, whose checkpoints have gigabytes."""

    def run(self) -> None:
        """Train, and leave `upsampler.safetensors` in `out`."""
        start, command, earlier = None, f"fourd train-upsampler --preset {self.preset}", {}
        if self.start_from:
            if self.start_from.resolve() == self.out.resolve():
                raise ValueError("--start-from goes with an --out of its own.")
            start = Upsampler.from_pretrained(self.start_from)
            command += f" --start-from {self.start_from}"
            earlier = dict(after=start.notes)
        announced("upsampler", None, self)
        run = train_upsampler(self.settings, self.out, start, every(self), device(), self.scale)
        step = watched(run, self.settings.steps, "upsampler")
        notes = how_made(command, self.settings, UPSAMPLERS[self.preset], step.seconds)
        written(step, lambda model: model.save_pretrained(self.out, **notes, **earlier))
