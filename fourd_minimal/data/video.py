"""Frames in from mp4, webm, gif or a folder of PNG, and out again; alpha is kept where the format can hold it."""

import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import av
import torch
import torch.nn.functional as F
from av.video.reformatter import Colorspace
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own decoders of these two drop the alpha

FORMATS = {  # (suffix, lossless, with alpha): codec, pixels, codec options, file options
    (".mp4", False, False): ("libx264", "yuv420p", {"crf": "16"}, {"movflags": "+faststart"}),
    (".mp4", True, False): ("libx264rgb", "rgb24", {"qp": "0"}, {"movflags": "+faststart"}),
    (".webm", False, False): ("libvpx-vp9", "yuv420p", {"crf": "16", "b": "0"}, {}),
    (".webm", False, True): ("libvpx-vp9", "yuva420p", {"crf": "16", "b": "0"}, {}),
    (".gif", False, False): ("gif", "pal8", {}, {}),
    ("", True, False): ("png", "rgb24", {}, {"start_number": "0"}),
    ("", True, True): ("png", "rgba", {}, {"start_number": "0"}),
}


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
        ValueError: no video can be read there, its frames differ in size, or it lacks some of `frames`.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_video(torch.rand(5, 3, 24, 32), f"{folder}/noise.mp4")
    ...     read_video(f"{folder}/noise.mp4", size=16, frames=3).rgb.shape
    torch.Size([3, 3, 16, 16])
    """
    path = Path(path)
    expected = _choose(frames, count_frames(path), path)
    read = {
        i: _pixels(frame) if size is None else _crop_resize(_pixels(frame), size)
        for i, frame in enumerate(islice(_decode(path), max(expected) + 1))
        if i in expected
    }
    rgb, alpha = torch.stack([read[i] for i in expected]).split([3, 1], dim=1)
    return Video(rgb, None if alpha.min() > 1 - 1e-3 else alpha)


def count_frames(path: str | os.PathLike) -> int:
    """How many frames `read_video` would find.

    Raises:
        FileNotFoundError, ValueError: as there.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"path is {path}, where nothing is; expected a video, a GIF or a folder of PNG.")
    return sum(1 for _ in _decode(path))


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
        if not suffix:
            written.mkdir()
        _encode(pictures, written if suffix else Path(str(written).replace("%", "%%"), "%04d.png"), fps, *FORMATS[form])
        if path.is_dir():
            path.rename(Path(temporary, "replaced"))
        written.replace(path)


def _decode(path: Path) -> Iterator[av.VideoFrame]:
    """Every frame at `path`, all of one size."""
    files = sorted(path.glob("*.png"), key=_counted) if path.is_dir() else [path]
    first = None
    for i, frame in enumerate(frame for file in files for frame in _decode_file(file)):
        first = first or frame
        if (frame.width, frame.height) != (first.width, first.height):
            sizes = f"{first.width}x{first.height} and frame {i} of {frame.width}x{frame.height}"
            raise ValueError(f"path is {path} with frame 0 of {sizes}; expected frames of one size.")
        yield frame
    if first is None:
        raise ValueError(f"path is {path}, which holds no frame; expected a video, a GIF or a folder of PNG.")


def _counted(file: Path) -> list[int | str]:
    """The order a person would count in: frame 2 before frame 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", file.name)]


def _decode_file(file: Path) -> Iterator[av.VideoFrame]:
    try:
        with av.open(str(file)) as container:
            if not container.streams.video or container.format.name == "tty":  # FFmpeg plays any text as a terminal
                raise ValueError(f"path is {file}, which holds no pictures; expected a video.")
            stream = container.streams.video[0]
            decoder = stream.codec_context
            if decoder.name in ALPHA_DECODERS:
                decoder = av.CodecContext.create(ALPHA_DECODERS[decoder.name], "r")
                decoder.extradata = stream.codec_context.extradata
            for packet in container.demux(stream):
                yield from decoder.decode(packet)
    except av.FFmpegError as error:
        raise ValueError(f"path is {file}, which cannot be read ({error.strerror}); expected a video.") from error


def _choose(frames: int | slice | Sequence[int] | None, count: int, path: Path) -> list[int]:
    """The indices meant by `frames` in a clip of `count`."""
    everything = range(count)
    if isinstance(frames, int):
        chosen = torch.linspace(0, count - 1, frames).round().int().tolist() if 1 <= frames <= count else []
    elif frames is None or isinstance(frames, slice):
        chosen = list(everything[frames or slice(None)])
    else:
        chosen = [everything[i] for i in frames] if all(-count <= i < count for i in frames) else []
    if not chosen:
        raise ValueError(f"frames of {path} is {frames}; expected 1 to {count} of its frames.")
    return chosen


def _pixels(frame: av.VideoFrame) -> Float[Tensor, "4 h w"]:
    """Colour and alpha in [0, 1], upright as the camera was held."""
    upright = torch.rot90(torch.from_numpy(frame.to_ndarray(format="rgba")), frame.rotation // 90)
    return rearrange(upright, "h w c -> c h w") / 255


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


def _encode(pictures: Float[Tensor, "t c h w"], path: Path, fps: float, codec: str, pixels: str, *options) -> None:
    """Write frames; `options` are those of the codec, then of the file."""
    if codec == "libx264":  # it stores colour once per 2x2 pixels
        pictures = F.pad(pictures, (0, pictures.shape[3] % 2, 0, pictures.shape[2] % 2), mode="replicate")
    images = (pictures.detach().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    images = rearrange(images, "t c h w -> t h w c").contiguous().numpy()
    frames = (av.VideoFrame.from_ndarray(image, format="rgba" if image.shape[2] == 4 else "rgb24") for image in images)
    with av.open(str(path), "w", options=options[1]) as container:
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
