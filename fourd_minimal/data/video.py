"""Frames in from mp4, webm, gif or a folder of pictures, and out again; alpha is kept where the format can hold it.

Frames are upright and of the shape that players show: rotation, mirroring and the pixels' aspect ratio are applied.
"""

import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from itertools import islice, pairwise
from math import ceil
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
import torch.nn.functional as F
from av.video.reformatter import Colorspace
from einops import rearrange
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own decoders of these two drop the alpha

FORMATS = {  # (suffix, lossless, with alpha): codec, pixels, codec options, file options
    (".mp4", False, False): ("libx264", "yuv420p", {"crf": "16"}, {"movflags": "+faststart"}),
    (".mp4", True, False): ("libx264rgb", "rgb24", {"qp": "0"}, {"movflags": "+faststart"}),
    (".webm", False, False): ("libvpx-vp9", "yuv420p", {"crf": "16", "b": "0"}, {}),
    (".webm", False, True): ("libvpx-vp9", "yuva420p", {"crf": "16", "b": "0"}, {}),
    (".gif", False, False): ("gif", "pal8", {}, {}),
    ("", True, False): None,
    ("", True, True): None,
}
PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


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
        path: a video or GIF file, or a folder of pictures, taken in the order a person would count them (2 before 10);
            a folder with one video and no pictures is that video.
        size: `s` or `(h, w)` in pixels: crop to that shape about the centre, then resize without aliasing.
        frames: how many, evenly spaced in time from the first to the last; or which, as a slice or indices; None is
            all.

    Raises:
        FileNotFoundError: nothing is at `path`.
        ValueError: no video can be read there, its frames differ in size, or it lacks some of `frames`.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_video(torch.rand(5, 3, 24, 32), f"{folder}/noise.mp4")
    ...     read_video(f"{folder}/noise.mp4", size=16, frames=3).rgb.shape
    torch.Size([3, 3, 16, 16])
    """
    times = _times(path)
    chosen, result = _choose(frames, len(times), path, times), None
    for i, frame in enumerate(islice(_frames(path), max(chosen) + 1)):
        places = [place for place, index in enumerate(chosen) if index == i]
        if places:
            pixels = _pixels(frame) if size is None else _crop_resize(_pixels(frame), size)
            result = torch.empty(len(chosen), *pixels.shape) if result is None else result
            result[places] = pixels
    rgb, alpha = result.split([3, 1], dim=1)
    return Video(rgb, None if alpha.min() > 1 - 1e-3 else alpha)


def count_frames(path: str | os.PathLike) -> int:
    """How many frames `read_video` would find.

    Raises:
        FileNotFoundError, ValueError: as there.
    """
    return len(_times(path))


def opaque(path: Path, size: tuple[int, int] | None = None, most: int | None = None) -> Float[Tensor, "t 3 h w"]:
    """A video on white, cropped and resized; of one with more than `most` frames, `most` evenly spaced ones."""
    video = read_video(path, size)
    rgb = video.rgb if video.alpha is None else torch.lerp(torch.ones(()), video.rgb, video.alpha)
    if most is not None and len(rgb) > most:
        print(f"{path}: {most} of its {len(rgb)} frames are used, evenly spaced")
        rgb = rgb[torch.linspace(0, len(rgb) - 1, most).round().long()]
    return rgb


def write_video(
    rgb: Tensor, path: str | os.PathLike, fps: float = 8, alpha: Tensor | None = None, lossless: bool = False
) -> None:
    """Write a clip, whole or not at all; what stood at `path` is replaced.

    Args:
        rgb: `(t, 3, h, w)` in [0, 1].
        path: its suffix is the format. `.mp4` plays everywhere (an odd height or width gains a repeated line), `.webm`
            holds alpha, `.gif` loops; no suffix is a folder of PNG, which is exact and holds alpha.
        fps: frames per second.
        alpha: `(t, 1, h, w)` in [0, 1].
        lossless: an `.mp4` that reads back 8-bit pixels exactly, though few players show it.

    Raises:
        ValueError: wrong shape or range, NaN, or a format that is unknown or cannot hold what is asked.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    form = suffix, lossless or not suffix, alpha is not None
    if form not in FORMATS:
        raise ValueError(
            f"path is {path.name} with lossless={lossless} and {'an' if form[2] else 'no'} alpha; expected .mp4 (also "
            "lossless), .webm (also with alpha), .gif or no suffix (a folder of PNG, all of these)."
        )
    for name, pictures, channels in (("rgb", rgb, 3), ("alpha", alpha, 1)):
        if pictures is not None and (pictures.shape != (len(rgb), channels, *rgb.shape[2:]) or not pictures.numel()):
            raise ValueError(f"{name} has shape {tuple(pictures.shape)}; expected (t, {channels}, h, w), t at least 1.")
        if pictures is not None and not (
            pictures.is_floating_point() and -1e-3 <= pictures.min() <= pictures.max() <= 1.001
        ):
            low, high = (float(x) for x in pictures.aminmax())
            raise ValueError(f"{name} is {pictures.dtype} from {low:g} to {high:g}; expected floating point in [0, 1].")
    if not fps > 0:
        raise ValueError(f"fps is {fps}; expected more than 0.")
    if path.is_dir() and any(file.suffix != ".png" for file in path.iterdir()):
        raise ValueError(f"path is {path}, a folder with other files than PNG; expected one that may be replaced.")

    pictures = rgb if alpha is None else torch.cat([rgb, alpha], dim=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing_") as temporary:
        written = Path(temporary, path.name)
        if suffix:
            _encode(pictures, written, fps, *FORMATS[form])
        else:
            written.mkdir()
            for i, picture in enumerate(pictures):
                Image.fromarray(_bytes(picture[None])[0]).save(written / f"{i:04d}.png")
        if path.is_dir():
            path.rename(Path(temporary, "replaced"))
        written.replace(path)


Frame = tuple[av.VideoFrame, Fraction] | Path
"""A decoded frame and the aspect ratio of its pixels; or a picture's file."""


def _frames(path: str | os.PathLike) -> Iterator[Frame]:
    """What is at `path`, frame by frame, before any conversion of pixels.

    Raises:
        FileNotFoundError, ValueError: as `read_video`.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"path is {path}, where nothing is; expected a video, a GIF or a folder of pictures.")
    if not path.is_dir():
        yield from _decode(path)
        return
    files = sorted((f for f in path.iterdir() if f.is_file() and not f.name.startswith(".")), key=_counted)
    pictures = [file for file in files if file.suffix.lower() in PICTURES]
    videos = [file for file in files if file.suffix.lower() in (".mp4", ".webm", ".mov", ".mkv", ".avi", ".gif")]
    if not pictures and len(videos) != 1:
        raise ValueError(f"path is {path}, a folder without pictures; expected some of {', '.join(sorted(PICTURES))}.")
    yield from pictures or _decode(videos[0])


def _counted(file: Path) -> list[int | str]:
    """The order a person would count in: frame 2 before frame 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", file.stem)] + [file.suffix]


def _times(path: str | os.PathLike) -> list[float]:
    """When each frame is shown, in seconds; of pictures, and of videos that do not say it, their numbers.

    Raises:
        FileNotFoundError, ValueError: as `read_video`; frames of several sizes.
    """
    times, sizes = [], []
    for frame in _frames(path):
        if isinstance(frame, Path):
            size, time = _opened(frame).size, None
        else:
            size, time = (frame[0].width, frame[0].height), frame[0].time
        times.append(time)
        sizes.append(size)
        if size != sizes[0]:
            found = "{}x{} and frame {} of {}x{}".format(*sizes[0], len(sizes) - 1, *size)
            raise ValueError(f"path is {path} with frame 0 of {found}; expected frames of one size.")
    if not times:
        raise ValueError(f"path is {path}, which holds no frame; expected a video, a GIF or a folder of pictures.")
    known = None not in times and all(a < b for a, b in pairwise(times))
    return times if known else [float(i) for i in range(len(times))]


def _decode(file: Path) -> Iterator[Frame]:
    if not file.is_file():
        raise ValueError(f"path is {file}, which is no file; expected a video, a GIF or a folder of pictures.")
    n, total = 0, 0
    try:
        with av.open(f"file:{file}") as container:  # whatever the name looks like, it is a file's
            if not container.streams.video or container.format.name == "tty":  # FFmpeg plays any text as a terminal
                raise ValueError(f"path is {file}, which holds no pictures; expected a video.")
            stream = container.streams.video[0]
            decoder, total = stream.codec_context, stream.frames
            aspect = stream.sample_aspect_ratio or decoder.sample_aspect_ratio or Fraction(1)
            if decoder.name in ALPHA_DECODERS:
                decoder = av.CodecContext.create(ALPHA_DECODERS[decoder.name], "r")
                decoder.extradata = stream.codec_context.extradata
            for packet in container.demux(stream):
                for frame in decoder.decode(packet):
                    n += 1
                    yield frame, aspect
    except av.FFmpegError as error:
        of = f", {n} of {total} frames of which can be read" if total else ", which cannot be read"
        raise ValueError(f"path is {file}{of} ({error.strerror}); expected a video.") from error


def _choose(
    frames: int | slice | Sequence[int] | None, count: int, path: str | os.PathLike, times: list[float] | None = None
) -> list[int]:
    """The indices meant by `frames` in a clip of `count`, whose frames are shown at `times`, the file's by default."""
    everything = range(count)
    if isinstance(frames, int):
        times = _times(path) if times is None else times
        even = np.linspace(times[0], times[-1], max(frames, 1))
        places = np.interp(even, times, everything).round(6)  # between two frames, the nearer one
        chosen = places.round().astype(int).tolist() if 1 <= frames <= count else []
    elif frames is None or isinstance(frames, slice):
        chosen = list(everything[frames or slice(None)])
    else:
        chosen = [everything[i] for i in frames] if all(-count <= i < count for i in frames) else []
    if not chosen:
        raise ValueError(f"frames of {path} is {frames}; expected 1 to {count} of its frames.")
    return chosen


def _opened(file: Path) -> Image.Image:
    """A picture, upright; its pixels are not read yet."""
    try:
        return ImageOps.exif_transpose(Image.open(file))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"path is {file}, which cannot be read as a picture ({error}).") from None


def _pixels(frame: Frame) -> Float[Tensor, "4 h w"]:
    """Colour and alpha in [0, 1], as players show it."""
    if isinstance(frame, Path):
        picture, aspect = _opened(frame), Fraction(1)
        if picture.mode.startswith("I"):  # 16 bits
            picture = Image.fromarray((np.asarray(picture) / 257).round().astype(np.uint8))
        picture = torch.from_numpy(np.array(picture.convert("RGBA")))
    else:
        picture, aspect = torch.from_numpy(frame[0].to_ndarray(format="rgba")), frame[1]
    rgba = rearrange(picture, "h w c -> c h w") / 255
    if aspect > 0 and aspect != 1:  # pixels that are not square: the shorter side of each is stretched
        (h, w), wide = rgba.shape[1:], float(aspect)
        shape = (h, ceil(w * wide)) if wide > 1 else (ceil(h / wide), w)
        rgba = F.interpolate(rgba[None], shape, mode="bilinear", align_corners=False)[0]
    return rgba if isinstance(frame, Path) else _upright(rgba, frame[0])


def _upright(rgba: Float[Tensor, "4 _ _"], frame: av.VideoFrame) -> Float[Tensor, "4 _ _"]:
    """Turned and mirrored by the nearest right angle, as the file's display matrix says."""
    found = [bytes(data) for data in frame.side_data if data.type.name == "DISPLAYMATRIX"]
    if not found:
        return rgba
    a, b, _, c, d = np.frombuffer(found[0], "<i4")[:5].astype(float)  # x' = a x + c y, y' = b x + d y
    if abs(b) + abs(c) > abs(a) + abs(d):
        rgba, a, d = rgba.mT, c, b
    return rgba.flip([axis for axis, sign in ((2, a), (1, d)) if sign < 0])


def _crop_resize(rgba: Float[Tensor, "4 _ _"], size: int | tuple[int, int]) -> Float[Tensor, "4 h w"]:
    """Resize the largest centred part of that shape; transparent pixels lend no colour."""
    size = (size, size) if isinstance(size, int) else tuple(size)
    if min(size) < 1:
        raise ValueError(f"size is {size}; expected at least 1 pixel.")
    h, w = rgba.shape[1:]
    scale = min(h / size[0], w / size[1])
    crop_h, crop_w = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    top, left = (h - crop_h) // 2, (w - crop_w) // 2
    rgba = rgba[:, top : top + crop_h, left : left + crop_w]
    premultiplied = torch.cat([rgba[:3] * rgba[3:], rgba[3:]])
    small = F.interpolate(premultiplied[None], size, mode="bilinear", antialias=True, align_corners=False)[0]
    return torch.cat([small[:3] / small[3:].clamp(min=1e-6), small[3:]]).clamp(0, 1)


def _bytes(pictures: Float[Tensor, "t c h w"]) -> np.ndarray:
    images = (pictures.detach().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    return rearrange(images, "t c h w -> t h w c").contiguous().numpy()


def _encode(pictures: Float[Tensor, "t c h w"], path: Path, fps: float, codec: str, pixels: str, *options) -> None:
    """Write frames; `options` are those of the codec, then of the file."""
    if codec == "libx264":  # it stores colour once per 2x2 pixels
        pictures = F.pad(pictures, (0, pictures.shape[3] % 2, 0, pictures.shape[2] % 2), mode="replicate")
    images = _bytes(pictures)
    frames = (av.VideoFrame.from_ndarray(image, format="rgba" if image.shape[2] == 4 else "rgb24") for image in images)
    with av.open(f"file:{path}", "w", options=options[1]) as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options[0])
        stream.height, stream.width, stream.pix_fmt = images.shape[1], images.shape[2], pixels
        if pixels == "pal8":
            frames = _with_one_palette(frames, stream)
        if pixels.startswith("yuv"):  # name the colours, or players guess them
            context = stream.codec_context
            context.colorspace = context.color_primaries = context.color_trc = context.color_range = 1  # BT.709
            frames = (frame.reformat(format=pixels, dst_colorspace=Colorspace.ITU709) for frame in frames)
        for frame in frames:
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _with_one_palette(frames: Iterable[av.VideoFrame], stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """The same frames in the 256 colours that suit the whole clip, so that nothing shimmers."""
    graph = av.filter.Graph()
    tick = 1 / stream.codec_context.framerate
    source = graph.add_buffer(width=stream.width, height=stream.height, format="rgb24", time_base=tick)
    split, choose, apply, sink = (graph.add(name) for name in ("split", "palettegen", "paletteuse", "buffersink"))
    source.link_to(split)
    split.link_to(apply, 0, 0)
    split.link_to(choose, 1, 0)
    choose.link_to(apply, 0, 1)
    apply.link_to(sink)
    graph.configure()
    for i, frame in enumerate(frames):
        frame.pts, frame.time_base = i, tick
        source.push(frame)
    source.push(None)
    with suppress(av.EOFError):
        while True:
            yield sink.pull()
