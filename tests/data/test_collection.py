"""The list of animated characters: against the files themselves, the study's own index, and another reader."""

import hashlib
from collections import defaultdict
from pathlib import Path

import pytest
from refused import refused

from fourd_minimal.data import collection
from fourd_minimal.data.collection import SPLITS, assets, cache_folder, find_file, read_manifest
from fourd_minimal.data.gltf import list_clips

SHARED = Path(__file__).parents[3] / "shared/data"
LISTED = {asset.id: asset for asset in read_manifest()}
needs_assets = pytest.mark.skipif(
    not (SHARED / "characters/INDEX.json").is_file(), reason="the characters of shared/data are not beside the checkout"
)


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """An empty cache, and nothing beside the checkout."""
    monkeypatch.setenv("FOURD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(collection, "BESIDE", tmp_path / "beside/characters")
    return tmp_path


def put(folder, *ids):
    """Empty files in the place of assets: only their presence counts here."""
    for file in (file for i in ids for file in LISTED[i].files):
        (folder / file.name).parent.mkdir(parents=True, exist_ok=True)
        (folder / file.name).touch()


def test_no_rig_family_stands_in_two_splits():
    splits = defaultdict(set)
    for asset in LISTED.values():
        splits[asset.family].add(asset.split)
    assert all(len(found) == 1 for found in splits.values())
    assert {split for found in splits.values() for split in found} == {*SPLITS}


@needs_assets
def test_the_files_are_those_of_the_list():
    for asset in LISTED.values():
        for file in asset.files + asset.licence_files:
            data = find_file(SHARED / "characters", file.name).read_bytes()
            assert (hashlib.sha256(data).hexdigest(), len(data)) == (file.sha256, file.bytes), file.name


@needs_assets
@pytest.mark.parametrize("name", ["bevy_tnua_player", "khronos_RiggedSimple", "dcl_hummingbird", "dcl_cat_crypt"])
def test_clips_are_where_another_reader_finds_them(name):
    asset = LISTED[name]
    there = list_clips(find_file(SHARED / "characters", asset.files[0].name))
    for clip in asset.clips:
        assert clip.name == there[clip.index].name
        assert clip.seconds == pytest.approx(there[clip.index].end_s - there[clip.index].start_s, abs=1e-3)


def test_the_given_folder_then_the_cache_then_beside(nowhere):
    put(collection.BESIDE, "q_Wolf")
    assert [asset.path for asset in assets()] == [collection.BESIDE / LISTED["q_Wolf"].path]
    put(cache_folder(), "q_Fox")
    assert [asset.path for asset in assets()] == [nowhere / "cache/characters" / LISTED["q_Fox"].path]
    put(nowhere / "mine", "q_Deer")
    assert [asset.id for asset in assets(folder=str(nowhere / "mine"))] == ["q_Deer"]


def test_older_assets_lie_inside_or_beside(nowhere):
    put(nowhere / "inside", "khronos_Fox")
    put(nowhere, "kaykit_Knight")  # beside the next
    put(nowhere / "characters", "q_Wolf")
    assert [asset.id for asset in assets(folder=nowhere / "inside")] == ["kaykit_Knight", "khronos_Fox"]
    assert [asset.path for asset in assets("train", nowhere / "characters")] == [
        nowhere / "assets/kaykit_Knight.glb",
        nowhere / "characters" / LISTED["q_Wolf"].path,
    ]


def test_an_asset_that_lacks_a_file_is_left_out(nowhere):
    put(nowhere, "q_farm_Cow", "q_farm_Pig")
    (nowhere / LISTED["q_farm_Cow"].files[1].name).unlink()
    assert [asset.id for asset in assets(folder=nowhere)] == ["q_farm_Pig"]


def test_what_is_missing_is_said_with_the_command_that_fetches_it(nowhere):
    absent = dict(error=FileNotFoundError)
    refused(assets, nowhere / "cache/characters", "fourd fetch-characters", **absent)
    refused(lambda: assets(folder=nowhere / "empty"), "folder", "fourd fetch-characters --out", **absent)
    put(nowhere / "mine", "khronos_Fox")
    refused(lambda: assets("train", nowhere / "mine"), "split", "'train'", "fourd fetch-characters", **absent)
    refused(lambda: assets("test"), "split", "'test'")
