"""Animated glTF assets as ground truth: any .gltf or .glb, seen by cameras on a circle.

4Real-Video is fine-tuned on multi-view videos of about 15,000 animated assets of Objaverse, seen from circular camera
trajectories (section 3.3); 4Diffusion on 926 of them. Here an asset is read, posed and drawn (`assets/`) in numpy and
torch, with all that is known about every pixel.

    record = render_asset("Fox.glb", views=8, times=8, size=64, clip="Run")

Departures: the papers state neither lights nor radius nor field of view; a soft key light, an even sky and the defaults
below are assumed. There are no shadows and no reflections.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fourd_minimal.cameras import circular_trajectory
from fourd_minimal.data.assets.animation import Clip
from fourd_minimal.data.assets.document import Document
from fourd_minimal.data.assets.pose import pose
from fourd_minimal.data.assets.rasterizer import draw
from fourd_minimal.data.assets.reader import Asset, read_asset
from fourd_minimal.data.scene_record import SceneRecord

TO_LIGHT = (-0.5, 1.0, 0.8)
"""Direction of the key light, from above and left of a camera at azimuth 0."""
KEY, SKY, SOFT = 0.95, 0.65, 0.4
"""Strength of the key light and of the sky; how far beyond its edge the key light reaches."""
MOMENTS = 8
"""Moments of a clip at which its motion is measured."""
BlenderError = ValueError  # the name by which a failing asset was reported before 0.2


class Motion(NamedTuple):
    """How an asset moves in a clip, as shares of the diagonal of the box around all its moments."""

    most: float
    """The farthest that a vertex gets from one moment to another."""
    mean: float
    """The mean over vertices and pairs of moments."""
    size: float
    """Diagonal of the box around one moment, mean: small where the asset travels, and is then drawn small."""
    travel: float
    """How far the middle gets."""
    loops: bool
    """Whether it ends where it began."""

    @property
    def good(self) -> bool:
        """Visibly moving, and large enough to be seen."""
        return self.most >= 0.05 and self.mean >= 0.01 and self.size >= 0.5


def list_clips(path: str | Path) -> list[Clip]:
    """The clips of a .gltf or .glb file, in its order; no picture is read.

    Raises:
        FileNotFoundError: it, or a file it needs, is missing.
        ValueError: it is not glTF 2.0, or damaged.

    >>> [(clip.name, round(clip.duration_s, 2)) for clip in list_clips("Fox.glb")]  # doctest: +SKIP
    [('Survey', 3.42), ('Walk', 0.71), ('Run', 1.16)]
    """
    document = Document(path)
    with document.sentences():
        return document.clips()


def motion(asset: Asset, clip: int) -> Motion:
    """How an asset moves in a clip, from 8 moments."""
    times = moments(asset.clips[clip], MOMENTS)
    x = pose(asset, clip, times, normals=False).positions
    x = x[:, np.unique(np.linspace(0, x.shape[1] - 1, 400).astype(int))]
    low, high = x.min(1), x.max(1)
    diagonal = max(1e-12, float(np.linalg.norm(high.max(0) - low.min(0))))
    apart = np.linalg.norm(x[:, None] - x[None], axis=-1) / diagonal
    middles = (low + high) / 2
    pairs = ~np.eye(MOMENTS, dtype=bool)
    travel = np.linalg.norm(middles[:, None] - middles[None], axis=-1).max() / diagonal
    size = np.linalg.norm(high - low, axis=-1).mean() / diagonal
    mean = float(apart[pairs].mean())
    return Motion(float(apart.max()), mean, float(size), float(travel), bool(apart[0, -1].mean() < 0.3 * mean))


def moments(clip: Clip, times: int, time_range: tuple[float, float] = (0.0, 1.0)) -> Float[np.ndarray, " t"]:
    """Seconds on the clip's clock, evenly spaced over a part of it."""
    return clip.start_s + clip.duration_s * np.linspace(*time_range, times)


def choose_clip(asset: Asset, clip: str | int | None) -> int:
    """The index of a clip by name or index; None takes the liveliest of those that stay in place.

    Of a character's clips the one that moves most is often its death; those that stay where they are show more. So of
    the clips that visibly move, those whose middle stays within a tenth of the asset's size come first, and of them
    those that end where they began, as walks do.

    Raises:
        ValueError: no such clip, or nothing in the asset moves.
    """
    best = liveliest(asset) if clip is None else []
    return best[0] if best else _choose(asset.clips, clip, asset.path)


def liveliest(asset: Asset, most: int = 1) -> list[int]:
    """The clips in which an asset moves, at most so many, in the order in which `choose_clip` prefers them.

    Of clips that move alike, which some files hold under two names, the first.
    """
    moving = {i: motion(asset, i) for i, clip in enumerate(asset.clips) if clip.moves and clip.duration_s > 0}
    different = {how: i for i, how in reversed(moving.items())}
    order = sorted(different, key=lambda how: (how.good, how.travel < 0.1, how.loops, how.mean), reverse=True)
    return [different[how] for how in order[:most]]


def _choose(clips: list[Clip], clip: str | int | None, path: str | Path) -> int:
    if not clips:
        raise ValueError(f"path is '{path}', which holds no animation; expected an animated asset.")
    if clip is None:
        clip = next((i for i, c in enumerate(clips) if c.moves), None)
        if clip is None:
            raise ValueError(f"path is '{path}', in which nothing moves; name a clip to render it all the same.")
    names = [c.name for c in clips]
    index = names.index(clip) if clip in names else clip
    if isinstance(index, str) and index.isdigit():
        index = int(index)
    if index not in range(len(clips)):
        raise ValueError(f"clip is {clip!r}; '{path}' has {', '.join(names)}, or an index from 0 to {len(clips) - 1}.")
    if clips[index].duration_s <= 0:
        raise ValueError(f"clip is {names[index]!r}, which holds a single pose; expected one longer than 0 s.")
    return index


def render(
    asset: Asset,
    clip: int | None,
    times_s: Float[np.ndarray, " t"],
    c2w: Float[Tensor, "v 4 4"],
    fov_deg: float,
    size: int,
    *,
    fill: float | None = None,
    background: Float[Tensor, "3"] | Float[Tensor, "3 h w"] | tuple[float, float, float] = (1.0, 1.0, 1.0),
    light_deg: float = 0.0,
    oversample: int = 3,
    geometry: bool = True,
    device: torch.device | str = "cpu",
) -> SceneRecord:
    """A clip at given times from given cameras; `render_asset` is this with cameras on a circle.

    Args:
        asset, clip, times_s: see `assets.pose`.
        c2w: cameras; the asset's bounding box over all times is centred, its farthest vertex at distance 1.
        fov_deg: vertical field of view in degrees.
        size: pixels along each side.
        fill: enlarge the asset until it reaches over so much of the picture in some frame, in (0, 1]; it may leave the
            unit ball then. None leaves it in the ball.
        background: colour in [0, 1].
        light_deg: azimuth by which the key light is turned.
        oversample: odd; a pixel is the mean of oversample^2 samples, and the middle one gives depth and flow.
        geometry: also depth, flow and visibility; without it depth is zeros and the others None.
        device: where to draw.
    """
    posed = pose(asset, clip, times_s)
    x = posed.positions - (posed.positions.min((0, 1)) + posed.positions.max((0, 1))) / 2
    radius = float(np.sqrt(np.square(x).sum(-1).max()))
    if not 0 < radius < np.inf:
        raise ValueError(f"path is '{asset.path}', whose vertices reach over {radius:g}; expected something to draw.")
    x = torch.from_numpy(x / radius).to(device)
    c2w = c2w.to(device)
    if fill is not None:
        x = x * _enlargement(x, c2w, fov_deg, fill)
    normals = torch.from_numpy(posed.normals).to(device)
    sides = [normals, -normals] if asset.surface.both_sides.any() else [normals]
    light = torch.stack([_light(side, light_deg) for side in sides])
    mirrored = None
    if posed.mirrored.any():  # of parts: their triangles follow each other as their vertices do
        first = asset.surface.faces[:, 0].numpy()
        part = np.searchsorted([p.vertices.start for p in asset.parts], first, side="right") - 1
        mirrored = torch.from_numpy(posed.mirrored[:, part]).to(device)
    frames = draw(asset.surface.to(device), x, light, c2w, fov_deg, size, oversample, geometry, mirrored)
    behind = torch.as_tensor(background, dtype=torch.float32, device=device)
    rgb = torch.lerp(behind if behind.ndim == 3 else behind[:, None, None], frames.rgb, frames.alpha)
    depth = torch.zeros_like(frames.alpha) if frames.depth is None else frames.depth
    known = (None if value is None else value[None] for value in frames[3:])
    return SceneRecord(rgb[None], frames.alpha[None], depth[None], c2w[None], fov_deg, *known)


def _light(normals: Float[Tensor, "t n 3"], turn_deg: float) -> Float[Tensor, "t n"]:
    """Linear light on surfaces: a key light that wraps around softly, and a sky that is brighter above."""
    x, y, z = np.array(TO_LIGHT) / np.linalg.norm(TO_LIGHT)
    c, s = np.cos(np.radians(turn_deg)), np.sin(np.radians(turn_deg))
    towards = torch.tensor([c * x + s * z, y, c * z - s * x], dtype=normals.dtype, device=normals.device)
    key = ((normals @ towards + SOFT) / (1 + SOFT)).clamp(min=0)
    return KEY * key + SKY * (0.75 + 0.25 * normals[..., 1])


def _enlargement(x: Float[Tensor, "t n 3"], c2w: Float[Tensor, "v 4 4"], fov_deg: float, fill: float) -> Tensor:
    """The factor by which vertices may grow from the origin until they reach over `fill` of some picture.

    A vertex of camera coordinates s (a, b, c), seen from a distance d, lands at s a / (d - s c): solved for s.
    """
    local = x @ c2w[:, None, :3, :3]
    d = c2w[:, :3, 3].norm(dim=-1)[:, None, None]
    edge = fill * np.tan(np.radians(fov_deg) / 2)
    reach = local[..., :2].abs().amax(-1)
    return (edge * d / (reach + edge * local[..., 2]).clamp(min=1e-6)).min()


def render_asset(
    path: str | Path,
    views: int,
    times: int,
    size: int,
    clip: str | int | None = None,
    *,
    time_range: tuple[float, float] = (0.0, 1.0),
    azimuth_start_deg: float = 0.0,
    azimuth_sweep_deg: float = 50.0,
    elevation_deg: float = 20.0,
    radius: float = 3.4,
    fov_deg: float = 36.0,
    fill: float | None = None,
    background: tuple[float, float, float] = (1.0, 1.0, 1.0),
    oversample: int = 5,
    geometry: bool = True,
    device: torch.device | str = "cpu",
) -> SceneRecord:
    """One clip of an animated asset as a grid, with alpha, depth, cameras, flow and visibility.

    The bounding box over all rendered times is centred and its farthest vertex scaled to distance 1. Cameras stand at
    azimuths spread evenly over the sweep, both ends included; azimuth 0 sees the front of an asset that faces +z, as
    glTF says it should. Lights stay with the world. The same call gives the same numbers.

    Args:
        path: a .gltf or .glb; buffers and textures may lie in files beside it.
        views, times: size of the grid, 2 or more each.
        size: pixels along each side, 8 or more.
        clip: name or index, see `list_clips`; None takes the liveliest, see `choose_clip`.
        time_range: part of the clip, as fractions of its length, from the first time to the last. A clip that loops
            ends where it began: (0, 1 - 1 / times) shows that pose once, and a shorter range makes smaller steps.
        azimuth_start_deg, azimuth_sweep_deg, elevation_deg, radius: see `cameras.circular_trajectory`; radius above 1.
            The unit ball is in frame from a radius of 1 / sin(fov_deg / 2) on: 3.24 for 36 degrees.
        fov_deg: vertical field of view, between 0 and 170.
        fill, background, oversample, geometry, device: see `render`.

    Raises:
        FileNotFoundError: the asset, or a file it needs, is missing.
        ValueError: not glTF 2.0, nothing to draw or nothing that moves, no such clip, or an argument out of range.

    >>> render_asset("Fox.glb", views=4, times=8, size=64, clip="Run").rgb.shape  # doctest: +SKIP
    torch.Size([1, 4, 8, 3, 64, 64])
    """
    for name, value, expected, holds in (
        ("views", views, "at least 2", views >= 2),
        ("times", times, "at least 2", times >= 2),
        ("size", size, "at least 8", size >= 8),
        ("time_range", time_range, "a rising pair within [0, 1]", 0 <= time_range[0] < time_range[1] <= 1),
        ("radius", radius, "above 1, for the asset fills the unit ball", 1 < radius < float("inf")),
        ("fov_deg", fov_deg, "between 0 and 170", 0 < fov_deg < 170),
        ("fill", fill, "in (0, 1]", fill is None or 0 < fill <= 1),
        ("background", background, "three numbers in [0, 1]", all(0 <= c <= 1 for c in background)),
    ):
        if not holds:
            raise ValueError(f"{name} is {value}; expected {expected}.")
    asset = read_asset(path, largest_texture=max(512, 2 * size))
    index = choose_clip(asset, clip)
    azimuth_deg = azimuth_start_deg + azimuth_sweep_deg * torch.linspace(0, 1, views)
    c2w = circular_trajectory(azimuth_deg, elevation_deg, radius)
    times_s = moments(asset.clips[index], times, time_range)
    options = dict(fill=fill, background=background, oversample=oversample, geometry=geometry, device=device)
    return render(asset, index, times_s, c2w, fov_deg, size, **options)
