"""fourd reconstruct: a folder of views becomes a page and clouds; bad input ends in one sentence."""

import json

import numpy as np
import pytest
import torch
from plyfile import PlyData
from refused import refused

from fourd_minimal.cameras import circular_trajectory
from fourd_minimal.cli.reconstruct import Reconstruct, read_grid
from fourd_minimal.data.procedural import HELD_OUT, RADIUS, sample_scenes
from fourd_minimal.data.video import write_video


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
    state = json.loads((tmp_path / "scene/scene.html").read_text().split('id="state">')[1].split("</script>")[0])
    assert np.allclose(state["camera"], circular_trajectory(torch.tensor(25.0), 20.0, RADIUS)[:3, 3], atol=1e-3)
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
