"""Render many animated assets into shards: several workers, several machines, stopped and resumed at any time.

    fourd curate --objaverse ids.txt --out runs/curation
    fourd render-shards --objaverse ids.txt --kept runs/curation/kept.txt --out runs/shards --workers 8 --machine 0/4

What is rendered is a list, written once (`jobs.json`); clip i of it belongs to shard i // per_shard. A shard is whole
or not there: a run that is killed loses the shards it was rendering, and nothing comes twice. A clip that cannot be
rendered is listed in its shard; a shard that is deleted is rendered again. Of several machines let one write the list
before the others begin.
"""

import json
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from fourd_minimal.cameras import circular_trajectory
from fourd_minimal.cli.assets import asset_names, fetch_objaverse, read_clips, threads
from fourd_minimal.data import gltf
from fourd_minimal.data.assets.document import Document
from fourd_minimal.data.scene_record import SceneRecord
from fourd_minimal.data.shards import FAILURES, LONGEST, failures, sample, write_tar
from fourd_minimal.systems.weights import whole_file, write_text
from fourd_minimal.training.tables import table

RENDERER = 1
"""Goes up whenever the same clip comes out differently: one folder holds renders of one kind."""


class Job(NamedTuple):
    """One clip to be rendered."""

    asset: str
    clip: str
    """Empty where the asset could not be read; rendering it then says why."""


@dataclass(frozen=True)
class RenderShards:
    """Render animated assets from all around into shards, for training."""

    assets: Path | None = None
    """A folder of .glb and .gltf files, searched with all folders inside."""
    objaverse: Path | None = None
    """A text file of Objaverse ids, one a line; fetched by the package `objaverse` (`pip install objaverse`)."""
    kept: Path | None = None
    """The `kept.txt` of `fourd curate` for the same assets; it replaces all assets, and --clips."""
    clips: int = 3
    """Without --kept, at most this many clips of each asset are rendered: those that show its motion best."""
    views: int = 32
    """The number of cameras; 4Diffusion has 32."""
    times: int = 8
    """The number of moments, evenly over the clip."""
    size: int = 256
    """The pixels along each side."""
    sweep_deg: float | None = None
    """The cameras' arc; by default they stand evenly all around."""
    elevation_deg: float = 0.0
    """The elevation of the cameras; 4Diffusion has 0."""
    radius: float = 3.4
    """The distance of the cameras; the object fits the unit ball."""
    fov_deg: float = 36.0
    """The vertical field of view."""
    oversample: int = 3
    """Squared, the samples for each pixel. Fewer are faster, and edges rougher."""
    per_shard: int = 32
    """The number of clips in each shard."""
    workers: int = 2
    """The number of clips rendered at a time; each takes 1.5 gigabytes of memory at the sizes above."""
    machine: str = "0/1"
    """Which of how many machines this is: they share the shards among them, and may write to one folder."""
    out: Path = Path("fourd_out/shards")
    """Shards, `jobs.json` and `failures.md` go into this folder."""

    def run(self) -> None:
        """Render what is missing; say how much there is, and list what failed.

        Raises:
            ValueError: neither or both of folder and ids, nothing found there, counts that make no sense, a folder
                with another run's shards, or a network that fails.
        """
        which = re.fullmatch(r"(\d+)/(\d+)", self.machine)
        least = dict(clips=1, views=2, times=2, size=16, per_shard=1, workers=1)
        for name, expected, holds in (
            *((name, f"at least {low}", getattr(self, name) >= low) for name, low in least.items()),
            ("machine", "k/n, such as 0/4 for the first of four", which and int(which[1]) < int(which[2])),
            ("size", f"rows of at most {LONGEST} pixels", self.times * self.size <= LONGEST),
            ("oversample", "an odd number", self.oversample > 0 and self.oversample % 2 == 1),
            ("radius", "more than 1, where the object ends", self.radius > 1),
            ("fov_deg", "between 0 and 170", 0 < self.fov_deg < 170),
            ("elevation_deg", "between -90 and 90", abs(self.elevation_deg) < 90),
        ):
            if not holds:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}; expected {expected}.")
        began, jobs = time.perf_counter(), self._jobs()
        mine = range(int(which[1]), -(-len(jobs) // self.per_shard), int(which[2]))
        Rendering(jobs, self._locate(), self._renderer(), self.out, self.per_shard).run(mine, self.workers)
        print(report(self.out), f"{time.perf_counter() - began:.0f} s.")

    def _jobs(self) -> list[Job]:
        """The list: that of the run which began here, or a new one, written down."""
        asked, path = asset_names(self.assets, self.objaverse), self.out / "jobs.json"
        if self.kept:
            asked = [list(clip) for clip in dict.fromkeys(read_clips(self.kept))]
        of_the_run = ("assets", "objaverse", "kept", "workers", "machine", "out")
        settings = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in of_the_run}
        settings["renderer"] = RENDERER
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            changed = [k for k, v in settings.items() if found["settings"].get(k) != v]
            changed += ["the list of assets"] * (found["asked"] != asked)
            if changed:
                raise ValueError(f"{path} belongs to another run ({', '.join(changed)} differ); use another --out.")
            return [Job(*job) for job in found["jobs"]]
        jobs = [Job(*job) for job in asked] if self.kept else self._listed(asked)
        write_text(path, json.dumps(dict(settings=settings, asked=asked, jobs=jobs), indent=1))
        return jobs

    def _listed(self, asked: list[str]) -> list[Job]:
        """The clips of assets that show their motion best; one without a name where there is none, or no asset."""
        locate = self._locate()

        def clips(name: str) -> list[Job]:
            path = locate(name)
            try:
                asset = gltf.read_asset(path, largest_texture=1)
                found = [asset.clips[i].name for i in gltf.liveliest(asset, self.clips)]
            except Exception:  # one file of thousands can be wrong in any way; rendering it will say how
                found = []
            return [Job(name, clip) for clip in found or [""]]

        with threads(self.workers) as pool:
            found = tqdm(pool.map(clips, asked), total=len(asked), unit="asset", desc="listing")
            return [job for jobs in found for job in jobs]

    def _locate(self) -> Callable[[str], Path]:
        """From an asset's name to its file, which Objaverse sends one after the other."""
        if self.assets:
            return lambda asset: self.assets / asset
        one = Lock()

        def fetch(asset: str) -> Path:
            with one:
                return (fetch_objaverse([Path(asset).stem]) or [Path(asset)])[0]

        return fetch

    def _renderer(self) -> Callable[[Path, str], SceneRecord]:
        """From a file and a clip to one scene. Clips of a file follow each other in the list, so it is parsed once."""
        sweep_deg = 360 * (1 - 1 / self.views) if self.sweep_deg is None else self.sweep_deg
        c2w = circular_trajectory(sweep_deg * torch.linspace(0, 1, self.views), self.elevation_deg, self.radius)
        parsed, one = lru_cache(self.workers + 1)(gltf.read_asset), Lock()

        def render(path: Path, clip: str) -> SceneRecord:
            with one:
                asset = parsed(path, largest_texture=max(512, 2 * self.size))
            i = gltf.choose_clip(asset, clip or None)
            how = dict(oversample=self.oversample, geometry=False)
            return gltf.render(asset, i, gltf.moments(asset.clips[i], self.times), c2w, self.fov_deg, self.size, **how)

        return render


def credit(path: Path) -> dict[str, Any]:
    """What a glTF file says of its author, licence and source: its copyright and Sketchfab's extras."""
    asset = Document(path).json["asset"]
    extras = asset.get("extras")
    said = {"copyright": asset.get("copyright"), **(extras if isinstance(extras, dict) else {})}
    return {name: said[name] for name in ("copyright", "title", "author", "license", "source") if said.get(name)}


@dataclass(frozen=True)
class Rendering:
    """A list of clips on its way into a folder of shards."""

    jobs: Sequence[Job]
    locate: Callable[[str], Path]
    """From an asset to its file; an error here ends the run."""
    render: Callable[[Path, str], SceneRecord]
    """From a file and a clip to one scene on white; an error here is listed in the shard."""
    out: Path
    per_shard: int

    def run(self, shards: Sequence[int], workers: int = 1) -> None:
        """Make those of these shards, given by number, that are not there; no other run may work on them."""
        for draft in (draft for s in shards for draft in self.out.glob(f".{s:06}.tar.*")):
            draft.unlink()  # of a run that was killed
        left = [s for s in shards if not (self.out / f"{s:06}.tar").exists()]
        with threads(workers) as pool, tqdm(total=sum(map(len, map(self._numbers, left))), unit="clip") as bar:
            begun = ((s, [pool.submit(self._make, i) for i in self._numbers(s)]) for s in left)
            now = next(begun, None)
            while now:
                after = next(begun, None)  # workers go on with the next shard while the last of this one are rendered
                self._write(*now, bar)
                now = after

    def _numbers(self, shard: int) -> range:
        """The jobs of a shard."""
        return range(len(self.jobs))[shard * self.per_shard : (shard + 1) * self.per_shard]

    def _make(self, i: int) -> list[tuple[str, bytes]] | str:
        """The members of a rendered clip, or why it cannot be rendered."""
        path = self.locate(self.jobs[i].asset)
        try:
            record = self.render(path, self.jobs[i].clip)
            return sample(f"{i:06}", record, **self.jobs[i]._asdict(), credit=credit(path))
        except Exception as error:  # one file of thousands can be wrong in any way
            return f"{type(error).__name__}: {error}"

    def _write(self, shard: int, clips: list[Future], bar: tqdm) -> None:
        members, failed = [], []
        for i, clip in zip(self._numbers(shard), clips, strict=True):
            made = clip.result()
            if isinstance(made, str):
                failed.append({**self.jobs[i]._asdict(), "number": i, "reason": made})
            else:
                members += made
            bar.update()
        with whole_file(self.out / f"{shard:06}.tar") as draft:
            write_tar(draft, [(FAILURES, json.dumps(failed).encode()), *members])


def report(out: Path) -> str:
    """How much a folder holds; what failed goes into its `failures.md`."""
    jobs, shards = json.loads((out / "jobs.json").read_text(encoding="utf-8")), sorted(out.glob("[0-9]*.tar"))
    rows = [[f["asset"], f["clip"], f["reason"]] for shard in shards for f in failures(shard)]
    write_text(out / "failures.md", table(["asset", "clip", "reason"], rows) + "\n" if rows else "Nothing failed.\n")
    per_shard, n_jobs = jobs["settings"]["per_shard"], len(jobs["jobs"])
    reached = sum(min(per_shard, n_jobs - int(shard.stem) * per_shard) for shard in shards)
    size = sum(shard.stat().st_size for shard in shards) / 1e6
    return (
        f"{out}: {reached - len(rows)} of {n_jobs} clips in {len(shards)} of {-(-n_jobs // per_shard)} shards, "
        f"{size:.1f} MB; {len(rows)} failed, see failures.md."
    )
