"""What every source of ground truth returns: a batch of grids with all that is known about them."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class SceneRecord:
    """`n` scenes seen from `v` viewpoints at `t` times. Axes are always in this order.

    Row `[:, v]` is a fixed-view video, column `[:, :, t]` a freeze-time video.
    """

    rgb: Float[Tensor, "n v t 3 h w"]
    """Colour in [0, 1], composited on the scene's background."""
    alpha: Float[Tensor, "n v t 1 h w"]
    """Coverage by objects in [0, 1]; 0 is background."""
    depth: Float[Tensor, "n v t 1 h w"]
    """Distance along the viewing axis (-z of the camera) at the pixel's centre, in scene units; 0 where nothing is."""
    c2w: Float[Tensor, "n v 4 4"]
    """Camera-to-world: x right, y up, looking along -z."""
    fov_deg: float
    """Vertical field of view in degrees."""
    flow: Float[Tensor, "n v t 2 h w"] | None = None
    """Where the surface at this pixel goes by the next time, in pixels (x right, y down); the last time holds zeros."""
    visible: Bool[Tensor, "n v t 1 h w"] | None = None
    """Whether the surface seen here is still seen, in the same view, at the next time; True at the last time."""
    in_fixed_view: Bool[Tensor, "n v t 1 h w"] | None = None
    """Whether the surface seen here is seen from view 0 at the same time; False where nothing is."""
    captions: tuple[str, ...] | None = None
    """What each scene shows, in words; None where unknown."""
