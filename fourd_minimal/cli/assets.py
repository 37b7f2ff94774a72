"""Animated assets as commands are given them: folders, ids of Objaverse, one clip of a file, lists of clips.

A list of clips has a line for each: asset, tab, clip. What would break a line is escaped, see `tables.spelled`.
"""

import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from fourd_minimal.data.assets.pose import pose
from fourd_minimal.data.assets.reader import Asset
from fourd_minimal.systems.weights import write_text
from fourd_minimal.training.tables import spelled, unspelled


def asset_names(assets: Path | None, objaverse: Path | None) -> list[str]:
    """The .glb and .gltf files in a folder and all folders inside, by their names from there; or `<id>.glb` of a list.

    Raises:
        ValueError: neither or both of folder and list, or nothing in it.
    """
    if (assets is None) == (objaverse is None):
        raise ValueError("expected one of --assets and --objaverse.")
    if objaverse is not None:
        found = [f"{name}.glb" for name in objaverse.read_text(encoding="utf-8").split()]
    else:
        files = (p for p in assets.rglob("*") if p.suffix.lower() in (".glb", ".gltf") and p.is_file())
        found = sorted(p.relative_to(assets).as_posix() for p in files)
    if not found:
        given = f"--assets is {assets}" if objaverse is None else f"--objaverse is {objaverse}"
        raise ValueError(f"{given}, which holds no asset; expected a folder of .glb and .gltf, or a list of ids.")
    return list(dict.fromkeys(found))


def fetch_objaverse(ids: list[str]) -> list[Path]:
    """Files of Objaverse, by their ids.

    Raises:
        ValueError: the package is missing, or it found no network or no such object.
    """
    try:
        import objaverse
    except ImportError:
        raise ValueError("--objaverse needs the package of that name; `pip install objaverse` installs it.") from None
    try:
        found = objaverse.load_objects(uids=ids)
    except (OSError, KeyError) as error:  # urllib's errors are OSErrors
        raise ValueError(f"Objaverse could not be read: {error}") from None
    if missing := [i for i in ids if i not in found]:
        warnings.warn(f"Objaverse has no {', '.join(missing)}", stacklevel=2)
    return [Path(found[i]) for i in ids if i in found]


def named_clip(given: str) -> tuple[Path, str | None]:
    """A file, and the clip after a `#` if there is one; either name may hold a `#` too.

    >>> named_clip("Fox.glb#Walk")[1], named_clip("Fox.glb")[1]
    ('Walk', None)
    """
    ways = [(given[:i], given[i + 1 :]) for i in range(len(given) - 1, 0, -1) if given[i] == "#"]
    ways = [(given, ""), *ways]
    path, clip = next((way for way in ways if Path(way[0]).is_file()), ways[-1])
    return Path(path), clip or None


def lively_window(asset: Asset, clip: int, times: int) -> Float[np.ndarray, " t"]:
    """Seconds on a clip's clock: evenly over that half of it in which vertices move most, of a long one over 2 seconds.

    A clip that loops would end where it began, and show how it came there once more.
    """
    whole = asset.clips[clip]
    span = min(whole.duration_s / 2, 2.0)
    windows = np.linspace(whole.start_s, whole.end_s - span, 9)[:, None] + np.linspace(0, span, times)
    x = pose(asset, clip, windows.reshape(-1), normals=False).positions
    steps = np.diff(x.reshape(*windows.shape, -1, 3)[:, :, :: max(1, x.shape[1] // 400)], axis=1)
    return windows[np.linalg.norm(steps, axis=-1).sum((1, 2)).argmax()]


def write_clips(path: Path, found: Iterable[tuple[str, str]]) -> None:
    """Write a list of clips."""
    write_text(path, "".join(f"{spelled(asset)}\t{spelled(clip)}\n" for asset, clip in found))


def read_clips(path: Path) -> list[tuple[str, str]]:
    """Read one.

    Raises:
        ValueError: a line that is no asset and clip, or a text that is no UTF-8.
    """
    found = []
    for line in filter(None, path.read_text(encoding="utf-8").split("\n")):
        try:
            asset, clip = map(unspelled, line.split("\t"))
        except ValueError:
            raise ValueError(f"--kept is {path} with the line {line!r}; expected asset<tab>clip.") from None
        found.append((asset, clip))
    return found


@contextmanager
def threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads with one torch thread each. When the block ends, what has not begun is cancelled."""
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)
