"""The exported clouds open in an independent reader, under the standard names, and hold what the scene holds."""

import numpy as np
import pytest
import torch
from refused import refused
from torch.testing import assert_close

from fourd_minimal.systems.deformable_gaussians import random_scene
from fourd_minimal.viewers.scene_files import write_ply, write_scene


@pytest.fixture
def scene():
    torch.manual_seed(0)
    scene = random_scene(20)
    torch.nn.init.normal_(scene.motion.mlp[-1].weight, std=0.1)
    torch.nn.init.normal_(scene.colour_logit)
    return scene.requires_grad_(False)


def column(vertices, *names):
    return torch.from_numpy(np.stack([np.array(vertices[name]) for name in names], -1))


def test_an_independent_reader_finds_the_scene(scene, tmp_path):
    plyfile = pytest.importorskip("plyfile")
    paths = write_scene(scene, tmp_path, 3)
    assert (
        [p.name for p in paths]
        == ["time_00.ply", "time_01.ply", "time_02.ply"]
        == sorted(p.name for p in tmp_path.iterdir())
    )
    for path, time in zip(paths, (0.0, 0.5, 1.0), strict=True):
        (vertices,) = plyfile.PlyData.read(path).elements
        assert vertices.name == "vertex" and vertices.count == 20
        upright = column(vertices, "x", "y", "z") * torch.tensor([-1.0, -1.0, 1.0])  # such files are y-down
        assert_close(upright, scene.positions(torch.tensor([time]))[0])
        colour = 0.5 + 0.28209479177387814 * column(vertices, "f_dc_0", "f_dc_1", "f_dc_2")
        assert_close(colour, scene.colour_logit.sigmoid())
        assert_close(column(vertices, "opacity")[:, 0].sigmoid(), scene.opacity_logit.sigmoid())
        assert_close(
            column(vertices, "scale_0", "scale_1", "scale_2").exp(), scene.log_radius.exp()[:, None].expand(-1, 3)
        )
        assert_close(column(vertices, "rot_0", "rot_1", "rot_2", "rot_3"), torch.tensor([[1.0, 0, 0, 0]]).expand(20, 4))
        assert not column(vertices, "nx", "ny", "nz").any()


def test_nothing_is_refused(scene, tmp_path):
    refused(lambda: write_scene(scene, tmp_path, 0), "times", 0)
    none = torch.zeros(0, 3), torch.zeros(0), torch.zeros(0, 3), torch.zeros(0)
    refused(lambda: write_ply(tmp_path / "a.ply", *none), "points", (0, 0, 0, 0))
    assert not any(tmp_path.iterdir())
