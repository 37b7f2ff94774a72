"""A moving scene as one HTML file to fly around in: `save_scene_html`.

scene_viewer.js draws it, as it draws the notebooks' widget, with three.js (three.min.js): the same ellipses as
`DeformableGaussians.render`, in the same order, as soft as the frames that the scene was fitted to.
"""

import os
from base64 import b64encode
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from fourd_minimal.gaussians import BLUR
from fourd_minimal.systems.deformable_gaussians import DeformableGaussians
from fourd_minimal.viewers.contact_sheet import png
from fourd_minimal.viewers.grid_page import write_page

HERE = Path(__file__).parent
JS = "".join((HERE / name).read_text(encoding="utf-8") for name in ("three.min.js", "scene_viewer.js"))


@torch.no_grad()
def scene_state(scene, camera, fov_deg, times=16, title="", width=480, pixel_ratio=None, faint=0.02) -> dict:
    """The state of the widget; arguments as for `SceneViewer`."""
    if times < 1 or width < 1:
        raise ValueError(f"times is {times} and width {width}; expected at least 1.")
    if not any(place := camera[:3, 3].tolist()):
        raise ValueError(f"camera stands at {place}; expected another place than the origin, at which it looks.")
    opacity = scene.opacity_logit.sigmoid()
    kept = opacity > faint
    moments = torch.linspace(0, 1, times, device=scene.points.device)
    return {
        "positions": [_floats(p) for p in scene.positions(moments)[:, kept]],
        "radius": _floats(scene.log_radius.exp()[kept]),
        "look": _floats(torch.cat([scene.colour_logit.sigmoid(), opacity[:, None]], 1)[kept]),
        "blur": BLUR,
        "fitted_height": scene.fitted_height or 2**31,
        "background": _picture(scene.background.clamp(0, 1)),
        "camera": place,
        "fov_deg": fov_deg,
        "title": title,
        "width": width,
        "pixel_ratio": pixel_ratio,
    }


def save_scene_html(
    scene: DeformableGaussians,
    path: str | os.PathLike,
    camera: Float[Tensor, "4 4"],
    fov_deg: float,
    title: str = "",
    **options,
) -> None:
    """Save the viewer as one HTML file: no server, no network, nothing beside it.

    Args:
        path: the file to write.
        scene, camera, fov_deg, title, options: as for `SceneViewer`.
    """
    drawn = scene_state(scene, camera, fov_deg, title=title, **options)
    state = {"time": 0.0, "camera": drawn["camera"], "_scene": drawn}
    write_page(path, title or "4D scene", JS, (HERE / "scene_viewer.css").read_text(encoding="utf-8"), state)


def _floats(values: Tensor) -> str:
    """Numbers as the browser takes them: little-endian floats in base64."""
    return b64encode(values.detach().cpu().numpy().astype("<f4").tobytes()).decode()


def _picture(behind: Float[Tensor, "3 h w"], size: int = 64) -> str:
    """The background as a data URL, enlarged as `DeformableGaussians.render` does."""
    large = F.interpolate(behind.cpu()[None], (size, size), mode="bilinear", align_corners=True)
    pixels = rearrange((large[0] * 255).round().byte(), "c h w -> h w c")
    return "data:image/png;base64," + b64encode(png(np.ascontiguousarray(pixels.numpy()))).decode()
