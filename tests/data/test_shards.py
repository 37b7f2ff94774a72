"""Shards: what goes in comes out, to 8 bits; other libraries read them; each epoch holds every grid once."""

import io
import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from refused import refused
from torch.testing import assert_close

from fourd_minimal.data.procedural import sample_scenes
from fourd_minimal.data.scene_record import SceneRecord
from fourd_minimal.data.shards import FAILURES, Shards, failures, read_tar, sample, write_tar


def record(seed=0, views=3, times=4, size=16):
    return sample_scenes(1, views, times, size, seed, "creature", azimuths_deg=torch.arange(views)[None] * 40.0)


def make(folder, seeds=range(5), per_shard=2, **shape):
    for shard in range(-(-len(seeds) // per_shard)):
        here = list(enumerate(seeds))[shard * per_shard :][:per_shard]
        members = [m for i, seed in here for m in sample(f"{i:06}", record(seed, **shape), asset=f"a{seed}")]
        write_tar(folder / f"{shard:06}.tar", [(FAILURES, b"[]"), *members])
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make(tmp_path_factory.mktemp("shards"))


def test_what_goes_in_comes_out(folder):
    shards = Shards(folder)
    assert (len(shards), shards.views, shards.times, shards.size) == (5, 3, 4, (16, 16))
    for i in range(5):
        stored, original = shards[i], record(i)
        assert_close(stored.rgb, original.rgb[0], atol=1 / 255 + 1e-6, rtol=0)
        assert_close(stored.alpha, original.alpha[0], atol=0.5 / 255 + 1e-6, rtol=0)
        assert torch.equal(stored.c2w, original.c2w[0]) and torch.equal(shards.c2w(i), stored.c2w)
        assert (stored.fov_deg, stored.about["asset"]) == (original.fov_deg, f"a{i}")


def test_bytes_come_back_exactly(tmp_path):
    """All levels of alpha, in frames that are not square."""
    generator = torch.Generator().manual_seed(3)
    straight = torch.randint(256, (1, 2, 3, 3, 5, 7), generator=generator) / 255
    alpha = torch.randint(256, (1, 2, 3, 1, 5, 7), generator=generator) / 255
    alpha[0, 0, 0, 0, 0, :2], alpha[0, 1] = torch.tensor([0.0, 1.0]), 1.0
    c2w = torch.randn(1, 2, 4, 4, generator=generator)
    given = SceneRecord(torch.lerp(torch.ones(()), straight, alpha), alpha, torch.zeros_like(alpha), c2w, 30.0)
    write_tar(tmp_path / "0.tar", sample("0", given))
    stored = Shards(tmp_path)[0]
    assert torch.equal(stored.alpha, alpha[0])
    exact = (alpha[0] >= 0.5).expand_as(stored.rgb)  # from faint pixels floats cannot tell all 256 colours
    assert_close(stored.rgb, given.rgb[0], atol=0.51 / 255, rtol=0)
    assert_close(stored.rgb[exact], given.rgb[0][exact], atol=1e-6, rtol=0)
    picture = np.asarray(Image.open(io.BytesIO(dict(read_tar(tmp_path / "0.tar"))["0.view000.webp"])))
    assert (picture[picture[..., 3] == 0] == 0).all() and (picture[..., 3] == 0).any()


def test_some_views_and_times_in_any_order(folder):
    shards = Shards(folder)
    whole, part = shards[-1], shards.read(-1, [2, 0], range(3, 0, -2))
    assert torch.equal(part.rgb, whole.rgb[[2, 0]][:, [3, 1]]) and torch.equal(part.c2w, whole.c2w[[2, 0]])
    assert whole.about["asset"] == "a4"
    with pytest.raises(IndexError):
        shards.read(0, [3])
    with pytest.raises(IndexError):
        shards.read(0, times=[4])


def test_only_the_views_asked_for_are_read(folder, tmp_path):
    path = tmp_path / "000000.tar"
    members = [(name, b"" if "view000" in name else content) for name, content in read_tar(folder / "000000.tar")]
    write_tar(path, members)
    assert torch.equal(Shards(tmp_path).read(1, [2]).rgb, Shards(folder).read(1, [2]).rgb)
    with pytest.raises(OSError):
        Shards(tmp_path).read(1, [0, 2])


def test_webdataset_reads_it(folder):
    wds = pytest.importorskip("webdataset", reason="webdataset is not installed")
    found = list(wds.WebDataset(str(folder / "{000000..000002}.tar"), shardshuffle=False).decode("rgba8"))
    assert [s["__key__"] for s in found] == [f"{i:06}" for i in range(5)]
    shards = Shards(folder)
    for i, one in enumerate(found):
        assert one["json"]["asset"] == f"a{i}"
        rgba = np.stack([one[f"view{v:03}.webp"] for v in range(3)]).reshape(3, 16, 4, 16, 4)
        alpha = torch.from_numpy(rgba).permute(0, 2, 4, 1, 3)[:, :, 3:] / 255
        assert torch.equal(alpha, shards[i].alpha)


def test_the_same_grids_are_the_same_bytes(folder, tmp_path):
    for path in make(tmp_path).glob("*.tar"):
        assert path.read_bytes() == (folder / path.name).read_bytes()
    assert Shards(tmp_path).fingerprint == Shards(folder).fingerprint
    (tmp_path / "000001.tar").unlink()
    assert Shards(tmp_path).fingerprint != Shards(folder).fingerprint


def test_failures_are_in_the_shard(tmp_path):
    lines = [{"asset": "b.glb", "clip": "", "reason": "broken"}]
    write_tar(tmp_path / "0.tar", [(FAILURES, json.dumps(lines).encode()), *sample("0", record())])
    assert failures(tmp_path / "0.tar") == lines and len(Shards(tmp_path)) == 1
    write_tar(tmp_path / "1.tar", [])
    assert failures(tmp_path / "1.tar") == []


def test_every_grid_comes_once_in_an_epoch(folder):
    shards = Shards(folder)
    orders = [shards.order(epoch, seed) for epoch in range(4) for seed in range(2)]
    assert all(sorted(order) == list(range(5)) for order in orders)
    assert len({tuple(order) for order in orders}) > 4
    for n, parts in (1, 1), (2, 1), (1, 3), (2, 2), (7, 2):
        taken = [i for number in range(35) for part in range(parts) for i in shards.items(number, part, n, parts, 1)]
        assert taken == [i for epoch in range(7 * n * parts) for i in shards.order(epoch, 1)]


def test_a_batch_is_a_function_of_its_number_and_parts_share_a_step(folder):
    shards, again = Shards(folder), Shards(folder)
    assert shards.items(9, 1, 2, 3) == again.items(9, 1, 2, 3)
    whole = shards.items(9, 0, 6)
    assert [i for part in range(3) for i in again.items(9, part, 2, 3)] == whole


def test_what_is_no_render_of_an_object_is_refused():
    good = record()
    two = {name: torch.cat([value] * 2) for name, value in vars(good).items() if isinstance(value, torch.Tensor)}
    for changes, *said in (
        (two, 2),
        (dict(rgb=good.rgb * torch.nan), "finite"),
        (dict(alpha=good.alpha * 0), "alpha", 0),
    ):
        refused(partial(sample, "0", replace(good, **changes)), "record", *said)
    shapes = (torch.ones(1, 1, 64, c, 1, 256) for c in (3, 1, 1))
    wide = SceneRecord(*shapes, c2w=torch.eye(4)[None, None], fov_deg=30.0)
    refused(lambda: sample("0", wide), "record", "64 x 256")


def test_folders_that_are_no_shards_are_named(folder, tmp_path):
    refused(lambda: Shards(tmp_path / "none"), "folder", "none")
    refused(lambda: Shards(tmp_path), "folder", "shards")
    whole = (folder / "000000.tar").read_bytes()
    (tmp_path / "0.tar").write_bytes(whole[: len(whole) // 2])
    refused(lambda: Shards(tmp_path), "0.tar")
    write_tar(tmp_path / "0.tar", sample("0", record())[:-1])
    refused(lambda: Shards(tmp_path), "0.tar")
    write_tar(tmp_path / "0.tar", sample("0", record()))
    write_tar(tmp_path / "1.tar", sample("0", record(size=24)))
    refused(lambda: Shards(tmp_path), (3, 4, 16, 16), (3, 4, 24, 24))
