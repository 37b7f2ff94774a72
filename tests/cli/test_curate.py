"""The command that scores assets: its table, its thumbnails, and what it says of files and networks that fail."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from gltf_files import BOX, POST, POST_AT, SLIDE_FROM, SLIDE_TO, asset_document, write_gltf
from refused import refused

from fourd_minimal.cli import curate
from fourd_minimal.cli.assets import fetch_objaverse, read_clips
from fourd_minimal.cli.curate import Curate
from fourd_minimal.data import gltf

TO = (BOX, "translation")
SLIDES = {TO: [SLIDE_FROM, SLIDE_TO]}
RIDES = {TO: [SLIDE_FROM, (1.0, 0.2, 0.0)], (POST, "translation"): [POST_AT, (2.5, 0.4, 2.2)]}
TREMBLES = {TO: [SLIDE_FROM, (-0.9, 0.2, 0.0)]}
RESTS = {TO: [SLIDE_FROM, SLIDE_FROM]}
SMALL = dict(size=24, times=4)


@pytest.fixture
def assets(tmp_path):
    """Three assets that can be drawn, one cut short, one whose buffer is missing, one that is no glTF."""
    folder = tmp_path / "assets"
    (folder / "inside").mkdir(parents=True)
    write_gltf(folder / "slides.glb", *asset_document({"rests": RESTS, "trembles": TREMBLES, "slides": SLIDES}))
    write_gltf(folder / "inside/rides.gltf", *asset_document({"rides": RIDES}))
    write_gltf(folder / "rests.glb", *asset_document({"rests": RESTS}))
    whole = (folder / "slides.glb").read_bytes()
    (folder / "broken.glb").write_bytes(whole[: len(whole) // 2])
    document, _ = asset_document()
    document["buffers"][0]["uri"] = "skin.bin"
    (folder / "missing.gltf").write_text(json.dumps(document))
    (folder / "text.glb").write_text("no glTF")
    (folder / "notes.txt").touch()
    return folder


def test_every_clip_has_its_line(assets, tmp_path, capsys):
    out = tmp_path / "out"
    with pytest.warns(UserWarning) as warned:
        Curate(assets, **SMALL, out=out).run()
    assert sorted(str(w.message).split(":")[0] for w in warned) == ["broken.glb", "missing.gltf", "text.glb"]
    assert "skin.bin" in " ".join(str(w.message) for w in warned)
    said = capsys.readouterr().out
    assert "1 of 7 clips kept." in said
    numbers = json.loads((out / "curation.json").read_text())
    assert {(n["asset"], n["clip"]): n["reasons"] for n in numbers} == {
        ("broken.glb", ""): ["unreadable"],
        ("inside/rides.gltf", "rides"): ["rigid"],
        ("missing.gltf", ""): ["unreadable"],
        ("rests.glb", ""): ["static"],
        ("slides.glb", "slides"): [],
        ("slides.glb", "trembles"): ["static"],
        ("text.glb", ""): ["unreadable"],
    }
    assert [bool(n["error"]) for n in numbers] == [n["reasons"] == ["unreadable"] for n in numbers]
    assert read_clips(out / "kept.txt") == [("slides.glb", "slides")]
    assert (out / "curation.md").read_text().count(said.strip()) == 1
    assert (out / "curation.png").stat().st_size > 1000


def test_any_fault_of_one_asset_is_a_line_and_an_interrupt_keeps_what_was_found(assets, tmp_path, monkeypatch):
    def render(asset, *args, render=gltf.render, **options):
        if asset.path.stem == "rides":
            raise KeyError("min")
        return render(asset, *args, **options)

    monkeypatch.setattr(curate.gltf, "render", render)
    with pytest.warns(UserWarning) as warned:
        Curate(assets, **SMALL, out=tmp_path / "out").run()
    assert "inside/rides.gltf rides: KeyError: 'min'" in [str(w.message) for w in warned]
    assert read_clips(tmp_path / "out/kept.txt") == [("slides.glb", "slides")]

    def stop(asset, *args, **options):
        if asset.path.stem == "slides":
            raise KeyboardInterrupt
        return render(asset, *args, **options)

    monkeypatch.setattr(curate.gltf, "render", stop)
    with pytest.warns(UserWarning), pytest.raises(KeyboardInterrupt):
        Curate(assets, **SMALL, workers=1, out=tmp_path / "half").run()
    found = json.loads((tmp_path / "half/curation.json").read_text())
    assert [n["asset"] for n in found] == ["broken.glb", "inside/rides.gltf", "missing.gltf", "rests.glb"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (dict(), ("--assets", "--objaverse")),
        (dict(assets=Path("a"), objaverse=Path("b")), ("--assets", "--objaverse")),
        (dict(assets=Path("nowhere")), ("--assets", "nowhere")),
        (dict(assets=Path("nowhere"), views=1), ("--views", 1)),
        (dict(assets=Path("nowhere"), workers=0), ("--workers", 0)),
    ],
)
def test_bad_input_is_named(options, named):
    refused(lambda: Curate(**options).run(), *named)


def test_objaverse_is_asked_for_its_ids(tmp_path, monkeypatch):
    """A stand-in for the package: there may be no network."""
    asked = []

    def load_objects(uids):
        asked.extend(uids)
        return {"a": "/data/a.glb"}

    monkeypatch.setitem(sys.modules, "objaverse", SimpleNamespace(load_objects=load_objects))
    with pytest.warns(UserWarning, match="has no b"):
        assert fetch_objaverse(["a", "b"]) == [Path("/data/a.glb")]
    assert asked == ["a", "b"]


def test_objaverse_without_package_or_network_says_so(monkeypatch):
    def load_objects(uids):
        raise OSError("no route to host")

    monkeypatch.setitem(sys.modules, "objaverse", SimpleNamespace(load_objects=load_objects))
    with pytest.raises(ValueError, match="could not be read: no route to host"):
        fetch_objaverse(["a"])
    monkeypatch.setitem(sys.modules, "objaverse", None)
    with pytest.raises(ValueError, match="pip install objaverse"):
        fetch_objaverse(["a"])
