"""Animated glTF assets as ground truth: any .gltf or .glb, rendered from cameras on a circle into a grid.

4Real-Video trains on "renderings of animated Objaverse assets" seen from "a circular trajectory around each asset"
(section 3.3). Blender reads and renders them (`blender_render.py`), in a Python environment of its own, as a subprocess:
it is GPL, wants its own Python and numpy, and is never imported here. One line makes that environment:

    python3.11 -m venv ~/.cache/fourd_minimal/blender && \\
        ~/.cache/fourd_minimal/blender/bin/pip install "bpy==4.5.*" "numpy<2"

Blender mixes the clips of an asset unless each is muted by hand. It is shown a copy with a single clip instead: nodes the
clip leaves alone then rest where the file puts them, as glTF says, and an asset with 76 clips loads as fast as any.
"""

import base64
import json
import os
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote, unquote

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from fourd_minimal.cameras import circular_trajectory
from fourd_minimal.data.scene_record import SceneRecord

BLENDER_ENVIRONMENT = (
    "python3.11 -m venv ~/.cache/fourd_minimal/blender && "
    '~/.cache/fourd_minimal/blender/bin/pip install "bpy==4.5.*" "numpy<2"'
)
_DTYPES = {5120: np.int8, 5121: np.uint8, 5122: np.int16, 5123: np.uint16, 5126: np.float32}
_WIDTHS = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}


@dataclass(frozen=True)
class Clip:
    """One animation of an asset."""

    name: str
    """As in the file; `clip_<index>` where the file has none."""
    start_s: float
    """Time of the first key, in seconds."""
    end_s: float
    """Time of the last key, in seconds."""
    moves: bool
    """Whether any of its values changes by more than 1% of its size; poses are stored as clips too."""

    @property
    def duration_s(self) -> float:
        return self.end_s - self.start_s


def list_clips(path: str | Path) -> list[Clip]:
    """The clips of a .gltf or .glb file, in its order, read from the file itself: no Blender needed.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it is not glTF.
    """
    return _clips(*_read(path), Path(path).parent)


def render_asset(
    path: str | Path,
    views: int,
    times: int,
    size: int,
    clip: str | int | None = None,
    *,
    time_range: tuple[float, float] = (0.0, 1.0),
    azimuth_start_deg: float = 0.0,
    azimuth_sweep_deg: float = 50.0,
    elevation_deg: float = 20.0,
    radius: float = 3.5,
    fov_deg: float = 36.0,
    background: tuple[float, float, float] = (1.0, 1.0, 1.0),
    oversample: int = 5,
    blender_python: str | Path | None = None,
) -> SceneRecord:
    """Render one clip of an animated asset as a grid with alpha, depth, cameras, flow and visibility.

    The bounding box over all rendered times is centred and the farthest vertex put on the unit ball, which the default
    camera holds in frame. Cameras stand at azimuths spread evenly over the sweep, both ends included; azimuth 0 looks
    at the asset's front (glTF assets face +z). The same call gives the same numbers.

    Args:
        path: .gltf or .glb; textures and buffers may lie in files beside it.
        views, times: size of the grid, 2 or more each.
        size: pixels along each side, 8 or more.
        clip: name or index, see `list_clips`; None takes the first that moves.
        time_range: part of the clip, as fractions of its length; the grid's first and last time are its two ends. A
            looping clip ends where it began: (0, 1 - 1/times) avoids seeing that pose twice, and a shorter range
            makes smaller steps.
        azimuth_start_deg, azimuth_sweep_deg, elevation_deg, radius, fov_deg: see `cameras.circular_trajectory`; the
            unit ball is in frame from radius 1 / sin(fov_deg / 2) on, 3.24 for the default fov_deg.
        background: colour in [0, 1].
        oversample: odd; each pixel is the mean of oversample^2 rays, and the middle one gives depth and flow.
        blender_python: the Python that has bpy; else $FOURD_BLENDER_PYTHON, else ~/.cache/fourd_minimal/blender.

    Raises:
        FileNotFoundError: no such file, or no Blender environment (the message says how to make it).
        ValueError: not glTF, nothing in it moves, no such clip, or an argument out of range.
        RuntimeError: Blender failed; the message ends with what it said last.
    """
    for name, value, least in ("views", views, 2), ("times", times, 2), ("size", size, 8):
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}.")
    if oversample < 1 or oversample % 2 == 0:
        raise ValueError(f"oversample is {oversample}; it must be odd and positive.")
    if not 0 <= time_range[0] < time_range[1] <= 1:
        raise ValueError(f"time_range is {time_range}; it must rise within [0, 1].")
    document, binary = _read(path)
    index, chosen = _choose(_clips(document, binary, Path(path).parent), clip, path)
    python = _find_blender(blender_python)

    azimuth_deg = torch.linspace(0, 1, views) * azimuth_sweep_deg + azimuth_start_deg
    c2w = circular_trajectory(azimuth_deg, elevation_deg, radius)
    times_s = np.linspace(*(chosen.start_s + f * chosen.duration_s for f in time_range), times)
    with TemporaryDirectory() as folder:
        asset, job, frames = (Path(folder, name) for name in ("asset.glb", "job.json", "frames.npz"))
        _write_single_clip(asset, document, binary, Path(path).parent, index)
        job.write_text(
            json.dumps(
                {
                    "asset": str(asset),
                    "times_s": times_s.tolist(),
                    "c2w": c2w.tolist(),
                    "fov_deg": fov_deg,
                    "size": size,
                    "oversample": oversample,
                }
            )
        )
        script = Path(__file__).with_name("blender_render.py")
        done = subprocess.run([python, script, job, frames], capture_output=True, text=True)
        if done.returncode or not frames.exists():
            said = [line for line in done.stderr.splitlines() if line.strip()] or ["nothing"]
            raise RuntimeError(f"Blender could not render '{path}'; it said: {said[-1].strip()}")
        with np.load(frames, allow_pickle=False) as file:
            passes = {name: torch.from_numpy(file[name])[None] for name in file.files}

    rgba = rearrange(passes["rgba"], "n v t h w c -> n v t c h w")
    alpha = rgba[:, :, :, 3:].clamp(0, 1)
    colour = _srgb(rgba[:, :, :, :3] / alpha.clamp(min=1e-6))
    rgb = alpha * colour + (1 - alpha) * torch.tensor(background)[:, None, None]
    return SceneRecord(
        rgb=rgb,
        alpha=alpha,
        depth=passes["depth"][:, :, :, None],
        c2w=c2w[None],
        fov_deg=fov_deg,
        flow=passes["flow"],
    )


def _read(path: str | Path) -> tuple[dict, bytes]:
    """The JSON of a glTF file and, of a .glb, its binary chunk."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"path is '{path}'; there is no such file.")
    data, binary = Path(path).read_bytes(), b""
    try:
        if data[:4] == b"glTF":
            (n,) = struct.unpack_from("<I", data, 12)
            data, binary = data[20 : 20 + n], data[28 + n :]
        document = json.loads(data)
        document["asset"]["version"]
    except (ValueError, KeyError, TypeError, struct.error):
        raise ValueError(f"path is '{path}'; it must be a glTF 2.0 file (.gltf or .glb).") from None
    return document, binary


def _clips(document: dict, binary: bytes, folder: Path) -> list[Clip]:
    accessors, clips = document.get("accessors", []), []
    for i, animation in enumerate(document.get("animations", [])):
        samplers = animation["samplers"]
        keys = [accessors[s["input"]] for s in samplers]
        clips.append(
            Clip(
                name=animation.get("name", f"clip_{i}"),
                start_s=min(key["min"][0] for key in keys),
                end_s=max(key["max"][0] for key in keys),
                moves=any(_varies(document, binary, folder, s) for s in samplers),
            )
        )
    return clips
