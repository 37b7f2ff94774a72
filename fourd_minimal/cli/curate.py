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
from fourd_minimal.cli.assets import fetch_objaverse, find_assets, write_clips
from fourd_minimal.data import gltf
from fourd_minimal.data.curation import Scores, Thresholds, measure, verdict
from fourd_minimal.data.rasterizer import Surface
from fourd_minimal.data.threads import threads
from fourd_minimal.systems.weights import write_text
from fourd_minimal.training.tables import made_by, spelled, table
from fourd_minimal.viewers.contact_sheet import picture_rows

ELEVATION_DEG, RADIUS, FOV_DEG = 20.0, 3.4, 36.0
"""Of the cameras; the asset fits the unit ball."""
MOST_PICTURES = 400
"""Clips of which the picture has a row: the first so many."""
WRITTEN_EVERY = 100
"""Assets after which what was found is written down."""


class Judged(NamedTuple):
    """One clip of one asset."""

    asset: str
    """Its file, below the folder that was searched."""
    clip: str
    scores: Scores | None
    """None where it could not be rendered."""
    reasons: tuple[str, ...]
    """Why it is refused; nothing where it is kept."""
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
    """At most so many of each asset: those that show its motion best."""
    size: int = 64
    """Pixels of the renders."""
    views: int = 4
    """Cameras, evenly around."""
    times: int = 8
    """Moments of the clip."""
    workers: int = 2
    """Assets at a time."""
    thresholds: Thresholds = field(default_factory=Thresholds)
    out: Path = Path("fourd_out/curation")
    """Where `curation.md`, `.json`, `.png` and `kept.txt` go."""

    def run(self) -> None:
        """Print a table; write it, its numbers, thumbnails, and what is kept, one asset and clip a line.

        Raises:
            ValueError: neither or both of folder and ids, nothing found there, or counts that make no sense.
        """
        for name, least in dict(clips=1, views=2, times=2, size=16, workers=1).items():
            if getattr(self, name) < least:
                raise ValueError(f"--{name} is {getattr(self, name)}; expected at least {least}.")
        named, found = self._named(), []
        try:
            with threads(self.workers) as pool:
                done = pool.map(self._judge, named, named.values())
                for i, judged in enumerate(tqdm(done, total=len(named), unit="asset"), 1):
                    found += judged
                    for j in (j for j in judged if j.error):
                        warnings.warn(spelled(f"{f'{j.asset} {j.clip}'.strip()}: {j.error}"), stacklevel=2)
                    if i % WRITTEN_EVERY == 0:
                        self._write(found)
        finally:
            if found:
                self._write(found)
        thumbnails(found, self.out / "curation.png")
        print(report(found, self.thresholds))

    def _write(self, found: list[Judged]) -> None:
        lines = [
            dict(asset=j.asset, clip=j.clip, scores=j.scores and asdict(j.scores), reasons=j.reasons, error=j.error)
            for j in found
        ]
        made = (
            f"{self.views} views x {self.times} times of {self.size} pixels, nothing random. {made_by('fourd curate')}"
        )
        write_text(self.out / "curation.md", f"{made}\n\n{report(found, self.thresholds)}\n")
        write_text(self.out / "curation.json", json.dumps(lines, indent=1))
        write_clips(self.out / "kept.txt", ((j.asset, j.clip) for j in found if not j.reasons))

    def _named(self) -> dict[str, Path]:
        """Names of assets, and their files."""
        if (self.assets is None) == (self.objaverse is None):
            raise ValueError("give one of --assets and --objaverse.")
        if self.objaverse is not None:
            return {path.name: path for path in fetch_objaverse(self.objaverse.read_text(encoding="utf-8").split())}
        return {name: self.assets / name for name in find_assets(self.assets)}

    def _judge(self, name: str, path: Path) -> list[Judged]:
        """The clips of an asset that show its motion best."""
        try:
            asset = gltf.read_asset(path)
            drawn, chosen = gltf.surface(asset), gltf.liveliest(asset, self.clips)
        except Exception as error:  # one file of thousands can be wrong in any way
            return [unreadable(name, "", error)]
        return [self._score(name, asset, drawn, i) for i in chosen] or [Judged(name, "", None, ("static",))]

    def _score(self, name: str, asset: gltf.Asset, drawn: Surface, i: int) -> Judged:
        clip = gltf.clips(asset)[i]
        c2w = circular_trajectory(torch.arange(self.views) * (360 / self.views), ELEVATION_DEG, RADIUS)
        try:
            record = gltf.render(asset, i, gltf.moments(clip, self.times), c2w, FOV_DEG, self.size, drawn=drawn)
            scores, rgb = measure(record), record.rgb[0]
        except Exception as error:
            return unreadable(name, clip.name, error)
        shown = (torch.cat([rgb[0], rgb[1:, 0]]) * 255).round().byte()
        return Judged(name, clip.name, scores, verdict(scores, self.thresholds), shown)


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
    wrong = [[j.asset, j.clip, j.error] for j in found if j.error]
    head = ["asset", "clip", "covered", "colours", "motion", "touches", "rigid", "verdict"]
    return f"{kept} of {len(found)} clips kept.\n\n{table(head, rows)}\n\n{limits}" + (
        f"\n\n{table(['unreadable', 'clip', 'why'], wrong)}" if wrong else ""
    )


def thumbnails(found: list[Judged], path: Path) -> None:
    """A row for every clip: its moments from the first camera, and its first moment from the others."""
    rows = [
        (f"{spelled(j.asset)} {spelled(j.clip)}\n{', '.join(j.reasons) or 'kept'}", j.frames / 255)
        for j in found
        if j.frames is not None
    ]
    if rows:
        picture_rows(rows[:MOST_PICTURES], path)
