"""fourd reconstruct: a folder of views becomes a page and clouds; bad input ends in one sentence."""

import json

import numpy as np
import pytest
import torch
from plyfile import PlyData
from refused import refused

from fourd_minimal.cameras import circular_trajectory
from fourd_minimal.cli.reconstruct import Reconstruct, read_grid
from fourd_minimal.data.procedural import HELD_OUT, sample_scenes
from fourd_minimal.data.video import write_video
from fourd_minimal.systems.deformable_gaussians import random_scene


@pytest.fixture
def frames(tmp_path):
    record = sample_scenes(1, 3, 2, 16, HELD_OUT, geometry=False)
    for view, video in enumerate(record.rgb[0]):
        write_video(video, tmp_path / "frames" / f"view_{view}")
    return tmp_path / "frames", record


def quick(grid, out, **options):
    return Reconstruct(grid, **{"sweep_deg": 50.0, "elevation_deg": 20.0, "points": 50, "steps": 3, **options}, out=out)


def test_a_grid_becomes_a_page_a_still_and_clouds(frames, tmp_path, capsys):
    folder, _ = frames
    quick(folder, tmp_path / "scene", times=3).run()
    written = sorted(p.relative_to(tmp_path / "scene").as_posix() for p in (tmp_path / "scene").rglob("*.*"))
    assert written == ["orbit.png", "ply/time_00.ply", "ply/time_01.ply", "ply/time_02.ply", "scene.html"]
    assert len(PlyData.read(tmp_path / "scene/ply/time_00.ply")["vertex"]) == 50
    assert "dB" in capsys.readouterr().out
    quick(folder, tmp_path / "scene", times=1).run()  # over an earlier run
    assert not (tmp_path / "scene/ply/time_01.ply").exists()


def test_a_grid_is_read_in_order(frames):
    folder, record = frames
    assert torch.allclose(read_grid(folder), record.rgb[0], atol=1 / 255)
    for view in range(3, 11):
        write_video(torch.full((2, 3, 16, 16), view / 10), folder / f"view_{view}")
    assert np.allclose(read_grid(folder)[3:].mean((1, 2, 3, 4)), torch.arange(3, 11) / 10, atol=0.01)  # 10 after 9


def test_what_is_transparent_is_white(tmp_path):
    alpha = torch.zeros(2, 1, 16, 16)
    alpha[..., :8] = 1
    for view in range(2):
        write_video(torch.full((2, 3, 16, 16), 0.25), tmp_path / f"view_{view}", alpha=alpha)
    grid = read_grid(tmp_path)
    assert np.allclose(grid[..., :8], 0.25, atol=0.01) and np.allclose(grid[..., 8:], 1.0)


def test_the_scene_shows_the_grid_from_the_cameras_it_was_given(tmp_path):
    """A fit of some seconds: the cloud in the files is the fitted one, and stands where the cameras look."""
    record = sample_scenes(1, 4, 2, 16, HELD_OUT, geometry=False)
    c2w = record.c2w[0]
    turn = torch.linalg.inv(c2w[0]) @ c2w[-1]
    sweep = torch.rad2deg(torch.acos((c2w[0, [0, 2], 2] @ c2w[-1, [0, 2], 2]) / c2w[0, [0, 2], 2].square().sum()))
    sweep = sweep * (1 if turn[0, 3] > 0 else -1)
    elevation = torch.rad2deg(torch.asin(c2w[0, 1, 3] / c2w[0, :3, 3].norm()))
    for view, video in enumerate(record.rgb[0]):
        write_video(video, tmp_path / "frames" / f"view_{view}")
    out = tmp_path / "scene"
    Reconstruct(tmp_path / "frames", sweep.item(), elevation.item(), points=150, steps=60, times=2, out=out).run()
    vertices = PlyData.read(out / "ply/time_00.ply")["vertex"]
    start = random_scene(150, 0)
    assert not np.allclose(vertices["x"], -start.points[:, 0].detach(), atol=1e-3)
    state = json.loads((out / "scene.html").read_text().split('id="state">')[1].split("</script>")[0])
    middle = circular_trajectory(sweep / 2, elevation, 3.9)[:3, 3]
    assert np.allclose(state["camera"], middle, atol=1e-3)


def test_an_orbit_that_is_not_given_is_fitted(frames, tmp_path, capsys):
    generator = torch.Generator().manual_seed(0)
    folder = tmp_path / "textured"
    wide = torch.nn.functional.interpolate(torch.rand(1, 3, 8, 12, generator=generator), (32, 48), mode="bicubic")
    for view in range(4):
        write_video(wide[..., 2 * view : 2 * view + 32].clamp(0, 1).expand(2, -1, -1, -1), folder / f"view_{view}")
    quick(folder, tmp_path / "scene", sweep_deg=None, elevation_deg=None).run()
    assert "sweep" in capsys.readouterr().out


def test_bad_input_is_named(frames, tmp_path):
    for view in range(3):
        write_video(torch.full((2, 3, 16, 16), 0.5), tmp_path / "still" / f"view_{view}")
    for view in range(2):
        write_video(torch.rand(2 + view, 3, 16, 16), tmp_path / "uneven" / f"view_{view}")
    fitted = dict(sweep_deg=None, elevation_deg=None)
    for grid, options, *said in (
        (frames[0], dict(elevation_deg=None), "--sweep-deg", "--elevation-deg"),
        (frames[0], dict(points=0), "--points"),
        (tmp_path / "nowhere", {}, "--grid", "nowhere"),
        (tmp_path / "still", fitted, "--sweep-deg", "--elevation-deg"),
        (tmp_path / "uneven", {}, "uneven", "16x16"),
    ):
        refused(quick(grid, tmp_path / "scene", **options).run, *said)
    assert not (tmp_path / "scene").exists()
