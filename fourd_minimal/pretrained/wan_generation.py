"""A 4D grid with Wan 2.1 and sync layers of ours, from a command.

    fourd generate-wan --sync runs/wan/sync.safetensors --fixed-view a.mp4 --freeze-time b.mp4 --prompt "A fox."

Without sync layers the streams meet by eq. 13 of 4Real-Video, which needs no training.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch

from fourd_minimal.configs.presets import device
from fourd_minimal.data.video import count_frames, opaque
from fourd_minimal.pretrained.wan import TwoStreamWan
from fourd_minimal.pretrained.wan_text import Contexts, contexts, embed_texts
from fourd_minimal.pretrained.wan_training import MODEL, WanPreset
from fourd_minimal.viewers.results_folder import GRID_FILES, whole_folder, write_grids


@dataclass(frozen=True)
class GenerateWan:
    """Complete a 4D grid with Wan 2.1, and write what `fourd generate` writes."""

    fixed_view: Path
    """A video in which the scene moves and the camera rests: mp4, webm, gif or a folder of PNG."""
    freeze_time: Path
    """A video in which the camera moves and the scene rests; it starts with the same picture."""
    sync: Path | None = None
    """The sync layers are `sync.safetensors` of `fourd train-wan`; by default the streams meet by eq. 13, without
    training."""
    model: str = MODEL
    """The model: a repository or a folder in diffusers' layout, the one that the sync layers were trained on."""
    prompt: str = ""
    """The caption of the scene."""
    negative: str = ""
    """The negative caption of classifier-free guidance."""
    guidance: float = 1.0
    """The scale of classifier-free guidance away from the negative caption; 1 is without, in half the time."""
    size: tuple[int, int] | None = None
    """The frames' height and width in pixels; by default what the sync layers were trained for."""
    precision: Literal["fp32", "bf16"] | None = None
    """The precision of the base's weights, of products and attention; by default bf16 on a GPU and fp32 on a CPU."""
    steps: int = 40
    """Sampling takes this many Euler steps."""
    seed: int = 0
    """The noise that sampling starts from has this seed."""
    out: Path = Path("fourd_out")
    """The results go into this folder."""

    def run(self) -> None:
        """Complete the grid, and say where the result is.

        Raises:
            ValueError: no steps, no such file of sync layers, and whatever reading the videos raises.
        """
        self._check()
        where = device()
        half = self.precision == "bf16" or (self.precision is None and where.type != "cpu")
        dtype = torch.bfloat16 if half else torch.float32
        with whole_folder(self.out, GRID_FILES) as folder:
            texts = embed_texts(self.model, [*contexts(self.prompt), self.negative], where, dtype)[:, None]
            model = TwoStreamWan.from_pretrained(self.model, "weighted", dtype).to(where)
            trained = asdict(WanPreset()) if self.sync is None else model.load_sync(self.sync)
            size = self.size or tuple(trained["image_size"])
            fixed_view = opaque(self.fixed_view, size, trained["times"])
            freeze_time = opaque(self.freeze_time, size, trained["views"])
            text, negative = Contexts(texts[0], texts[1]), Contexts(texts[2], texts[2])
            with torch.autocast(where.type, torch.bfloat16, enabled=half):
                grid = model.generate(fixed_view, freeze_time, text, self.steps, self.seed, self.guidance, negative)
            write_grids({"": grid}, folder)
        print(f"Look around: {(self.out / 'grid.html').resolve()}\nStill:       {(self.out / 'grid.png').resolve()}")

    def _check(self) -> None:
        """Refuse bad input before large files are read."""
        if self.steps < 1:
            raise ValueError(f"--steps is {self.steps}; expected at least 1.")
        if self.sync is not None and not self.sync.is_file():
            raise ValueError(f"--sync is {self.sync}, which is no file; `fourd train-wan` writes one.")
        for flag, path in {"--fixed-view": self.fixed_view, "--freeze-time": self.freeze_time}.items():
            try:
                count_frames(path)
            except (ValueError, FileNotFoundError) as error:
                raise ValueError(f"{flag}: {str(error).removeprefix('path: ')}") from None
