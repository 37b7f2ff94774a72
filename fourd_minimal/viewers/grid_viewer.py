"""A 4D grid as a notebook's widget: drag sideways for time, up and down for viewpoint. (`grid_page`: as one file.)"""

from collections.abc import Mapping

import anywidget
import traitlets
from torch import Tensor

from fourd_minimal.viewers.grid_page import HERE, check_inside, grid_state


class GridViewer(anywidget.AnyWidget):
    """A grid to drag through in JupyterLab, VS Code or Colab.

    Args:
        grid: `(v, t, 3, h, w)` in [0, 1], or a dict label -> such a grid, all of one shape: panels that move together.
        title: a line above the picture.
        scale: screen pixels per grid pixel, a whole number; by default a panel is near 320 pixels wide.
        known: which cells to mark: True for row 0 and column 0, False for none, or a boolean `(v, t)`.
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
        state = grid_state(grid, title, scale, known, smooth, fps, time, view)
        self._last = {axis: state["_grid"][f"{axis}s"] - 1 for axis in ("time", "view")}
        super().__init__(**state)

    @traitlets.validate("time", "view")
    def _inside(self, proposal: dict) -> int:
        name, value = proposal["trait"].name, proposal["value"]
        check_inside(name, value, self._last[name])
        return value
