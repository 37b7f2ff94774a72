"""The README's pictures that no measurement makes."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageDraw

from fourd_minimal.cameras import circular_trajectory
from fourd_minimal.cli.main import program
from fourd_minimal.systems.conditioning import known_cells
from fourd_minimal.systems.deformable_gaussians import fit, random_scene
from fourd_minimal.systems.four_real_video import FourRealVideo
from fourd_minimal.systems.text_to_video import TextToVideo
from fourd_minimal.systems.upsampler import Upsampler
from fourd_minimal.systems.weights import whole_file
from fourd_minimal.training.evaluation import held_out, predict
from fourd_minimal.viewers.contact_sheet import INK_RGB, compare_sheet, contact_sheet, font

HERE_RGB = (86, 180, 233)  # sky blue of the Okabe-Ito palette: the cell that is shown
SCENES = (3, 9, 17)
"""Held-out scenes of the headline family that are shown, chosen by eye for variety, not for quality."""


def walk(views: int, times: int) -> list[tuple[int, int]]:
    """Around the unseen cells, along time and back through the views: a closed loop of neighbours."""
    there = [(v, t) for v in range(1, views) for t in (range(1, times) if v % 2 else range(times - 1, 0, -1))]
    return there + there[-2:0:-1]


def hero(scenes: tuple[int, ...] = SCENES, steps: int = 8, zoom: int = 6) -> list[Image.Image]:
    """The frames of the moving picture: the given videos, then generated and true cells along a walk."""
    model = FourRealVideo.from_pretrained("toy")
    truth = held_out(model, "simple").rgb[list(scenes)]
    made = predict(model, truth, steps)
    given = torch.where(known_cells(model.views, model.times)[..., None, None, None], truth, 0.93)
    sheets = [Image.fromarray(contact_sheet(g, scale=1, labels=False)).resize((140, 140), 0) for g in given]
    side = model.image_size[0] * zoom
    pictures = []
    for v, t in walk(model.views, model.times):
        canvas = Image.new("RGB", (160 + 2 * (side + 10), len(scenes) * (side + 10) + 24), "white")
        draw = ImageDraw.Draw(canvas)
        for column, label in ((70, "given"), (160 + side / 2, "generated"), (170 + 1.5 * side, "truth")):
            draw.text((column, 12), label, INK_RGB, font(14), anchor="mm")
        for row, (sheet, generated, true) in enumerate(zip(sheets, made, truth, strict=True)):
            top = 24 + row * (side + 10)
            canvas.paste(sheet, (0, top))
            cell = 140 / model.times
            draw.rectangle([t * cell, top + v * cell, (t + 1) * cell - 2, top + (v + 1) * cell - 2], HERE_RGB)
            for column, grid in enumerate((generated, true)):
                frame = rearrange(grid[v, t].mul(255).round().byte(), "c h w -> h w c").numpy()
                canvas.paste(
                    Image.fromarray(np.ascontiguousarray(frame)).resize((side, side), 0),
                    (160 + column * (side + 10), top),
                )
        pictures.append(canvas)
    return pictures


CAPTIONS = ("a red ball bouncing", "a blue box squashing", "a green ball squashing", "a yellow box bouncing")


def from_words(path: Path, seed: int = 0) -> None:
    """Captions -> two videos -> grids -> larger frames, side by side: the first seed's, whatever came out."""
    reader, model, upsampler = (m.from_pretrained("toy") for m in (TextToVideo, FourRealVideo, Upsampler))
    grids = {}
    for caption in CAPTIONS:
        grid = model.generate(*reader.generate(caption, seed=seed), n_steps=1)
        grids[caption] = upsampler.upsample(grid)
    compare_sheet(grids, path, scale=1)


def free_camera(scenes: tuple[int, ...] = SCENES, frames: int = 24, side: int = 144) -> list[Image.Image]:
    """Scenes fitted to generated grids, seen by a camera that swings through them in a figure of eight."""
    model = FourRealVideo.from_pretrained("toy")
    record = held_out(model, "simple")
    record = replace(record, rgb=record.rgb[list(scenes)], c2w=record.c2w[list(scenes)])
    turn = torch.linspace(0, 2 * torch.pi, frames + 1)[:-1]
    videos = []
    for grid, c2w in zip(predict(model, record.rgb, 1), record.c2w, strict=True):
        scene = fit(grid, c2w, record.fov_deg, random_scene(500), n_steps=400)
        place = c2w[:, :3, 3]
        azimuth = torch.rad2deg(torch.atan2(place[:, 0], place[:, 2]))
        sweep = (azimuth[-1] - azimuth[0] + 180) % 360 - 180
        elevation = torch.rad2deg(torch.asin(place[0, 1] / place[0].norm())) + 8 * (2 * turn).sin()
        swing = circular_trajectory(azimuth[0] + sweep * (0.5 + 0.5 * turn.sin()), elevation, place[0].norm())
        time = 0.5 - 0.5 * (3 * turn).cos()
        videos.append(scene.render(swing, record.fov_deg, time, side).rgb.clamp(0, 1))
    rows = rearrange(torch.stack(videos), "n f c h w -> f h (n w) c").mul(255).round().byte().numpy()
    return [Image.fromarray(np.ascontiguousarray(row)) for row in rows]


@dataclass(frozen=True)
class Hero:
    """Draw a walk through generated cells, a free camera's flight through scenes, and captions that become grids."""

    out: Path = Path("figures")
    """`hero.gif`, `free_camera.gif`, each with a still beside it, and `text_to_4d.png` go into this folder."""

    def run(self) -> None:
        """Write the pictures, with the shipped weights."""
        from_words(self.out / "text_to_4d.png")
        for name, pictures, each_ms in (("hero", hero(), 250), ("free_camera", free_camera(), 120)):
            video = dict(save_all=True, append_images=pictures[1:], duration=each_ms, loop=0)
            for kind, options in (("gif", video), ("png", {})):
                with whole_file(self.out / f"{name}.{kind}") as draft:
                    pictures[0].save(draft, kind.upper(), **options)


if __name__ == "__main__":
    program(Hero)
