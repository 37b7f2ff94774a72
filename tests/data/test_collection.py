"""The list of animated characters: against the files themselves, the study's own index, and another reader."""

import hashlib
import json
from collections import defaultdict
from pathlib import Path

import pytest
from make_characters_manifest import OLDER, Gltf, entry, motion

from fourd_minimal.data import collection
from fourd_minimal.data.collection import SPLITS, assets, cache_folder, find_collection, find_file, read_manifest
from fourd_minimal.data.gltf import list_clips

SHARED = Path(__file__).parents[3] / "shared/data"
LISTED = {asset.id: asset for asset in read_manifest()}
needs_assets = pytest.mark.skipif(
    not (SHARED / "characters/INDEX.json").is_file(), reason="the characters of shared/data are not beside the checkout"
)


@pytest.fixture
def index():
    """What the study says of each of its assets."""
    return {a["id"]: a for a in json.loads((SHARED / "characters/INDEX.json").read_text(encoding="utf-8"))}


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


def test_older_assets_stand_where_the_design_says():
    assert LISTED["kaykit_Knight"].family == LISTED["kaykit_Barbarian"].family
    assert LISTED["kaykit_Knight"].split == "train"
    for older in ("khronos_Fox", "quaternius_robot_raylib", "raylib_greenman"):
        assert LISTED[older].split == "public-test"


def test_each_file_has_one_origin_and_each_asset_a_licence():
    origins = defaultdict(set)
    for asset in LISTED.values():
        assert asset.licence and asset.attribution and asset.stated
        for file in asset.files + asset.licence_files:
            origins[file.name].add((asset.repo, asset.commit, file))
            assert len(file.sha256) == 64 and ".." not in Path(file.name).parts and not Path(file.name).is_absolute()
    assert all(len(found) == 1 for found in origins.values())


@needs_assets
def test_the_files_are_those_of_the_list(index):
    for asset in LISTED.values():
        for file in asset.files + asset.licence_files:
            data = find_file(SHARED / "characters", file.name).read_bytes()
            assert (hashlib.sha256(data).hexdigest(), len(data)) == (file.sha256, file.bytes), file.name
        if asset.id in index:  # which counts what the file needs, too
            assert sum(file.bytes for file in asset.files) == index[asset.id]["bytes"]
    assert LISTED.keys() == index.keys() | {older["id"] for older in OLDER}


@needs_assets
def test_good_clips_are_the_studys(index):
    """All of them, but for the second of two with the same keys, which the study counts."""
    for name, study in index.items():
        asset = LISTED[name]
        copies = study["n_real_clips"] - study["n_distinct_clips"]
        assert 0 <= study["n_good_clips"] - len(asset.clips) <= copies, name
        for clip in asset.clips:
            found = study["motion"].get(clip.name) or study["motion"][f"#{clip.index}"]
            assert (clip.max, clip.mean, clip.size) == (found["max"], found["mean"], found["size"])
            if clip.index < len(study["clips_seconds"]) and name != "dcl_cat_crypt":  # its last key is missed
                assert clip.seconds == pytest.approx(study["clips_seconds"][clip.index], abs=1e-3)


@needs_assets
def test_the_measure_taken_of_older_assets_is_the_studys(index):
    """On assets whose vertices the study did not have to sample: skins, and a rigid one."""
    for name in ("sketchbook_boxman", "dcl_block_dog", "dcl_bird_fly"):
        gltf = Gltf(SHARED / "characters" / index[name]["file"])
        for animation in gltf.json["animations"]:
            if study := index[name]["motion"].get(animation["name"]):
                found = motion(gltf, animation)
                assert {k: found[k] for k in found} == pytest.approx({k: study[k] for k in found}, abs=2e-3)


@needs_assets
@pytest.mark.parametrize(
    "name", ["kaykit_Knight", "bevy_tnua_player", "khronos_RiggedSimple", "dcl_hummingbird", "dcl_cat_crypt"]
)
def test_clips_are_where_another_reader_finds_them(name):
    asset = LISTED[name]
    there = list_clips(find_file(SHARED / "characters", asset.files[0].name))
    for clip in asset.clips:
        assert clip.name == there[clip.index].name
        assert clip.seconds == pytest.approx(there[clip.index].end_s - there[clip.index].start_s, abs=1e-3)


@needs_assets
def test_the_list_can_be_made_again(index):
    made = {asset["id"]: asset for asset in json.loads(collection.MANIFEST.read_text(encoding="utf-8"))}
    older = next(asset for asset in OLDER if asset["id"] == "raylib_greenman")
    assert entry(SHARED, older) == made["raylib_greenman"]
    for name in ("kenney_ghost", "mindar_bear", "q_farm_Cow", "q_platformer_Lever"):
        again = entry(SHARED / "characters", {**index[name], "licences": []})
        assert again == {**made[name], "licence_files": []}


@needs_assets
def test_a_copy_beside_the_checkout_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("FOURD_CACHE", str(tmp_path))
    found = assets()
    assert [asset.id for asset in found] == sorted(LISTED)
    assert all(asset.path.is_file() for asset in found)
    assert sum(len(assets(split)) for split in SPLITS) == len(found)


def test_the_given_folder_then_the_cache_then_beside(nowhere):
    put(collection.BESIDE, "q_Wolf")
    assert find_collection() == collection.BESIDE
    put(cache_folder(), "q_Fox")
    assert find_collection() == cache_folder() == nowhere / "cache/characters"
    put(nowhere / "mine", "q_Deer")
    assert [asset.id for asset in assets(folder=nowhere / "mine")] == ["q_Deer"]
    assert [asset.id for asset in assets()] == ["q_Fox"]
    assert find_collection(str(nowhere / "mine")) == nowhere / "mine"


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


def test_what_is_missing_is_said_with_the_command_that_brings_it(nowhere):
    with pytest.raises(
        FileNotFoundError, match=r"cache/characters', where none of .*; `fourd fetch-characters` brings"
    ):
        assets()
    with pytest.raises(
        FileNotFoundError, match=r"folder is '.*empty', .*; `fourd fetch-characters --out .*empty` brings"
    ):
        assets(folder=nowhere / "empty")
    put(nowhere / "mine", "khronos_Fox")
    with pytest.raises(FileNotFoundError, match=r"split is 'train', of which .*mine holds no asset; `fourd fetch-char"):
        assets("train", nowhere / "mine")
    with pytest.raises(ValueError, match=r"split is 'test'; expected 'train', 'validation', 'public-test' or None"):
        assets("test")
