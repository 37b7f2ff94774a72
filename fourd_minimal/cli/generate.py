"""The main job, from files to files: two videos, or one animated asset, become a grid to look around in."""

import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from fourd_minimal.cameras import circular_trajectory
from fourd_minimal.configs.presets import device
from fourd_minimal.data.poses import Orbit
from fourd_minimal.data.procedural import FOV_DEG, RADIUS
from fourd_minimal.data.video import opaque
from fourd_minimal.systems.four_real_video import FourRealVideo
from fourd_minimal.systems.text_to_video import TextToVideo
from fourd_minimal.systems.upsampler import Upsampler
from fourd_minimal.viewers.results_folder import GRID_FILES, whole_folder, write_grids

EXAMPLE = Path(__file__).parents[1] / "examples"
"""A held-out scene of the headline world: `fixed_view.mp4`, `freeze_time.mp4`."""
EXAMPLE_ORBIT = Orbit(sweep_deg=52.2, elevation_deg=19.8, radius=RADIUS)
"""How its camera moved."""


@dataclass(frozen=True)
class Generate:
    """Complete a 4D grid and write `grid.html` to look around in, `grid.png`, and the frames.

    Give two videos whose first frames agree, an animated asset, or a caption; by default the bundled example is used.
    """

    fixed_view: Path | None = None
    """A video in which the scene moves and the camera rests: mp4, webm, gif or a folder of PNG."""
    freeze_time: Path | None = None
    """A video in which the camera moves and the scene rests."""
    asset: Path | None = None
    """A .gltf or .glb with an animation: both videos are rendered from it, and the result is compared to it."""
    text: str | None = None
    """A caption, "a red ball bouncing": both videos are made from it."""
    clip: str | None = None
    """The name or number of the asset's animation; by default one that moves much and stays in place. Half of it is
    rendered, of a long one 2 seconds."""
    out: Path = Path("fourd_out")
    """The results go into this folder."""
    weights: str = "toy"
    """The completing model's weights are "toy", or a folder that `fourd train` wrote."""
    windows: bool = False
    """All frames of the videos are taken, and a grid larger than the training size is completed window by window."""
    upsample: bool = False
    """Every frame is made twice as large by the diffusion upsampler."""
    text_weights: str = "toy"
    """The text-to-video model's weights are "toy", or a folder that `fourd train --system text-to-video` wrote."""
    upsampler_weights: str = "toy"
    """The upsampler's weights are "toy", or a folder that `fourd train --system upsampler` wrote."""
    steps: int | None = None
    """Sampling takes this many Euler steps: 8 by default, or 1 with --windows, where errors accumulate."""
    seed: int = 0
    """The noise that sampling starts from has this seed."""

    def run(self) -> None:
        """Complete the grid, and print where the result is.

        Raises:
            ValueError: one video without the other, or two kinds of input at once; and whatever reading them raises.
        """
        self._check()
        with whole_folder(self.out, GRID_FILES) as folder:
            model = FourRealVideo.from_pretrained(self.weights).to(device())
            upsampler = self._upsampler(model)
            if self.asset:
                grids = self._from_asset(model)
            else:
                videos = self._videos(model) if self.text is None else self._from_text(model)
                grids = {"": self._complete(model, *videos, upsampler)}
            write_grids(grids, folder)
        print(f"Look around: {(self.out / 'grid.html').resolve()}\nStill:       {(self.out / 'grid.png').resolve()}")

    def _check(self) -> None:
        videos = ["--fixed-view"] * bool(self.fixed_view) + ["--freeze-time"] * bool(self.freeze_time)
        given = ["--asset"] * bool(self.asset) + videos[:1] + ["--text"] * (self.text is not None)
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are both given; expected an asset, two videos or a caption.")
        if len(videos) == 1:
            missing = "--freeze-time" if self.freeze_time is None else "--fixed-view"
            raise ValueError(f"{missing} is missing; expected a fixed-view and a freeze-time video.")
        if self.asset and (self.upsample or self.windows):
            raise ValueError("--asset goes without --upsample and --windows: the truth has the model's size.")
        if self.clip and not self.asset:
            raise ValueError("--clip goes with --asset, one of whose animations it chooses.")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"--steps is {self.steps}; expected at least 1.")

    def _videos(self, model: FourRealVideo) -> tuple[Tensor, Tensor]:
        flags = {
            "--fixed-view": (self.fixed_view or EXAMPLE / "fixed_view.mp4", model.times),
            "--freeze-time": (self.freeze_time or EXAMPLE / "freeze_time.mp4", model.views),
        }
        videos = []
        for flag, (path, most) in flags.items():
            try:
                videos.append(opaque(path, model.image_size, None if self.windows else most))
            except (ValueError, FileNotFoundError) as error:
                raise ValueError(f"{flag}: {str(error).removeprefix('path: ')}") from None
        return tuple(videos)

    def _from_text(self, model: FourRealVideo) -> tuple[Tensor, Tensor]:
        reader = TextToVideo.from_pretrained(self.text_weights).to(device())
        if reader.config.dit.image_size != model.image_size:
            h, w = reader.config.dit.image_size
            raise ValueError(f"--text makes videos of {h}x{w} pixels; the weights '{self.weights}' take others.")
        try:
            return reader.generate(self.text, seed=self.seed)
        except ValueError as error:
            raise ValueError(f"--text: {error}") from None

    def _upsampler(self, model: FourRealVideo) -> Upsampler | None:
        if not self.upsample:
            return None
        upsampler = Upsampler.from_pretrained(self.upsampler_weights).to(device())
        if upsampler.config.small_size != model.image_size:
            expected, made = ("x".join(map(str, size)) for size in (upsampler.config.small_size, model.image_size))
            raise ValueError(f"--upsample takes frames of {expected} pixels; the weights '{self.weights}' make {made}.")
        return upsampler

    def _complete(
        self, model: FourRealVideo, fixed_view: Tensor, freeze_time: Tensor, upsampler: Upsampler | None = None
    ) -> Float[Tensor, "v t 3 h w"]:
        start = time.perf_counter()
        n_steps = self.steps or (1 if self.windows else 8)
        grid = model.generate(fixed_view, freeze_time, n_steps, self.seed, windows=self.windows)
        if upsampler:
            grid = upsampler.upsample(grid)
        (v, t, _, h, w), seconds, plural = grid.shape, time.perf_counter() - start, "s" * (n_steps > 1)
        print(f"{v} views x {t} times of {h}x{w} pixels in {seconds:.1f} s, {n_steps} step{plural}")
        return grid

    def _from_asset(self, model: FourRealVideo) -> dict[str, Tensor]:
        from fourd_minimal.cli.assets import lively_window
        from fourd_minimal.data import gltf
        from fourd_minimal.training.evaluation import TRIVIAL, moving_pixels, psnr

        asset = gltf.read_asset(self.asset)
        chosen, clips = gltf.choose_clip(asset, self.clip), asset.clips
        times_s = lively_window(asset, chosen, model.times)
        print(f"{self.asset}: clip {chosen} {clips[chosen].name!r}, {times_s[0]:.2f} to {times_s[-1]:.2f} s")
        if others := [f"{i}\xa0{clip.name!r}" for i, clip in enumerate(clips) if i != chosen]:
            print(textwrap.fill(f"Others: {', '.join(others)}", 120, subsequent_indent="  ").replace("\xa0", " "))
        # the truth, and how near the model and what needs none come to it
        c2w = circular_trajectory(torch.linspace(0, 50, model.views), 20.0, RADIUS)
        how = dict(fill=0.85, oversample=5, geometry=False)
        record = gltf.render(asset, chosen, times_s, c2w, FOV_DEG, model.image_size[0], **how)
        truth, moving = record.rgb, moving_pixels(record.alpha)
        grid = self._complete(model, truth[0, 0], truth[0, :, 0])
        scores = {}
        for name, found in {"generated": grid[None], **{k: complete(truth) for k, complete in TRIVIAL.items()}}.items():
            scores[name] = psnr(found, truth, moving)
            print(f"  {name:20s} {psnr(found, truth):6.2f} dB, moving pixels {scores[name]:6.2f} dB")
        ours = scores.pop("generated")
        best = max(scores, key=scores.get)
        print(f"On moving pixels the model is {ours - scores[best]:+.1f} dB from the best that needs none, {best!r}.")
        return {"generated": grid, "truth": truth[0]}
