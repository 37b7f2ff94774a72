"""The command that scores assets: its table, its thumbnails, and what it says of files and networks that fail."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fourd_minimal.data.gltf import BlenderError, Clip
from fourd_minimal.data.procedural import sample_scenes
from fourd_minimal.lab import curate
from fourd_minimal.lab.curate import Curate, fetch_objaverse


@pytest.fixture
def assets(tmp_path, monkeypatch):
    """Three assets; Blender's place is taken by procedural creatures, and by an error."""
    folder = tmp_path / "assets"
    (folder / "inside").mkdir(parents=True)
    for name in ("walks.glb", "inside/turns.gltf", "broken.glb", "missing.glb", "notes.txt"):
        (folder / name).touch()

    def render(path, views, times, size, clip, azimuth_sweep_deg):
        if path.stem == "broken":
            raise BlenderError("no mesh")
        around = torch.linspace(0, azimuth_sweep_deg, views)[None]
        spoilt = "turns" if path.stem == "turns" else None
        return sample_scenes(1, views, times, size, 3, "creature", azimuths_deg=around, spoilt=spoilt)

    clips = [Clip("still", 0, 9, False), Clip("short", 0, 1, True), Clip("long", 0, 2, True)]

    def listed(path):
        if path.stem == "missing":
            raise FileNotFoundError("needs 'skin.bin'")
        return clips

    monkeypatch.setattr(curate, "list_clips", listed)
    monkeypatch.setattr(curate, "blender_python", lambda: None)
    monkeypatch.setattr(curate, "render_asset", render)
    return folder


def test_every_clip_has_its_line(assets, tmp_path, capsys):
    with pytest.warns(UserWarning) as warned:
        Curate(assets, clips=1, size=32, out=tmp_path / "out").run()
    assert [str(w.message) for w in warned] == ["broken.glb long: no mesh", "missing.glb: needs 'skin.bin'"]
    said = capsys.readouterr().out
    assert "1 of 4 clips kept." in said
    assert (
        "unreadable" in said and "| inside/turns.gltf | long |" in said and "short" not in said and "still" not in said
    )
    assert (tmp_path / "out/kept.txt").read_text() == "walks.glb\tlong\n"
    numbers = json.loads((tmp_path / "out/curation.json").read_text())
    assert [n["reasons"] for n in numbers] == [["unreadable"], ["rigid"], ["unreadable"], []]
    assert (tmp_path / "out/curation.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(), "give one of --assets and --objaverse"),
        (dict(assets=Path("a"), objaverse=Path("b")), "give one of"),
        (dict(assets=Path("nowhere")), "a folder is wanted"),
        (dict(assets=Path("nowhere"), views=1), "--views is 1; at least 2"),
    ],
)
def test_bad_input_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        Curate(**options).run()


def test_a_folder_without_assets_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"holds no \.glb and no \.gltf"):
        Curate(tmp_path).run()


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
    with pytest.raises(ValueError, match="is empty"):
        fetch_objaverse([])


def test_objaverse_without_package_or_network_says_so(monkeypatch):
    def load_objects(uids):
        raise OSError("no route to host")

    monkeypatch.setitem(sys.modules, "objaverse", SimpleNamespace(load_objects=load_objects))
    with pytest.raises(ValueError, match="could not be read: no route to host"):
        fetch_objaverse(["a"])
    monkeypatch.setitem(sys.modules, "objaverse", None)
    with pytest.raises(ValueError, match="pip install objaverse"):
        fetch_objaverse(["a"])
