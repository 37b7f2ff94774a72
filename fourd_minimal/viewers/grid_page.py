"""A 4D grid as one HTML file that opens anywhere: `save_html`. viewer.js draws it, as it draws the notebooks' widget.

All frames are in the page, as a sprite sheet: it needs no server.
"""

import json
import os
from base64 import b64encode
from collections.abc import Mapping
from html import escape
from pathlib import Path
from string import Template

import numpy as np
from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor

from fourd_minimal.systems.weights import write_text
from fourd_minimal.viewers.contact_sheet import known_mask, labelled_frames, png, whole_scale

HERE = Path(__file__).parent
PANEL_WIDTH = 320  # screen pixels a frame aims at
SMOOTH_FROM = 32  # narrower frames have too few pixels to interpolate between and are shown as squares


def grid_state(grid, title="", scale=None, known=True, smooth=None, fps=8, time=0, view=0) -> dict:
    """The state of the widget; arguments as for `GridViewer`."""
    frames = labelled_frames(grid)
    views, times, height, width, _ = next(iter(frames.values())).shape
    if not fps > 0:
        raise ValueError(f"fps is {fps}; expected a number of steps a second above 0.")
    check_inside("time", time, times - 1)
    check_inside("view", view, views - 1)
    panels = {
        "panels": [{"label": label, "sprite": _sprite(f)} for label, f in frames.items()],
        "views": views,
        "times": times,
        "height": height,
        "width": width,
        "known": known_mask(known, views, times).tolist(),
        "title": title,
        "scale": whole_scale(scale, width, target=PANEL_WIDTH),
        "smooth": width >= SMOOTH_FROM if smooth is None else smooth,
        "fps": fps,
    }
    return {"time": time, "view": view, "_grid": panels}


def check_inside(name: str, value: int, last: int) -> None:
    if not 0 <= value <= last:
        raise ValueError(f"{name} is {value}; expected 0 to {last}.")


def save_html(grid: Tensor | Mapping[str, Tensor], path: str | os.PathLike, *, title: str = "", **options) -> None:
    """Save the viewer as one HTML file: no server, no network, nothing beside it.

    Args:
        grid: as for `GridViewer`.
        path: the file to write.
        title: a line above the picture and in the browser's tab.
        options: as for `GridViewer`.
    """
    state = grid_state(grid, title, **options)
    js, css = ((HERE / name).read_text(encoding="utf-8") for name in ("viewer.js", "viewer.css"))
    write_page(path, title or "4D grid", js, css, state)


def write_page(path: str | os.PathLike, title: str, js: str, css: str, state: dict) -> None:
    """A widget without a notebook: viewer.html with the widget's script, which defines `render`, style and traits."""
    page = Template((HERE / "viewer.html").read_text(encoding="utf-8")).substitute(
        title=escape(title),
        css=css,
        js=js,
        state=json.dumps(state).replace("<", r"\u003c"),  # a label cannot close the script it is written in
    )
    write_text(path, page)


def _sprite(frames: UInt8[np.ndarray, "v t h w 3"]) -> str:
    """All frames in one lossless picture, views down and times across, as a data URL."""
    sheet = rearrange(frames, "v t h w c -> (v h) (t w) c")
    return "data:image/png;base64," + b64encode(png(sheet)).decode()
