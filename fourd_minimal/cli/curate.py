"""Score animated assets, and say which are worth learning from: `data/curation.py` for a folder or for Objaverse."""

import json
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor
from tqdm import tqdm

from fourd_minimal.cameras import circular_trajectory
from fourd_minimal.cli.assets import asset_names, fetch_objaverse, threads, write_clips
from fourd_minimal.data import gltf
from fourd_minimal.data.curation import Scores, Thresholds, measure, verdict
from fourd_minimal.systems.weights import write_text
from fourd_minimal.training.tables import made_by, spelled, table
from fourd_minimal.viewers.contact_sheet import picture_rows

ELEVATION_DEG, RADIUS, FOV_DEG = 20.0, 3.4, 36.0
"""Of the cameras; the asset fits the unit ball."""
MOST_PICTURES = 400
"""The picture has a row for each of the first so many clips."""
WRITTEN_EVERY = 100
"""Results are written after every so many assets."""


class Judged(NamedTuple):
    """One clip of one asset."""

    asset: str
    """Its file, below the folder that was searched."""
    clip: str
    scores: Scores | None
    """None where it could not be rendered."""
    reasons: tuple[str, ...]
    """Why it is refused; empty where it is kept."""
    frames: UInt8[Tensor, "n 3 h w"] | None = None
    """Its moments from the first camera, and its first moment from the others."""
    error: str = ""
    """What was wrong with the file."""


@dataclass(frozen=True)
class Curate:
    """Score every clip of animated assets: static, leaving the picture, merely turning, empty, flat."""

    assets: Path | None = None
    """A folder of .glb and .gltf files, searched with all folders inside."""
    objaverse: Path | None = None
    """A text file of Objaverse ids, one a line; fetched by the package `objaverse` (`pip install objaverse`)."""
    clips: int = 3
    """At most this many clips of each asset are scored: those that show its motion best."""
    size: int = 64
    """The pixels of the renders."""
    views: int = 4
    """The number of cameras, evenly around."""
    times: int = 8
    """The number of moments of the clip."""
    workers: int = 2
    """The number of assets rendered at a time."""
    thresholds: Thresholds = field(default_factory=Thresholds)
    out: Path = Path("fourd_out/curation")
    """`curation.md`, `.json`, `.png` and `kept.txt` go into this folder."""

    def run(self) -> None:
        """Print a table; write it, its numbers, thumbnails, and what is kept, one asset and clip a line.

        Raises:
            ValueError: neither or both of folder and ids, nothing found there, or counts that make no sense.
        """
        for name, least in dict(clips=1, views=2, times=2, size=16, workers=1).items():
            if getattr(self, name) < least:
                raise ValueError(f"--{name} is {getattr(self, name)}; expected at least {least}.")
        names, found = asset_names(self.assets, self.objaverse), []
        paths = [self.assets / name for name in names] if self.assets else fetch_objaverse([n[:-4] for n in names])
        names = names if self.assets else [path.name for path in paths]
        try:
            with threads(self.workers) as pool:
                done = pool.map(self._judge, names, paths)
                for i, judged in enumerate(tqdm(done, total=len(names), unit="asset"), 1):
                    found += judged
                    for j in (j for j in judged if j.error):
                        warnings.warn(spelled(f"{f'{j.asset} {j.clip}'.strip()}: {j.error}"), stacklevel=2)
                    if i % WRITTEN_EVERY == 0:
                        self._write(found)
        finally:
            self._write(found)
        rows = [(f"{spelled(j.asset)} {spelled(j.clip)}\n{', '.join(j.reasons) or 'kept'}", j.frames / 255)
                for j in found if j.frames is not None]  # fmt: skip
        if rows:
            picture_rows(rows[:MOST_PICTURES], self.out / "curation.png")
        print(report(found, self.thresholds))

    def _write(self, found: list[Judged]) -> None:
        made = f"{self.views} views x {self.times} times of {self.size} pixels. {made_by('fourd curate')}"
        write_text(self.out / "curation.md", f"{made}\n\n{report(found, self.thresholds)}\n")
        lines = [
            dict(asset=j.asset, clip=j.clip, scores=j.scores and asdict(j.scores), reasons=j.reasons, error=j.error)
            for j in found
        ]
        write_text(self.out / "curation.json", json.dumps(lines, indent=1))
        write_clips(self.out / "kept.txt", ((j.asset, j.clip) for j in found if not j.reasons))

    def _judge(self, name: str, path: Path) -> list[Judged]:
        """The clips of an asset that show its motion best; files by the thousand can be wrong in any way."""
        c2w = circular_trajectory(torch.arange(self.views) * (360 / self.views), ELEVATION_DEG, RADIUS)
        found = []
        try:
            asset = gltf.read_asset(path)
            chosen = gltf.liveliest(asset, self.clips)
        except Exception as error:
            return [unreadable(name, "", error)]
        for i in chosen:
            clip = asset.clips[i]
            try:
                record = gltf.render(asset, i, gltf.moments(clip, self.times), c2w, FOV_DEG, self.size)
                scores = measure(record)
            except Exception as error:
                found.append(unreadable(name, clip.name, error))
            else:
                frames = (torch.cat([record.rgb[0, 0], record.rgb[0, 1:, 0]]) * 255).round().byte()
                found.append(Judged(name, clip.name, scores, verdict(scores, self.thresholds), frames))
        return found or [Judged(name, "", None, ("static",))]


def unreadable(asset: str, clip: str, error: Exception) -> Judged:
    """A line of the table for what cannot be drawn."""
    kind = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
    return Judged(asset, clip, None, ("unreadable",), error=f"{kind}{error}")


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
    parts = [f"{kept} of {len(found)} clips kept."]
    parts += [table(["asset", "clip", "covered", "colours", "motion", "touches", "rigid", "verdict"], rows), limits]
    if wrong := [[j.asset, j.clip, j.error] for j in found if j.error]:
        parts.append(table(["unreadable", "clip", "why"], wrong))
    return "\n\n".join(parts)
