"""The collection of animated characters: what there is, under which licence, which clips move, and where it lies.

`characters.json` lists 136 openly licensed assets of public repositories, each with the commit, path and sha256 of its
files. The assets themselves are not part of the package: `fourd fetch-characters` downloads them into the user's cache.

4Real-Video is fine-tuned on about 15,000 animated assets of Objaverse (section 3.3), 4Diffusion on 926 picked by hand.
Here a clip is listed if it visibly moves and stays in place, measured at 8 moments as shares of the diagonal of the box
around all of them: between two moments the farthest vertex moves by 0.05 or more, vertices on average by 0.01, and the
diagonal at one moment is 0.5 on average. Splits are by rig family: assets that share a skeleton and its animations are
in one split. `figures/characters_manifest.py` makes the list.
"""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import pooch

MANIFEST = Path(__file__).with_name("characters.json")
BESIDE = Path(__file__).parents[3] / "shared/data/characters"
"""Where a copy lies beside a checkout."""
SPLITS = ("train", "validation", "public-test")


@dataclass(frozen=True)
class RemoteFile:
    """One file of a public repository."""

    path: str
    """In the repository."""
    name: str
    """Below the collection's folder, with forward slashes."""
    sha256: str
    bytes: int


@dataclass(frozen=True)
class GoodClip:
    """A clip that visibly moves and stays in place; the last three are shares, see above."""

    index: int
    """Among the animations of the file."""
    name: str
    """As in the file; `clip_<index>` where the file has none."""
    seconds: float
    """From the first key to the last."""
    max: float
    mean: float
    """How far vertices are on average, between the two moments that differ most."""
    size: float


@dataclass(frozen=True)
class Asset:
    """One animated asset."""

    id: str
    kind: str
    """humanoid, quadruped, fish, vehicle, ..."""
    family: str
    """Assets with one skeleton and one set of animations share it."""
    split: str
    licence: str
    """An SPDX expression."""
    attribution: str
    """Whom to name wherever the asset or a picture of it is published."""
    stated: str
    """Where the licence is stated."""
    repo: str
    """owner/name, on GitHub."""
    commit: str
    files: tuple[RemoteFile, ...]
    """The glTF file, then what it needs."""
    licence_files: tuple[RemoteFile, ...]
    """Licence texts and notices of the repository, if it has any."""
    clips: tuple[GoodClip, ...]
    """In the order of the file; in one asset none."""
    path: Path
    """The glTF file: where `assets` found it; as `read_manifest` gives it, below the collection's folder."""


def read_manifest() -> list[Asset]:
    """All assets, sorted by id, whether they were fetched or not.

    >>> fox = next(asset for asset in read_manifest() if asset.id == "khronos_Fox")
    >>> fox.split, [(clip.name, clip.seconds) for clip in fox.clips]
    ('public-test', [('Survey', 3.4167), ('Walk', 0.7083), ('Run', 1.1583)])
    """
    found = []
    for entry in json.loads(MANIFEST.read_text(encoding="utf-8")):
        for kind in ("files", "licence_files"):
            entry[kind] = tuple(RemoteFile(**file) for file in entry[kind])
        entry["clips"] = tuple(GoodClip(*clip) for clip in entry["clips"])
        found.append(Asset(path=Path(entry["files"][0].name), **entry))
    return sorted(found, key=lambda asset: asset.id)


def cache_folder() -> Path:
    """Where `fourd fetch-characters` puts them: below $FOURD_CACHE, else below the platform's folder for caches."""
    return Path(os.environ.get("FOURD_CACHE") or pooch.os_cache("fourd_minimal")).expanduser() / "characters"


def find_file(folder: Path, name: str) -> Path | None:
    """A file of the collection; the older assets and their licences may lie beside the folder, else inside."""
    beside = [folder.parent / name] if name.startswith(("assets/", "licences/")) else []
    return next((path for path in [folder / name, *beside] if path.is_file()), None)


def assets(split: str | None = None, folder: str | Path | None = None) -> list[Asset]:
    """The assets that are there with all their files, sorted by id.

    Args:
        split: "train", "validation", "public-test"; None gives all of them.
        folder: of the collection; None takes the cache, else `../shared/data/characters` beside the checkout.

    Raises:
        ValueError: no such split.
        FileNotFoundError: no asset of the collection, or none of this split, is there.
    """
    if split is not None and split not in SPLITS:
        raise ValueError(f"split is {split!r}; expected {', '.join(map(repr, SPLITS))} or None.")
    places, present = [cache_folder(), BESIDE] if folder is None else [Path(folder)], []
    for place in places:
        listed = ((asset, [find_file(place, file.name) for file in asset.files]) for asset in read_manifest())
        present = present or [replace(asset, path=paths[0]) for asset, paths in listed if all(paths)]
    found = [asset for asset in present if split in (None, asset.split)]
    if not found:
        line = "fourd fetch-characters" if folder is None else f"fourd fetch-characters --out {folder}"
        what = f"asset of split {split!r}" if present else "asset of the collection"
        raise FileNotFoundError(f"folder is '{places[0]}', which holds no {what}; `{line}` fetches them.")
    return found
