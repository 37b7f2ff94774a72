"""Rendered grids on disk, many to a file: shards, tar files in WebDataset's layout whose items can be read alone.

    000003.tar                 holds clips 96 to 127 of a list
        __failures__           those that could not be rendered, and why; WebDataset skips the name
        000096.json            asset, clip, cameras, field of view, times, size
        000096.view000.webp    row 0 of the grid, a fixed-view video: its moments side by side
        000096.view001.webp    ...

Rendering animated assets takes days and training passes over them many times: 926 objects from 32 cameras each in
4Diffusion (section A.1), about 15,000 in 4Real-Video (section 3.3). A row is one picture, so reading four views of 32
costs an eighth of the whole. Its colour is straight, not multiplied by alpha, and 0 where alpha is; 8 bits, lossless.

Departures: neither paper says how it stores its renders. Depth, flow and visibility are left out, since no training of
theirs uses them.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
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


class Stored(NamedTuple):
    """One grid on white, or a part of one, as read from a shard; as in `SceneRecord`, and what else was noted."""

    rgb: Float[Tensor, "v t 3 h w"]
    alpha: Float[Tensor, "v t 1 h w"]
    c2w: Float[Tensor, "v 4 4"]
    fov_deg: float
    about: dict[str, Any]
    """Asset, clip, credit."""


def sample(key: str, record: SceneRecord, **about: Any) -> list[tuple[str, bytes]]:
    """The members of a shard that hold one grid: its JSON, then a picture for every view.

    Args:
        key: in front of all their names, without a full stop.
        record: one scene on white, whose views and times become rows of pictures.
        about: JSON values to be noted.

    Raises:
        ValueError: more than one scene, numbers that are not finite, nothing to be seen, or rows too long.
    """
    n, views, times, _, h, w = record.rgb.shape
    for message, holds in {
        f"record holds {n} scenes; expected one.": n == 1,
        "record holds numbers that are not finite.": bool(record.rgb.isfinite().all() & record.alpha.isfinite().all()),
        "record shows nothing: alpha is 0 everywhere.": bool(record.alpha.any()),
        f"record has rows of {times} x {w} pixels; expected at most {LONGEST}.": max(h, times * w) <= LONGEST,
    }.items():
        if not holds:
            raise ValueError(message)
    cameras = dict(c2w=record.c2w[0].tolist(), fov_deg=record.fov_deg)
    text = json.dumps({**about, "views": views, "times": times, "size": [h, w], **cameras})
    rows = map(_row, record.rgb[0], record.alpha[0])
    return [(f"{key}.json", text.encode()), *((f"{key}.view{v:03}.webp", _encoded(row)) for v, row in enumerate(rows))]


def _row(rgb: Float[Tensor, "t 3 h w"], alpha: Float[Tensor, "t 1 h w"]) -> UInt8[np.ndarray, "h tw 4"]:
    """One view's moments side by side: a picture s = a c + (1 - a) on white has the colour c = 1 + (s - 1) / a."""
    straight = 1 + (rgb - 1) / alpha.clamp(min=1e-6)
    rgba = (torch.cat([straight.clamp(0, 1), alpha.clamp(0, 1)], 1) * 255).round().byte()
    rgba *= rgba[:, 3:] > 0
    return rearrange(rgba, "t c h w -> h (t w) c").contiguous().numpy()


def _encoded(row: np.ndarray) -> bytes:
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


def read_tar(path: str | Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of a tar file, in their order."""
    with tarfile.open(path, "r:") as tar:
        for entry in tar:
            yield entry.name, tar.extractfile(entry).read()


def failures(path: str | Path) -> list[dict[str, str]]:
    """What a shard says could not be rendered, and why."""
    name, content = next(iter(read_tar(path)), ("", b""))
    return json.loads(content) if name == FAILURES else []


class Shards:
    """All grids in a folder of shards; any of them, or some of its views and times, can be read alone.

    Raises:
        ValueError: no such folder, no grids in it, a shard cut short, or grids of different shapes.

    >>> shards = Shards("fourd_out/shards")  # doctest: +SKIP
    >>> shards[0].rgb.shape  # doctest: +SKIP
    torch.Size([32, 8, 3, 256, 256])
    """

    def __init__(self, folder: str | Path):
        self._items = [item for path in sorted(Path(folder).glob("*.tar")) for item in _look_up(path)]
        if not self._items:
            raise ValueError(f"folder is {folder}; expected a folder with shards, as `fourd render-shards` makes them.")
        shapes = {(item.about["views"], item.about["times"], *item.about["size"]) for item in self._items}
        if len(shapes) > 1:
            raise ValueError(f"{folder} holds grids of views, times, h, w = {sorted(shapes)}; expected one shape.")
        self.views, self.times, *size = shapes.pop()
        self.size: tuple[int, int] = tuple(size)
        named = (f"{item.path.name} {item.places.tolist()} {item.about}" for item in self._items)
        self.fingerprint = hashlib.sha256("\n".join(named).encode()).hexdigest()[:16]
        """Which grids these are, and in which order: a run that resumes exactly needs the same."""
        self._threads = ThreadPoolExecutor(4)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, i: int) -> Stored:
        return self.read(i)

    def c2w(self, i: int) -> Float[Tensor, "v 4 4"]:
        """Cameras of a grid, which need no reading."""
        return self._items[i].c2w

    def read(self, i: int, views: Sequence[int] | None = None, times: Sequence[int] | None = None) -> Stored:
        """A grid, or some of its rows and columns, in the order given. Only pictures of these views are read.

        Raises:
            IndexError: no such grid, view or time.
        """
        item = self._items[i]
        views = list(range(self.views) if views is None else views)
        times = list(range(self.times) if times is None else times)
        rgba = torch.stack(list(self._threads.map(lambda view: self._row(item, view)[times], views)))
        rgb, alpha = rgba.split([3, 1], 2)
        return Stored(1 + alpha * (rgb - 1), alpha, item.c2w[views], item.about["fov_deg"], item.about)

    def _row(self, item: "_Item", view: int) -> Float[Tensor, "t 4 h w"]:
        """One view's frames, straight colour and alpha in [0, 1]."""
        start, length = item.places[view].tolist()
        with item.path.open("rb") as file:
            file.seek(start)
            picture = Image.open(io.BytesIO(file.read(length)))
        row = torch.from_numpy(np.array(picture.convert("RGBA")))
        return rearrange(row, "h (t w) c -> t c h w", t=self.times) / 255

    def order(self, epoch: int, seed: int = 0) -> list[int]:
        """All grids in the order of one epoch."""
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        return torch.randperm(len(self), generator=generator).tolist()

    def items(self, number: int, part: int, n: int, parts: int = 1, seed: int = 0) -> list[int]:
        """The grids of part `part` of step `number`: a function of these alone, so that a run can resume at any.

        Epoch follows epoch without a gap, parts follow parts within a step; every grid comes once in each epoch.

        Args:
            number, part: of the step, and of the part of its batch; both begin at 0.
            n: grids in each part.
            parts: of a step.
            seed: of the orders.
        """
        first = (number * parts + part) * n
        places = [divmod(first + k, len(self)) for k in range(n)]
        orders = {epoch: self.order(epoch, seed) for epoch in {epoch for epoch, _ in places}}
        return [orders[epoch][place] for epoch, place in places]


class _Item(NamedTuple):
    path: Path
    places: np.ndarray
    """Where the picture of every view begins in the file, and its bytes, (v, 2)."""
    c2w: Tensor
    about: dict[str, Any]


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
    if {k: len(v) for k, v in places.items()} != {k: about["views"] for k, about in notes.items()}:
        raise ValueError(f"{path} is not a complete shard; expected a picture for each view of each grid.")
    return [_Item(path, np.array(places[k]), torch.tensor(a.pop("c2w")), a) for k, a in notes.items()]
