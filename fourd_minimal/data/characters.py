"""Animated characters as easy to sample as procedural scenes: any seed gives clips of the collection, drawn here.

    record = sample_characters(4, views=8, times=8, size=64, seed=0, split="train")

The collection (`collection.py`: openly licensed knights, fish, dinosaurs, vehicles, robots, ...) takes the place of the
papers' animated Objaverse. Rig families are drawn evenly, then an asset, then one of its first 12 good clips; of
the clip a window at a stated frame rate; cameras on an arc at a random azimuth and elevation, as section 3.3 of
4Real-Video says, or evenly all around, as 4Diffusion has them.

What is drawn fills the picture, so it may reach beyond the unit ball: `fill=None` keeps it inside.
"""

import re
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fourd_minimal.cameras import circular_trajectory
from fourd_minimal.data import gltf
from fourd_minimal.data.collection import Asset, GoodClip, assets
from fourd_minimal.data.procedural import FOV_DEG, RADIUS, hue
from fourd_minimal.data.scene_record import SceneRecord

MOST_CLIPS = 12
"""Of one asset: some have seventy, and would be seen most of the time."""
FPS, SWEEP_DEG, ELEVATION_DEG = (10.0, 24.0), (30.0, 60.0), (0.0, 30.0)
BACKGROUNDS = ("any", "white", "plain", "graded")

load = cache(gltf.read_asset)
"""An asset by its path, parsed once; all of them together hold 200 MB."""


@lru_cache(maxsize=16)
def families(split: str | None = "train", folder: str | Path | None = None) -> dict[str, list[Asset]]:
    """Rig families of a split, and their assets that have good clips; both in the order of their names.

    Raises:
        ValueError, FileNotFoundError: see `collection.assets`.
    """
    found: dict[str, list[Asset]] = {}
    for asset in assets(split, folder):
        if asset.clips:
            found.setdefault(asset.family, []).append(asset)
    return dict(sorted(found.items()))


def sample_characters(
    n: int,
    views: int,
    times: int,
    size: int,
    seed: int,
    split: str = "train",
    folder: str | Path | None = None,
    *,
    fps: float | tuple[float, float] = FPS,
    sweep_deg: float | tuple[float, float] = SWEEP_DEG,
    elevation_deg: float | tuple[float, float] = ELEVATION_DEG,
    azimuths_deg: Float[Tensor, "n v"] | None = None,
    fill: tuple[float, float] | None = (0.75, 0.95),
    background: str = "any",
    oversample: int = 3,
    geometry: bool = True,
    device: torch.device | str = "cpu",
) -> SceneRecord:
    """`n` clips of animated characters as grids of `views` x `times` frames.

    Args:
        n, views, times, size: how many, of which shape; 1 view or 1 time too.
        seed: the same arguments and seed give the same clips, in any process.
        split: "train", "validation" or "public-test": no rig family is in two.
        folder: of the collection; None looks in the cache that `fourd fetch-characters` fills, and beside the checkout.
        fps: frames a second, or a range to draw from. A window that is longer than its clip shows all of it, slower.
        sweep_deg: from the first camera to the last, in either sense; or a range.
        elevation_deg: of all cameras, or a range.
        azimuths_deg: of the cameras of each clip, from a first direction that is drawn; instead of an arc.
        fill: what is drawn reaches over a share of the picture in this range; None: the unit ball holds it.
        background: "white", "plain" (one colour), "graded" (two, from top to bottom), or "any" of these.
        oversample: odd; samples per side of a pixel.
        geometry: also depth, flow and visibility (slower); without it depth is zeros and the others None.
        device: where to draw.

    Raises:
        ValueError: a count below 1, azimuths for other cameras, an unknown split or background.
        FileNotFoundError: no copy of the collection.

    >>> sample_characters(2, views=3, times=4, size=32, seed=1).rgb.shape  # doctest: +SKIP
    torch.Size([2, 3, 4, 3, 32, 32])
    """
    for name, value in dict(n=n, views=views, times=times, size=size).items():
        if value < 1:
            raise ValueError(f"{name} is {value}; expected at least 1.")
    if background not in BACKGROUNDS:
        raise ValueError(f"background is {background!r}; expected one of {', '.join(BACKGROUNDS)}.")
    if azimuths_deg is not None and tuple(azimuths_deg.shape) != (n, views):
        raise ValueError(f"azimuths_deg has shape {tuple(azimuths_deg.shape)}; expected {(n, views)}.")
    groups = list(families(split, folder).values())
    draw, records = torch.Generator().manual_seed(seed), []
    for i in range(n):
        asset, clip = _draw_clip(groups, draw)
        start, sweep = _uniform(draw, (0, 360)), _uniform(draw, sweep_deg) * (1 if _uniform(draw) < 0.5 else -1)
        along = sweep * torch.linspace(0, 1, views) if azimuths_deg is None else azimuths_deg[i]
        c2w = circular_trajectory(start + along, _uniform(draw, elevation_deg), RADIUS)
        parsed = load(asset.path)
        times_s = window(parsed.clips[clip.index], times, _uniform(draw, fps), _uniform(draw))
        filled = None if fill is None else _uniform(draw, fill)
        behind, light_deg = backdrop(background, size, draw), _uniform(draw, (0, 360))
        how = dict(oversample=oversample, geometry=geometry, device=device)
        how |= dict(fill=filled, background=behind, light_deg=light_deg)
        record = gltf.render(parsed, clip.index, times_s, c2w, FOV_DEG, size, **how)
        records.append(replace(record, captions=(caption(asset.kind, clip.name),)))
    return join(records)


def join(records: Sequence[SceneRecord]) -> SceneRecord:
    """Several records of one shape as one."""
    joined = {}
    for field in fields(SceneRecord):
        values = [getattr(record, field.name) for record in records]
        if isinstance(values[0], Tensor):
            joined[field.name] = torch.cat(values)
        else:
            joined[field.name] = sum(values, ()) if isinstance(values[0], tuple) else values[0]
    return SceneRecord(**joined)


def caption(kind: str, clip: str) -> str:
    """What a clip shows, from the kind of its asset and its own name.

    >>> caption("dinosaur", "Armature|Triceratops_Walk")
    'a dinosaur: triceratops walk'
    """
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", clip.rsplit("|", 1)[-1])
    words = " ".join(re.findall(r"[a-z]+", words.lower()))
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}" + (f": {words}" if words else "")


def _uniform(draw: torch.Generator, between: float | tuple[float, float] = (0.0, 1.0)) -> float:
    """A number between two; one number is itself, and draws as well, so that what follows stays the same."""
    low, high = between if isinstance(between, tuple) else (between, between)
    return low + (high - low) * torch.rand((), generator=draw).item()


def _draw_clip(groups: list[list[Asset]], draw: torch.Generator) -> tuple[Asset, GoodClip]:
    pick = lambda things: things[int(torch.randint(len(things), (), generator=draw))]  # noqa: E731
    asset = pick(pick(groups))
    return asset, pick(asset.clips[:MOST_CLIPS])


def window(clip: gltf.Clip, times: int, fps: float, at: float) -> np.ndarray:
    """Seconds of a window of a clip; `at` in [0, 1] says where in the clip it lies."""
    span = min((times - 1) / fps, clip.duration_s)
    begin = clip.start_s + at * (clip.duration_s - span)
    return begin + np.linspace(0, span, times)


def backdrop(kind: str, size: int, draw: torch.Generator) -> Float[Tensor, "3 h w"]:
    """White, one colour, or two that blend from top to bottom."""
    chance, hues, values = _uniform(draw), torch.rand(2, generator=draw), 0.45 + 0.5 * torch.rand(2, generator=draw)
    colours = hue(hues, 0.3, 1.0) * values[:, None]
    kind = ("white" if chance < 0.2 else "plain" if chance < 0.5 else "graded") if kind == "any" else kind
    if kind == "white":
        return torch.ones(3, size, size)
    top, bottom = colours if kind == "graded" else colours[:1].expand(2, 3)
    ramp = torch.linspace(0, 1, size)[:, None]
    return torch.lerp(top[:, None, None], bottom[:, None, None], ramp.expand(size, size))
