"""The main job, from files to files: two videos, or one animated asset, become a grid to look around in."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from fourd_minimal.data.gltf import render_asset
from fourd_minimal.data.video import read_video, write_video
from fourd_minimal.lab.contact_sheet import contact_sheet
from fourd_minimal.lab.evaluation import TRIVIAL, moving_pixels, psnr
from fourd_minimal.lab.presets import device
from fourd_minimal.lab.viewer import save_html
from fourd_minimal.systems.four_real_video import FourRealVideo
from fourd_minimal.systems.text_to_video import TextToVideo
from fourd_minimal.systems.upsampler import Upsampler

EXAMPLE = Path(__file__).parents[1] / "examples"
"""A held-out scene of the headline world: `fixed_view.mp4`, `freeze_time.mp4`."""
MADE_BY_A_MODEL = 0.1
"""Noise augmentation that the upsampler is told for frames that are not true."""


@dataclass(frozen=True)
class Generate:
    """Complete a 4D grid and write `grid.html` to look around in, `grid.png`, and the frames.

    Give two videos whose first frames agree, an animated asset, or a caption; nothing runs the bundled example.
    """

    fixed_view: Path | None = None
    """A video in which the scene moves and the camera rests: mp4, webm, gif or a folder of PNG."""
    freeze_time: Path | None = None
    """A video in which the camera moves and the scene rests."""
    asset: Path | None = None
    """A .gltf or .glb with an animation: both videos are rendered from it, the result is compared with the truth."""
    text: str | None = None
    """A caption, "a red ball bouncing": both videos are made from it."""
    clip: str | None = None
    """Which of the asset's animations; left out, the first that moves. Its first half is rendered."""
    out: Path = Path("fourd_out")
    """Where the results go."""
    weights: str = "toy"
    """"toy", or a folder that `fourd train` wrote."""
    windows: bool = False
    """Take all frames of the videos, and complete a grid longer and wider than the training size, window by window."""
    upsample: bool = False
    """Make every frame twice as large with the diffusion upsampler."""
    steps: int = 8
    """Euler steps."""
    seed: int = 0
    """Of the noise."""

    def run(self) -> None:
        """Do it, and say where the result is.

        Raises:
            ValueError: one video without the other, or two kinds of input at once; and whatever reading them raises.
        """
        if (self.fixed_view is None) != (self.freeze_time is None):
            missing = "--freeze-time" if self.freeze_time is None else "--fixed-view"
            raise ValueError(f"{missing} is missing; a fixed-view and a freeze-time video belong together.")
        given = [f"--{name.replace('_', '-')}" for name in ("asset", "fixed_view", "text") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} were both given; give an asset, two videos or a caption.")
        if self.asset and (self.upsample or self.windows):
            raise ValueError(
                "--asset is compared with its truth at the training size; leave out --upsample, --windows."
            )
        if self.clip and not self.asset:
            raise ValueError("--clip was given without --asset; it chooses one of an asset's animations.")
        if self.out.exists() and not self.out.is_dir():
            raise ValueError(f"--out is {self.out}, which is a file; a folder is wanted.")
        if self.steps < 1:
            raise ValueError(f"--steps is {self.steps}; it must be at least 1.")
        model = FourRealVideo.from_pretrained(self.weights).to(device())
        if self.asset:
            self._from_asset(model)
        elif self.text:
            self._write({"": self._complete(model, *self._from_text(model))})
        else:
            row, column = self.fixed_view or EXAMPLE / "fixed_view.mp4", self.freeze_time or EXAMPLE / "freeze_time.mp4"
            most = (None, None) if self.windows else (model.times, model.views)
            videos = [opaque(path, model.image_size, n) for path, n in zip((row, column), most, strict=True)]
            self._write({"": self._complete(model, *videos)})

    def _from_text(self, model: FourRealVideo) -> tuple[Tensor, Tensor]:
        reader = TextToVideo.from_pretrained("toy").to(device())
        if reader.config.dit.image_size != model.image_size:
            h, w = reader.config.dit.image_size
            raise ValueError(f"--text makes videos of {h}x{w} pixels; the weights '{self.weights}' want others.")
        return reader.generate(self.text, seed=self.seed)

    def _complete(self, model: FourRealVideo, fixed_view: Tensor, freeze_time: Tensor) -> Float[Tensor, "v t 3 h w"]:
        start = time.perf_counter()
        grid = model.generate(fixed_view, freeze_time, self.steps, self.seed, windows=self.windows)
        if self.upsample:
            grid = Upsampler.from_pretrained("toy").to(device()).upsample(grid, tau=MADE_BY_A_MODEL)
        v, t, _, h, w = grid.shape
        print(f"{v} views x {t} times of {h}x{w} pixels in {time.perf_counter() - start:.1f} s, {self.steps} steps")
        return grid

    def _from_asset(self, model: FourRealVideo) -> None:
        size, half = model.image_size[0], (0.0, 0.5)  # half a clip: one that loops would end where it began
        record = render_asset(self.asset, model.views, model.times, size, self.clip, time_range=half)
        truth = record.rgb
        grid = self._complete(model, truth[0, 0], truth[0, :, 0])
        moving = moving_pixels(record.alpha)
        for name, found in {"generated": grid[None], **{k: complete(truth) for k, complete in TRIVIAL.items()}}.items():
            print(f"  {name:20s} {psnr(found, truth):6.2f} dB, moving pixels {psnr(found, truth, moving):6.2f} dB")
        self._write({"generated": grid, "truth": truth[0]})

    def _write(self, grids: dict[str, Tensor]) -> None:
        grid = next(iter(grids.values()))
        folder = self.out / "frames"
        for view, frames in enumerate(grid):
            write_video(frames, folder / f"view_{view}")
        for stale in set(folder.glob("view_*")) - {folder / f"view_{view}" for view in range(len(grid))}:
            shutil.rmtree(stale)  # of an earlier, larger grid
        contact_sheet(grid, self.out / "grid.png")
        title = "Drag: sideways is time, up and down is viewpoint"
        save_html(grids if len(grids) > 1 else grid, self.out / "grid.html", title=title)
        print(f"Look around: {(self.out / 'grid.html').resolve()}\nStill:       {(self.out / 'grid.png').resolve()}")


def opaque(path: Path, size: tuple[int, int], most: int | None) -> Float[Tensor, "t 3 h w"]:
    """A video on white, cropped and resized; of one with more than `most` frames, `most` evenly spaced ones."""
    video = read_video(path, size)
    rgb = video.rgb if video.alpha is None else torch.lerp(torch.ones(()), video.rgb, video.alpha)
    if most is not None and len(rgb) > most:
        print(f"{path}: {most} of its {len(rgb)} frames are taken, evenly spaced")
        rgb = rgb[torch.linspace(0, len(rgb) - 1, most).round().long()]
    return rgb
