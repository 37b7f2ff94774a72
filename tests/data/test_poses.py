"""Orbits fitted to tracks: exact where the tracks are."""

from pathlib import Path

import pytest
import torch
from refused import refused
from torch.testing import assert_close

from fourd_minimal.cameras import circular_trajectory, project
from fourd_minimal.cli.generate import EXAMPLE, EXAMPLE_ORBIT
from fourd_minimal.data.gltf import render_asset
from fourd_minimal.data.poses import fit_orbit, orbit_of
from fourd_minimal.data.procedural import HELD_OUT, sample_scenes
from fourd_minimal.data.video import read_video

SIZE, FOV_DEG = (48, 64), 40.0
ASSETS = Path(__file__).parents[3] / "shared/data/assets"
needs_assets = pytest.mark.skipif(not ASSETS.is_dir(), reason="the assets of shared/data are not here")


def tracks(c2w, n=60):
    points = torch.randn(n, 3, generator=torch.Generator().manual_seed(0)) * 0.4
    return project(points, c2w[:, None], FOV_DEG, SIZE)[0]


@pytest.mark.parametrize(("sweep", "elevation"), [(45.0, 20.0), (-60.0, 25.0), (30.0, -10.0), (100.0, 0.0)])
def test_an_orbit_is_found_again(sweep, elevation):
    c2w = circular_trajectory(torch.linspace(0, sweep, 6), elevation, 4.0)
    found = fit_orbit(tracks(c2w), torch.ones(6, 60, dtype=torch.bool), FOV_DEG, SIZE)
    assert abs(found.sweep_deg - sweep) < 0.5 and abs(found.elevation_deg - elevation) < 0.5
    assert found.error_px < 0.05
    assert_close(found.c2w(6), c2w, atol=0.05, rtol=0)


def test_noise_and_lost_tracks_move_it_little():
    c2w, generator = circular_trajectory(torch.linspace(0, 60, 8), 20.0, 4.0), torch.Generator().manual_seed(1)
    xy = tracks(c2w)
    xy = xy + 0.2 * torch.randn(xy.shape, generator=generator)
    xy[:, :6] += 20 * torch.rand(8, 6, 2, generator=generator)  # a tenth is wrong
    seen = torch.rand(8, 60, generator=generator) > 0.2
    found = fit_orbit(xy, seen, FOV_DEG, SIZE)
    assert abs(found.sweep_deg - 60) < 8 and abs(found.elevation_deg - 20) < 8
    assert found.error_px > 0.1


def test_the_orbit_of_a_video_comes_from_what_moves():
    c2w = circular_trajectory(torch.linspace(0, 45, 5), 20.0, 4.0)
    moving = tracks(c2w, n=20)

    def tracker(video, frame, xy):  # most of the picture rests; some corners follow points of the scene
        assert len(xy) > 40
        there, seen = xy.expand(5, -1, -1).clone(), torch.ones(5, len(xy), dtype=torch.bool)
        there[:, :20] = moving
        there[:, 20:30] += 50 * (torch.arange(5) != frame)[:, None, None]  # lost at once, wherever they seem to be
        seen[:, 20:30] = (torch.arange(5) == frame)[:, None]
        there[frame] = xy
        there[frame, :20] = moving[frame]
        return there, seen

    found = orbit_of(torch.rand(5, 3, *SIZE), FOV_DEG, tracker)
    assert abs(found.sweep_deg - 45) < 2 and abs(found.elevation_deg - 20) < 2


@needs_assets
@pytest.mark.parametrize("asset", ["khronos_Fox", "raylib_greenman"])
def test_optical_flow_finds_the_orbit_of_a_textured_character(asset):
    (path,) = ASSETS.rglob(f"{asset}.glb")
    record = render_asset(path, 8, 2, 128, oversample=3, geometry=False)
    place = record.c2w[0, :, :3, 3]
    azimuth = torch.rad2deg(torch.atan2(place[:, 0], place[:, 2]))
    sweep = (azimuth[-1] - azimuth[0] + 180) % 360 - 180
    found = orbit_of(record.rgb[0, :, 0], record.fov_deg, radius=place[0].norm().item())
    assert abs(found.sweep_deg - sweep) < 6
    assert abs(found.elevation_deg - torch.rad2deg(torch.asin(place[0, 1] / place[0].norm()))) < 5


def test_the_examples_orbit_is_the_one_it_was_recorded_with():
    record = sample_scenes(64, 4, 4, 24, HELD_OUT, geometry=False)
    freeze_time = read_video(EXAMPLE / "freeze_time.mp4").rgb
    scene = (record.rgb[:, :, 0] - freeze_time).abs().flatten(1).mean(1).argmin()
    assert_close(record.rgb[scene, :, 0], freeze_time, atol=0.01, rtol=0)
    c2w = record.c2w[scene]
    turned = torch.linalg.inv(c2w[0]) @ c2w
    ours = EXAMPLE_ORBIT.c2w(4)
    assert_close(torch.linalg.inv(ours[0]) @ ours, turned, atol=5e-3, rtol=0)


def test_too_few_tracks_are_refused():
    xy, seen = torch.zeros(6, 60, 2), torch.zeros(6, 60, dtype=torch.bool)
    refused(lambda: fit_orbit(xy, seen, FOV_DEG, SIZE), "tracks", 6, 0)
    refused(lambda: fit_orbit(xy[:2], ~seen[:2], FOV_DEG, SIZE), "tracks", 2, 60)
