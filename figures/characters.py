"""One frame of every character of the collection (`fourd fetch-characters`), with whom to name and which licence."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageDraw

from fourd_minimal.cameras import circular_trajectory
from fourd_minimal.cli.main import program
from fourd_minimal.data import gltf
from fourd_minimal.data.characters import load
from fourd_minimal.data.collection import Asset, assets
from fourd_minimal.data.procedural import FOV_DEG, RADIUS
from fourd_minimal.systems.weights import whole_file, write_text
from fourd_minimal.training.tables import made_by, table

COLUMNS, SIDE, LINE = 16, 92, 11
BACKGROUND = 0.88
INK = (90, 90, 90)


def frame(asset: Asset) -> np.ndarray:
    """A third of the way through the clip that `render_asset` chooses, as (h, w, 3) bytes."""
    parsed = load(asset.path)
    clip = gltf.choose_clip(parsed, None)
    times_s = gltf.moments(parsed.clips[clip], 2, (0.33, 0.34))[:1]
    c2w = circular_trajectory(torch.tensor([40.0]), 15.0, RADIUS)
    options = dict(fill=0.92, background=(BACKGROUND,) * 3, oversample=5, geometry=False)
    rgb = gltf.render(parsed, clip, times_s, c2w, FOV_DEG, SIDE, **options).rgb[0, 0, 0]
    return (rearrange(rgb, "c h w -> h w c") * 255).round().byte().numpy()


def sheet(found: list[Asset]) -> Image.Image:
    """All frames, numbered as in the table."""
    rows = -(-len(found) // COLUMNS)
    paper = Image.new("RGB", (COLUMNS * SIDE, rows * (SIDE + LINE)), (round(BACKGROUND * 255),) * 3)
    draw = ImageDraw.Draw(paper)
    for i, asset in enumerate(found):
        y, x = divmod(i, COLUMNS)
        paper.paste(Image.fromarray(frame(asset)), (x * SIDE, y * (SIDE + LINE)))
        draw.text((x * SIDE + SIDE // 2, y * (SIDE + LINE) + SIDE), str(i + 1), INK, anchor="mt", font_size=10)
    return paper


def credits(found: list[Asset]) -> str:
    """Whom to name, for each picture."""
    rows = []
    for i, a in enumerate(found):
        source = f"[{a.repo}](https://github.com/{a.repo}/tree/{a.commit})"
        rows.append([str(i + 1), a.id, a.kind, a.split, a.licence, a.attribution, source])
    return (
        f"One frame of each of the {len(found)} animated characters that `sample_characters` draws from, a third "
        f"of the way through its liveliest clip that stays in place. {made_by('python -m figures.characters')}\n\n"
        f"{table(['', 'asset', 'kind', 'split', 'licence', 'by', 'from'], rows)}\n"
    )


@dataclass(frozen=True)
class Characters:
    """Draw one frame of every character, and say whom to name for it."""

    out: Path = Path("figures")
    """`characters.png` and `characters.md` go into this folder."""

    def run(self) -> None:
        """Write both."""
        found = sorted(assets(), key=lambda asset: (asset.kind, asset.family, asset.id))
        with whole_file(self.out / "characters.png") as draft:
            sheet(found).save(draft, "PNG", optimize=True)
        write_text(self.out / "characters.md", credits(found))


if __name__ == "__main__":
    program(Characters)
