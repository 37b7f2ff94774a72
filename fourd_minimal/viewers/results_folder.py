"""A folder of results: written whole or not at all, and never over what is not its own."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fourd_minimal.cameras import circular_trajectory
from fourd_minimal.data.video import write_video
from fourd_minimal.viewers.contact_sheet import contact_sheet
from fourd_minimal.viewers.grid_page import save_html

GRID_FILES = r"grid\.(html|png)|frames(/view_\d+(/\d+\.png)?)?"
"""What a folder with a grid holds."""
SCENE_FILES = rf"{GRID_FILES}|(orbit|freeze)\.mp4|meshes(/time_\d+\.(glb|obj|ply))?"
"""What a folder with a distilled scene holds."""


def write_grids(grids: dict[str, Tensor], folder: Path, known: bool = True) -> None:
    """A page, a still, and the frames of the first grid; `known`: its first row and column were given."""
    grid = next(iter(grids.values()))
    for view, frames in enumerate(grid):
        write_video(frames, folder / "frames" / f"view_{view}")
    contact_sheet(grid, folder / "grid.png", known=known)
    title = "Drag: sideways is time, up and down is viewpoint"
    save_html(grids if len(grids) > 1 else grid, folder / "grid.html", known=known, title=title)


@contextmanager
def whole_folder(path: Path, ours: str) -> Iterator[Path]:
    """A draft to fill with results; it becomes `path` when the block ends without an error, else it vanishes.

    Args:
        path: the folder.
        ours: a pattern of all paths that an earlier run may have left there.

    Raises:
        ValueError: a file is in the way, or the folder holds other files.
    """
    place = next(p for p in path.absolute().parents if p.exists())
    in_the_way = path if path.exists() else place
    if not in_the_way.is_dir():
        raise ValueError(f"--out is {path}, but {in_the_way} is a file; expected a folder.")
    for file in sorted(path.rglob("*")) if path.exists() else ():
        if not re.fullmatch(ours, file.relative_to(path).as_posix()):
            raise ValueError(f"--out is {path}, which holds {file}; expected a new folder or that of an earlier run.")
    with TemporaryDirectory(dir=place, prefix=".writing_") as temporary:
        draft = Path(temporary, "new")
        draft.mkdir()
        yield draft
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.rename(Path(temporary, "old"))
        draft.rename(path)


@torch.no_grad()
def write_turns(
    scene: nn.Module, config: Any, fov_deg: float, frames: int, size: int, folder: Path, turns: int = 48
) -> None:
    """A page to drag in, a video of an orbiting camera, and one with the time frozen.

    Args:
        scene: a `DynamicNeRF`.
        config: of the model it was distilled from: its cameras' `elevation_deg` and `radius`.
        fov_deg: vertical field of view.
        frames: times of the page.
        size: of the pictures, in pixels.
        folder: where they go.
        turns: cameras of the orbit.
    """
    device = next(scene.parameters()).device

    def rendered(azimuth: Tensor, times: Tensor) -> Float[Tensor, "*b 3 h w"]:
        c2w = circular_trajectory(azimuth, config.elevation_deg, config.radius)
        pictures = scene.render(c2w.to(device), fov_deg, times.to(device), size)
        return pictures.rgb.clamp(0, 1).cpu()

    around = torch.arange(turns) * (360 / turns)
    there = torch.linspace(0, 1, frames)
    there_and_back = torch.cat([there, there.flip(0)[1:-1]]) if frames > 2 else there
    write_video(rendered(around, there_and_back.repeat(turns)[:turns]), folder / "orbit.mp4", fps=12)
    write_video(rendered(around, torch.zeros(turns)), folder / "freeze.mp4", fps=12)
    views = (torch.arange(8) * 45.0)[:, None].expand(-1, frames)
    write_grids({"scene": rendered(views, there.expand(8, -1))}, folder, known=False)
