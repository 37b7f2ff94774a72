"""Make weights, stage by stage, into a folder `from_pretrained` reads."""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from fourd_minimal.configs.four_diffusion import FOUR_DM, FourDMPreset
from fourd_minimal.configs.four_real_video import PRESETS, FourRealVideoPreset
from fourd_minimal.configs.text_to_video import TEXT_TO_VIDEO, TextToVideoPreset
from fourd_minimal.configs.upsampler import UPSAMPLERS, UpsamplerPreset
from fourd_minimal.lab.devices import PLAIN, Scale, wait, world
from fourd_minimal.lab.hardware import kind_here
from fourd_minimal.lab.loop import Step
from fourd_minimal.lab.multiview import published, train_four_dm
from fourd_minimal.lab.planner import announce
from fourd_minimal.lab.presets import device
from fourd_minimal.lab.stages import StageName, System
from fourd_minimal.lab.text import train_text_to_video
from fourd_minimal.lab.training import STAGES, train
from fourd_minimal.lab.upsampling import train_upsampler
from fourd_minimal.systems import four_diffusion
from fourd_minimal.systems.four_diffusion import FILES, FourDM
from fourd_minimal.systems.four_real_video import SHIPPED, FourRealVideo, FourRealVideoConfig, Part
from fourd_minimal.systems.pretrained.encoders import Encoders
from fourd_minimal.systems.upsampler import Upsampler
from fourd_minimal.systems.weights import fingerprint, load_weights, whole_file


def watched(run: Iterator[Step], steps: int, name: str) -> Step:
    """Run to the end with a progress bar; the last step."""
    with tqdm(total=steps, desc=name, unit="step", disable=world()[0] > 0) as progress:
        for step in run:
            progress.update(step.number - progress.n)
            if not math.isnan(step.loss):  # a run that was finished before has none
                progress.set_postfix(loss=f"{step.loss:.4f}", refresh=False)
    return step


def announced(system: System, stage: StageName | None, run: Any) -> None:
    """Of a full configuration: what it will take, before anything starts."""
    if run.preset == "full" and world()[0] == 0:
        announce(system, stage, run.settings, run.preset, world()[1], run.scale, kind_here())


def written(step: Step, save: Callable[[Any], Path]) -> None:
    """The result on disk, by the first of all processes; the others wait for it."""
    model = step.averaged()
    if world()[0] == 0:
        print(f"Weights: {save(model)}")
    wait()


def how_made(command: str, settings: Any, preset: Any, seconds: float) -> dict[str, Any]:
    """The notes that weights carry: the command, what it changed of the preset, on what, how long."""
    changed = {k: v for k, v in asdict(settings).items() if v != asdict(preset)[k]}
    on = device().type if world()[1] == 1 else f"{world()[1]} x {device().type}"
    return dict(made_by=command, settings=changed, device=on, minutes=round(seconds / 60, 1))


def copied(name: str, folder: Path, out: Path) -> None:
    """The file of one folder, whole, in another."""
    with whole_file(out / name) as draft:
        draft.write_bytes((folder / name).read_bytes())


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
    scale: Scale = PLAIN
    """Devices, precision and memory: the same result up to rounding."""
    checkpoint_every: int = 100
    """Steps; in the preset `full` a checkpoint has gigabytes, and 1000 is the default there."""

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
                copied(name, folder, self.out)

    def _start(self, stage: Part) -> FourRealVideo | None:
        if stage == "base":
            return None
        if stage == "joint" and self.start_from:
            return FourRealVideo.from_pretrained(self._earlier, "soft")
        return FourRealVideo.from_pretrained(self.out, "weighted")

    def _stage(self, stage: Part, base: FourRealVideo | None) -> None:
        announced("four_real_video", stage, self)
        run = train(stage, self.settings, self.out, base, self.checkpoint_every, device(), self.scale)
        step = watched(run, getattr(self.settings, f"{stage}_steps"), stage)
        command = f"fourd train --preset {self.preset} --stage {stage}"
        notes = how_made(command, self.settings, PRESETS[self.preset], step.seconds)
        if stage == "joint" and self.start_from:
            notes["made_by"] += f" --start-from {self.start_from}"
            if FourRealVideo.has_joint(self._earlier):
                *_, notes["after"] = load_weights(self._earlier / "soft_joint.safetensors", FourRealVideoConfig)
        written(step, lambda model: model.save_pretrained(self.out, stage, **notes))


@dataclass(frozen=True)
class TrainUpsampler:
    """Train the diffusion upsampler. Stop it at any time: run again, and it goes on."""

    preset: Literal["smoke", "cpu", "gpu", "full"] = "cpu"
    """Where the settings below come from."""
    out: Path = Path("runs/upsampler")
    """Where the checkpoint and the weights go."""
    start_from: Path | None = None
    """"toy", or a folder of an earlier run, whose weights are trained on, into another folder."""
    settings: UpsamplerPreset = field(default_factory=lambda: UPSAMPLERS["cpu"])
    """Every value of the preset, to be changed one by one."""
    scale: Scale = PLAIN
    """Devices, precision and memory: the same result up to rounding."""
    checkpoint_every: int = 100
    """Steps; in the preset `full` a checkpoint has gigabytes, and 1000 is the default there."""

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
        run = train_upsampler(self.settings, self.out, start, self.checkpoint_every, device(), self.scale)
        step = watched(run, self.settings.steps, "upsampler")
        notes = how_made(command, self.settings, UPSAMPLERS[self.preset], step.seconds)
        written(step, lambda model: model.save_pretrained(self.out, **notes, **earlier))


@dataclass(frozen=True)
class TrainText:
    """Train the text-to-video model. Stop it at any time: run again, and it goes on."""

    preset: Literal["smoke", "cpu", "gpu", "full"] = "cpu"
    """Where the settings below come from."""
    out: Path = Path("runs/text_to_video")
    """Where the checkpoint and the weights go."""
    start_from: Path | None = None
    """"toy", or a folder of `fourd train`, whose base model is trained on; left out, it starts from nothing."""
    settings: TextToVideoPreset = field(default_factory=lambda: TEXT_TO_VIDEO["cpu"])
    """Every value of the preset, to be changed one by one."""
    scale: Scale = PLAIN
    """Devices, precision and memory: the same result up to rounding."""
    checkpoint_every: int = 100
    """Steps; in the preset `full` a checkpoint has gigabytes, and 1000 is the default there."""

    def run(self) -> None:
        """Train, and leave `text_to_video.safetensors` in `out`."""
        base = FourRealVideo.from_pretrained(self.start_from, "weighted").base if self.start_from else None
        announced("text_to_video", None, self)
        run = train_text_to_video(self.settings, self.out, base, self.checkpoint_every, device(), self.scale)
        step = watched(run, self.settings.steps, "text to video")
        command = f"fourd train-text --preset {self.preset}"
        command += f" --start-from {self.start_from}" if self.start_from else ""
        notes = how_made(command, self.settings, TEXT_TO_VIDEO[self.preset], step.seconds)
        written(step, lambda model: model.save_pretrained(self.out, **notes))


@dataclass(frozen=True)
class TrainFourDM:
    """Train the multi-view base, then the motion modules inside it. Stop it at any time: run again, and it goes on."""

    preset: Literal["smoke", "cpu", "gpu", "full"] = "cpu"
    """Where the settings below come from."""
    stage: Literal["all", "base", "motion"] = "all"
    """"motion" starts from the `base.safetensors` of `out`, or from --base-weights."""
    out: Path = Path("runs/four_diffusion")
    """Where checkpoints and weights go."""
    start_from: Path | None = None
    """"toy", or a folder of an earlier run, which is trained on, into another folder: its base, or, with --stage
    motion, its motion modules."""
    settings: FourDMPreset = field(default_factory=lambda: FOUR_DM["cpu"])
    """Every value of the preset, to be changed one by one."""
    scale: Scale = PLAIN
    """Devices, precision and memory: the same result up to rounding."""
    checkpoint_every: int = 100
    """Steps; in the preset `full` a checkpoint has gigabytes, and 1000 is the default there."""
    encoders: tuple[str, str] | None = None
    """For a model of latents, such as `full`: names or folders of a Stable Diffusion 2 and of a CLIP."""
    base_weights: Path | None = None
    """What the base begins as: a safetensors file with ImageDream's U-Net, or with Stable Diffusion 2's, which knows no
    cameras yet and so must be trained."""

    def run(self) -> None:
        """Train, and leave one file for each stage in `out`.

        Raises:
            ValueError: weights to start from that are also those to be written, or two kinds of them; a base that
                would stay untrained, or be written over another.
        """
        if self.start_from and self.start_from.resolve() == self.out.resolve():
            raise ValueError("--start-from goes with an --out of its own.")
        if self.start_from and self.base_weights:
            raise ValueError("--start-from and --base-weights are both given; one is wanted.")
        stages = ("base", "motion") if self.stage == "all" else (self.stage,)
        start = self._published() if self.base_weights else None
        if start and self.stage == "motion":
            self._keep(start)
        encoders = self._encoders()
        for stage, earlier in zip(stages, (self.start_from, None), strict=False):
            self._stage(stage, earlier, start if stage == "base" else None, encoders)

    def _published(self) -> FourDM:
        """A base out of `base_weights`."""
        base, untrained = published(self.settings, self.base_weights)
        if untrained and (self.stage == "motion" or not self.settings.base_steps):
            some = f"{len(untrained)} tensors, such as {untrained[0]}"
            raise ValueError(f"{self.base_weights} lacks {some}; --stage base and --settings.base-steps train them.")
        return base

    def _keep(self, base: FourDM) -> None:
        """A base that is not trained, as the file that training would leave."""
        path = self.out / FILES["base"]
        if not path.exists():
            base.save_pretrained(self.out, "base", made_from=self.base_weights.name)
        elif fingerprint(FourDM.from_pretrained(self.out, motion=False)) != fingerprint(base):
            raise ValueError(f"{path} is there, and is not {self.base_weights}; use another folder.")

    def _encoders(self) -> Encoders | None:
        if self.encoders is None:
            return None
        text = None if self.settings.model.unet.text_dim is None else self.settings.caption
        return Encoders.from_pretrained(*self.encoders, text)

    def _stage(
        self, stage: four_diffusion.Part, earlier: Path | None, start: FourDM | None, encoders: Encoders | None
    ) -> None:
        folder = four_diffusion.SHIPPED.get(str(earlier), earlier)
        if folder and stage == "motion":
            copied(FILES["base"], folder, self.out)
        begin = folder or (self.out if stage == "motion" else None)
        start = FourDM.from_pretrained(begin, motion=bool(earlier) and stage == "motion") if begin else start
        announced("four_diffusion", stage, self)
        options = dict(checkpoint_every=self.checkpoint_every, device=device(), scale=self.scale, encoders=encoders)
        run = train_four_dm(stage, self.settings, self.out, start, **options)
        step = watched(run, getattr(self.settings, f"{stage}_steps"), stage)
        command = f"fourd train-4dm --preset {self.preset} --stage {stage}"
        notes = how_made(command, self.settings, FOUR_DM[self.preset], step.seconds)
        if folder:
            notes["made_by"] += f" --start-from {earlier}"
            *_, notes["after"] = load_weights(folder / FILES[stage], four_diffusion.FourDMConfig)
        if self.encoders:
            notes["made_by"] += f" --encoders {' '.join(self.encoders)}"
        if self.base_weights and stage == "base":
            notes["made_from"] = self.base_weights.name
        written(step, lambda model: model.save_pretrained(self.out, stage, **notes))
