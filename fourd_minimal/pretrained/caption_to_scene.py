"""A caption becomes a scene that moves, by score distillation from published weights (`pretrained/stable_guide.py`).

    fourd distil-pretrained --model stable-diffusion-v1-5/stable-diffusion-v1-5 \\
        --motion guoyww/animatediff-motion-adapter-v1-5-2 --prompt "a fox running" --precision fp16 --out fourd_out/fox

AnimateDiff's published motion modules are for Stable Diffusion 1.5. A Stable Diffusion 2.1 loads as well, with
`--motion None` or with an adapter trained for it.

Not run on the published weights here: the loading code is tested on tiny random models of the same classes, saved and
read as published ones are. Settings are the paper's, but for what a caption changes: no video, so no anchor; guidance
50, rescaled by 0.5, as in MVDream; the cameras of this package's 4DM, which see all of the unit ball, and a start that
fills most of it (both assumed).
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from tqdm import tqdm

from fourd_minimal.configs.presets import device
from fourd_minimal.pretrained.stable_guide import StableGuide, StableGuideConfig
from fourd_minimal.systems.dynamic_nerf import DynamicNeRF, DynamicNeRFConfig
from fourd_minimal.systems.scene_distillation import SceneConfig, optimise_steps
from fourd_minimal.viewers.results_folder import SCENE_FILES, whole_folder, write_turns

CAPTION = SceneConfig(
    nerf=DynamicNeRFConfig(blob=5.0, blob_radius=0.8), fov_deg=36.0, guidance=50.0, rescale=0.5, anchor=0.0
)
"""The paper's settings, without the losses that need a video."""
PRECISIONS = dict(fp32=torch.float32, bf16=torch.bfloat16, fp16=torch.float16)


@dataclass(frozen=True)
class DistilPretrained:
    """Turn a caption into a scene that moves, with Stable Diffusion and AnimateDiff; needs the extra `pretrained`."""

    prompt: str = ""
    """The caption of the scene: one moving object."""
    model: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    """The guidance model: a Stable Diffusion 1 or 2, by its name or as a folder with safetensors."""
    motion: str | None = "guoyww/animatediff-motion-adapter-v1-5-2"
    """The motion adapter for the model; with None each frame is denoised by itself."""
    negative: str = "ugly, blurry, low quality"
    """The negative caption of classifier-free guidance."""
    views: int = 4
    """So many views are denoised together in a guidance step."""
    times: int = 8
    """The scene has this many frames, all denoised together in a guidance step."""
    image_size: int | None = None
    """The model's pictures have this many pixels along each side; by default what it was trained for. Memory grows with
    the square."""
    joint: bool = True
    """The views of one frame attend to each other."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """The precision of the U-Net."""
    seed: int = 0
    """The optimisation's random numbers have this seed."""
    size: int = 128
    """The written pictures have this many pixels along each side."""
    out: Path = Path("fourd_out/distil_pretrained")
    """The results go into this folder."""
    checkpoint: Path | None = None
    """The optimisation is kept in this file, from which a stopped one goes on."""
    settings: SceneConfig = field(default_factory=lambda: CAPTION)
    """The values of the optimisation, each of which can be changed; by default the paper's 35,000 steps."""

    def run(self) -> None:
        """Optimise, and say where the pictures are.

        Raises:
            ValueError: no caption, counts that make no sense, and whatever `StableGuide.from_pretrained` raises.
        """
        if not self.prompt.strip():
            raise ValueError("--prompt is missing; expected a caption of one object.")
        if not 1 <= self.size <= 2048:
            raise ValueError(f"--size is {self.size}; expected 1 to 2048.")
        if self.settings.n_steps < 1:
            raise ValueError(f"--settings.n-steps is {self.settings.n_steps}; expected at least 1.")
        guide = self._guide().to(device())
        c = guide.config
        with whole_folder(self.out, SCENE_FILES) as folder:
            print(f"Score distillation of {c.times} frames x {c.views} views of {c.image_size} pixels", flush=True)
            began = time.perf_counter()
            scene = self._optimised(guide)
            print(f"A scene of {c.times} frames in {time.perf_counter() - began:.0f} s")
            write_turns(scene, c, self.settings.fov_deg, c.times, self.size, folder)
        names = {"Look around": "grid.html", "A turn": "orbit.mp4", "Frozen": "freeze.mp4"}
        print("\n".join(f"{what + ':':13}{(self.out / name).resolve()}" for what, name in names.items()))

    def _guide(self) -> StableGuide:
        config = StableGuideConfig(self.views, self.times, self.image_size, joint=self.joint)
        given = self.model, self.prompt, self.motion, self.negative
        return StableGuide.from_pretrained(*given, config=config, dtype=PRECISIONS[self.precision])

    def _optimised(self, guide: StableGuide) -> DynamicNeRF:
        steps = optimise_steps(None, guide, self.settings, seed=self.seed, path=self.checkpoint)
        with tqdm(total=self.settings.n_steps, desc="scene", unit="step") as progress:
            for step in steps:
                progress.update(step.number - progress.n)
                progress.set_postfix({k: f"{v:.3g}" for k, v in step.losses.items() if v}, refresh=False)
        return step.scene.requires_grad_(False)
