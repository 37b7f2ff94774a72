"""Batches out of shards: windows of grids for 4Real-Video, orbits with a video for 4DM, functions of a number."""

from itertools import product

import pytest
import torch
from refused import refused
from torch.testing import assert_close

from fourd_minimal.cameras import circular_trajectory
from fourd_minimal.configs.four_diffusion import FOUR_DM
from fourd_minimal.data.scene_record import SceneRecord
from fourd_minimal.data.shards import Shards, sample, write_tar
from fourd_minimal.training.shard_frames import batch_generator, fitted, grids, is_ring, orbits

N, VIEWS, TIMES, SIZE = 3, 12, 8, 16
CONFIG = FOUR_DM["smoke"].model


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def labelled(scene, sweep_deg=360 * (1 - 1 / VIEWS), elevation_deg=CONFIG.elevation_deg):
    """A scene whose colours say which it is, which view and which time."""
    c2w = circular_trajectory(torch.linspace(0, sweep_deg, VIEWS), elevation_deg, 3.0)
    cell = torch.stack(torch.meshgrid(torch.arange(VIEWS), torch.arange(TIMES), indexing="ij"), -1) * 10
    colour = torch.cat([torch.full((VIEWS, TIMES, 1), 10 * scene), cell], -1) / 255
    rgb = colour[None, ..., None, None].expand(1, -1, -1, -1, SIZE, SIZE).clone()
    alpha = torch.ones(1, VIEWS, TIMES, 1, SIZE, SIZE)
    return SceneRecord(rgb, alpha, torch.zeros_like(alpha), c2w[None], 36.0)


def read_labels(frames):
    """From frames in [-1, 1] to scene, view and time."""
    return ((frames + 1) / 2 * 255 / 10).mean((-2, -1)).round().long().unbind(-1)


def made(folder, **scene):
    write_tar(folder / "0.tar", [m for i in range(N) for m in sample(str(i), labelled(i, **scene))])
    return Shards(folder)


@pytest.fixture(scope="module")
def ring(tmp_path_factory):
    return made(tmp_path_factory.mktemp("ring"))


@pytest.fixture(scope="module")
def arc(tmp_path_factory):
    return made(tmp_path_factory.mktemp("arc"), sweep_deg=50.0)


def test_windows_are_consecutive_views_and_times(ring, arc):
    strides, firsts, backwards, around = set(), set(), 0, 0
    for number in range(40):
        for shards in ring, arc:
            frames = grids(shards, 2, 4, 3, (8, 8), number, view_stride=2, time_stride=3)
            assert frames.shape == (2, 4, 3, 3, 8, 8)
            scene, view, time = read_labels(frames)
            assert scene[:, 0, 0].tolist() == shards.items(number, 0, 2)
            assert (scene == scene[:, :1, :1]).all() and (view == view[:, :, :1]).all() and (time == time[:, :1]).all()
            by_time = time[:, 0].diff()
            assert (by_time == by_time[:, :1]).all() and by_time.min() >= 1 and by_time.max() <= 3
            by_view = view[..., 0].diff()
            if shards is ring:
                around += int((by_view != by_view[:, :1]).any())
                by_view = (by_view + VIEWS // 2) % VIEWS - VIEWS // 2
            assert (by_view == by_view[:, :1]).all() and by_view.abs().min() >= 1 and by_view.abs().max() <= 2
            backwards += int((by_view[:, 0] < 0).sum())
            strides |= {(int(a), int(b)) for a, b in zip(by_view[:, 0].abs(), by_time[:, 0], strict=True)}
            firsts |= set(view[:, 0, 0].tolist())
    assert len(strides) == 6 and len(firsts) == VIEWS and 50 < backwards < 110 and around > 3


def test_a_batch_depends_on_nothing_but_its_numbers(ring):
    again = [grids(ring, 2, 3, 3, (8, 12), number, part, 2, seed=4) for number in (3, 1) for part in (1, 0)]
    for frames, (number, part) in zip(again, [(3, 1), (3, 0), (1, 1), (1, 0)], strict=True):
        assert torch.equal(frames, grids(ring, 2, 3, 3, (8, 12), number, part, 2, seed=4))
    assert len({frames.sum().item() for frames in again}) > 1
    sources = {batch_generator(*which).initial_seed() for which in product(range(2), range(3), range(3))}
    assert len(sources) == 18
    one, other = (orbits(ring, CONFIG, 2, 3, 5, part, 2) for part in (0, 1))
    for a, b in zip(one, orbits(ring, CONFIG, 2, 3, 5, 0, 2), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one[0], other[0])


def test_orbits_are_even_views_and_a_video_from_another(ring):
    videos, begins, steps = set(), set(), set()
    for number in range(60):
        clean, video, cameras = orbits(ring, CONFIG, 2, 3, number, time_stride=2)
        size = CONFIG.image_size
        assert clean.shape == (2, 3, CONFIG.views, 3, size, size) and video.shape == (2, 3, 3, size, size)
        scene, view, time = read_labels(clean)
        video_scene, video_view, video_time = read_labels(video)
        assert scene[:, 0, 0].tolist() == video_scene[:, 0].tolist() == ring.items(number, 0, 2)
        assert (time == video_time[..., None]).all()
        assert (view[:, 0].diff() % VIEWS == VIEWS // CONFIG.views).all() and (view == view[:, :1]).all()
        assert not (video_view[..., None] == view).any()
        poses = torch.stack([ring.c2w(0)[v] for v in view[:, 0].flatten()]).unflatten(0, view[:, 0].shape)
        seen_from = torch.stack([ring.c2w(0)[v] for v in video_view[:, 0]])
        assert_close(seen_from[:, None] @ cameras, poses, atol=1e-5, rtol=1e-5)
        videos |= set(((video_view[:, 0] - view[:, 0, 0]) % VIEWS).tolist())
        begins |= set(view[:, 0, 0].tolist())
        steps |= set(time[:, :, 0].diff().flatten().tolist())
    assert len(videos) == VIEWS - CONFIG.views and len(begins) == VIEWS and steps == {1, 2}


def test_a_ring_is_told_from_an_arc():
    for views, elevation in ((3, 0.0), (8, 25.0)):
        around = 13 + torch.arange(views) * (360 / views)
        assert is_ring(circular_trajectory(around, elevation, 3.4))
        assert is_ring(circular_trajectory(-around, elevation, 3.4))
        assert not is_ring(circular_trajectory(around * 0.9, elevation, 3.4))
        assert not is_ring(circular_trajectory(torch.linspace(0, 360, views), elevation, 3.4))


def test_frames_are_fitted_whole_and_never_stretched():
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(16.0), indexing="ij")
    frames = torch.stack([y, x, x + y]).expand(2, -1, -1, -1) / 32
    assert torch.equal(fitted(frames, (12, 16)), frames)
    inside = fitted(frames, (12, 24))
    assert torch.equal(inside[..., 4:20], frames) and (inside[..., [0, 3, 20, 23]] == 1).all()
    for size in (7, 30), (30, 7), (36, 64):
        assert fitted(frames, size).shape == (2, 3, *size)
    checks = ((y + x) % 2).expand(1, 3, -1, -1)
    assert_close(fitted(checks, (3, 4)), torch.full((1, 3, 3, 4), 0.5), atol=0.02, rtol=0)  # no aliasing


def test_bad_input_is_named(ring, arc, tmp_path):
    refused(lambda: grids(ring, 1, 13, 2, (8, 8), 0), "shards", 12)
    refused(lambda: orbits(ring, CONFIG, 1, 9, 0), "shards", 8)
    refused(lambda: orbits(arc, CONFIG, 1, 2, 0), "shards", "around")
    refused(lambda: orbits(made(tmp_path, elevation_deg=5.0), CONFIG, 1, 2, 0), "elevation", 5.0)
    record = labelled(0)
    few = SceneRecord(record.rgb[:, :4], record.alpha[:, :4], record.depth[:, :4], record.c2w[:, :4], 36.0)
    write_tar(tmp_path / "0.tar", sample("0", few))
    refused(lambda: orbits(Shards(tmp_path), CONFIG, 1, 2, 0), "shards", 4)
