"""The command that renders shards: killed and gone on with, nothing lost, nothing doubled, what fails is listed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from fourd_minimal.data.gltf import BLENDER_ENVIRONMENT, BlenderError, Clip
from fourd_minimal.data.procedural import sample_scenes
from fourd_minimal.data.shards import Shards, failures, read_tar
from fourd_minimal.lab import render_shards
from fourd_minimal.lab.render_shards import Job, Rendering, RenderShards, credit, longest_clips

ASSETS = Path(__file__).parents[3] / "shared/data/assets"
BLENDER = Path(os.environ.get("FOURD_BLENDER_PYTHON", "~/.cache/fourd_minimal/blender/bin/python")).expanduser()
needs_blender = pytest.mark.skipif(not BLENDER.is_file(), reason=f"no Blender here; {BLENDER_ENVIRONMENT}")
needs_assets = pytest.mark.skipif(not ASSETS.is_dir(), reason="the assets of shared/data are not here")
NAMES = [f"{letter}.glb" for letter in "abcdefg"]
BROKEN = {"c.glb": BlenderError("no mesh"), "f.glb": KeyError("accessors")}


def picture(path, views=2, times=2, size=16):
    """In place of Blender: another creature for each asset."""
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
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


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


@pytest.mark.parametrize("stop_at", range(1, len(NAMES) + 1))
def test_stopped_anywhere_and_gone_on_with(assets, uninterrupted, tmp_path, stop_at):
    out, first, second = tmp_path / "out", Renderer(stop_at=stop_at), Renderer()
    with pytest.raises(KeyboardInterrupt):
        rendering(assets, out, first).run(range(3))
    assert all(uninterrupted[name] == content for name, content in contents(out).items() if "/" not in name)
    rendering(assets, out, second).run(range(3))
    assert contents(out) == uninterrupted
    twice = set(first.seen[: stop_at - 1]) & set(second.seen)
    assert twice <= set(BROKEN)  # what was rendered is not rendered again
    rendering(assets, out, third := Renderer()).run(range(3))
    assert contents(out) == uninterrupted and not third.seen


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import test_render_shards as t
from fourd_minimal.lab import render_shards

class Killer(t.Renderer):
    def __call__(self, path, clip):
        if path.name == "e.glb" and sys.argv[4] == "rendering":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(path, clip)

write = render_shards.write_tar

def write_half(path, members):
    if sys.argv[4] in path.name:
        write(path, list(members)[:2])
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, members)

def stay(path, missing_ok=False):
    os.kill(os.getpid(), signal.SIGKILL)

render_shards.write_tar = write_half
if sys.argv[4] == "tidying":
    Path.unlink, unlink = (lambda p, **o: stay(p) if p.name == "000000.tar" else unlink(p, **o)), Path.unlink
t.rendering(Path(sys.argv[1]), Path(sys.argv[2]), Killer()).run(range(3), workers=2)
"""


@pytest.mark.parametrize("when", ["rendering", "000001.tar", "tidying"])
def test_killed_without_a_word_and_gone_on_with(assets, uninterrupted, tmp_path, when):
    """SIGKILL, while rendering, in the middle of writing a file, and between a shard and its tidying up."""
    out, here = tmp_path / "out", Path(__file__).parent
    run = subprocess.run([sys.executable, "-c", KILLED, assets, out, here, when], capture_output=True, text=True)
    assert run.returncode == -9, run.stderr
    left = contents(out)
    assert left and left != uninterrupted
    assert all(uninterrupted[name] == content for name, content in left.items() if name in uninterrupted)
    rendering(assets, out, Renderer()).run(range(3))
    assert contents(out) == uninterrupted


def test_what_failed_can_be_tried_again_alone(assets, uninterrupted, tmp_path):
    out = tmp_path / "uninterrupted"
    reasons = [f["reason"] for shard in sorted(out.glob("*.tar")) for f in failures(shard)]
    assert reasons == ["BlenderError: no mesh", "KeyError: 'accessors'"]
    again = Renderer({"f.glb": BROKEN["f.glb"]})
    rendering(assets, out, again).run(range(3), retry_failed=True)
    assert sorted(again.seen) == ["c.glb", "f.glb"]
    assert [f["asset"] for shard in sorted(out.glob("*.tar")) for f in failures(shard)] == ["f.glb"]
    rendering(assets, tmp_path / "fresh", Renderer({"f.glb": BROKEN["f.glb"]})).run(range(3))
    assert contents(out) == contents(tmp_path / "fresh")


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
    assert not contents(tmp_path / "none")


@pytest.fixture
def command(assets, monkeypatch):
    """The command with `picture` in Blender's place, and clips for every asset but the broken."""
    calls = []

    def render(path, views, times, size, clip, **cameras):
        calls.append((path.name, clip, cameras))
        if path.name in BROKEN:
            raise BROKEN[path.name]
        return picture(path, views, times, size)

    def listed(path):
        if path.name in BROKEN:
            raise BROKEN[path.name]
        return [Clip("still", 0, 9, False), Clip("short", 0, 1, True), Clip("long", 0, 2, True)]

    for name, stand_in in dict(render_asset=render, list_clips=listed, blender_python=lambda: None).items():
        monkeypatch.setattr(render_shards, name, stand_in)
    return calls


SMALL = dict(views=4, times=2, size=16, per_shard=4)


def test_the_command(command, assets, tmp_path, capsys):
    out = tmp_path / "out"
    RenderShards(assets, **SMALL, out=out).run()
    assert "10 of 12 clips in 3 of 3 shards" in capsys.readouterr().out
    jobs = json.loads((out / "jobs.json").read_text())["jobs"]
    assert jobs[:5] == [["a.glb", "long"], ["a.glb", "short"], ["b.glb", "long"], ["b.glb", "short"], ["c.glb", ""]]
    listed = (out / "failures.md").read_text()
    assert "| c.glb |  | BlenderError: no mesh |" in listed and "| f.glb |  | KeyError: 'accessors' |" in listed
    assert all(c["azimuth_sweep_deg"] == 270 and c["elevation_deg"] == 0 for _, _, c in command)
    assert ("c.glb", None) in [call[:2] for call in command]
    assert len(Shards(out)) == 10
    before = len(command)
    RenderShards(assets, **SMALL, out=out, workers=3, machine="1/2").run()
    assert len(command) == before


def test_two_machines_share_what_was_kept(command, assets, tmp_path, capsys):
    kept, out = tmp_path / "kept.txt", tmp_path / "out"
    kept.write_text("".join(f"{name}\tshort\n" for name in NAMES))
    RenderShards(assets, kept=kept, **SMALL, out=out, machine="1/2").run()
    assert "2 of 7 clips in 1 of 2 shards" in capsys.readouterr().out
    RenderShards(assets, kept=kept, **SMALL, out=out, machine="0/2").run()
    assert "5 of 7 clips in 2 of 2 shards" in capsys.readouterr().out
    assert sorted(name for name, _, _ in command[:3]) == NAMES[4:] and len(command) == 7
    with pytest.raises(ValueError, match=r"\(size, the list of assets differ\); use another --out"):
        RenderShards(assets, **SMALL | dict(size=32), out=out).run()
    with pytest.raises(ValueError, match=r"\(elevation_deg, per_shard differ\)"):
        RenderShards(assets, kept=kept, **SMALL | dict(per_shard=2), elevation_deg=9.0, out=out).run()


def test_objaverse_is_asked_for_one_at_a_time(command, assets, tmp_path, monkeypatch, capsys):
    asked, ids = [], tmp_path / "ids.txt"

    def load_objects(uids):
        asked.append(uids)
        return {uid: str(assets / f"{uid}.glb") for uid in uids if uid != "z"}

    monkeypatch.setitem(sys.modules, "objaverse", SimpleNamespace(load_objects=load_objects))
    ids.write_text("a\nz\nb\n")
    kept = tmp_path / "kept.txt"
    kept.write_text("a.glb\tlong\nz.glb\tlong\nb.glb\tlong\n")
    monkeypatch.setitem(BROKEN, "z.glb", FileNotFoundError("there is no such file"))
    for more in dict(kept=kept), dict(clips=1):
        out = tmp_path / "_".join(more)
        with pytest.warns(UserWarning, match="has no z"):
            RenderShards(objaverse=ids, **more, **SMALL, out=out).run()
        assert "2 of 3 clips" in capsys.readouterr().out and "z.glb" in (out / "failures.md").read_text()
    assert all(len(uids) == 1 for uids in asked)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(), "give one of --assets and --objaverse"),
        (dict(assets=Path("a"), objaverse=Path("b")), "give one of"),
        (dict(assets=Path("nowhere")), "a folder is wanted"),
        (dict(assets=Path("nowhere"), views=1), "--views is 1; at least 2"),
        (dict(assets=Path("nowhere"), per_shard=0), "--per-shard is 0; at least 1"),
        (dict(assets=Path("nowhere"), machine="2/2"), "--machine is 2/2; k/n is wanted"),
        (dict(assets=Path("nowhere"), machine="one"), "--machine is one"),
        (dict(assets=Path("nowhere"), oversample=4), "--oversample is 4; it must be odd"),
        (dict(assets=Path("nowhere"), times=64), "--times and --size are 64 and 256; rows of at most 16383 pixels"),
        (dict(assets=Path("nowhere"), radius=0.5), "--radius is 0.5; more than 1"),
        (dict(assets=Path("nowhere"), fov_deg=180.0), "--fov-deg is 180.0; it must lie between"),
        (dict(objaverse=Path("nowhere")), "--objaverse is nowhere; there is no such file"),
    ],
)
def test_bad_input_is_named(command, options, message):
    with pytest.raises(ValueError, match=message):
        RenderShards(**options).run()


def test_bad_lists_are_named(command, assets, tmp_path):
    (tmp_path / "kept.txt").write_text("a.glb walk\n")
    with pytest.raises(ValueError, match=r"line 'a\.glb walk'; asset<tab>clip is wanted"):
        RenderShards(assets, kept=tmp_path / "kept.txt", out=tmp_path / "out").run()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no asset"):
        RenderShards(tmp_path / "empty", out=tmp_path / "out").run()


@needs_assets
def test_credits_and_clips_of_real_files():
    assert "PixelMannen" in credit(ASSETS / "khronos_Fox.glb")["copyright"]
    assert credit(ASSETS / "khronos_MorphStressTest.gltf") == {}
    assert longest_clips(ASSETS / "khronos_Fox.glb", 2) == ["Survey", "Run"]
    assert len(longest_clips(ASSETS / "kaykit_Knight.glb", 99)) > 30


def test_sketchfab_says_who_made_it(tmp_path):
    extras = {"author": "someone", "license": "CC-BY-4.0", "source": "https://a.b", "title": "fox", "more": 1}
    for said, wanted in (extras, {k: v for k, v in extras.items() if k != "more"}), ("text", {}), (None, {}):
        (tmp_path / "a.gltf").write_text(json.dumps({"asset": {"version": "2.0", "extras": said}}))
        assert credit(tmp_path / "a.gltf") == wanted


@needs_blender
@needs_assets
def test_with_blender(tmp_path, capsys):
    folder, out = tmp_path / "assets", tmp_path / "out"
    folder.mkdir()
    whole = (ASSETS / "khronos_Fox.glb").read_bytes()
    (folder / "fox.glb").write_bytes(whole)
    (folder / "half.glb").write_bytes(whole[: len(whole) // 2])
    RenderShards(folder, clips=1, views=4, times=2, size=16, oversample=1, out=out).run()
    assert "1 of 2 clips in 1 of 1 shards" in capsys.readouterr().out
    assert "half.glb" in (out / "failures.md").read_text()
    fox = Shards(out)[0]
    assert fox.rgb.shape == (4, 2, 3, 16, 16) and 0.05 < fox.alpha.mean() < 0.6
    assert [name for name, _ in read_tar(out / "000000.tar")][1] == "000000.json"
