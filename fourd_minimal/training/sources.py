"""Where training frames come from: one place, for every trainer.

A mixture is names with shares:

    sources = (("characters", 0.7), ("simple", 0.15), ("hard", 0.15))

    simple, hard, creature, ground, plain    procedural scenes (`data/procedural.py`)
    characters                               animated assets of the training split (`data/characters.py`), augmented
    shards:FOLDER                            grids that `fourd render-shards` wrote
    videos:FOLDER                            ordinary videos, the first data group of 4Real-Video (section 3.1): drawn
                                             where one view is asked for, so for the base and for pseudo-4D

or a `torch.utils.data.Dataset` of one's own in place of a name, whose items are grids `(v, t, 3, h, w)` in [0, 1].

Everything drawn is a function of the generator alone, so an interrupted run resumes exactly. Shards that are the only
source are read in epochs: every grid comes once in each.
"""

import json
from collections.abc import Sequence
from functools import cached_property, lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from fourd_minimal.data import characters, collection
from fourd_minimal.data.augmentation import augmented
from fourd_minimal.data.procedural import FAMILIES, HELD_OUT, sample_scenes
from fourd_minimal.data.scene_record import SceneRecord
from fourd_minimal.data.shards import Shards
from fourd_minimal.data.video import count_frames, read_video
from fourd_minimal.training.shard_frames import grids

Shares = Sequence[tuple[str | Dataset, float]]
VIDEOS = {".mp4", ".webm", ".gif", ".mov", ".mkv", ".avi"}
VIDEO_STRIDE = 4
"""The most frames of a video from one time to the next."""

stored = lru_cache(Shards)
"""Shards, looked up once."""


class Place(NamedTuple):
    """The step and the part that a batch is for, which say what grids of an epoch it holds."""

    number: int
    part: int = 0
    parts: int = 1
    seed: int = 0


class Sources:
    """A mixture of sources.

    Args:
        shares: names or datasets, and their positive shares of all scenes; they need not add up to 1.

    Raises:
        ValueError: no sources, a share that is not positive, or an unknown name.
    """

    def __init__(self, shares: Shares):
        self.shares = tuple(shares)
        if not self.shares:
            raise ValueError("sources is empty; expected at least one name with its share.")
        for name, share in self.shares:
            if not 0 < share < float("inf"):
                raise ValueError(f"sources gives {name!r} a share of {share}; expected a positive number.")
            if isinstance(name, str) and name not in (*FAMILIES, "characters") and not _folder(name):
                named = ", ".join(FAMILIES)
                raise ValueError(f"sources has {name!r}; expected {named}, characters, shards:FOLDER or videos:FOLDER.")

    @cached_property
    def fingerprint(self) -> str:
        """Identifies the assets, grids and videos behind the names; "" where there are none."""
        about = []
        for name, _ in self.shares:
            if name == "characters":
                about += [f.sha256 for a in collection.assets("train") for f in a.files]
            elif isinstance(name, str) and name.startswith("shards:"):
                about.append(stored(_folder(name)).fingerprint)
            elif isinstance(name, str) and name.startswith("videos:"):
                about += [(p.name, p.stat().st_size) for p in videos_in(_folder(name))]
        return blake2b(json.dumps(about).encode(), digest_size=8).hexdigest() if about else ""

    def frames(
        self,
        n: int,
        views: int,
        times: int,
        size: tuple[int, int],
        generator: torch.Generator,
        place: Place | None = None,
    ) -> Float[Tensor, "n v t 3 h w"]:
        """`n` grids in [-1, 1].

        Args:
            n, views, times, size: how many, of which shape; one view or one time makes single videos.
            generator: decides everything but `place`, which says what grids of shards, if these are the only source.

        Raises:
            ValueError: several views of a mixture of videos only, a video that is too short, an item of another shape.
        """
        if len(self.shares) == 1 and _folder(self.shares[0][0], "shards:") and place is not None:
            return grids(stored(_folder(self.shares[0][0])), n, views, times, size, *place)
        shape = views, times, size, generator
        return torch.cat([self._draw(name, count, *shape) for name, count in self._counts(n, views, generator)])

    def records(
        self, n: int, views: int, times: int, size: tuple[int, int], generator: torch.Generator, **cameras
    ) -> list[SceneRecord]:
        """The same as records, in [0, 1], with cameras and captions: of procedural scenes and characters alone.

        Args:
            cameras: `azimuths_deg` (n, views) and `elevation_deg`, as in `sample_characters`; with azimuths the object
                stands on white, inside the unit ball.

        Raises:
            ValueError: a source without cameras.
        """
        found, azimuths, first = [], cameras.pop("azimuths_deg", None), 0
        if azimuths is not None:
            cameras |= dict(fill=None, background="white")
        for name, count in self._counts(n, views, generator):
            seed = int(torch.randint(HELD_OUT, (), generator=generator))
            some = cameras if azimuths is None else cameras | dict(azimuths_deg=azimuths[first : first + count])
            first += count
            if name == "characters":
                found.append(characters.sample_characters(count, views, times, size[0], seed, geometry=False, **some))
            elif name in FAMILIES:
                some = {k: v for k, v in some.items() if k.endswith("_deg")}
                found.append(sample_scenes(count, views, times, size, seed, name, geometry=False, **some))
            else:
                raise ValueError(f"sources has {name!r}, without cameras; expected procedural families or characters.")
        return found

    def _counts(self, n: int, views: int, generator: torch.Generator) -> list[tuple[str | Dataset, int]]:
        """How many scenes each source gives."""
        able = [(name, share) for name, share in self.shares if views == 1 or not _folder(name, "videos:")]
        if not able:
            raise ValueError(f"sources has videos only, which have one view; expected {views} views.")
        names, shares = zip(*able, strict=True)
        drawn = torch.multinomial(torch.tensor(shares), n, replacement=True, generator=generator)
        counts = drawn.bincount(minlength=len(names)).tolist()
        return [(name, count) for name, count in zip(names, counts, strict=True) if count]

    def _draw(self, name, n: int, views: int, times: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        seed = int(torch.randint(HELD_OUT, (), generator=generator))
        if not isinstance(name, str):
            return _of_dataset(name, n, (views, times, 3, *size), seed)
        if name in FAMILIES:
            return sample_scenes(n, views, times, size, seed, name, geometry=False).rgb * 2 - 1
        if name == "characters":
            if size[0] != size[1]:
                raise ValueError(f"size is {size}; expected a square for characters.")
            draw = torch.Generator().manual_seed(seed)
            seeds = torch.randint(HELD_OUT, (n,), generator=draw).tolist()
            return torch.cat([augmented(_characters(s, views, times, size[0]), draw).rgb for s in seeds]) * 2 - 1
        if shards := _folder(name, "shards:"):
            return grids(stored(shards), n, views, times, size, seed)
        return video_clips(videos_in(_folder(name)), n, times, size, torch.Generator().manual_seed(seed))


def _characters(seed: int, views: int, times: int, size: int) -> SceneRecord:
    """One clip; fewer than 8 x 8 cells are a window of such a grid, its steps as small or as wide as the whole."""
    (slow, fast), (short, long) = characters.FPS, characters.SWEEP_DEG
    slow, short = slow * min(1.0, max(1, times - 1) / 7), short * min(1.0, max(1, views - 1) / 7)
    return characters.sample_characters(
        1, views, times, size, seed, fps=(slow, fast), sweep_deg=(short, long), geometry=False
    )


def _folder(name: str | Dataset, kind: str | None = None) -> str:
    """The folder behind `shards:` or `videos:`; "" of other names."""
    kinds = (kind,) if kind else ("shards:", "videos:")
    return next((name.removeprefix(k) for k in kinds if isinstance(name, str) and name.startswith(k)), "")


@lru_cache
def videos_in(folder: str | Path) -> tuple[Path, ...]:
    """The videos of a folder and of those below it.

    Raises:
        ValueError: there are none.
    """
    paths = tuple(sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in VIDEOS))
    if not paths:
        raise ValueError(f"videos is {folder}, which holds no video; expected {', '.join(sorted(VIDEOS))}.")
    return paths


def video_clips(
    paths: Sequence[Path],
    n: int,
    times: int,
    size: tuple[int, int],
    generator: torch.Generator,
    most_stride: int = VIDEO_STRIDE,
) -> Float[Tensor, "n 1 t 3 h w"]:
    """Clips of videos, anywhere in them and at any stride up to `most_stride`; in [-1, 1].

    Raises:
        ValueError: a video that is too short.
    """
    clips = []
    for _ in range(n):
        path = paths[int(torch.randint(len(paths), (), generator=generator))]
        whole = count_frames(path)
        if whole < times:
            raise ValueError(f"{path} has {whole} frames; expected at least {times}, one row.")
        stride = 1 + int(torch.randint(min(most_stride, (whole - 1) // max(1, times - 1)), (), generator=generator))
        first = int(torch.randint(whole - (times - 1) * stride, (), generator=generator))
        clips.append(read_video(path, size, range(first, first + (times - 1) * stride + 1, stride)).rgb)
    return torch.stack(clips)[:, None] * 2 - 1


def _of_dataset(data: Dataset, n: int, shape: tuple[int, ...], seed: int) -> Tensor:
    picked = torch.randint(len(data), (n,), generator=torch.Generator().manual_seed(seed)).tolist()
    items = [torch.as_tensor(data[i]) for i in picked]
    for i, item in zip(picked, items, strict=True):
        if tuple(item.shape) != shape:
            raise ValueError(f"item {i} of the dataset has shape {tuple(item.shape)}; expected {shape}.")
        if not 0 <= item.min() <= item.max() <= 1:
            raise ValueError(f"item {i} of the dataset reaches {item.min():g} to {item.max():g}; expected [0, 1].")
    return torch.stack(items).float() * 2 - 1
