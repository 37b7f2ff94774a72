"""Clips of characters: which are drawn, when and from where; on a collection made here, and on the real one."""

import subprocess
import sys
from collections import Counter
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from gltf_files import CUBE, TRIANGLES, GltfFile
from torch.testing import assert_close

from fourd_minimal.data import characters, collection, gltf
from fourd_minimal.data.characters import families, sample_characters, window
from fourd_minimal.data.collection import Asset, GoodClip
from fourd_minimal.data.procedural import RADIUS

ROOT = Path(__file__).parents[2]
real = pytest.mark.skipif(not collection.BESIDE.is_dir(), reason="the characters of shared/data are not here")
GRID = dict(views=2, times=3, size=16)


def write(folder: Path, name: str, family: str, kind: str, clips: int) -> Asset:
    """A box that turns; clip i by its own angle."""
    file = GltfFile()
    file.node(mesh=file.mesh(CUBE * (1, 0.5, 0.3), TRIANGLES, file.material((0.8, 0.2, 0.1, 1))))
    for i in range(clips):
        half = 0.2 + 0.04 * i
        file.clip({(0, "rotation"): [(0, 0, 0, 1), (0, np.sin(half), 0, np.cos(half))]}, (1, 2), name=f"Turn_{i}")
    good = tuple(GoodClip(i, f"Turn_{i}", 1.0, 0.3, 0.2, 0.9) for i in range(clips))
    path = file.save(folder / f"{name}.glb")
    parts = dict.fromkeys((field.name for field in fields(Asset)), "")
    given = dict(id=name, kind=kind, family=family, split="train", clips=good, path=path, files=(), licence_files=())
    return Asset(**{**parts, **given})


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Five assets of one family, one of another with thirty clips, and one that has no clip."""
    found = [write(tmp_path, f"crab{i}", "crabs", "crab", 2) for i in range(5)]
    found += [write(tmp_path, "owl", "owls", "owl", 30), write(tmp_path, "still", "stones", "stone", 0)]
    monkeypatch.setattr(characters, "assets", lambda split, folder: found)
    families.cache_clear()
    yield found
    families.cache_clear()


def same(ours, theirs) -> bool:
    pairs = [(getattr(ours, f.name), getattr(theirs, f.name)) for f in fields(ours)]
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


def test_the_same_seed_gives_the_same_clips(made):
    first = sample_characters(3, **GRID, seed=5)
    assert same(first, sample_characters(3, **GRID, seed=5))
    assert not torch.equal(first.rgb, sample_characters(3, **GRID, seed=6).rgb)
    assert first.rgb.shape == (3, 2, 3, 3, 16, 16) and first.c2w.shape == (3, 2, 4, 4)
    assert first.rgb.min() >= 0 and first.rgb.max() <= 1
    assert all(text.split(":")[0] in ("a crab", "an owl") for text in first.captions)
    assert (first.alpha.amax((-1, -2)) == 1).all() and (first.depth.amax((-1, -2)) > 0).all()


def test_families_are_drawn_evenly_and_of_many_clips_the_first(made):
    draw = torch.Generator().manual_seed(0)
    groups = list(families().values())
    drawn = [characters._draw_clip(groups, draw) for _ in range(600)]
    counts = Counter(asset.family for asset, _ in drawn)
    assert counts.keys() == {"crabs", "owls"} and abs(counts["owls"] - 300) < 50
    assert {clip.index for asset, clip in drawn if asset.family == "owls"} == {*range(12)}


def test_a_window_of_a_clip():
    clip = gltf.Clip("walk", 1.0, 3.0, True)
    assert_close(window(clip, 5, 4.0, 0.0), np.array([1, 1.25, 1.5, 1.75, 2]))
    assert_close(window(clip, 5, 4.0, 1.0), np.array([2, 2.25, 2.5, 2.75, 3]))
    assert_close(window(clip, 5, 1.0, 0.7), np.array([1, 1.5, 2, 2.5, 3]))  # longer than the clip: all of it
    assert_close(window(clip, 1, 4.0, 0.5), np.array([2.0]))


def test_cameras(made):
    options = dict(n=4, **GRID, seed=0, geometry=False)
    arc = sample_characters(**{**options, "views": 3}, sweep_deg=40.0, elevation_deg=(10.0, 10.0)).c2w[:, :, :3, 3]
    assert_close(arc.norm(dim=-1), torch.full((4, 3), RADIUS))
    assert_close(arc[..., 1], torch.full((4, 3), RADIUS * float(np.sin(np.radians(10)))))
    azimuth = torch.atan2(arc[..., 0], arc[..., 2]).rad2deg()
    turn = (azimuth[:, -1] - azimuth[:, 0] + 180) % 360 - 180
    assert_close(turn.abs(), torch.full((4,), 40.0), atol=1e-3, rtol=0)
    assert len({round(a) for a in azimuth[:, 0].tolist()}) == 4
    around = torch.tensor([[0.0, 90, 180, 270]]).expand(4, 4)
    c2w = sample_characters(**{**options, "views": 4}, azimuths_deg=around, elevation_deg=0.0).c2w
    assert_close(c2w[:, 0, :3, 3], -c2w[:, 2, :3, 3], atol=1e-5, rtol=0)


def test_size_in_the_picture(made):
    filled = sample_characters(2, 2, 2, 64, seed=0, fill=(0.9, 0.9))
    for record in filled.alpha[:, :, :, 0].flatten(1, 2):
        y, x = (record.amax(0) > 0).nonzero().T
        assert abs(min(y.min(), x.min(), 63 - y.max(), 63 - x.max()) - 3.2) <= 1
    ball = sample_characters(2, 2, 2, 64, seed=0, fill=None)
    assert ball.alpha.mean() < filled.alpha.mean()


def test_backgrounds(made):
    """White, one colour, or two that blend from top to bottom; read where nothing is."""
    options = dict(n=3, **GRID, seed=0, geometry=False)
    corners = lambda r: r.rgb[:, 0, 0][..., [0, 0, -1, -1], [0, -1, 0, -1]]  # noqa: E731
    assert (corners(sample_characters(**options, background="white")) == 1).all()
    plain, graded = (corners(sample_characters(**options, background=kind)) for kind in ("plain", "graded"))
    assert_close(plain, plain[..., :1].expand_as(plain))
    assert (plain < 1).any()
    assert_close(graded[..., 0], graded[..., 1])
    assert (graded[..., 0] - graded[..., 2]).abs().amax(1).min() > 0.05


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n": 0}, "n is 0; expected at least 1"),
        ({"size": 0}, "size is 0"),
        ({"background": "sky"}, "background is 'sky'; expected one of any, white"),
        ({"azimuths_deg": torch.zeros(1, 5)}, r"azimuths_deg has shape \(1, 5\); expected \(1, 2\)"),
        ({"oversample": 2}, "oversample is 2; expected odd"),
    ],
)
def test_bad_arguments(made, changes, said):
    with pytest.raises(ValueError, match=said):
        sample_characters(**{"n": 1, **GRID, "seed": 0, **changes})


@real
def test_another_process_draws_the_same():
    program = """
from fourd_minimal.data.characters import sample_characters
record = sample_characters(2, views=2, times=2, size=24, seed=3)
print(record.captions, record.rgb.double().sum().item(), record.flow.double().sum().item())
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    here = sample_characters(2, views=2, times=2, size=24, seed=3, folder=None)
    assert run.stdout.strip() == f"{here.captions} {here.rgb.double().sum().item()} {here.flow.double().sum().item()}"
