"""Frames in from mp4, webm, gif or a folder of PNG, and out again; transparency is kept wherever the format can hold it."""

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import av
import torch
import torch.nn.functional as F
from av.video.reformatter import ColorRange, Colorspace
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

ALPHA_DECODER = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own decoders of these two drop the alpha


class Video(NamedTuple):
    """A clip of `t` frames. The colour is straight: not multiplied by alpha."""

    rgb: Float[Tensor, "t 3 h w"]
    """Colour in [0, 1]."""
    alpha: Float[Tensor, "t 1 h w"] | None
    """Coverage in [0, 1]; None where every pixel is opaque."""


def read_video(
    path: str | os.PathLike,
    size: int | tuple[int, int] | None = None,
    frames: int | slice | Sequence[int] | None = None,
) -> Video:
    """Read a clip.

    Args:
        path: a video or GIF file, or a folder of PNG, taken in the order a person would count them (2 before 10).
        size: `s` or `(h, w)` in pixels: crop to that shape about the centre, then resize without aliasing.
        frames: how many, evenly spaced from the first to the last; or which, as a slice or indices; None is all.

    Raises:
        FileNotFoundError: nothing is at `path`.
        ValueError: no video can be read there, its frames differ in size, or `frames` asks for what it has not.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_video(torch.rand(5, 3, 24, 32), f"{folder}/noise.mp4")
    ...     read_video(f"{folder}/noise.mp4", size=16, frames=3).rgb.shape
    torch.Size([3, 3, 16, 16])
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"path: nothing is at {path}; a video, a GIF or a folder of PNG is wanted")
    indices = _choose(frames, sum(1 for _ in _decode(path)), path)
    read = {}
    for i, frame in enumerate(islice(_decode(path), max(indices) + 1)):
        if i in indices:
            read[i] = _pixels(frame) if size is None else _resize(_pixels(frame), size)
    rgb, alpha = torch.stack([read[i] for i in indices]).split([3, 1], dim=1)
    return Video(rgb, None if (alpha == 1).all() else alpha)


def write_video(
    rgb: Tensor,
    path: str | os.PathLike,
    fps: float = 8,
    alpha: Tensor | None = None,
    lossless: bool = False,
) -> None:
    """Write a clip, whole or not at all.

    Args:
        rgb: `(t, 3, h, w)` in [0, 1].
        path: its suffix is the format. `.mp4` plays everywhere (an odd height or width gains a repeated line), `.webm`
            keeps alpha, `.gif` loops; no suffix is a folder of PNG, which is exact. What stood there is replaced.
        fps: frames per second.
        alpha: `(t, 1, h, w)` in [0, 1], for a `.webm` or a folder of PNG.
        lossless: with `.mp4`: reads back 8-bit pixels exactly, though few players show it.

    Raises:
        ValueError: wrong shape or range, NaN, an unknown suffix, or one that cannot hold what is asked.
    """
    path = Path(path)
    _check("rgb", rgb, 3)
    if alpha is not None:
        _check("alpha", alpha, 1)
        if alpha.shape[0] != rgb.shape[0] or alpha.shape[2:] != rgb.shape[2:]:
            raise ValueError(f"alpha: one value per pixel of rgb {_shape(rgb)} is wanted, given {_shape(alpha)}")
        if path.suffix not in ("", ".webm"):
            raise ValueError(f"alpha: {path.name} cannot hold it; a .webm or a folder of PNG (no suffix) can")
    if lossless and path.suffix not in ("", ".mp4"):
        raise ValueError(f"lossless: {path.name} cannot be exact; an .mp4 or a folder of PNG (no suffix) can")
    if not fps > 0:
        raise ValueError(f"fps: more than 0 frames per second are wanted, given {fps}")
    images = rearrange(rgb if alpha is None else torch.cat([rgb, alpha], dim=1), "t c h w -> t h w c")
    images = (images.detach().clamp(0, 1) * 255).round().to("cpu", torch.uint8)

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as folder:
        written = Path(folder, "new", path.name)
        written.parent.mkdir()
        match path.suffix, lossless:
            case ".mp4", True:
                _encode(images, written, fps, "libx264rgb", "rgb24", {"qp": "0"})
            case ".mp4", False:
                _encode(_even(images), written, fps, "libx264", "yuv420p", {"crf": "16"})
            case ".webm", _:
                _encode(images, written, fps, "libvpx-vp9", "yuv420p" if alpha is None else "yuva420p", {"crf": "16", "b": "0"})
            case ".gif", _:
                _encode(images, written, fps, "gif", "pal8", {})
            case "", _:
                _encode(images, written / "%04d.png", fps, "png", "rgb24" if alpha is None else "rgba", {})
        os.replace(written, path)
