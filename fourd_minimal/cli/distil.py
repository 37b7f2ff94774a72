"""All of 4Diffusion from a shell: a video of an object becomes a scene that moves, seen from any viewpoint."""

import time
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Literal

from torch import Tensor
from tqdm import tqdm

from fourd_minimal.configs.presets import device
from fourd_minimal.configs.scene_distillation import SCENES
from fourd_minimal.data.foreground import Matte, read_object
from fourd_minimal.data.video import count_frames
from fourd_minimal.pretrained.perceptual import lpips_vgg
from fourd_minimal.systems.dynamic_nerf import DynamicNeRF
from fourd_minimal.systems.four_diffusion import FourDM
from fourd_minimal.systems.scene_distillation import SceneConfig, optimise_steps
from fourd_minimal.viewers.results_folder import SCENE_FILES, whole_folder, write_turns


@dataclass(frozen=True)
class Distil:
    """Turn one video of an object into a scene that moves. The shipped weights know walking creatures.

    As many evenly spaced frames of the video are taken as the model was trained for (8).
    """

    video: Path | None = None
    """The video of one object: with alpha, on white, or together with --masks or --matte."""
    preset: Literal["smoke", "cpu", "gpu", "full"] = "cpu"
    """The settings below come from this preset."""
    masks: Path | None = None
    """A video or a folder of pictures which are white where the object is."""
    matte: Matte | None = None
    """The library that separates the object from its background."""
    weights: str = "toy"
    """4DM's weights are "toy", or a folder that `fourd train --system four-diffusion` wrote."""
    frame_by_frame: bool = False
    """The guidance model is 4DM's multi-view base, which denoises one moment at a time, in place of 4DM."""
    seed: int = 0
    """The optimisation's random numbers have this seed."""
    size: int = 128
    """The written pictures have this many pixels along each side: the scene is smooth, so they may be larger than the
    video."""
    meshes: Literal["glb", "obj", "ply"] | None = None
    """The surface at each time is written too, in this format; this needs the extra `meshes`."""
    out: Path = Path("fourd_out/distil")
    """The results go into this folder."""
    checkpoint: Path | None = None
    """The optimisation is kept in this file, from which a stopped one goes on."""
    settings: SceneConfig = field(default_factory=lambda: SCENES["cpu"])
    """The values of the preset, each of which can be changed."""

    def run(self) -> None:
        """Optimise, and print where the pictures are.

        Raises:
            ValueError: counts that make no sense, and whatever reading the video raises.
        """
        if self.video is None:
            raise ValueError("--video is missing; expected a video of one object.")
        if not 1 <= self.size <= 2048:
            raise ValueError(f"--size is {self.size}; expected 1 to 2048.")
        if self.settings.n_steps < 1:
            raise ValueError(f"--settings.n-steps is {self.settings.n_steps}; expected at least 1.")
        if self.meshes:  # before minutes are spent
            from fourd_minimal.viewers.meshes import write_meshes
        model = FourDM.from_pretrained(self.weights, motion=True).to(device())
        base = FourDM.from_pretrained(self.weights, motion=False).to(device()) if self.frame_by_frame else None
        frames = min(model.config.times, count_frames(self.video))
        with whole_folder(self.out, SCENE_FILES) as folder:
            video = read_object(self.video, model.config.image_size, frames, self.masks, self.matte).to(device())
            began = time.perf_counter()
            scene = self._optimised(video, model, base or model)
            print(f"A scene from {frames} frames of {video.shape[-1]} pixels in {time.perf_counter() - began:.0f} s")
            print("Writing a turn around it, and a page to look around in", flush=True)
            write_turns(scene, model.config, self.settings.fov_deg, frames, self.size, folder)
            if self.meshes:
                write_meshes(scene, folder / "meshes", frames, f".{self.meshes}")
        names = {"Look around": "grid.html", "A turn": "orbit.mp4", "Frozen": "freeze.mp4"}
        names |= {"Surfaces": "meshes"} if self.meshes else {}
        print("\n".join(f"{what + ':':13}{(self.out / name).resolve()}" for what, name in names.items()))

    def _optimised(self, video: Tensor, model: FourDM, guidance_model: FourDM) -> DynamicNeRF:
        perceptual = None
        if self.settings.anchor:
            perceptual, label = lpips_vgg(device())
            print(f"Anchor: {label}")
        print(f"Sampling {self.settings.sampled_views} views, then a fit to them, then score distillation", flush=True)
        given = video, model, self.settings, perceptual, None, self.seed, self.checkpoint
        steps = optimise_steps(*given, guidance_model=guidance_model)
        first = next(steps)  # sampling and the fit come before it, and are no part of a step's time
        with tqdm(total=self.settings.n_steps, initial=first.number - 1, desc="scene", unit="step") as progress:
            for step in chain((first,), steps):
                progress.update(step.number - progress.n)
                progress.set_postfix({k: f"{v:.3g}" for k, v in step.losses.items() if v}, refresh=False)
        return step.scene.requires_grad_(False)
