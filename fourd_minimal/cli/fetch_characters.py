"""Download the collection of animated characters: `data/collection.py` lists it, pooch fetches and checks it.

    fourd fetch-characters                              all of it, 88 MB, into the user's cache
    fourd fetch-characters --only fish khronos_Fox      some kinds or assets
    fourd fetch-characters --from a/folder              copied from a local copy
    fourd fetch-characters --licences                   what may be done with what, and whom to name

A file has its name only once it is whole and its sha256 is that of the list; the same line again fetches what is
missing or damaged.
"""

import shutil
import sys
from collections import Counter, defaultdict
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import pooch
import requests
import tyro
from tqdm import tqdm

from fourd_minimal.cli.assets import threads
from fourd_minimal.data.collection import Asset, cache_folder, find_file, read_manifest
from fourd_minimal.systems.weights import write_text
from fourd_minimal.training.tables import table

THREADS, RETRIES = 4, 2
"""Files at a time; how often a file that fails is tried again."""


@dataclass(frozen=True)
class FetchCharacters:
    """Fetch the openly licensed animated characters that training draws from: 136 assets, 88 MB."""

    out: Path | None = None
    """They go into this folder; by default, into the user's cache ($FOURD_CACHE, else the platform's)."""
    source: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """A local copy, in the cache's layout or in that of `shared/data/characters`, replaces the network."""
    only: tuple[str, ...] = ()
    """Only these kinds (fish, humanoid, ...) or ids are fetched."""
    licences: bool = False
    """Licences and attributions are printed, and nothing is fetched."""
    base_url: str = "https://raw.githubusercontent.com"
    """The address in front of owner/name/commit/path."""

    def run(self) -> None:
        """Fetch what is missing, say what fails and go on, and write ATTRIBUTION.md beside the assets.

        Raises:
            ValueError: something is missing at the end, the network is out of reach, or an argument makes no sense.
            FileNotFoundError: --from holds no asset of the collection.
        """
        listed, out = read_manifest(), self.out or cache_folder()
        if unknown := set(self.only) - {word for asset in listed for word in (asset.kind, asset.id)}:
            kinds = ", ".join(sorted({asset.kind for asset in listed}))
            raise ValueError(f"--only is {min(unknown)}; expected ids (see --licences) or {kinds}.")
        chosen = [asset for asset in listed if not self.only or {asset.kind, asset.id} & {*self.only}]
        if self.licences:
            print(attribution(chosen))
            return
        if out.exists() and not out.is_dir():
            raise ValueError(f"--out is {out}; expected a folder.")
        if not self.base_url.startswith(("http://", "https://")):
            raise ValueError(f"--base-url is {self.base_url}; expected http://... or https://...")
        if self.source and self.source.resolve() == out.resolve():
            raise ValueError(f"--from and --out are {out}; expected two folders.")
        if self.source and not any(find_file(self.source, asset.files[0].name) for asset in chosen):
            raise FileNotFoundError(f"--from is {self.source}; expected a folder with assets of the collection.")
        urls = {f.name: self._address(asset, f) for asset in chosen for f in asset.files + asset.licence_files}
        hashes = {f.name: f.sha256 for asset in chosen for f in asset.files + asset.licence_files}
        missing = [n for n in urls if not (out / n).is_file() or pooch.file_hash(out / n) != hashes[n]]
        failed = self._fetch(out, {name: hashes[name] for name in missing}, urls)
        here = [asset for asset in listed if all((out / file.name).is_file() for file in asset.files)]
        write_text(out / "ATTRIBUTION.md", attribution(here) + "\n")
        print(
            f"{out}: {sum(asset in here for asset in chosen)} of {len(chosen)} assets; {len(missing) - failed} files "
            f"were fetched, {len(urls) - len(missing)} were there. ATTRIBUTION.md beside them says whom to name."
        )
        if failed:
            raise ValueError(f"{failed} of {len(urls)} files are missing; the same line again fetches these alone.")

    def _address(self, asset: Asset, file) -> str:
        if self.source:
            return str(find_file(self.source, file.name) or self.source / file.name)
        return f"{self.base_url.rstrip('/')}/{asset.repo}/{asset.commit}/{quote(file.path)}"

    def _fetch(self, out: Path, hashes: dict[str, str], urls: dict[str, str]) -> int:
        """Download files into a folder, and return how many failed."""
        for path in (out / name for name in hashes):
            path.parent.mkdir(parents=True, exist_ok=True)  # of two threads, pooch lets one fail at it
            path.unlink(missing_ok=True)  # a damaged file does not keep its name, whatever comes
        registry = {name: f"sha256:{known}" for name, known in hashes.items()}
        store = pooch.create(out, "", registry=registry, urls=urls, retry_if_failed=0 if self.source else RETRIES)
        pooch.get_logger().setLevel("WARNING")
        download = (lambda source, target, _: shutil.copyfile(source, target)) if self.source else None
        failed = 0
        with threads(THREADS) as pool, tqdm(total=len(hashes), unit="file", disable=not hashes) as bar:
            coming = {pool.submit(store.fetch, name, downloader=download): name for name in hashes}
            for done, future in enumerate(as_completed(coming)):
                name, error = coming[future], future.exception()
                if isinstance(error, requests.ConnectionError) and done == failed:  # nothing has come so far
                    raise ValueError(f"{self.base_url} is out of reach; --from takes a local copy.")
                if error is not None:
                    failed += 1
                    why = f"{type(error).__name__}: {error}".splitlines()[0][:160]
                    bar.write(f"fourd: {name}: {urls[name]} ({why})", file=sys.stderr)
                bar.update()
        return failed


def attribution(listed: list[Asset]) -> str:
    """Licences, whom to name and where it comes from, as Markdown: a line for each origin."""
    ids_of = defaultdict(list)
    for asset in listed:
        source = f"[{asset.repo}](https://github.com/{asset.repo}/tree/{asset.commit})"
        ids_of[asset.attribution, asset.licence, source, asset.stated].append(asset.id)
    rows = [[*origin, ", ".join(ids)] for origin, ids in sorted(ids_of.items())]
    counts = ", ".join(f"{n} {licence}" for licence, n in Counter(asset.licence for asset in listed).most_common())
    return (
        f"# Animated characters: whom to name\n\n{len(listed)} assets, unchanged copies of files of public "
        f"repositories ({counts}). Wherever an asset or a picture of one is published, its attribution goes along, and "
        "with an asset its licence. Texts that a repository has lie beside its assets; all are at "
        "https://spdx.org/licenses/.\n\n"
        + table(["attribution", "licence", "from", "where that is stated", "assets"], rows)
    )
