"""The weights of 4DM, its base and its motion modules, into a folder that `from_pretrained` reads."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from fourd_minimal.configs.four_diffusion import FOUR_DM, FourDMPreset
from fourd_minimal.configs.presets import device
from fourd_minimal.systems import four_diffusion
from fourd_minimal.systems.four_diffusion import FILES, FourDM
from fourd_minimal.systems.weights import fingerprint, load_weights
from fourd_minimal.training.devices import PLAIN, Scale
from fourd_minimal.training.four_diffusion import train_four_dm
from fourd_minimal.training.run import announced, copied, every, how_made, watched, written


def published(preset: FourDMPreset, path: str | Path) -> tuple[FourDM, list[str]]:
    """A base with the U-Net of somebody else's file: ImageDream's, or Stable Diffusion 2's, where ImageDream began.

    Args:
        preset: its model and seed, for what the file lacks.
        path: a safetensors file, with the names of ImageDream's code or of diffusers.

    Returns:
        the base, and the names of what keeps its random start: none with ImageDream's.

    Raises:
        ValueError: no safetensors file, or one that does not fit.
    """
    from fourd_minimal.pretrained.image_dream_unet import is_image_dreams, load_image_dream
    from fourd_minimal.pretrained.stable_diffusion_unet import load_stable_diffusion

    if not Path(path).is_file():
        raise ValueError(f"{path} is no file; expected ImageDream's or Stable Diffusion's U-Net as safetensors.")
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a complete safetensors file ({error}).") from None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(preset.seed)
        model = FourDM(preset.model, motion=False)
    if is_image_dreams(state):
        load_image_dream(model.unet, state)
        return model, []
    return model, load_stable_diffusion(model.unet, state)


@dataclass(frozen=True)
class TrainFourDM:
    """Train the multi-view base, then the motion modules inside it. Stop it at any time: run again, and it goes on."""

    preset: Literal["smoke", "cpu", "gpu", "full"] = "cpu"
    """The settings below come from this preset."""
    stage: Literal["all", "base", "motion"] = "all"
    """The stage to train. "motion" starts from the `base.safetensors` of --out, or from --base-weights."""
    out: Path = Path("runs/four_diffusion")
    """Checkpoints and weights go into this folder."""
    start_from: Path | None = None
    """Training goes on from these weights: "toy", or the folder of an earlier run, which is not written into. The base
    is taken, or with --stage motion its motion modules."""
    settings: FourDMPreset = field(default_factory=lambda: FOUR_DM["cpu"])
    """The values of the preset, each of which can be changed."""
    scale: Scale = PLAIN
    """The devices, precision and memory of a run, whose result they change by rounding only."""
    checkpoint_every: int | None = None
    """Steps between checkpoints; left out, 100, or 1000 in the preset `full`, whose checkpoints have gigabytes."""
    encoders: tuple[str, str] | None = None
    """The encoders of a model of latents, such as `full`: the names or folders of a Stable Diffusion 2 and of a
    CLIP."""
    base_weights: Path | None = None
    """The base begins with these published weights: a safetensors file of ImageDream's U-Net, or of Stable Diffusion
    2's, which is not conditioned on cameras and so must be trained."""

    def run(self) -> None:
        """Train, and leave one file for each stage in `out`.

        Raises:
            ValueError: weights to start from that are also those to be written, or two kinds of them; a base that
                would stay untrained, or be written over another.
        """
        if self.start_from and self.start_from.resolve() == self.out.resolve():
            raise ValueError("--start-from goes with an --out of its own.")
        if self.start_from and self.base_weights:
            raise ValueError("--start-from and --base-weights are both given; expected one.")
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

    def _encoders(self) -> nn.Module | None:
        if self.encoders is None:
            return None
        from fourd_minimal.pretrained.encoders import Encoders

        text = None if self.settings.model.unet.text_dim is None else self.settings.caption
        return Encoders.from_pretrained(*self.encoders, text)

    def _stage(
        self, stage: four_diffusion.Part, earlier: Path | None, start: FourDM | None, encoders: nn.Module | None
    ) -> None:
        folder = FourDM.folder(earlier) if earlier else None
        if folder and stage == "motion":
            copied(FILES["base"], folder, self.out)
        begin = folder or (self.out if stage == "motion" else None)
        start = FourDM.from_pretrained(begin, motion=bool(earlier) and stage == "motion") if begin else start
        announced("four_diffusion", stage, self)
        options = dict(checkpoint_every=every(self), device=device(), scale=self.scale, encoders=encoders)
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
