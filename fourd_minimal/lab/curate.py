"""Score animated assets, and say which are worth learning from: `data/curation.py` for a folder or for Objaverse."""

import json
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from fourd_minimal.data.curation import Scores, Thresholds, measure, verdict
from fourd_minimal.data.gltf import BlenderError, blender_python, list_clips, render_asset
from fourd_minimal.lab.contact_sheet import picture_rows
from fourd_minimal.lab.tables import made_by, table
from fourd_minimal.systems.weights import write_text


class Judged(NamedTuple):
    """One clip of one asset."""

    asset: str
    """Its file, below the folder that was searched."""
    clip: str
    scores: Scores | None
    """None where it could not be rendered."""
    reasons: tuple[str, ...]
    """Why it is refused; nothing where it is kept."""
    frames: Float[Tensor, "v t 3 h w"] | None


@dataclass(frozen=True)
class Curate:
    """Score every clip of animated assets: static, leaving the picture, merely turning, empty, flat."""

    assets: Path | None = None
    """A folder of .glb and .gltf files, searched with all folders inside."""
    objaverse: Path | None = None
    """A text file of Objaverse ids, one a line; fetched by the package `objaverse` (`pip install objaverse`)."""
    clips: int = 3
    """At most so many of each asset: its longest that move."""
    size: int = 64
    """Pixels of the renders."""
    views: int = 4
    """Cameras, evenly around."""
    times: int = 8
    """Moments of the clip."""
    thresholds: Thresholds = field(default_factory=Thresholds)
    out: Path = Path("fourd_out/curation")
    """Where `curation.md`, `.json`, `.png` and `kept.txt` go."""

    def run(self) -> None:
        """Print a table; write it, its numbers, thumbnails, and what is kept, one asset and clip a line.

        Raises:
            ValueError: neither or both of folder and ids, nothing found there, or counts that make no sense.
            FileNotFoundError: Blender is missing.
        """
        for name, least in dict(clips=1, views=2, times=2, size=16).items():
            if getattr(self, name) < least:
                raise ValueError(f"--{name} is {getattr(self, name)}; at least {least} is wanted.")
        paths, found = self._paths(), []
        blender_python()
        for path in tqdm(paths, unit="asset"):
            found += self._judge(path)
            self._write(found)  # thousands of assets take hours
        print(report(found, self.thresholds))
        thumbnails(found, self.out / "curation.png")

    def _write(self, found: list[Judged]) -> None:
        lines = [
            dict(asset=j.asset, clip=j.clip, scores=j.scores and asdict(j.scores), reasons=j.reasons) for j in found
        ]
        made = (
            f"{self.views} views x {self.times} times of {self.size} pixels, nothing random, rendered by Blender. "
            f"{made_by('fourd curate')}"
        )
        write_text(self.out / "curation.md", f"{made}\n\n{report(found, self.thresholds)}\n")
        write_text(self.out / "curation.json", json.dumps(lines, indent=1))
        write_text(self.out / "kept.txt", "".join(f"{j.asset}\t{j.clip}\n" for j in found if not j.reasons))

    def _paths(self) -> list[Path]:
        if (self.assets is None) == (self.objaverse is None):
            raise ValueError("give one of --assets and --objaverse.")
        if self.objaverse is not None:
            return fetch_objaverse(self.objaverse.read_text(encoding="utf-8").split())
        if not self.assets.is_dir():
            raise ValueError(f"--assets is {self.assets}; a folder is wanted.")
        paths = sorted(p for p in self.assets.rglob("*") if p.suffix.lower() in (".glb", ".gltf"))
        if not paths:
            raise ValueError(f"--assets is {self.assets}, which holds no .glb and no .gltf.")
        return paths

    def _judge(self, path: Path) -> Iterator[Judged]:
        """Every clip of an asset; what cannot be read of thousands is a line of the table."""
        name = str(path.relative_to(self.assets)) if self.assets else path.name
        try:
            clips = sorted((c for c in list_clips(path) if c.moves), key=lambda c: -c.duration_s)
        except (ValueError, OSError) as error:
            yield unreadable(name, "", error)
            return
        if not clips:
            yield Judged(name, "", None, ("static",), None)
        around = 360 * (1 - 1 / self.views)
        for clip in clips[: self.clips]:
            try:
                record = render_asset(path, self.views, self.times, self.size, clip.name, azimuth_sweep_deg=around)
            except (ValueError, OSError, BlenderError) as error:
                yield unreadable(name, clip.name, error)
                continue
            scores = measure(record)
            yield Judged(name, clip.name, scores, verdict(scores, self.thresholds), record.rgb[0])


def unreadable(asset: str, clip: str, error: Exception) -> Judged:
    warnings.warn(f"{f'{asset} {clip}'.strip()}: {error}", stacklevel=2)
    return Judged(asset, clip, None, ("unreadable",), None)


def fetch_objaverse(ids: list[str]) -> list[Path]:
    """Files of Objaverse, by their ids.

    Raises:
        ValueError: no ids, the package is missing, or it found no network or no such object.
    """
    if not ids:
        raise ValueError("the list of Objaverse ids is empty.")
    try:
        import objaverse
    except ImportError:
        raise ValueError("--objaverse needs the package of that name; `pip install objaverse` brings it.") from None
    try:
        found = objaverse.load_objects(uids=ids)
    except (OSError, KeyError) as error:  # urllib's errors are OSErrors
        raise ValueError(f"Objaverse could not be read: {error}") from None
    if missing := [i for i in ids if i not in found]:
        warnings.warn(f"Objaverse has no {', '.join(missing)}", stacklevel=2)
    return [Path(found[i]) for i in ids if i in found]


def report(found: list[Judged], thresholds: Thresholds) -> str:
    """The table, and what its columns mean."""
    rows = []
    for j in found:
        numbers = ["–"] * 5 if j.scores is None else [f"{value:.3f}" for value in asdict(j.scores).values()]
        rows.append([j.asset, j.clip, *numbers, "kept" if not j.reasons else ", ".join(j.reasons)])
    t, kept = thresholds, sum(not j.reasons for j in found)
    limits = (
        f"Refused: covered outside {t.least_covered} to {t.most_covered} (empty), colours below {t.least_colours} "
        f"(flat), motion below {t.least_motion} (static), touches above {t.most_touches} (leaves), rigid above "
        f"{t.most_rigid} (rigid). `fourd_minimal/data/curation.py` says what each measures."
    )
    head = ["asset", "clip", "covered", "colours", "motion", "touches", "rigid", "verdict"]
    return f"{kept} of {len(found)} clips kept.\n\n{table(head, rows)}\n\n{limits}"


def thumbnails(found: list[Judged], path: Path) -> None:
    """A row for every clip: its moments from the first camera, and its first moment from the others."""
    rows = [
        (f"{j.asset} {j.clip}\n{', '.join(j.reasons) or 'kept'}", torch.cat([j.frames[0], j.frames[1:, 0]]))
        for j in found
        if j.frames is not None
    ]
    if rows:
        picture_rows(rows, path)
