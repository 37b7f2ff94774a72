"""Bring the collection of animated characters here: `data/collection.py` lists it, pooch fetches and checks it.

    fourd fetch-characters                              all of it, 88 MB, into the user's cache
    fourd fetch-characters --only fish khronos_Fox      some kinds or assets
    fourd fetch-characters --from a/folder              copied from a copy that is at hand
    fourd fetch-characters --licences                   what may be done with what, and whom to name

A file has its name only once it is whole and its sha256 is that of the list; the same line again fetches what is
missing or damaged.
"""

import os
import re
import shutil
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import pooch
import requests
import tyro
from tqdm import tqdm

from fourd_minimal.data.collection import Asset, RemoteFile, cache_folder, find_file, read_manifest
from fourd_minimal.systems.weights import write_text
from fourd_minimal.training.tables import table


@dataclass(frozen=True)
class FetchCharacters:
    """Fetch the openly licensed animated characters that training draws from: 136 assets, 88 MB."""

    out: Path | None = None
    """Where they go; left out, into the user's cache ($FOURD_CACHE, else the platform's)."""
    source: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """A copy that is at hand, in the cache's layout or in that of `shared/data/characters`; no network then."""
    only: tuple[str, ...] = ()
    """Kinds (fish, humanoid, ...) or ids; left out, all."""
    licences: bool = False
    """Print licences and attributions, and fetch nothing."""
    base_url: str = "https://raw.githubusercontent.com"
    """What stands before owner/name/commit/path."""
    threads: int = 4
    """Files at a time."""
    retries: int = 2
    """Times that a file which fails is asked for again."""

    def run(self) -> None:
        """Fetch what is not there, say what fails and go on, and write ATTRIBUTION.md beside the assets.

        Raises:
            ValueError: something is missing at the end, the network is out of reach, or an argument makes no sense.
            FileNotFoundError: --from holds no asset of the collection.
        """
        chosen, out = self._chosen(), self.out or cache_folder()
        if self.licences:
            print(attribution(chosen))
            return
        limits = {
            f"--threads is {self.threads}; expected at least 1.": self.threads >= 1,
            f"--retries is {self.retries}; expected at least 0.": self.retries >= 0,
            f"--base-url is {self.base_url}; expected http://... or https://...": re.match("https?://", self.base_url),
            f"--out is {out}; expected a folder.": out.is_dir() or not out.exists(),
            f"--from and --out are {out}; expected two folders.": not self.source
            or self.source.resolve() != out.resolve(),
        }
        for message, holds in limits.items():
            if not holds:
                raise ValueError(message)
        if self.source and not any(find_file(self.source, asset.files[0].name) for asset in chosen):
            raise FileNotFoundError(f"--from is {self.source}; expected a folder with assets of the collection.")
        expected = {file.name: (asset, file) for asset in chosen for file in asset.files + asset.licence_files}
        missing = [file for _, file in expected.values() if not whole(out, file)]
        failed = self._fetch(out, expected, missing)
        here = [asset for asset in read_manifest() if all((out / file.name).is_file() for file in asset.files)]
        write_text(out / "ATTRIBUTION.md", attribution(here) + "\n")
        n_here = sum(asset in here for asset in chosen)
        print(
            f"{out}: {n_here} of {len(chosen)} assets; {len(missing) - len(failed)} files came, "
            f"{len(expected) - len(missing)} were there. ATTRIBUTION.md beside them says whom to name."
        )
        if failed:
            raise ValueError(
                f"{len(failed)} of {len(expected)} files are missing; the same line again asks for these alone."
            )

    def _chosen(self) -> list[Asset]:
        listed = read_manifest()
        kinds, ids = ({getattr(asset, key) for asset in listed} for key in ("kind", "id"))
        if unknown := [word for word in self.only if word not in kinds | ids]:
            raise ValueError(f"--only is {unknown[0]}; expected ids (see --licences) or {', '.join(sorted(kinds))}.")
        return [asset for asset in listed if not self.only or {asset.kind, asset.id} & {*self.only}]

    def _fetch(
        self, out: Path, expected: dict[str, tuple[Asset, RemoteFile]], missing: list[RemoteFile]
    ) -> list[RemoteFile]:
        """Bring files into a folder, and say which failed."""
        out.mkdir(parents=True, exist_ok=True)
        for file in missing:
            (out / file.name).parent.mkdir(parents=True, exist_ok=True)  # of two threads, pooch lets one fail at it
            (out / file.name).unlink(missing_ok=True)  # a damaged one does not keep its name, whatever comes
        store = pooch.create(
            out,
            base_url="",
            registry={file.name: f"sha256:{file.sha256}" for file in missing},
            urls={file.name: self._address(*expected[file.name]) for file in missing},
            retry_if_failed=0 if self.source else self.retries,
        )
        pooch.get_logger().setLevel("WARNING")
        download = copy_file if self.source else pooch.HTTPDownloader()
        mask = os.umask(0)  # pooch leaves files that only their owner reads
        os.umask(mask)

        def bring(file: RemoteFile) -> None:
            Path(store.fetch(file.name, downloader=download)).chmod(0o666 & ~mask)

        pool, failed = ThreadPoolExecutor(self.threads), []
        bar = tqdm(total=sum(file.bytes for file in missing), unit="B", unit_scale=True, disable=not missing)
        try:
            coming = {pool.submit(bring, file): file for file in missing}
            for n, future in enumerate(as_completed(coming)):
                file, error = coming[future], future.exception()
                if isinstance(error, requests.ConnectionError) and n == len(failed):  # and nothing has come so far
                    raise ValueError(f"{self.base_url} is out of reach ({cause(error)}); --from takes a copy at hand.")
                if error is not None:
                    failed.append(file)
                    bar.write(f"fourd: {file.name}: {store.urls[file.name]} {what_is_wrong(error)}.", file=sys.stderr)
                bar.update(file.bytes)
        finally:
            pool.shutdown(cancel_futures=True)
            bar.close()
        return failed

    def _address(self, asset: Asset, file: RemoteFile) -> str:
        if self.source:
            return str(find_file(self.source, file.name) or self.source / file.name)
        return f"{self.base_url.rstrip('/')}/{asset.repo}/{asset.commit}/{quote(file.path)}"


def whole(folder: Path, file: RemoteFile) -> bool:
    """Whether a file is there as the list has it."""
    path = folder / file.name
    return path.is_file() and path.stat().st_size == file.bytes and pooch.file_hash(path) == file.sha256


def copy_file(source: str, target: str, _: pooch.Pooch) -> None:
    shutil.copyfile(source, target)


def what_is_wrong(error: BaseException) -> str:
    """The end of a sentence that begins with an address."""
    if isinstance(error, requests.HTTPError):
        return f"gives {error.response.status_code} {error.response.reason}".rstrip()
    if isinstance(error, requests.RequestException):
        return f"broke off ({cause(error)})"
    if isinstance(error, FileNotFoundError):
        return "is not there"
    if isinstance(error, ValueError):
        return "has another sha256 than the list"
    return f"could not be kept ({error})"


def cause(error: requests.RequestException) -> str:
    """The name of what lies below: requests' own sentence fills lines."""
    return type(getattr(next(iter(error.args), None), "reason", error)).__name__


def attribution(listed: list[Asset]) -> str:
    """Licences, whom to name and where it comes from, as Markdown: a line for each origin."""
    ids_of: dict[tuple[str, ...], list[str]] = {}
    for asset in listed:
        origin = (asset.attribution, asset.licence, asset.repo, asset.commit, asset.stated)
        ids_of.setdefault(origin, []).append(asset.id)
    rows = [
        [who, licence, f"[{repo}](https://github.com/{repo}/tree/{commit})", stated, ", ".join(ids)]
        for (who, licence, repo, commit, stated), ids in sorted(ids_of.items())
    ]
    counts = ", ".join(f"{n} {licence}" for licence, n in Counter(asset.licence for asset in listed).most_common())
    return (
        f"# Animated characters: whom to name\n\n{len(listed)} assets, unchanged copies of files of public "
        f"repositories ({counts}). Wherever an asset or a picture of one is published, its attribution goes along, and "
        "with an asset its licence. Texts that a repository has lie beside its assets; all are at "
        "https://spdx.org/licenses/.\n\n"
        + table(["attribution", "licence", "from", "where that is stated", "assets"], rows)
    )
