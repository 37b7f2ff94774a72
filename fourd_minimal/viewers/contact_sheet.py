"""A 4D grid as one still picture: times across, views down, known cells framed; and the checks of a grid to show."""

import os
from collections.abc import Mapping, Sequence
from io import BytesIO

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fourd_minimal.systems.conditioning import known_cells
from fourd_minimal.systems.pixels import check_pixels
from fourd_minimal.systems.weights import whole_file

KNOWN_RGB = (230, 159, 0)  # orange of the Okabe-Ito palette, which colour-blind readers tell from every grey
GUTTER_RGB = (222, 222, 222)
INK_RGB = (70, 70, 70)
GUTTER = 2  # pixels around every frame
MARGIN = (44, 22)  # pixels at the left and above, for the numbers


def contact_sheet(
    grid: Tensor,
    path: str | os.PathLike | None = None,
    *,
    known: bool | Tensor = True,
    scale: int | None = None,
    labels: bool = True,
    rows: Sequence[int] | None = None,
    cols: Sequence[int] | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """Lay every frame of a grid on one sheet.

    Args:
        grid: `(v, t, 3, h, w)` in [0, 1]; row v is a fixed-view video, column t a freeze-time video.
        path: where to write the sheet as a PNG as well.
        known: which cells to frame: True for row 0 and column 0, False for none, or a boolean `(v, t)`.
        scale: screen pixels per grid pixel, a whole number; by default frames become near 72 pixels wide.
        labels: whether to number times and views along the edges.
        rows, cols: the views and times to show, in this order; all by default.

    Raises:
        ValueError: an argument has the wrong shape or range.

    Example:
        >>> contact_sheet(torch.rand(4, 6, 3, 16, 16), scale=2, labels=False).shape
        (144, 216, 3)
    """
    (frames,) = labelled_frames(grid).values()
    given = known_mask(known, *frames.shape[:2])
    rows, cols = _chosen("rows", rows, frames.shape[0]), _chosen("cols", cols, frames.shape[1])
    frames, given = frames[np.ix_(rows, cols)], given[np.ix_(rows, cols)]

    scale = whole_scale(scale, frames.shape[3], target=72)
    frames = repeat(frames, "v t h w c -> v t (h sh) (w sw) c", sh=scale, sw=scale)
    v, t, h, w, _ = frames.shape
    tiles = np.empty((v, t, h + 2 * GUTTER, w + 2 * GUTTER, 3), np.uint8)
    tiles[:] = np.where(given[..., None], KNOWN_RGB, GUTTER_RGB)[:, :, None, None]
    tiles[:, :, GUTTER:-GUTTER, GUTTER:-GUTTER] = frames
    sheet = rearrange(tiles, "v t h w c -> (v h) (t w) c")
    if labels:
        sheet = _numbered(sheet, rows, cols)
    return _written(sheet, path)


def compare_sheet(
    grids: Mapping[str, Tensor], path: str | os.PathLike | None = None, **options
) -> UInt8[np.ndarray, "height width 3"]:
    """Lay several grids of one scene side by side, each under its label.

    Args:
        grids: label -> `(v, t, 3, h, w)` in [0, 1], all of one shape.
        path, options: as in `contact_sheet`.

    Example:
        >>> truth = torch.rand(2, 3, 3, 8, 8)
        >>> compare_sheet({"truth": truth, "copy": truth}).shape[2]
        3
    """
    labelled_frames(grids)
    sheets = [contact_sheet(grid, **options) for grid in grids.values()]
    height, width, _ = sheets[0].shape
    gap, top, margin = 20, 26, MARGIN[0] if options.get("labels", True) else 0
    canvas = Image.new("RGB", (len(sheets) * (width + gap) - gap, top + height), "white")
    draw = ImageDraw.Draw(canvas)
    for i, (label, sheet) in enumerate(zip(grids, sheets, strict=True)):
        left = i * (width + gap)
        canvas.paste(Image.fromarray(sheet), (left, top))
        draw.text((left + (margin + width) / 2, top / 2), label, INK_RGB, font(15), anchor="mm")
    return _written(np.asarray(canvas), path)


def picture_rows(
    rows: Sequence[tuple[str, Tensor]],
    path: str | os.PathLike | None = None,
    target: int = 64,
    headings: Mapping[int, str] | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """Lines of frames, each behind its label.

    Args:
        rows: labels, and frames `(n, 3, h, w)` in [0, 1], all of one size; lines may differ in length.
        path: where to write the picture as a PNG as well.
        target: screen pixels near which a frame is brought, by a whole factor.
        headings: number of a frame in its line -> the text above it, flush left.

    Example:
        >>> picture_rows([("", torch.rand(3, 3, 16, 16)), ("", torch.rand(2, 3, 16, 16))]).shape
        (136, 208, 3)
    """
    scale, small, gap = whole_scale(None, rows[0][1].shape[-1], target), font(12), 4
    strips = [repeat(_as_bytes(label, frames[None])[0], "n h w c -> (h a) (n w b) c", a=scale, b=scale)
              for label, frames in rows]  # fmt: skip
    height, width = strips[0].shape[0], max(strip.shape[1] for strip in strips)
    lines = [line for label, _ in rows for line in label.split("\n")]
    left, top = int(max(map(small.getlength, lines))) + 4 * gap, MARGIN[1] if headings else 0
    canvas = Image.new("RGB", (left + width, top + len(rows) * (height + gap)), "white")
    draw = ImageDraw.Draw(canvas)
    for number, text in (headings or {}).items():
        draw.text((left + number * scale * rows[0][1].shape[-1], top / 2), text, INK_RGB, small, anchor="lm")
    for i, (strip, (label, _)) in enumerate(zip(strips, rows, strict=True)):
        canvas.paste(Image.fromarray(np.ascontiguousarray(strip)), (left, top + i * (height + gap)))
        draw.text((gap, top + i * (height + gap) + height / 2), label, INK_RGB, small, anchor="lm")
    return _written(np.asarray(canvas), path)


def labelled_frames(grid: Tensor | Mapping[str, Tensor]) -> dict[str, UInt8[np.ndarray, "v t h w 3"]]:
    """The frames of one grid, or of several under their labels, as bytes.

    Raises:
        ValueError: not `(v, t, 3, h, w)`, empty, not finite, outside [0, 1] by more than 1e-3, or shapes that differ.
    """
    grids = dict(grid) if isinstance(grid, Mapping) else {"": grid}
    if not grids:
        raise ValueError("grid is an empty dict; expected at least one label -> tensor.")
    frames = {label: _as_bytes(f"grid[{label!r}]" if label else "grid", g) for label, g in grids.items()}
    shapes = {label: tuple(f.shape[i] for i in (0, 1, 4, 2, 3)) for label, f in frames.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"grid holds tensors of shapes {shapes}; expected one shape for all panels.")
    return frames


def known_mask(known: bool | Tensor, v: int, t: int) -> Bool[np.ndarray, "v t"]:
    """Which cells are known: row 0 and column 0 for True, none for False, else those of the mask."""
    if isinstance(known, bool):
        known = known_cells(v, t) & known
    mask = torch.as_tensor(known)
    if mask.shape != (v, t) or mask.dtype != torch.bool:
        raise ValueError(f"known is {mask.dtype} of shape {tuple(mask.shape)}; expected a boolean or a mask {(v, t)}.")
    return mask.cpu().numpy()


def whole_scale(scale: int | None, width: int, target: int) -> int:
    """Screen pixels per grid pixel: the caller's, or the whole number that brings `width` near `target`."""
    if scale is None:
        return max(1, round(target / width))
    if isinstance(scale, bool) or not isinstance(scale, int) or scale < 1:
        raise ValueError(f"scale is {scale!r}; expected a whole number of screen pixels, 1 or more.")
    return scale


def png(image: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """A picture as a lossless PNG file."""
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _as_bytes(name: str, grid: Tensor) -> UInt8[np.ndarray, "v t h w 3"]:
    if not isinstance(grid, Tensor):
        raise ValueError(f"{name} is a {type(grid).__name__}; expected a tensor, or a dict label -> tensor.")
    if grid.ndim != 5 or grid.shape[2] != 3 or not grid.numel():
        raise ValueError(f"{name} has shape {tuple(grid.shape)}; expected one grid (v, t, 3, h, w).")
    grid = grid.detach().cpu().float()
    check_pixels(name, torch.where((grid > -1e-3) & (grid < 1 + 1e-3), grid.clamp(0, 1), grid))
    return rearrange(grid.clamp(0, 1).mul(255).round().byte(), "v t c h w -> v t h w c").numpy()


def _chosen(name: str, chosen: Sequence[int] | None, n: int) -> list[int]:
    chosen = list(range(n) if chosen is None else chosen)
    if not chosen or not all(-n <= i < n for i in chosen):
        raise ValueError(f"{name} is {chosen}; expected one or more indices into {n} entries.")
    return [i % n for i in chosen]


def _numbered(sheet: np.ndarray, rows: list[int], cols: list[int]) -> np.ndarray:
    """The sheet with `time` numbers above it and `view` numbers at its left."""
    height, width, _ = sheet.shape
    numerals, (left, top) = font(12), MARGIN
    canvas = Image.new("RGB", (left + width, top + height), "white")
    canvas.paste(Image.fromarray(sheet), (left, top))
    draw = ImageDraw.Draw(canvas)
    for i, t in enumerate(cols):
        text = f"time {t}" if i == 0 else f"{t}"
        draw.text((left + (i + 0.5) * width / len(cols), top / 2), text, INK_RGB, numerals, anchor="mm")
    for i, v in enumerate(rows):
        text = f"view {v}" if i == 0 else f"{v}"
        draw.text((left - 6, top + (i + 0.5) * height / len(rows)), text, INK_RGB, numerals, anchor="rm")
    return np.asarray(canvas)


def font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _written(sheet: np.ndarray, path: str | os.PathLike | None) -> np.ndarray:
    if path is not None:
        with whole_file(path) as draft:
            draft.write_bytes(png(sheet))
    return sheet
