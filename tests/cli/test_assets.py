"""Assets as commands name them: clips by how they move, odd names, lists of clips that read back."""

import numpy as np
import pytest
from gltf_files import BOX, POST, POST_AT, SLIDE_FROM, SLIDE_TO, Buffer, asset_document, clip, write_gltf
from refused import refused

from fourd_minimal.cli.assets import asset_names, lively_window, named_clip, read_clips, write_clips
from fourd_minimal.data import gltf

TO = (BOX, "translation")
CLIPS = {
    "still": {TO: [SLIDE_FROM, SLIDE_FROM]},
    "trembles": {TO: [SLIDE_FROM, (-0.95, 0.2, 0.0)]},
    "flees": {TO: [SLIDE_FROM, SLIDE_TO], (POST, "translation"): [POST_AT, (5.5, 0.4, 2.2)]},
    "rises": {TO: [SLIDE_FROM, (-1.0, 1.2, 0.0)]},
}
ODD = ["a\tb", "two\nlines", "a|b", "a#b", "#", "back\\slash\\n", "ä→😀", "\u2028", "bytes\udcff", ' "quoted" ', ""]


@pytest.fixture(scope="module")
def asset(tmp_path_factory):
    """Four clips of two keys, and three longer ones: a hop up and down, twice, and ten seconds of which two move."""
    document, data = asset_document(CLIPS)
    buffer = Buffer()
    buffer.data, buffer.views, buffer.accessors = data, document["bufferViews"], document["accessors"]
    up = (-1.0, 1.1, 0.0)
    document["animations"] += [
        clip(buffer, {TO: [SLIDE_FROM, up, SLIDE_FROM]}, (0.0, 0.5, 1.0), "hops"),
        clip(buffer, {TO: [SLIDE_FROM, SLIDE_FROM, up, up]}, (0.0, 6.0, 8.0, 10.0), "waits"),
        clip(buffer, {TO: [SLIDE_FROM, up, SLIDE_FROM]}, (0.0, 0.5, 1.0), "hops again"),
    ]
    path = tmp_path_factory.mktemp("asset") / "box.glb"
    return gltf.read_asset(write_gltf(path, {**document, **buffer.fields()}, buffer.data))


def test_clips_come_by_how_they_move(asset):
    """What stays before what leaves, what loops first of these; what hardly moves last, what rests not at all."""
    names = [asset.clips[i].name for i in gltf.liveliest(asset, 9)]
    assert names == ["hops", "waits", "rises", "flees", "trembles"]
    assert gltf.liveliest(asset, 2) == gltf.liveliest(asset, 9)[:2]
    assert gltf.choose_clip(asset, None) == gltf.liveliest(asset, 1)[0]


def test_a_window_is_where_a_clip_moves(asset):
    names = [c.name for c in asset.clips]
    long = lively_window(asset, names.index("waits"), 5)
    np.testing.assert_allclose(long, np.linspace(6, 8, 5))
    short = lively_window(asset, names.index("rises"), 3)
    assert len(short) == 3 and short[-1] - short[0] == pytest.approx(0.5)


def test_a_clip_is_named_after_a_hash(tmp_path):
    (tmp_path / "a#b.glb").touch()
    (tmp_path / "a.glb").touch()
    assert named_clip(f"{tmp_path}/a.glb") == (tmp_path / "a.glb", None)
    assert named_clip(f"{tmp_path}/a.glb#Walk #2") == (tmp_path / "a.glb", "Walk #2")
    assert named_clip(f"{tmp_path}/a#b.glb") == (tmp_path / "a#b.glb", None)
    assert named_clip(f"{tmp_path}/a#b.glb#Walk") == (tmp_path / "a#b.glb", "Walk")
    assert named_clip(f"{tmp_path}/none.glb#Walk") == (tmp_path / "none.glb", "Walk")


def test_lists_of_clips_keep_every_name(tmp_path):
    named = [(asset, clip) for asset in ODD for clip in ODD]
    write_clips(tmp_path / "kept.txt", named)
    assert read_clips(tmp_path / "kept.txt") == named
    write_clips(tmp_path / "plain.txt", [("folder/Fox.glb", "Walk (2)")])
    assert (tmp_path / "plain.txt").read_text() == "folder/Fox.glb\tWalk (2)\n"


@pytest.mark.parametrize("line", ["a.glb walk", "a\tb\tc", "a.glb\tends with \\"])
def test_a_line_that_is_no_clip_is_named(line, tmp_path):
    (tmp_path / "kept.txt").write_text(f"a.glb\twalk\n{line}\n")
    refused(lambda: read_clips(tmp_path / "kept.txt"), "--kept", repr(line))


def test_assets_are_found_in_folders_and_lists(tmp_path):
    for name in ("b.glb", "inside/a.GLTF", "notes.txt", "folder.glb/c.glb"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert asset_names(tmp_path, None) == ["b.glb", "folder.glb/c.glb", "inside/a.GLTF"]
    (tmp_path / "notes.txt").write_text("id1\nid2\nid1\n")
    assert asset_names(None, tmp_path / "notes.txt") == ["id1.glb", "id2.glb"]
    (tmp_path / "empty").mkdir()
    refused(lambda: asset_names(tmp_path / "empty", None), "--assets", "empty")
    refused(lambda: asset_names(None, None), "--assets", "--objaverse")
