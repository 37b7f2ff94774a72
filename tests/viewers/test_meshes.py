"""A mesh against the ball it must be, and files that other tools read."""

import math
from dataclasses import replace

import pytest
import torch
from refused import refused

pytest.importorskip("skimage", reason="needs scikit-image: pip install -e '.[meshes]'")
trimesh = pytest.importorskip("trimesh", reason="needs trimesh: pip install -e '.[meshes]'")

from fourd_minimal.systems.dynamic_nerf import DynamicNeRF, DynamicNeRFConfig  # noqa: E402
from fourd_minimal.viewers.meshes import mesh_at, write_meshes  # noqa: E402

SMALL = DynamicNeRFConfig(n_levels=2, log2_table_size=8, base_resolution=4, width=8, blob=20.0, blob_radius=0.6)


def test_the_blob_is_a_ball_closed_and_turned_outwards():
    """softplus(20 (1 - r / 0.6)) = 10 at r = 0.6 (1 - log(e^10 - 1) / 20)."""
    mesh = mesh_at(DynamicNeRF(SMALL), 0.3, side=48, level=10.0)
    radius = 0.6 * (1 - math.log(math.exp(10) - 1) / 20)
    distance = torch.tensor(mesh.vertices).norm(dim=1)
    assert (distance - radius).abs().max() < 0.01
    assert mesh.is_watertight and mesh.volume == pytest.approx(4 / 3 * math.pi * radius**3, rel=0.03)
    assert (abs(mesh.visual.vertex_colors[:, :3].astype(float) - 127.5) < 3).all()  # sigmoid of almost nothing


@pytest.mark.parametrize("suffix", [".glb", ".obj", ".ply"])
def test_a_file_for_each_time_that_reads_back(suffix, tmp_path):
    paths = write_meshes(DynamicNeRF(SMALL), tmp_path / "meshes", 2, suffix, side=24)
    assert [p.name for p in paths] == [f"time_0{suffix}", f"time_1{suffix}"]
    assert sorted(p.name for p in (tmp_path / "meshes").iterdir()) == [p.name for p in paths]
    for path in paths:
        mesh = trimesh.load_mesh(path)
        assert mesh.is_watertight
        shown = mesh.visual.vertex_colors[:, :3].astype(float)  # the field's half is 55 in glTF's linear light
        assert (abs(shown - (55 if suffix == ".glb" else 127.5)) < 3).all()


def test_bad_input_is_named(tmp_path):
    refused(lambda: mesh_at(DynamicNeRF(replace(SMALL)), 0.0, 8, 1e6), "level", "1e+06")
    refused(lambda: write_meshes(DynamicNeRF(SMALL), tmp_path, 1, ".stl"), "suffix", ".stl")
