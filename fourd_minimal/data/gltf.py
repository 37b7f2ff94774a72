"""Animated glTF assets as ground truth: any .gltf or .glb, seen by cameras on a circle.

4Real-Video is fine-tuned on multi-view videos of about 15,000 animated assets of Objaverse, seen from circular camera
trajectories (section 3.3). Blender reads and renders an asset (`blender_render.py`) in a Python environment of its own,
as a subprocess: it is GPL, wants another Python and numpy, and is never imported here. `BLENDER_ENVIRONMENT` is the
one line that makes the environment.

Blender mixes the clips of an asset unless each is muted by hand. So it is given a copy with one clip: what that clip
leaves alone rests where the file puts it, as glTF says, and an asset with 76 clips loads as fast as any.

Departures: the paper states neither lights nor radius nor field of view; a sun, an even sky and the defaults below are
assumed. Faces that overlap in one plane come out black in places, as each lies in the other's shadow.
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
"""Shell command for the environment that `render_asset` looks for."""
PATIENCE_S = 3600
"""For one clip: of thousands of assets one can keep Blender busy for ever."""
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


class BlenderError(RuntimeError):
    """Blender was there, and failed."""


def list_clips(path: str | Path) -> list[Clip]:
    """The clips of a .gltf or .glb file, in its order, read without Blender.

    Raises:
        FileNotFoundError: it, or a file it needs, is missing.
        ValueError: it is not glTF 2.0.

    >>> [(clip.name, clip.duration_s) for clip in list_clips("Fox.glb")]  # doctest: +SKIP
    [('Survey', 3.42), ('Walk', 0.71), ('Run', 1.16)]
    """
    (document, binary), clips = _read(path), []
    for i, animation in enumerate(document.get("animations", [])):
        samplers = animation["samplers"]
        keys = [document["accessors"][sampler["input"]] for sampler in samplers]
        start_s, end_s = min(key["min"][0] for key in keys), max(key["max"][0] for key in keys)
        moves = any(_varies(document, binary, sampler) for sampler in samplers)
        clips.append(Clip(animation.get("name") or f"clip_{i}", start_s, end_s, moves))
    return clips


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
    radius: float = 3.4,
    fov_deg: float = 36.0,
    background: tuple[float, float, float] = (1.0, 1.0, 1.0),
    oversample: int = 5,
    blender_python: str | Path | None = None,
) -> SceneRecord:
    """One clip of an animated asset as a grid, with alpha, depth, cameras, flow and visibility.

    The bounding box over all rendered times is centred and its farthest vertex scaled to distance 1. Cameras stand at
    azimuths spread evenly over the sweep, both ends included; azimuth 0 sees the front of an asset that faces +z, as
    glTF says it should. Lights stay with the world. The same call gives the same numbers.

    Args:
        path: a .gltf or .glb; buffers and textures may lie in files beside it.
        views, times: size of the grid, 2 or more each.
        size: pixels along each side, 8 or more.
        clip: name or index, see `list_clips`; None takes the first that moves.
        time_range: part of the clip, as fractions of its length, from the first time to the last. A clip that loops
            ends where it began: (0, 1 - 1 / times) shows that pose once, and a shorter range makes smaller steps.
        azimuth_start_deg, azimuth_sweep_deg, elevation_deg, radius: see `cameras.circular_trajectory`. The unit ball
            is in frame from a radius of 1 / sin(fov_deg / 2) on: 3.24 for 36 degrees.
        fov_deg: vertical field of view, between 0 and 170.
        background: colour in [0, 1].
        oversample: odd; a pixel is the mean of oversample^2 rays, and the middle one gives depth, flow and visibility.
        blender_python: the Python that has bpy; None takes $FOURD_BLENDER_PYTHON, else the environment made above.

    Raises:
        FileNotFoundError: the asset, a file it needs, or the Blender environment is missing.
        ValueError: not glTF 2.0, nothing in it moves, no such clip, or an argument out of range.
        BlenderError: Blender failed; the message ends with the last thing it said.

    >>> render_asset("Fox.glb", views=4, times=8, size=64, clip="Run").rgb.shape  # doctest: +SKIP
    torch.Size([1, 4, 8, 3, 64, 64])
    """
    for message, holds in {
        f"views is {views}; it must be at least 2.": views >= 2,
        f"times is {times}; it must be at least 2.": times >= 2,
        f"size is {size}; it must be at least 8.": size >= 8,
        f"time_range is {time_range}; it must rise within [0, 1].": 0 <= time_range[0] < time_range[1] <= 1,
        f"fov_deg is {fov_deg}; it must lie between 0 and 170.": 0 < fov_deg < 170,
        f"background is {background}; it must lie in [0, 1].": all(0 <= c <= 1 for c in background),
        f"oversample is {oversample}; it must be odd and positive.": oversample > 0 and oversample % 2 == 1,
    }.items():
        if not holds:
            raise ValueError(message)
    clips = list_clips(path)
    index = _choose(clips, clip, path)
    azimuth_deg = azimuth_start_deg + azimuth_sweep_deg * torch.linspace(0, 1, views)
    c2w = circular_trajectory(azimuth_deg, elevation_deg, radius)
    times_s = clips[index].start_s + clips[index].duration_s * np.linspace(*time_range, times)
    job = {"times_s": times_s.tolist(), "c2w": c2w.tolist(), "fov_deg": fov_deg, "size": size, "oversample": oversample}
    passes = _run_blender(blender_python, _single_clip(path, index), job, path)
    rgb, alpha = passes.pop("rgba").clamp(min=0).split([3, 1], dim=3)
    alpha = alpha.clamp(max=1)
    rgb = alpha * _srgb(rgb / alpha.clamp(min=1e-6)) + (1 - alpha) * torch.tensor(background)[:, None, None]
    return SceneRecord(rgb=rgb, alpha=alpha, c2w=c2w[None], fov_deg=fov_deg, **passes)


def blender_python(python: str | Path | None = None) -> Path:
    """The Python that has bpy: this one, else $FOURD_BLENDER_PYTHON, else of the environment made above.

    Raises:
        FileNotFoundError: it is not there.
    """
    python = python or os.environ.get("FOURD_BLENDER_PYTHON") or "~/.cache/fourd_minimal/blender/bin/python"
    python = Path(python).expanduser()
    if not python.is_file():
        raise FileNotFoundError(f"There is no Blender at '{python}'; this line makes it: {BLENDER_ENVIRONMENT}")
    return python


def _run_blender(python: str | Path | None, asset: bytes, job: dict, path: str | Path) -> dict[str, Tensor]:
    """The frames that `blender_render.py` makes of a .glb and a job, each (1, v, t, c, h, w)."""
    python = blender_python(python)
    with TemporaryDirectory() as folder:
        asset_path, job_path, frames_path = (Path(folder, name) for name in ("asset.glb", "job.json", "frames.npz"))
        asset_path.write_bytes(asset)
        job_path.write_text(json.dumps({"asset": str(asset_path), **job}))
        script = Path(__file__).with_name("blender_render.py")
        try:
            run = subprocess.run(
                [python, "-I", script, job_path, frames_path], capture_output=True, text=True, timeout=PATIENCE_S
            )
        except subprocess.TimeoutExpired:
            raise BlenderError(f"Blender was still busy with '{path}' after {PATIENCE_S} s.") from None
        if run.returncode or not frames_path.exists():
            said = run.stderr.strip().splitlines() or [f"nothing (exit status {run.returncode})"]
            raise BlenderError(f"Blender could not render '{path}'; it said: {said[-1]}")
        with np.load(frames_path, allow_pickle=False) as frames:
            return {n: rearrange(torch.from_numpy(frames[n]), "v t h w c -> 1 v t c h w") for n in frames.files}


def _read(path: str | Path) -> tuple[dict, bytes]:
    """A glTF file as its JSON and one buffer with all its binary data; other files it names become absolute paths."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"path is '{path}'; there is no such file.")
    data, binary = Path(path).read_bytes(), b""
    try:
        if data[:4] == b"glTF":
            (n,) = struct.unpack_from("<I", data, 12)
            data, binary = data[20 : 20 + n], data[28 + n :]
        document = json.loads(data)
        if int(document["asset"]["version"][0]) < 2:
            raise ValueError
    except (ValueError, LookupError, TypeError, struct.error):
        raise ValueError(f"path is '{path}'; it must be a complete glTF 2.0 file (.gltf or .glb).") from None
    starts, merged = [], b""
    for uri in (buffer.get("uri") for buffer in document.get("buffers", [])):
        if uri is not None:
            inline = uri.startswith("data:")
            binary = base64.b64decode(uri.split(",", 1)[1]) if inline else _beside(path, uri).read_bytes()
        starts.append(len(merged))
        merged += binary + bytes(-len(binary) % 4)
    for view in document.get("bufferViews", []):
        view["byteOffset"] = view.get("byteOffset", 0) + starts[view["buffer"]]
        view["buffer"] = 0
    document["buffers"] = [{"byteLength": len(merged)}]
    for image in document.get("images", []):
        if "uri" in image and not image["uri"].startswith("data:"):
            image["uri"] = quote(_beside(path, image["uri"]).as_posix())
    return document, merged


def _beside(path: str | Path, uri: str) -> Path:
    """The file that an asset names relative to itself."""
    file = Path(path).parent.resolve() / unquote(uri)
    if not file.is_file():
        raise FileNotFoundError(f"path is '{path}', which needs '{file}'; there is no such file.")
    return file


def _varies(document: dict, binary: bytes, sampler: dict) -> bool:
    """Whether any value of an animated property changes by more than 1% of the largest."""
    n_keys, output = document["accessors"][sampler["input"]]["count"], document["accessors"][sampler["output"]]
    if "bufferView" not in output:  # zeros, but for the entries of a sparse accessor
        return "sparse" in output
    start = document["bufferViews"][output["bufferView"]]["byteOffset"] + output.get("byteOffset", 0)
    dtype, count = _DTYPES[output["componentType"]], output["count"] * _WIDTHS[output["type"]]
    values = np.frombuffer(binary, dtype, count, start).astype(np.float64)
    if sampler.get("interpolation") == "CUBICSPLINE":  # each key is (tangent in, value, tangent out)
        values = values.reshape(n_keys, 3, -1)[:, 1]
    return bool((np.ptp(values.reshape(n_keys, -1), axis=0) > 0.01 * np.abs(values).max()).any())


def _choose(clips: list[Clip], clip: str | int | None, path: str | Path) -> int:
    """The index of the clip asked for."""
    if not clips:
        raise ValueError(f"path is '{path}', which holds no animation; render_asset needs an animated asset.")
    if clip is None:
        clip = next((i for i, c in enumerate(clips) if c.moves), None)
        if clip is None:
            raise ValueError(f"path is '{path}', in which nothing moves; name a clip to render it all the same.")
    names = [c.name for c in clips]
    index = names.index(clip) if clip in names else clip
    if index not in range(len(clips)):
        raise ValueError(f"clip is {clip!r}; '{path}' has {', '.join(names)}, or an index from 0 to {len(clips) - 1}.")
    if clips[index].duration_s <= 0:
        raise ValueError(f"clip is {names[index]!r}, which holds a single pose; it must last longer than 0 s.")
    return index


def _single_clip(path: str | Path, index: int) -> bytes:
    """The asset as a .glb in which clip `index` is the only one."""
    document, binary = _read(path)
    text = json.dumps({**document, "animations": [document["animations"][index]]}).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(binary), b"BIN\0") + binary
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def _srgb(linear: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Linear light to the numbers of a picture (IEC 61966-2-1), in [0, 1]."""
    linear = linear.clamp(0, 1)
    return torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clamp(min=1e-8) ** (1 / 2.4) - 0.055)
