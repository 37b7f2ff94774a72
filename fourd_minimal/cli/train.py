"""`fourd train`: the weights of every system, stage by stage, into a folder that `from_pretrained` reads.

    fourd train --preset gpu --out runs/mine                              4Real-Video: base, sync, joint
    fourd train --system four-diffusion --preset cpu --stage motion       4Diffusion's 4DM: base, motion
    fourd train --system upsampler --preset cpu

Another system is another entry of `SYSTEMS`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import nn

from fourd_minimal.configs.four_diffusion import FOUR_DM
from fourd_minimal.configs.four_real_video import PRESETS as FOUR_REAL_VIDEO
from fourd_minimal.configs.presets import device
from fourd_minimal.configs.text_to_video import TEXT_TO_VIDEO
from fourd_minimal.configs.upsampler import UPSAMPLERS
from fourd_minimal.systems.four_diffusion import FourDM
from fourd_minimal.systems.four_real_video import FourRealVideo
from fourd_minimal.systems.upsampler import Upsampler
from fourd_minimal.training.devices import PLAIN, Scale, world
from fourd_minimal.training.four_diffusion import train_four_dm
from fourd_minimal.training.four_real_video import train
from fourd_minimal.training.loop import Step
from fourd_minimal.training.run import copied, how_made, watched, written
from fourd_minimal.training.text_to_video import train_text_to_video
from fourd_minimal.training.upsampler import train_upsampler


@dataclass(frozen=True)
class Train:
    """Train a model, stage by stage. Stop it at any time: run again, and it goes on."""

    system: Literal["four-real-video", "four-diffusion", "upsampler", "text-to-video"] = "four-real-video"
    """The system to train; its presets are the settings below."""
    preset: Literal["smoke", "cpu", "gpu", "full"] = "cpu"
    """The settings below come from this preset."""
    stage: str = "all"
    """The stage to train: of four-real-video "base", "sync" (the paper's recipe: the base is frozen) or "joint"
    (everything is trained); of four-diffusion "base" or "motion". Each starts from what the ones before it left."""
    out: Path | None = None
    """Checkpoints and weights go into this folder; by default into one of `runs`, named after the system."""
    start_from: Path | None = None
    """Training starts from these weights: "toy", or the folder of an earlier run, which is not written into. Of
    four-real-video stage "joint" can, and text-to-video starts from a base of four-real-video."""
    settings: Any = field(default_factory=lambda: FOUR_REAL_VIDEO["cpu"])
    """The values of the preset, each of which can be changed."""
    scale: Scale = PLAIN
    """The devices, precision and memory of a run, whose result they change by rounding only."""
    checkpoint_every: int | None = None
    """Steps between checkpoints; by default 100, or 1000 in the preset `full`, whose checkpoints have gigabytes."""
    encoders: tuple[str, str] | None = None
    """For a four-diffusion model of latents, such as `full`: the names or folders of a Stable Diffusion 2 and a CLIP,
    whose encoders make them."""
    base_weights: Path | None = None
    """The base of four-diffusion begins with these published weights: a safetensors file of ImageDream's U-Net, or of
    Stable Diffusion 2's, which is not conditioned on cameras and so must be trained."""

    def run(self) -> None:
        """Train, and leave one file for each stage in `out`.

        Raises:
            ValueError: flags that do not go together, and whatever training raises.
        """
        stages = self._stages()
        self._check()
        encoders = self._encoders()
        for stage in stages:
            earlier = self.start_from if stage == stages[0] else None
            start = SYSTEMS[self.system].start(self, stage, earlier)
            if self.preset == "full" and world()[0] == 0:
                print(f"Its memory and hours (in a checkout): {self._plan(stage)}", flush=True)
            every = self.checkpoint_every or (1000 if self.preset == "full" else 100)
            given = stage, self.settings, self.folder, start, every, device(), self.scale
            run = SYSTEMS[self.system].train(*given, **encoders)
            step = watched(run, self.steps(stage), stage or self.system)
            notes = how_made(self._line(stage), self.settings, SYSTEMS[self.system].presets[self.preset], step.seconds)
            notes |= dict(after=dict(start.notes)) if earlier else {}
            notes |= dict(made_from=self.base_weights.name) if self.base_weights and stage == "base" else {}
            written(step, lambda model: model.save_pretrained(self.folder, *filter(None, [stage]), **notes))  # noqa: B023

    @property
    def folder(self) -> Path:
        """Where checkpoints and weights go."""
        return self.out or Path("runs") / self.system.replace("-", "_")

    def steps(self, stage: str) -> int:
        """How many steps a stage has."""
        return getattr(self.settings, f"{stage}_steps" if stage else "steps")

    def _stages(self) -> list[str]:
        """Those asked for that have steps."""
        stages = SYSTEMS[self.system].stages
        if self.stage not in ("all", *filter(None, stages)):
            expected = ", ".join(["all", *filter(None, stages)])
            raise ValueError(f"--stage is {self.stage}; expected {expected}, which {self.system} has.")
        found = [stage for stage in stages if self.stage in ("all", stage) and self.steps(stage)]
        if not found:
            raise ValueError(f"--stage is {self.stage}, which has no steps in these settings; expected some.")
        return found

    def _check(self) -> None:
        if self.start_from and self.start_from.resolve() == self.folder.resolve():
            raise ValueError(f"--start-from is {self.start_from}, which is --out; expected another folder.")
        for name in ("encoders", "base_weights"):
            if getattr(self, name) and self.system != "four-diffusion":
                raise ValueError(f"--{name.replace('_', '-')} goes with --system four-diffusion; it is {self.system}.")
        if self.start_from and self.base_weights:
            raise ValueError("--start-from and --base-weights are both given; expected one.")

    def _encoders(self) -> dict[str, nn.Module]:
        if self.encoders is None:
            return {}
        from fourd_minimal.pretrained.encoders import Encoders

        text = None if self.settings.model.unet.text_dim is None else self.settings.caption
        return dict(encoders=Encoders.from_pretrained(*self.encoders, text))

    def _line(self, stage: str) -> str:
        """The command that makes the weights of a stage, but for its settings."""
        parts = {} if self.system == "four-real-video" else dict(system=self.system)
        parts |= dict(preset=self.preset, stage=stage, start_from=self.start_from)
        parts |= dict(encoders=self.encoders and " ".join(self.encoders))
        return " ".join(["fourd train", *(f"--{k.replace('_', '-')} {v}" for k, v in parts.items() if v)])

    def _plan(self, stage: str) -> str:
        """The command that says what a stage will take."""
        parts = dict(system=self.system.replace("-", "_"), stage=stage, preset=self.preset, devices=world()[1])
        parts |= dict(precision=self.scale.precision)
        switches = [f"--{name}" for name in ("recompute", "shard") if getattr(self.scale, name)]
        return " ".join(["python -m figures.plan", *(f"--{k} {v}" for k, v in parts.items() if v), *switches])


class System(NamedTuple):
    """What can be trained, and how."""

    presets: Mapping[str, Any]
    stages: tuple[str, ...]
    """In order; of a single one, which has no name, the file has none either."""
    start: Callable[[Train, str, Path | None], Any]
    """The model that a stage starts from, of the folder's files or, for the first stage, of an earlier run's."""
    train: Callable[..., Iterator[Step]]
    """From (stage, settings, folder, start, checkpoint_every, device, scale) to steps."""


def start_four_real_video(run: Train, stage: str, earlier: Path | None) -> FourRealVideo | None:
    """The base for "sync"; for "joint" the base, or all of an earlier run, whose earlier stages are copied."""
    if earlier is None:
        return None if stage == "base" else FourRealVideo.from_pretrained(run.folder, "weighted")
    if stage != "joint":
        raise ValueError(f"--start-from goes with --stage joint; it is {run.stage}.")
    for path in FourRealVideo.folder(earlier).glob("*.safetensors"):
        if path.stem == "base" or path.stem.endswith("_sync"):
            copied(path, run.folder)
    return FourRealVideo.from_pretrained(earlier)


def start_four_dm(run: Train, stage: str, earlier: Path | None) -> FourDM | None:
    """The base for "motion"; or the part of an earlier run; or a base of published weights."""
    if earlier:
        if stage == "motion":
            copied(FourDM.folder(earlier) / FourDM.file, run.folder)
        return FourDM.from_pretrained(earlier, motion=stage == "motion")
    if run.base_weights and (stage == "base" or run.stage == "motion" or not run.steps("base")):
        from fourd_minimal.pretrained.four_dm_base import keep, published_base

        base, lacks = published_base(run.settings.model, run.base_weights, run.settings.seed)
        if stage == "base":
            return base
        keep(base, run.folder, run.base_weights, lacks)
    return None if stage == "base" else FourDM.from_pretrained(run.folder, motion=False)


SYSTEMS: dict[str, System] = {
    "four-real-video": System(FOUR_REAL_VIDEO, ("base", "sync", "joint"), start_four_real_video, train),
    "four-diffusion": System(FOUR_DM, ("base", "motion"), start_four_dm, train_four_dm),
    "upsampler": System(
        UPSAMPLERS,
        ("",),
        lambda run, stage, earlier: Upsampler.from_pretrained(earlier) if earlier else None,
        lambda stage, *given: train_upsampler(*given),
    ),
    "text-to-video": System(
        TEXT_TO_VIDEO,
        ("",),
        lambda run, stage, earlier: FourRealVideo.from_pretrained(earlier, "weighted") if earlier else None,
        lambda stage, settings, folder, start, *given: train_text_to_video(
            settings, folder, start and start.base, *given
        ),
    ),
}
PRESETS = {name: system.presets for name, system in SYSTEMS.items()}
