"""A 4D grid under your fingers: drag sideways for time, up and down for viewpoint.

`GridViewer` shows it in a notebook, `save_html` as one file that opens anywhere; viewer.js draws both. All frames
travel with the viewer as a sprite sheet, so moving about asks neither a kernel nor a server.
"""

import json
import os
from base64 import b64encode
from collections.abc import Mapping
from html import escape
from pathlib import Path
from string import Template

import anywidget
import numpy as np
import traitlets
from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor

from fourd_minimal.lab.contact_sheet import known_cells, labelled_frames, png, whole_scale
from fourd_minimal.systems.weights import write_text

HERE = Path(__file__).parent
PANEL_WIDTH = 320  # screen pixels a frame aims at
SMOOTH_FROM = 32  # narrower frames have too few pixels to interpolate between and are shown as squares


class GridViewer(anywidget.AnyWidget):
    """A grid to drag through in a notebook: JupyterLab, VS Code or Colab.

    Args:
        grid: `(v, t, 3, h, w)` in [0, 1], or a dict label -> such a grid, all of one shape: panels that move together.
        title: a line above the picture.
        scale: screen pixels per grid pixel, a whole number; by default a panel is near 320 pixels wide.
        known: which cells to mark as given: True for row 0 and column 0, False for none, or a boolean `(v, t)`.
        smooth: whether to interpolate when enlarging; by default from 32 pixels of width on.
        fps: steps a second while playing.
        time, view: the cell to start at. Both stay as traits: read them, set them, link them to other widgets.

    Raises:
        ValueError: an argument has the wrong shape or range.

    Example:
        >>> import torch
        >>> viewer = GridViewer({"truth": torch.rand(4, 6, 3, 16, 16), "guess": torch.rand(4, 6, 3, 16, 16)})
        >>> viewer.time = 5
        >>> viewer.time, viewer.view
        (5, 0)
    """

    _esm = HERE / "viewer.js"
    _css = HERE / "viewer.css"

    time = traitlets.Int(0).tag(sync=True)
    view = traitlets.Int(0).tag(sync=True)
    _grid = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        grid: Tensor | Mapping[str, Tensor],
        *,
        title: str = "",
        scale: int | None = None,
        known: bool | Tensor = True,
        smooth: bool | None = None,
        fps: int = 8,
        time: int = 0,
        view: int = 0,
    ):
        state = _state(grid, title, scale, known, smooth, fps, time, view)
        self._last = {axis: state["_grid"][f"{axis}s"] - 1 for axis in ("time", "view")}
        super().__init__(**state)

    @traitlets.validate("time", "view")
    def _inside(self, proposal: dict) -> int:
        name, value = proposal["trait"].name, proposal["value"]
        _check_inside(name, value, self._last[name])
        return value


def _state(grid, title="", scale=None, known=True, smooth=None, fps=8, time=0, view=0) -> dict:
    """What the browser is told."""
    frames = labelled_frames(grid)
    views, times, height, width, _ = next(iter(frames.values())).shape
    if not fps > 0:
        raise ValueError(f"fps is {fps}; give a number of steps a second above 0.")
    _check_inside("time", time, times - 1)
    _check_inside("view", view, views - 1)
    looks = {
        "panels": [{"label": label, "sprite": _sprite(f)} for label, f in frames.items()],
        "views": views,
        "times": times,
        "height": height,
        "width": width,
        "known": known_cells(known, views, times).tolist(),
        "title": title,
        "scale": whole_scale(scale, width, target=PANEL_WIDTH),
        "smooth": width >= SMOOTH_FROM if smooth is None else smooth,
        "fps": fps,
    }
    return {"time": time, "view": view, "_grid": looks}


def _check_inside(name: str, value: int, last: int) -> None:
    if not 0 <= value <= last:
        raise ValueError(f"{name} is {value}; this grid has {name}s 0 to {last}.")


def save_html(grid: Tensor | Mapping[str, Tensor], path: str | os.PathLike, *, title: str = "", **options) -> None:
    """Save the viewer as one HTML file: no server, no network, nothing beside it.

    Args:
        grid: as for `GridViewer`.
        path: the file to write; missing folders are made, and the file is never seen half-written.
        title: a line above the picture and in the browser's tab.
        options: everything else that `GridViewer` takes.

    Raises:
        ValueError: an argument has the wrong shape or range.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_html(torch.rand(4, 6, 3, 16, 16), f"{folder}/noise.html", title="Noise", fps=4)
    """
    state = _state(grid, title, **options)
    write_page(path, title or "4D grid", (HERE / "viewer.js").read_text(), (HERE / "viewer.css").read_text(), state)


def write_page(path: str | os.PathLike, title: str, js: str, css: str, state: dict) -> None:
    """A widget without its notebook: viewer.html holds the state that a kernel would.

    Args:
        path: the file to write.
        title: of the browser's tab.
        js, css: the widget's; `js` defines `render`.
        state: its traits.
    """
    page = Template((HERE / "viewer.html").read_text()).substitute(
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
