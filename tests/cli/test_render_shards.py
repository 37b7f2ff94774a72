"""The command that renders shards: killed and gone on with, nothing lost, nothing doubled, what fails is listed."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from gltf_files import BOX, SLIDE_FROM, SLIDE_TO, asset_document, write_gltf
from refused import refused
from torch.testing import assert_close

from fourd_minimal.cli import render_shards
from fourd_minimal.cli.curate import Curate
from fourd_minimal.cli.render_shards import Job, Rendering, RenderShards
from fourd_minimal.data import gltf
from fourd_minimal.data.procedural import sample_scenes
from fourd_minimal.data.shards import Shards, failures

NAMES = [f"{letter}.glb" for letter in "abcdefg"]
BROKEN = {"c.glb": ValueError("no mesh"), "f.glb": KeyError("accessors")}


def picture(path, views=2, times=2, size=16):
    """In place of an asset's: another creature for each."""
    around = torch.arange(views)[None] * (360 / views)
    return sample_scenes(1, views, times, size, ord(path.stem[0]), "creature", azimuths_deg=around)


@pytest.fixture
def assets(tmp_path):
    folder = tmp_path / "assets"
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_text(json.dumps({"asset": {"version": "2.0", "copyright": f"who made {name}"}}))
    return folder


class Renderer:
    """Renders, fails where it should, and counts."""

    def __init__(self, broken=BROKEN, stop_at=None):
        self.broken, self.stop_at, self.seen = broken, stop_at, []

    def __call__(self, path, clip):
        self.seen.append(path.name)
        if len(self.seen) == self.stop_at:
            raise KeyboardInterrupt
        if path.name in self.broken:
            raise self.broken[path.name]
        return picture(path)


def rendering(assets, out, renderer, per_shard=3):
    return Rendering([Job(name, "walk") for name in NAMES], lambda name: assets / name, renderer, out, per_shard)


def contents(out):
    return {path.name: path.read_bytes() for path in out.glob("*.tar")}


@pytest.fixture
def uninterrupted(assets, tmp_path):
    out = tmp_path / "uninterrupted"
    rendering(assets, out, Renderer()).run(range(3))
    return contents(out)


def test_a_shard_is_a_function_of_the_list(assets, uninterrupted, tmp_path):
    assert sorted(uninterrupted) == ["000000.tar", "000001.tar", "000002.tar"]
    shards = Shards(tmp_path / "uninterrupted")
    assert [shards[i].about["asset"] for i in range(len(shards))] == ["a.glb", "b.glb", "d.glb", "e.glb", "g.glb"]
    assert shards[1].about["credit"] == {"copyright": "who made b.glb"} and shards[1].about["clip"] == "walk"
    assert_close(shards[3].rgb, picture(Path("e.glb")).rgb[0], atol=1.01 / 255, rtol=0)
    rendering(assets, tmp_path / "three", Renderer()).run(range(3), workers=3)
    assert contents(tmp_path / "three") == uninterrupted
    for machine in range(2):
        rendering(assets, tmp_path / "two", Renderer()).run(range(3)[machine::2])
    assert contents(tmp_path / "two") == uninterrupted


@pytest.mark.parametrize("stop_at", [1, 3, 5, len(NAMES)])
def test_stopped_anywhere_and_resumed(assets, uninterrupted, tmp_path, stop_at):
    out, first, second = tmp_path / "out", Renderer(stop_at=stop_at), Renderer()
    with pytest.raises(KeyboardInterrupt):
        rendering(assets, out, first).run(range(3))
    whole = contents(out)
    assert all(uninterrupted[name] == content for name, content in whole.items())
    out.mkdir(exist_ok=True)
    (out / ".000002.tar.1234").write_bytes(b"half of a file")  # what a run leaves that is killed while it writes
    rendering(assets, out, second).run(range(3))
    assert contents(out) == uninterrupted
    assert len(second.seen) == len(NAMES) - 3 * len(whole)  # shards that are there are not rendered again
    rendering(assets, out, third := Renderer()).run(range(3))
    assert contents(out) == uninterrupted and not third.seen


def test_an_empty_render_fails_and_a_network_stops_the_run(assets, tmp_path):
    empty = picture(Path("a.glb"))
    empty = type(empty)(torch.ones_like(empty.rgb), empty.alpha * 0, empty.depth, empty.c2w, 36.0)
    rendering(assets, tmp_path / "out", lambda path, clip: empty, 7).run([0])
    assert len(failures(tmp_path / "out/000000.tar")) == 7
    assert "shows nothing" in failures(tmp_path / "out/000000.tar")[0]["reason"]

    def locate(name):
        raise ValueError("no route to host")

    run = Rendering([Job("a.glb", "walk")], locate, Renderer(), tmp_path / "none", 1)
    with pytest.raises(ValueError, match="no route to host"):
        run.run([0])
    assert not (tmp_path / "none").exists()


CLIPS = {
    "rests": {(BOX, "translation"): [SLIDE_FROM, SLIDE_FROM]},
    "trembles": {(BOX, "translation"): [SLIDE_FROM, (-0.9, 0.2, 0.0)]},
    "slides": {(BOX, "translation"): [SLIDE_FROM, SLIDE_TO]},
}
SMALL = dict(views=4, times=2, size=16, per_shard=4)


@pytest.fixture
def real(tmp_path):
    """Assets: three whole ones, one cut short, and one whose accessors lie outside of its buffer."""
    folder = tmp_path / "real"
    folder.mkdir()
    for name in ("a", "b", "d"):
        document, data = asset_document(CLIPS)
        document["asset"]["copyright"] = f"who made {name}"
        write_gltf(folder / f"{name}.glb", document, data)
    whole = (folder / "a.glb").read_bytes()
    (folder / "c.glb").write_bytes(whole[: len(whole) // 2])
    write_gltf(folder / "e.gltf", *asset_document(CLIPS), bufferViews=[])
    return folder


@pytest.fixture
def parsed(monkeypatch):
    """Which files were parsed for rendering."""
    seen = []

    def read(path, largest_texture=512, read=gltf.read_asset):
        seen.extend([path.name] * (largest_texture > 1))
        return read(path, largest_texture)

    monkeypatch.setattr(render_shards.gltf, "read_asset", read)
    return seen


def test_the_command(real, parsed, tmp_path, capsys):
    out = tmp_path / "out"
    RenderShards(real, **SMALL, workers=1, out=out).run()
    assert "6 of 8 clips in 2 of 2 shards" in capsys.readouterr().out
    jobs = json.loads((out / "jobs.json").read_text())["jobs"]
    moving = [["a.glb", "slides"], ["a.glb", "trembles"], ["b.glb", "slides"], ["b.glb", "trembles"]]
    assert jobs == [*moving, ["c.glb", ""], ["d.glb", "slides"], ["d.glb", "trembles"], ["e.gltf", ""]]
    rows = (out / "failures.md").read_text().splitlines()[2:]
    assert len(rows) == 2 and "c.glb" in rows[0] and "e.gltf" in rows[1]
    assert parsed == ["a.glb", "b.glb", "c.glb", "d.glb", "e.gltf"]  # each once, for all of its clips
    shards = Shards(out)
    cameras = dict(azimuth_sweep_deg=270, elevation_deg=0)
    expected = gltf.render_asset(real / "b.glb", 4, 2, 16, "slides", **cameras, oversample=3)
    assert shards[2].about["credit"] == {"copyright": "who made b"}
    assert_close(shards[2].rgb, expected.rgb[0], atol=1.01 / 255, rtol=0)
    assert_close(shards.c2w(2), expected.c2w[0])
    parsed.clear()
    RenderShards(real, **SMALL, out=out, workers=3, machine="1/2").run()
    assert not parsed


def test_two_machines_share_what_was_kept(real, parsed, tmp_path, capsys):
    kept, out = tmp_path / "kept.txt", tmp_path / "out"
    kept.write_text("".join(f"{name}.glb\t{clip}\n" for name in ("a", "b", "d") for clip in ("rests", "slides")))
    RenderShards(real, kept=kept, **SMALL, out=out, machine="1/2").run()
    assert "2 of 6 clips in 1 of 2 shards" in capsys.readouterr().out and set(parsed) == {"d.glb"}
    parsed.clear()
    RenderShards(real, kept=kept, **SMALL, out=out, machine="0/2").run()
    assert "6 of 6 clips in 2 of 2 shards" in capsys.readouterr().out and set(parsed) == {"a.glb", "b.glb"}
    refused(lambda: RenderShards(real, **SMALL | dict(size=32), out=out).run(), "size", "list of assets", "--out")
    other = dict(kept=kept, elevation_deg=9.0, out=out)
    refused(lambda: RenderShards(real, **SMALL | dict(per_shard=2), **other).run(), "elevation_deg", "per_shard")


def test_odd_names_go_from_curation_into_shards(tmp_path, capsys):
    """Files of one asset under names that would break a line, a cell, or a path and its clip; and clips of one name."""
    names = [f"{odd}.gltf" for odd in ("a\tb", "two\nlines", "x|y")]
    folder, out = tmp_path / "assets", tmp_path / "out"
    folder.mkdir()
    longer = {(BOX, "translation"): [SLIDE_FROM, (2.0, 0.2, 0.3)]}
    higher = {(BOX, "translation"): [SLIDE_FROM, (1.4, 0.4, 0.3)]}
    document, data = asset_document({"a\tb|c\n#": CLIPS["slides"], "twin": longer, "other": higher})
    document["animations"][2]["name"] = "twin"
    for name in names:
        write_gltf(folder / name, document, data)
    broken = "broken|\n.gltf"
    (folder / broken).write_text("{}")
    with pytest.warns(UserWarning, match="broken"):
        Curate(folder, size=24, times=3, out=tmp_path / "curation").run()
    RenderShards(folder, kept=tmp_path / "curation/kept.txt", **SMALL, out=out).run()
    assert "9 of 9 clips" in capsys.readouterr().out
    found = {(stored["asset"], stored["clip"]) for stored in (Shards(out)[i].about for i in range(9))}
    assert found == {(name, clip) for name in names for clip in ("a\tb|c\n#", "twin", "twin (2)")}
    RenderShards(folder, clips=1, **SMALL, out=tmp_path / "all").run()
    rows = (tmp_path / "all/failures.md").read_text().splitlines()[2:]
    assert len(rows) == 1 and rows[0].replace("\\|", "").count("|") == 4


def test_objaverse_is_asked_for_one_at_a_time(real, tmp_path, monkeypatch, capsys):
    asked, ids = [], tmp_path / "ids.txt"

    def load_objects(uids):
        asked.append(uids)
        return {uid: str(real / f"{uid}.glb") for uid in uids if uid != "z"}

    monkeypatch.setitem(sys.modules, "objaverse", SimpleNamespace(load_objects=load_objects))
    ids.write_text("a\nz\nb\n")
    kept = tmp_path / "kept.txt"
    kept.write_text("a.glb\tslides\nz.glb\tslides\nb.glb\tslides\n")
    for more in dict(kept=kept), dict(clips=1):
        out = tmp_path / "_".join(more)
        with pytest.warns(UserWarning, match="has no z"):
            RenderShards(objaverse=ids, **more, **SMALL, out=out).run()
        assert "2 of 3 clips" in capsys.readouterr().out and "z.glb" in (out / "failures.md").read_text()
    assert all(len(uids) == 1 for uids in asked)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (dict(), ("--assets", "--objaverse")),
        (dict(assets=Path("nowhere"), views=1), ("--views", 1)),
        (dict(assets=Path("nowhere"), per_shard=0), ("--per-shard", 0)),
        (dict(assets=Path("nowhere"), machine="2/2"), ("--machine", "2/2")),
        (dict(assets=Path("nowhere"), oversample=4), ("--oversample", 4)),
        (dict(assets=Path("nowhere"), times=64), ("--size", 256)),
        (dict(assets=Path("nowhere"), radius=0.5), ("--radius", 0.5)),
        (dict(assets=Path("nowhere"), fov_deg=180.0), ("--fov-deg", 180)),
    ],
)
def test_bad_input_is_named(options, named):
    refused(lambda: RenderShards(**options).run(), *named)
