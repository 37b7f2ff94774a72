"""A moving scene as a notebook's widget: drag to fly around it, slide through time. (`scene_page`: as one file.)"""

import anywidget
import traitlets
from jaxtyping import Float
from torch import Tensor

from fourd_minimal.systems.deformable_gaussians import DeformableGaussians
from fourd_minimal.viewers.scene_page import HERE, JS, scene_state


class SceneViewer(anywidget.AnyWidget):
    """A scene to fly around in, in JupyterLab, VS Code or Colab.

    Args:
        scene: moving Gaussians.
        camera: where to begin, `(4, 4)` camera-to-world; it looks at the origin.
        fov_deg: vertical field of view.
        times: how many, evenly over [0, 1], the viewer holds; in between it interpolates.
        title: a line above the picture.
        width: of the square picture, in screen pixels.
        pixel_ratio: picture pixels per screen pixel; what the screen has when left out.
        faint: Gaussians of less opacity are left out.

    Raises:
        ValueError: `times` or `width` below 1, or a camera that stands in the origin.

    Example:
        >>> from fourd_minimal.cameras import circular_trajectory
        >>> from fourd_minimal.systems.deformable_gaussians import random_scene
        >>> viewer = SceneViewer(random_scene(50), circular_trajectory(0.0, 20.0, 4.0), 36.0, times=4)
        >>> viewer.time = 0.5
    """

    _esm = JS
    _css = HERE / "scene_viewer.css"

    time = traitlets.Float(0.0, min=0.0, max=1.0).tag(sync=True)
    camera = traitlets.List().tag(sync=True)
    """Where the camera stands now: x, y, z."""
    _scene = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        scene: DeformableGaussians,
        camera: Float[Tensor, "4 4"],
        fov_deg: float,
        times: int = 16,
        title: str = "",
        width: int = 480,
        pixel_ratio: float | None = None,
        faint: float = 0.02,
    ):
        state = scene_state(scene, camera, fov_deg, times, title, width, pixel_ratio, faint)
        super().__init__(camera=state["camera"], _scene=state)
