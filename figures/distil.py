"""The pictures of `fourd distil`: creatures and real assets beside the truth, and real videos, which have none."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange, repeat
from PIL import Image, ImageDraw
from torch import Tensor

from figures.distil_ablation import AROUND, BETWEEN, CAMERAS, Views, recorded, seen_between
from figures.four_diffusion import asset_turn
from figures.page import check_choice
from fourd_minimal.cameras import circular_trajectory
from fourd_minimal.cli.assets import named_clip
from fourd_minimal.cli.main import program
from fourd_minimal.configs.presets import device
from fourd_minimal.configs.scene_distillation import SCENES
from fourd_minimal.data.foreground import read_object
from fourd_minimal.data.procedural import HELD_OUT
from fourd_minimal.data.video import count_frames
from fourd_minimal.pretrained.perceptual import lpips_vgg
from fourd_minimal.systems.dynamic_nerf import DynamicNeRF
from fourd_minimal.systems.four_diffusion import FourDM
from fourd_minimal.systems.scene_distillation import multiview_videos, optimise_scene
from fourd_minimal.systems.weights import whole_file, write_text
from fourd_minimal.training.multiview_evaluation import PASTE, score
from fourd_minimal.training.tables import made_by, table
from fourd_minimal.viewers.contact_sheet import INK_RGB, font, picture_rows

FITTED, SCENE = "fit of the sampled videos", "fourd distil"
SIDE = 128
"""Pixels of a frame of the moving picture."""


class Subject(NamedTuple):
    """A video, and what cameras around and between would have seen, where anybody knows."""

    name: str
    video: Tensor
    around: Views | None = None
    between: Views | None = None


def creature(model: FourDM, number: int) -> Subject:
    """A held-out one."""
    around, between = recorded(model, HELD_OUT + number)
    return Subject(f"creature {number}", around[0], around, between)


def asset(model: FourDM, given: str) -> Subject:
    """`Fox.glb#Walk`: a file and a clip of it."""
    seen = asset_turn(model.config, given, 2 * CAMERAS).rgb[0]
    return Subject(named_clip(given)[0].stem, seen[0], seen[::2], seen[1::2])


@dataclass(frozen=True)
class EvaluateDistil:
    """Turn videos into scenes, and show them beside the truth where there is one."""

    preset: str = "cpu"
    """The settings come from this preset."""
    weights: str = "toy"
    """4DM's weights are "toy", or a folder that `fourd train --system four-diffusion` wrote."""
    creatures: tuple[int, ...] = (0, 1)
    """These held-out creatures, by number, become scenes."""
    assets: tuple[str, ...] = ()
    """These animated assets, `Fox.glb#Walk`, become scenes."""
    videos: tuple[Path, ...] = ()
    """These videos of objects become scenes; they have no truth."""
    seed: int = 0
    out: Path = Path("figures")
    """`distil.md`, `distil.png` and `distil.gif` go into this folder."""

    def run(self) -> None:
        """Make every scene, print its scores, and write the pictures."""
        check_choice("--preset", self.preset, SCENES)
        model, config = FourDM.from_pretrained(self.weights).to(device()), SCENES[self.preset]
        size, times = model.config.image_size, model.config.times
        subjects = [creature(model, number) for number in self.creatures]
        subjects += [asset(model, given) for given in self.assets]
        subjects += [Subject(p.stem, read_object(p, size, min(times, count_frames(p)))) for p in self.videos]
        if not subjects:
            raise ValueError("--creatures, --assets, --videos are all empty; expected something to make a scene of.")
        perceptual: Callable | None = lpips_vgg(device()).distance if config.anchor else None
        rows, lines, flights = [], [], []
        for subject in subjects:
            video = subject.video.to(device())
            given = dict(videos=multiview_videos(video, model, config, self.seed), seed=self.seed)
            fitted = optimise_scene(video, model, replace(config, n_steps=0, anchor=0.0), **given)
            scene = optimise_scene(video, model, config, perceptual=perceptual, **given)
            ways = {FITTED: fitted, SCENE: scene}
            made = {name: seen_between(way, model, config.fov_deg, len(video)) for name, way in ways.items()}
            if subject.between is not None:
                rows += scored(subject, made)
                print("\n".join(" | ".join(row) for row in rows[-3:]), flush=True)
            lines += stills(subject, made)
            flights.append(flight(subject, scene, model, config.fov_deg))
        text = (
            f"Videos made into scenes, preset '{self.preset}', weights '{self.weights}', seed {self.seed}, "
            f"{device().type.upper()}, against what {CAMERAS} cameras between the sampled ones would have seen. "
            f"{made_by('python -m figures.distil')} "
            "The object: every pixel that it covers in any frame of the view.\n\n"
        )
        write_text(self.out / "distil.md", text + table(["", "", "PSNR, dB", "object, dB"], rows) + "\n")
        picture_rows(lines, self.out / "distil.png", headings={0: "video", 2: "cameras around, at two moments"})
        pictures = captioned(torch.stack(flights))
        with whole_file(self.out / "distil.gif") as draft:
            pictures[0].save(draft, "GIF", save_all=True, append_images=pictures[1:], duration=150, loop=0)


def scored(subject: Subject, made: dict[str, Views]) -> list[list[str]]:
    """Lines of the table: pasting the video, then each way to make a scene."""
    truth, rows = subject.between.transpose(0, 1)[None], []
    for name, views in {PASTE: subject.video.expand_as(subject.between), **made}.items():
        found = score(name, views.transpose(0, 1)[None], truth)
        rows.append([subject.name, name, f"{found.psnr:.1f}", f"{found.psnr_object:.1f}"])
    return rows


def stills(subject: Subject, made: dict[str, Views]) -> list[tuple[str, Tensor]]:
    """Lines of the still picture: the video's first and middle frame, a gap, and four cameras at each."""
    moments, ways = [0, len(subject.video) // 2], dict(made)
    if subject.between is not None:
        ways = {"truth": subject.between, **made}
    gap, lines = torch.ones_like(subject.video[:1]), []
    for name, views in ways.items():
        video = subject.video[moments] if not lines else torch.ones_like(subject.video[moments])
        seen = [views[::2, moment] for moment in moments]
        label = f"{subject.name}, {name}" if not lines else name
        lines.append((label, torch.cat([video, gap, seen[0], gap, seen[1]])))
    return lines


@torch.no_grad()
def flight(subject: Subject, scene: DynamicNeRF, model: FourDM, fov_deg: float) -> Tensor:
    """The video, the scene and the truth, `(turns, 3, 3, SIDE, SIDE)`, from a camera on its way around.

    Time runs forth and back meanwhile. White where nobody knows the truth.
    """
    azimuth, frames = rearrange([AROUND, BETWEEN], "b v -> (v b)"), len(subject.video)
    time = torch.arange(frames)
    time = torch.cat([time, time.flip(0)]).repeat(len(azimuth))[: len(azimuth)]
    c2w = circular_trajectory(azimuth, model.config.elevation_deg, model.config.radius).to(device())
    seen = scene.render(c2w, fov_deg, (time / max(1, frames - 1)).to(device()), SIDE).rgb.clamp(0, 1).cpu()

    def large(pictures: Tensor) -> Tensor:
        each = SIDE // pictures.shape[-1]
        return repeat(pictures, "n c h w -> n c (h a) (w b)", a=each, b=each)

    truth = torch.ones_like(seen)
    if subject.between is not None:
        both = rearrange([subject.around, subject.between], "b v t c h w -> (v b) t c h w")
        truth = large(both[torch.arange(len(azimuth)), time])
    return torch.stack([large(subject.video[time]), seen, truth], 1)


def captioned(flights: Tensor) -> Sequence[Image.Image]:
    """One subject per line, with what each column is above."""
    rows = rearrange(flights, "s f k c h w -> f (s h) (k w) c").mul(255).round().byte().numpy()
    pictures, top = [], 22
    for row in rows:
        canvas = Image.new("RGB", (row.shape[1], top + row.shape[0]), "white")
        canvas.paste(Image.fromarray(np.ascontiguousarray(row)), (0, top))
        draw = ImageDraw.Draw(canvas)
        for column, label in enumerate(("given: a video", "made: a scene", "truth")):
            draw.text(((column + 0.5) * SIDE, top / 2), label, INK_RGB, font(13), anchor="mm")
        pictures.append(canvas)
    return pictures


if __name__ == "__main__":
    program(EvaluateDistil)
