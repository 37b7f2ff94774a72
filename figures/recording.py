"""A real scene, recorded by several calibrated cameras at once, brought to the conventions of this package.

The calibration is Qualisys' XML (`*.qca.txt`). What it means, checked on a recording whose four optical axes meet:

    transform    x, y, z: the camera's place in millimetres, z up; r11..r33: rows are the camera's axes in the world,
                 x right, y up, and it looks along minus the third
    intrinsic    focal lengths and the principal point in 64ths of a pixel; radial and tangential distortion as OpenCV's

Real cameras look past the person, each with a lens of its own. A camera that only turns sees the same rays, so every
frame is drawn again as a virtual camera at the same place sees it, which looks straight at the target through a
common, undistorted lens; no depth is needed. Behind the person the room becomes white. (A
person who never leaves the place is in the median of all frames, too: subtracting it leaves holes. So the masks come
from a network, `people.py`.)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from figures.people import people_alpha
from fourd_minimal.cameras import rays
from fourd_minimal.data.poses import triangulate
from fourd_minimal.data.video import read_video

Y_UP = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
"""Turns a world whose z points up into one whose y does."""


@dataclass(frozen=True)
class Camera:
    """One camera of a calibration; lengths in metres, y up."""

    name: str
    c2w: Float[Tensor, "4 4"]
    focal: Float[Tensor, "2"]
    """In pixels, x and y."""
    centre: Float[Tensor, "2"]
    """The principal point in pixels."""
    distortion: Float[Tensor, "4"]
    """k1, k2, p1, p2 of OpenCV."""
    size: tuple[int, int]
    """(h, w) of its video, in pixels. Videos whose size is off by less than 1% are taken as they are."""


@dataclass(frozen=True)
class Recording:
    """`v` cameras around one scene, all looking at it through one lens."""

    rgb: Float[Tensor, "v t 3 h w"]
    """In [0, 1]; white where the person is not."""
    alpha: Float[Tensor, "v t 1 h w"]
    """How much of a pixel is the person, in [0, 1]."""
    c2w: Float[Tensor, "v 4 4"]
    """Scaled and moved: the target is the origin, and the person fits the unit ball."""
    fov_deg: float


def read_calibration(path: str | Path) -> list[Camera]:
    """The cameras of a Qualisys calibration.

    Raises:
        ValueError: no such file, or no calibration in it.
    """
    try:
        found = list(ElementTree.parse(path).iter("camera"))
    except (OSError, ElementTree.ParseError) as error:
        raise ValueError(f"path: a Qualisys calibration (XML) is wanted, but {path} is none: {error}.") from None
    if not found:
        raise ValueError(f"path: a Qualisys calibration is wanted, but {path} names no camera.")
    try:
        return [_camera(entry) for entry in found]
    except (AttributeError, TypeError, ValueError):
        raise ValueError(f"path: {path} has a camera without its transform, intrinsic or fov_video.") from None


def _camera(entry: ElementTree.Element) -> Camera:
    def numbers(tag: str, *names: str) -> Tensor:
        return torch.tensor([float(entry.find(tag).get(name)) for name in names])

    turn = numbers("transform", *(f"r{i}{j}" for i in (1, 2, 3) for j in (1, 2, 3))).reshape(3, 3)
    c2w = torch.eye(4)
    c2w[:3, :3] = Y_UP @ turn.mT
    c2w[:3, 3] = Y_UP @ numbers("transform", "x", "y", "z") / 1000
    bends = "radialDistortion1", "radialDistortion2", "tangentalDistortion1", "tangentalDistortion2"  # their spelling
    return Camera(
        entry.get("serial"),
        c2w,
        numbers("intrinsic", "focalLengthU", "focalLengthV") / 64,
        numbers("intrinsic", "centerPointU", "centerPointV") / 64,
        numbers("intrinsic", *bends),
        tuple(int(n) + 1 for n in numbers("fov_video", "bottom", "right")),
    )


def meeting_point(c2w: Float[Tensor, "v 4 4"]) -> Float[Tensor, "3"]:
    """The point nearest to all optical axes."""
    return triangulate(c2w[:, :3, 3], -c2w[:, None, :3, 2], torch.ones(len(c2w), 1, dtype=torch.bool))[0]


def look_at(place: Float[Tensor, "v 3"], target: Float[Tensor, "3"]) -> Float[Tensor, "v 4 4"]:
    """Cameras at these places that look at the target, upright."""
    back = F.normalize(place - target, dim=-1)
    right = F.normalize(torch.linalg.cross(torch.tensor([0.0, 1.0, 0.0]).expand_as(back), back), dim=-1)
    c2w = torch.eye(4).repeat(len(place), 1, 1)
    c2w[:, :3] = torch.stack([right, torch.linalg.cross(back, right), back, place], -1)
    return c2w


def see_through(
    frames: Float[Tensor, "t 3 h w"], camera: Camera, c2w: Float[Tensor, "4 4"], fov_deg: float, size: tuple[int, int]
) -> tuple[Float[Tensor, "t 3 height width"], Bool[Tensor, "height width"]]:
    """What a camera at the same place, turned and with a perfect lens, would have seen; and what was recorded of it."""
    _, direction = rays(c2w, fov_deg, size)
    x, y, z = (direction @ camera.c2w[:3, :3]).unbind(-1)
    x, y = x / -z, y / z  # on the picture plane at a distance of 1, y down as in pictures
    k1, k2, p1, p2 = camera.distortion
    r2 = x * x + y * y
    radial = 1 + k1 * r2 + k2 * r2 * r2
    bent = torch.stack(
        [x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x), y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y], -1
    )
    at = (bent * camera.focal + camera.centre) / torch.tensor([frames.shape[3], frames.shape[2]]) * 2 - 1
    seen = F.grid_sample(frames, at.expand(len(frames), -1, -1, -1), padding_mode="border", align_corners=False)
    return seen, (at.abs() <= 1).all(-1) & (z < 0)


def read_recording(
    folder: str | Path,
    size: int = 48,
    frames: int = 8,
    target: tuple[float, float, float] | None = None,
    extent: float = 1.1,
    foreground: Callable[[Tensor], Tensor] = people_alpha,
    oversample: int = 16,
) -> Recording:
    """A person, recorded all around.

    Args:
        folder: holds `Calib.qca.txt` and one video per camera, named as the calibration names it.
        size: of the square frames, in pixels.
        frames: how many, evenly spaced.
        target: what to look at, in metres, y up; where the optical axes meet when left out.
        extent: radius of the ball around the target that holds the person, in metres.
        foreground: tells the person from the room: `(t, 3, h, w)` in [0, 1] -> `(t, 1, h, w)` in [0, 1].
        oversample: samples per pixel and side; the masks are made from these larger frames.

    Raises:
        ValueError: no calibration, or a camera without a video.
    """
    folder = Path(folder)
    cameras = read_calibration(folder / "Calib.qca.txt")
    for camera in cameras:
        if not (folder / f"{camera.name}.mp4").exists():
            raise ValueError(f"folder: {folder} has no {camera.name}.mp4, which its calibration names.")
    places = torch.stack([camera.c2w[:3, 3] for camera in cameras])
    middle = meeting_point(torch.stack([c.c2w for c in cameras])) if target is None else torch.tensor(target)
    c2w, large, nearest = look_at(places, middle), size * oversample, (places - middle).norm(dim=-1).min().item()
    if not 0 < extent < nearest:
        raise ValueError(
            f"extent is {extent} m; it must lie between 0 and {nearest:.2f}, where the nearest camera stands."
        )
    fov_deg = 2 * math.degrees(math.asin(extent / nearest))
    rgb, alpha = [], []
    for camera, pose in zip(cameras, c2w, strict=True):
        video = read_video(folder / f"{camera.name}.mp4", frames=frames).rgb
        (h, w), (wanted_h, wanted_w) = video.shape[-2:], camera.size
        if abs(h / wanted_h - 1) > 0.01 or abs(w / wanted_w - 1) > 0.01:
            raise ValueError(f"{camera.name}.mp4 is {w}x{h} pixels; its calibration is for {wanted_w}x{wanted_h}.")
        seen, recorded = see_through(video, camera, pose, fov_deg, (large, large))
        person = ((foreground(seen) - 0.3) / 0.4).clamp(0, 1) * recorded  # a hesitant mask would let the room through
        rgb.append(F.avg_pool2d(torch.lerp(torch.ones(()), seen, person), oversample))
        alpha.append(F.avg_pool2d(person, oversample))
    moved = c2w.clone()
    moved[:, :3, 3] = (places - middle) / extent
    return Recording(torch.stack(rgb), torch.stack(alpha), moved, fov_deg)
