"""Render many animated assets into shards: several workers, several machines, stopped and gone on with at any time.

    fourd curate --objaverse ids.txt --out runs/curation
    fourd render-shards --objaverse ids.txt --kept runs/curation/kept.txt --out runs/shards --workers 8 --machine 0/4

What is rendered is a list, written once (`jobs.json`); clip i of it belongs to shard i // per_shard. A shard is whole
or not there, and so is a rendered clip that waits for the others of its shard (`waiting/`): a run that is killed loses
the clips that were being rendered, and nothing comes twice. A clip that cannot be rendered is listed in its shard. Of
several machines let one write the list before the others begin.
"""

import json
import re
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import chain, groupby
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from fourd_minimal.cameras import circular_trajectory
from fourd_minimal.cli.assets import fetch_objaverse, find_assets, read_clips
from fourd_minimal.data import gltf
from fourd_minimal.data.scene_record import SceneRecord
from fourd_minimal.data.shards import FAILURES, LONGEST, failures, read_tar, sample, write_tar
from fourd_minimal.data.threads import threads
from fourd_minimal.systems.weights import whole_file, write_text
from fourd_minimal.training.tables import table

RENDERER = 1
"""Goes up whenever the same clip comes out otherwise: one folder holds renders of one kind."""


class Job(NamedTuple):
    """One clip to be rendered."""

    asset: str
    clip: str
    """Empty where the asset did not say what clips it has: rendering it then says why."""


@dataclass(frozen=True)
class RenderShards:
    """Render animated assets from all around into shards, for training."""

    assets: Path | None = None
    """A folder of .glb and .gltf files, searched with all folders inside."""
    objaverse: Path | None = None
    """A text file of Objaverse ids, one a line; fetched by the package `objaverse` (`pip install objaverse`)."""
    kept: Path | None = None
    """The `kept.txt` of `fourd curate` for the same assets; it takes the place of all assets, and of --clips."""
    clips: int = 3
    """Without --kept: at most so many of each asset: those that show its motion best."""
    views: int = 32
    """Cameras; 4Diffusion has 32."""
    times: int = 8
    """Moments, evenly over the clip."""
    size: int = 256
    """Pixels along each side."""
    sweep_deg: float | None = None
    """Of the cameras' arc; left out, they stand evenly all around."""
    elevation_deg: float = 0.0
    """Of the cameras; 4Diffusion has 0."""
    radius: float = 3.4
    """Distance of the cameras; the object fits the unit ball."""
    fov_deg: float = 36.0
    """Vertical field of view."""
    oversample: int = 3
    """Squared: samples for each pixel. Fewer are faster, and edges rougher."""
    per_shard: int = 32
    """Clips in each shard."""
    workers: int = 2
    """Clips at a time; each takes 1.5 gigabytes of memory at the sizes above."""
    machine: str = "0/1"
    """Which of how many machines this is: they share the shards out among them, and may write to one folder."""
    retry_failed: bool = False
    """Render again what failed in shards that are there."""
    out: Path = Path("fourd_out/shards")
    """Where shards, `jobs.json` and `failures.md` go."""

    def run(self) -> None:
        """Render what is missing; say how much there is, and list what failed.

        Raises:
            ValueError: neither or both of folder and ids, nothing found there, counts that make no sense, a folder
                with another run's shards, or a network that fails.
        """
        for name, least in dict(clips=1, views=2, times=2, size=16, per_shard=1, workers=1).items():
            if getattr(self, name) < least:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}; expected at least {least}.")
        which = re.fullmatch(r"(\d+)/(\d+)", self.machine)
        if not which or int(which[1]) >= int(which[2]):
            raise ValueError(f"--machine is {self.machine}; expected k/n, such as 0/4 for the first of four.")
        limits = {
            f"--times and --size are {self.times} and {self.size}; expected rows of at most {LONGEST} pixels.": (
                self.times * self.size <= LONGEST
            ),
            f"--oversample is {self.oversample}; expected odd and positive.": (
                self.oversample > 0 and self.oversample % 2 == 1
            ),
            f"--radius is {self.radius}; expected more than 1, where the object ends.": self.radius > 1,
            f"--fov-deg is {self.fov_deg}; expected between 0 and 170.": 0 < self.fov_deg < 170,
            f"--elevation-deg is {self.elevation_deg}; expected between -90 and 90.": abs(self.elevation_deg) < 90,
        }
        for message, holds in limits.items():
            if not holds:
                raise ValueError(message)
        began, jobs = time.perf_counter(), self._jobs()
        mine = range(int(which[1]), -(-len(jobs) // self.per_shard), int(which[2]))
        rendering = Rendering(jobs, self._locate(), self._renderer(), self.out, self.per_shard)
        rendering.run(mine, self.workers, self.retry_failed)
        print(report(self.out), f"{time.perf_counter() - began:.0f} s.")

    def _jobs(self) -> list[Job]:
        """The list: that of the run which began here, or a new one, written down."""
        of_the_run = ("assets", "objaverse", "kept", "workers", "machine", "retry_failed", "out")
        settings = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in of_the_run}
        asked, path = self._asked(), self.out / "jobs.json"
        expected = dict(settings=settings | dict(renderer=RENDERER), asked=asked)
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            changed = [k for k, v in expected["settings"].items() if found["settings"].get(k) != v]
            changed += ["the list of assets"] * (found["asked"] != asked)
            if changed:
                raise ValueError(f"{path} belongs to another run ({', '.join(changed)} differ); use another --out.")
            return [Job(*job) for job in found["jobs"]]
        jobs = [Job(*job) for job in asked] if self.kept else self._listed(asked)
        write_text(path, json.dumps(expected | dict(jobs=jobs), indent=1))
        return jobs

    def _asked(self) -> list:
        """What the list is made of: files below the folder or of Objaverse, or [file, clip] where these are chosen."""
        if (self.assets is None) == (self.objaverse is None):
            raise ValueError("give one of --assets and --objaverse.")
        if self.assets is not None and not self.assets.is_dir():
            raise ValueError(f"--assets is {self.assets}; expected a folder.")
        for flag, path in {"--kept": self.kept, "--objaverse": self.objaverse}.items():
            if path is not None and not path.is_file():
                raise ValueError(f"{flag} is {path}; there is no such file.")
        if self.kept:
            found = read_clips(self.kept)
        elif self.objaverse:
            found = [f"{name}.glb" for name in self.objaverse.read_text(encoding="utf-8").split()]
        else:
            found = find_assets(self.assets)
        if not found:
            raise ValueError(f"{self.kept or self.objaverse} holds no asset.")
        return [list(f) if self.kept else f for f in dict.fromkeys(found)]

    def _listed(self, asked: list[str]) -> list[Job]:
        """The clips of assets that show their motion best; one without a name where there is none, or no asset."""
        locate = self._locate()

        def clips(name: str) -> list[Job]:
            path = locate(name)
            try:
                asset = gltf.read_asset(path, largest_texture=1)
                found = [gltf.clips(asset)[i].name for i in gltf.liveliest(asset, self.clips)]
            except Exception:  # one file of thousands can be wrong in any way; rendering it will say how
                found = []
            return [Job(name, clip) for clip in found or [""]]

        with threads(self.workers) as pool:
            return list(chain(*tqdm(pool.map(clips, asked), total=len(asked), unit="asset", desc="listing")))

    def _locate(self) -> Callable[[str], Path]:
        """From an asset's name to its file, which Objaverse has to send, one after the other."""
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
        one = Lock()

        @lru_cache(self.workers + 1)
        def parsed(path: Path) -> tuple[gltf.Asset, gltf.Surface]:
            asset = gltf.read_asset(path, largest_texture=max(512, 2 * self.size))
            return asset, gltf.surface(asset)

        def render(path: Path, clip: str) -> SceneRecord:
            with one:
                asset, drawn = parsed(path)
            i = gltf.choose_clip(asset, clip or None)
            times_s = gltf.moments(gltf.clips(asset)[i], self.times)
            how = dict(drawn=drawn, oversample=self.oversample, geometry=False)
            return gltf.render(asset, i, times_s, c2w, self.fov_deg, self.size, **how)

        return render


def credit(path: Path) -> dict[str, Any]:
    """What a glTF file says of its author, licence and source: its copyright and Sketchfab's extras."""
    data = path.read_bytes()
    if data[:4] == b"glTF":
        (n,) = struct.unpack_from("<I", data, 12)
        data = data[20 : 20 + n]
    asset = json.loads(data)["asset"]
    extras = asset.get("extras")
    said = {"copyright": asset.get("copyright"), **(extras if isinstance(extras, dict) else {})}
    return {name: said[name] for name in ("copyright", "title", "author", "license", "source") if said.get(name)}


@dataclass(frozen=True)
class Rendering:
    """A list of clips on its way into a folder of shards."""

    jobs: Sequence[Job]
    locate: Callable[[str], Path]
    """From an asset to its file; what it raises ends the run."""
    render: Callable[[Path, str], SceneRecord]
    """From a file and a clip to one scene on white; what it raises is listed in the shard."""
    out: Path
    per_shard: int

    def run(self, shards: Sequence[int], workers: int = 1, retry_failed: bool = False) -> None:
        """Make those of these shards that are not there, with so many threads.

        Args:
            shards: by number; no other run works on them.
            workers: threads that render.
            retry_failed: render again what failed in shards that are there, and make these anew.
        """
        self._tidy(shards)
        left = [s for s in shards if not self.shard(s).exists() or (retry_failed and failures(self.shard(s)))]
        for path in (self.shard(s) for s in left if self.shard(s).exists()):
            self._put_back(path)
        n_left, n_jobs = (sum(len(self.numbers(s)) for s in which) for which in (left, shards))
        with threads(workers) as pool, tqdm(total=n_jobs, initial=n_jobs - n_left, unit="clip") as bar:
            made, n_failed = {i: pool.submit(self._make, i) for s in left for i in self.numbers(s)}, 0
            for s in left:
                failed = []
                for i in self.numbers(s):
                    if reason := made.pop(i).result():
                        failed.append({**self.jobs[i]._asdict(), "number": i, "reason": reason})
                        n_failed += 1
                    bar.update()
                    bar.set_postfix(failed=n_failed)
                self._assemble(s, failed)

    def numbers(self, shard: int) -> range:
        """The jobs of a shard."""
        return range(len(self.jobs))[shard * self.per_shard : (shard + 1) * self.per_shard]

    def shard(self, shard: int) -> Path:
        return self.out / f"{shard:06}.tar"

    def piece(self, i: int) -> Path:
        """Where a rendered clip waits for the others of its shard."""
        return self._waiting / f"{i:06}.tar"

    @property
    def _waiting(self) -> Path:
        return self.out / "waiting"

    def _make(self, i: int) -> str | None:
        """Put a rendered clip among those that wait, or say why it cannot be."""
        if self.piece(i).exists():
            return None
        path = self.locate(self.jobs[i].asset)
        try:
            record = self.render(path, self.jobs[i].clip)
            members = sample(f"{i:06}", record, **self.jobs[i]._asdict(), credit=credit(path))
        except Exception as error:  # one file of thousands can be wrong in any way
            return f"{type(error).__name__}: {error}"
        self._write(self.piece(i), members)
        return None

    def _assemble(self, shard: int, failed: list[dict[str, Any]]) -> None:
        pieces = [self.piece(i) for i in self.numbers(shard) if i not in [f["number"] for f in failed]]
        clips = (member for piece in pieces for member in read_tar(piece))
        self._write(self.shard(shard), chain([(FAILURES, json.dumps(failed).encode())], clips))
        for piece in pieces:
            piece.unlink()

    def _write(self, path: Path, members: Iterable[tuple[str, bytes]]) -> None:
        with whole_file(path) as draft:
            write_tar(draft, members)

    def _tidy(self, shards: Sequence[int]) -> None:
        """Remove what a killed run left: half files, and clips that wait though their shard is there."""
        for folder, per_file in (self.out, 1), (self._waiting, self.per_shard):
            for path in folder.glob("*.tar*"):
                named = re.fullmatch(r"\.?(\d+)\.tar(\.\d+)?", path.name)
                if named and (shard := int(named[1]) // per_file) in shards:
                    late = folder == self._waiting and self.shard(shard).exists()
                    if named[2] or late:
                        path.unlink()

    def _put_back(self, shard: Path) -> None:
        """The clips of a shard wait again, so that only those that failed have to be rendered."""
        members = (member for member in read_tar(shard) if member[0] != FAILURES)
        for key, clip in groupby(members, key=lambda member: member[0].partition(".")[0]):
            self._write(self.piece(int(key)), clip)


def report(out: Path) -> str:
    """How much a folder holds; what failed goes into its `failures.md`."""
    jobs, shards = json.loads((out / "jobs.json").read_text(encoding="utf-8")), sorted(out.glob("[0-9]*.tar"))
    failed = [failure for shard in shards for failure in failures(shard)]
    rows = [[f["asset"], f["clip"], f["reason"]] for f in failed]
    write_text(out / "failures.md", table(["asset", "clip", "reason"], rows) + "\n" if rows else "Nothing failed.\n")
    per_shard, n_jobs = jobs["settings"]["per_shard"], len(jobs["jobs"])
    reached = sum(min(per_shard, n_jobs - int(shard.stem) * per_shard) for shard in shards)
    size = sum(shard.stat().st_size for shard in shards) / 1e6
    return (
        f"{out}: {reached - len(failed)} of {n_jobs} clips in {len(shards)} of {-(-n_jobs // per_shard)} shards, "
        f"{size:.1f} MB; {len(failed)} failed, see failures.md."
    )
