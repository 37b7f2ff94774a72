"""Rendered grids on disk, many to a file: shards, tar files in WebDataset's layout whose items can be read alone.

    000003.tar                 holds clips 96 to 127 of a list
        __failures__           those that could not be rendered, and why; WebDataset skips the name
        000096.json            asset, clip, cameras, field of view, times, size
        000096.view000.webp    row 0 of the grid, a fixed-view video: its moments side by side
        000096.view001.webp    ...

Rendering animated assets takes days and training passes over them many times: 926 objects from 32 cameras each in
4Diffusion (section A.1), about 15,000 in 4Real-Video (section 3.3). A row is one picture, so four views of 32 cost an
eighth of the whole. Its colour is straight, not multiplied by alpha, and 0 where alpha is: whoever reads it chooses the
background. What is stored are 8 bits, without loss.

Departures: neither paper says how it stores its renders. Depth, flow and visibility are left out, since no training of
theirs asks for them.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from fourd_minimal.data.scene_record import SceneRecord

FAILURES = "__failures__"
"""The member of a shard that lists what could not be rendered."""
LONGEST = 16383
"""Pixels along a side of a WebP."""
WHITE = (1.0, 1.0, 1.0)


class Stored(NamedTuple):
    """One grid, or a part of one, as read from a shard."""

    rgb: Float[Tensor, "v t 3 h w"]
    """Colour in [0, 1], on the background asked for."""
    alpha: Float[Tensor, "v t 1 h w"]
    """Coverage in [0, 1]."""
    c2w: Float[Tensor, "v 4 4"]
    """Camera-to-world, see `cameras.py`."""
    fov_deg: float
    """Vertical field of view in degrees."""
    about: dict[str, Any]
    """What else was noted: asset, clip, credit."""


class _Item(NamedTuple):
    path: Path
    places: np.ndarray
    """Where the picture of every view begins in the file, and its bytes, (v, 2)."""
    c2w: Tensor
    about: dict[str, Any]


def sample(
    key: str, record: SceneRecord, background: tuple[float, float, float] = WHITE, **about: Any
) -> list[tuple[str, bytes]]:
    """The members of a shard that hold one grid: its JSON, then a picture for every view.

    What a record shows is s = a c + (1 - a) b; straight colour is c = b + (s - b) / a.

    Args:
        key: in front of all their names, without a full stop.
        record: one scene, on an even background.
        background: that of the record.
        about: JSON values to be noted.

    Raises:
        ValueError: more than one scene, numbers that are not finite, nothing to be seen, another background, or rows
            too long for a picture.
    """
    n, views, times, _, h, w = record.rgb.shape
    behind = torch.tensor(background)[:, None, None]
    each = list(zip(*(whole.flatten(0, 1) for whole in (record.rgb, record.alpha)), strict=True))  # (t, 3 | 1, h, w)
    for message, holds in {
        f"record holds {n} scenes; expected one.": n == 1,
        "record holds numbers that are not finite.": all(bool(x.isfinite().all()) for view in each for x in view),
        "record shows nothing: alpha is 0 everywhere.": any(bool(alpha.any()) for _, alpha in each),
        f"record has another background than {background}.": all(
            bool(((rgb - behind).abs() < 4e-3)[(alpha == 0).expand_as(rgb)].all()) for rgb, alpha in each
        ),
        f"record has rows of {times} x {w} pixels; expected at most {LONGEST}.": max(h, times * w) <= LONGEST,
    }.items():
        if not holds:
            raise ValueError(message)
    cameras = dict(c2w=record.c2w[0].tolist(), fov_deg=record.fov_deg)
    text = json.dumps({**about, "views": views, "times": times, "size": [h, w], **cameras})
    pictures = ((f"{key}.view{v:03}.webp", _encode(_row(*view, behind))) for v, view in enumerate(each))
    return [(f"{key}.json", text.encode()), *pictures]


def _row(
    rgb: Float[Tensor, "t 3 h w"], alpha: Float[Tensor, "t 1 h w"], behind: Float[Tensor, "3 1 1"]
) -> UInt8[np.ndarray, "h tw 4"]:
    """One view's moments side by side, straight colour and alpha as bytes."""
    straight = behind + (rgb - behind) / alpha.clamp(min=1e-6)
    rgba = (torch.cat([straight.clamp(0, 1), alpha.clamp(0, 1)], 1) * 255).round().byte()
    rgba *= rgba[:, 3:] > 0
    return rearrange(rgba, "t c h w -> h (t w) c").contiguous().numpy()


def _encode(row: np.ndarray) -> bytes:
    """Against PNG, measured on renders of 256 pixels: two thirds of the bytes, read twice as fast."""
    file = io.BytesIO()
    Image.fromarray(row).save(file, "WEBP", lossless=True, exact=True, quality=50, method=4)
    return file.getvalue()


def write_tar(path: str | Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Write names and contents into a tar file: the same members are the same bytes, whoever writes them, whenever."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


def read_tar(path: str | Path) -> Iterable[tuple[str, bytes]]:
    """Names and contents of a tar file, in their order."""
    with tarfile.open(path, "r:") as tar:
        for entry in tar:
            yield entry.name, tar.extractfile(entry).read()


def failures(path: str | Path) -> list[dict[str, str]]:
    """What a shard says could not be rendered, and why."""
    with tarfile.open(path, "r:") as tar:
        entry = tar.next()
        return json.loads(tar.extractfile(entry).read()) if entry and entry.name == FAILURES else []


class Shards:
    """All grids in a folder of shards; any of them, or some of its views and times, can be read alone.

    >>> shards = Shards("fourd_out/shards")  # doctest: +SKIP
    >>> shards[0].rgb.shape  # doctest: +SKIP
    torch.Size([32, 8, 3, 256, 256])
    """

    def __init__(self, folder: str | Path, workers: int = 4):
        """Look up where everything is, without reading pictures.

        Args:
            folder: with .tar files.
            workers: threads that decode pictures.

        Raises:
            ValueError: no such folder, no grids in it, a shard cut short, or grids of different shapes.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise ValueError(f"folder is {folder}; expected a folder of shards.")
        self._items = [item for path in sorted(folder.glob("*.tar")) for item in _look_up(path)]
        if not self._items:
            raise ValueError(f"folder is {folder}, whose shards hold no grids; `fourd render-shards` makes some.")
        shapes = {(item.about["views"], item.about["times"], *item.about["size"]) for item in self._items}
        if len(shapes) > 1:
            raise ValueError(f"{folder} holds grids of views, times, h, w = {sorted(shapes)}; expected one shape.")
        self.views, self.times, *size = shapes.pop()
        self.size: tuple[int, int] = tuple(size)
        named = (f"{item.path.name} {item.places.tolist()} {item.about}" for item in self._items)
        self.fingerprint = hashlib.sha256("\n".join(named).encode()).hexdigest()[:16]
        """Which grids these are, and in which order: a run that is to go on exactly needs the same."""
        self._threads = ThreadPoolExecutor(workers)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, i: int) -> Stored:
        """All of a grid, on white."""
        return self.read(i)

    def c2w(self, i: int) -> Float[Tensor, "v 4 4"]:
        """Cameras of a grid, which cost no reading."""
        return self._items[i].c2w

    def read(
        self,
        i: int,
        views: Sequence[int] | None = None,
        times: Sequence[int] | None = None,
        background: tuple[float, float, float] = WHITE,
    ) -> Stored:
        """A grid, or some of its rows and columns, in the order asked for.

        Args:
            i: which; from the end where negative.
            views, times: which; all when left out. Only pictures of these views are read.
            background: colour in [0, 1] behind everything.

        Raises:
            IndexError: no such grid, view or time.
        """
        item = self._items[i]
        views = range(self.views) if views is None else views
        times = range(self.times) if times is None else times
        rgba = torch.empty(len(views), len(times), 4, *self.size)
        behind = torch.tensor(background)[:, None, None]

        def fill(frames: Float[Tensor, "t 4 h w"], view: int) -> None:
            picture = self._picture(item, view)[:, list(times)]
            frames.copy_(rearrange(torch.from_numpy(picture), "h t w c -> t c h w")).div_(255)
            frames[:, :3].sub_(behind).mul_(frames[:, 3:]).add_(behind)

        list(self._threads.map(fill, rgba, views))
        rgb, alpha = rgba.split([3, 1], 2)
        return Stored(rgb, alpha, item.c2w[list(views)], item.about["fov_deg"], item.about)

    def _picture(self, item: _Item, view: int) -> np.ndarray:
        """One view's row, (h, t, w, 4) of bytes."""
        start, length = item.places[view].tolist()
        with item.path.open("rb") as file:
            file.seek(start)
            picture = Image.open(io.BytesIO(file.read(length)))
        h, w = self.size
        return np.asarray(picture.convert("RGBA")).reshape(h, self.times, w, 4)

    def order(self, epoch: int, seed: int = 0) -> list[int]:
        """All grids in the order of one epoch."""
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        return torch.randperm(len(self), generator=generator).tolist()

    def items(self, number: int, part: int, n: int, parts: int = 1, seed: int = 0) -> list[int]:
        """The grids of part `part` of step `number`: a function of these alone, so that a run can go on at any.

        Epoch follows epoch without a gap, parts follow parts within a step; every grid comes once in each epoch.

        Args:
            number, part: of the step, and of the part of its batch; both begin at 0.
            n: grids in each part.
            parts: of a step.
            seed: of the orders.

        Raises:
            ValueError: a part that a step does not have.
        """
        if not (0 <= part < parts and number >= 0 and n >= 1):
            raise ValueError(f"number, part, n, parts are {number}, {part}, {n}, {parts}; expected 0 <= part < parts.")
        first = (number * parts + part) * n
        places = [divmod(first + k, len(self)) for k in range(n)]
        orders = {epoch: self.order(epoch, seed) for epoch in {epoch for epoch, _ in places}}
        return [orders[epoch][place] for epoch, place in places]


def _look_up(path: Path) -> list[_Item]:
    """Where the grids of a shard are."""
    notes: dict[str, dict[str, Any]] = {}
    places: dict[str, list[tuple[int, int]]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for entry in tar:
                key, _, kind = entry.name.partition(".")
                if kind == "json":
                    notes[key] = json.loads(tar.extractfile(entry).read())
                elif kind.startswith("view"):
                    places.setdefault(key, []).append((entry.offset_data, entry.size))
    except tarfile.ReadError as error:
        raise ValueError(f"{path} is not a complete shard ({error}).") from None
    if any(len(places.get(key, ())) != about["views"] for key, about in notes.items()) or notes.keys() != places.keys():
        raise ValueError(f"{path} is not a complete shard (a picture for each view of each grid is wanted).")
    return [_Item(path, np.array(places[k]), torch.tensor(a.pop("c2w")), a) for k, a in notes.items()]
