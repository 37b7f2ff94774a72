"""Animated assets as grids: clips, the record against the exact renderer's, light, framing, and bad arguments."""

from pathlib import Path

import numpy as np
import pytest
import torch
from gltf_files import CUBE, CUBE_HALF, POST_AT, POST_HALF, SLIDE_FROM, SLIDE_TO, GltfFile, one_mesh, write_gltf
from refused import refused
from torch.testing import assert_close

from fourd_minimal.cameras import circular_trajectory
from fourd_minimal.data import analytic_renderer, gltf
from fourd_minimal.data.gltf import list_clips, read_asset, render, render_asset

BOX_FACES = [(0, 1, 3), (0, 3, 2), (4, 6, 7), (4, 7, 5), (0, 4, 5), (0, 5, 1)]
BOX_FACES += [(2, 3, 7), (2, 7, 6), (0, 2, 6), (0, 6, 4), (1, 5, 7), (1, 7, 3)]


@pytest.fixture(scope="module")
def asset(tmp_path_factory):
    return write_gltf(tmp_path_factory.mktemp("asset") / "slide.gltf")


def test_clips_are_read_from_the_file(asset):
    clips = list_clips(asset)
    assert [(c.name, c.start_s, c.duration_s, c.moves) for c in clips] == [
        ("rest", 0.5, 1.0, False),
        ("clip_1", 0.5, 1.0, True),
        ("spline", 0.5, 1.0, True),  # by its tangents, though both keys are the same
    ]
    assert read_asset(asset).clips == clips


def box(*clips, **node) -> GltfFile:
    file = one_mesh(CUBE, BOX_FACES, node)
    for channels, more in clips:
        file.clip(channels, **more)
    return file


STILL, FAR = [(0, 0, 0)] * 2, [(0, 0, 0), (30, 0, 0)]
TURN = [(0, 0, 0, 1), (0, 0.6, 0, 0.8)]


def test_a_clip_is_chosen_by_what_is_seen(tmp_path):
    """The one that turns in place, before the one that goes far and the one that hardly moves."""
    there_and_back = dict(times=(0, 1, 2))
    file = box(
        ({(0, "translation"): STILL}, dict(name="still")),
        ({(0, "translation"): FAR}, dict(name="far")),
        ({(0, "translation"): [(0, 0, 0), (0.02, 0, 0)]}, dict(name="hardly")),
        ({(0, "rotation"): TURN}, dict(name="turn")),
        ({(0, "rotation"): [*TURN, TURN[0]]}, dict(name="turn and back", **there_and_back)),
    )
    found = read_asset(file.save(tmp_path / "a.glb"))
    assert found.clips[gltf.choose_clip(found, None)].name == "turn and back"
    assert gltf.motion(found, 1).travel > 0.8 and gltf.motion(found, 1).size < 0.3 and not gltf.motion(found, 1).good
    assert gltf.motion(found, 4).loops and not gltf.motion(found, 3).loops
    assert not gltf.motion(found, 2).good


def test_clips_with_one_name_are_told_apart(tmp_path):
    file = box(*(({(0, "translation"): v}, dict(name="walk")) for v in (STILL, FAR, STILL)))
    path = file.save(tmp_path / "a.glb")
    clips = list_clips(path)
    assert [(c.name, c.moves) for c in clips] == [("walk", False), ("walk (2)", True), ("walk (3)", False)]
    found = read_asset(path)
    assert [gltf.choose_clip(found, name) for name in ("walk", "walk (2)", "2", 1)] == [0, 1, 2, 1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"views": 1}, ("views", 1)),
        ({"oversample": 4}, ("oversample", 4)),
        ({"time_range": (0.5, 0.5)}, ("time_range", (0.5, 0.5))),
        ({"fov_deg": 180.0}, ("fov_deg", 180)),
        ({"radius": 1.0}, ("radius", 1)),
        ({"fill": 1.5}, ("fill", 1.5)),
        ({"background": (0.0, 0.0, 255.0)}, ("background", 255)),
        ({"clip": "run"}, ("clip", "run", "rest", "clip_1", "spline")),
        ({"clip": -1}, ("clip", -1, "rest")),
    ],
)
def test_bad_arguments(asset, changes, said):
    refused(lambda: render_asset(**{"path": asset, "views": 2, "times": 2, "size": 8, **changes}), *said)


def test_assets_that_do_not_move(tmp_path):
    refused(lambda: render_asset(box().save(tmp_path / "a.glb"), 2, 2, 8), "a.glb")
    still = box(({(0, "translation"): STILL}, {})).save(tmp_path / "b.glb")
    refused(lambda: render_asset(still, 2, 2, 8), "b.glb")
    assert render_asset(still, 2, 2, 8, clip=0).alpha.max() == 1
    pose = box(({(0, "translation"): [(1, 0, 0)]}, dict(times=[0.5], name="pose"))).save(tmp_path / "c.glb")
    refused(lambda: render_asset(pose, 2, 2, 8, clip="pose"), "clip", "pose")


def test_assets_without_a_size(tmp_path):
    path = box(({(0, "rotation"): TURN}, {}), scale=[1e-30] * 3).save(tmp_path / "a.glb")
    refused(lambda: render_asset(path, 2, 2, 8), "a.glb")


GRID = dict(time_range=(0.25, 1.0), elevation_deg=15.0, fov_deg=40.0)


@pytest.fixture(scope="module")
def rendered(asset):
    return render_asset(asset, 3, 4, 32, "clip_1", **GRID)


@pytest.fixture(scope="module")
def exact(rendered):
    """The same scene from the analytic renderer."""
    fraction = torch.linspace(0.25, 1.0, 4)[:, None]
    moving = torch.tensor(SLIDE_FROM) * (1 - fraction) + torch.tensor(SLIDE_TO) * fraction
    middles = torch.stack([moving, torch.tensor(POST_AT).expand(4, 3)], 1)
    halves = torch.tensor([CUBE_HALF, POST_HALF])
    corners = (middles[:, :, None] + halves[:, None] * torch.from_numpy(CUBE)).reshape(-1, 3)
    centre = (corners.amin(0) + corners.amax(0)) / 2
    scale = 1 / (corners - centre).norm(dim=1).max()
    linear = torch.diag_embed(halves * scale).expand(4, 2, 3, 3)
    to_world = torch.cat([linear, ((middles - centre) * scale)[..., None]], -1)[None]
    white, light = torch.ones(1, 2, 6, 3), torch.tensor([[0.0, 1.0, 0.0]])
    objects = analytic_renderer.MovingObjects(to_world, 0, white, torch.zeros(2), light, torch.ones(1, 2, 3))
    return analytic_renderer.render(objects, rendered.c2w, rendered.fov_deg, (32, 32), antialias=5)


def test_geometry_is_exact(rendered, exact):
    """Times, unit ball, cameras, depth along the axis, flow and visibility: each would break this."""
    assert_close(rendered.alpha, exact.alpha, atol=1e-6, rtol=0)
    assert_close(rendered.depth, exact.depth, atol=1e-4, rtol=0)
    assert_close(rendered.flow, exact.flow, atol=1e-3, rtol=0)
    for name in ("visible", "in_fixed_view"):
        found, known = getattr(rendered, name), getattr(exact, name)
        agree = found == known
        hidden = ~known & (exact.depth > 0)
        assert hidden.sum() > 50 and agree.float().mean() > 0.99, name
        assert agree[hidden].float().mean() > 0.9, name


def test_the_same_call_gives_the_same_numbers_on_any_background(asset, rendered):
    black = render_asset(asset, 3, 4, 32, "clip_1", **GRID, background=(0.0, 0.0, 0.0))
    assert_close(black.rgb + 1 - black.alpha, rendered.rgb, atol=1e-6, rtol=0)
    assert torch.equal(black.depth, rendered.depth) and torch.equal(black.alpha, rendered.alpha)


def test_views_rendered_alone_are_the_same(asset, rendered):
    """Also at other numbers of views at once, and with one view or one time only."""
    found = read_asset(asset)
    times_s = gltf.moments(found.clips[1], 4, GRID["time_range"])
    options = dict(fov_deg=GRID["fov_deg"], size=32, oversample=5)
    for v in range(3):
        alone = render(found, 1, times_s, rendered.c2w[0, v : v + 1], **options)
        assert alone.rgb.shape == (1, 1, 4, 3, 32, 32)
        for name in ("rgb", "alpha", "depth", "flow", "visible"):
            assert torch.equal(getattr(alone, name)[:, 0], getattr(rendered, name)[:, v]), name
        assert torch.equal(alone.in_fixed_view, alone.depth > 0)
    once = render(found, 1, times_s[:1], rendered.c2w[0], **options)
    assert once.rgb.shape == (1, 3, 1, 3, 32, 32) and once.visible.all() and not once.flow.any()


def test_without_geometry_the_pictures_are_the_same(asset, rendered):
    plain = render_asset(asset, 3, 4, 32, "clip_1", **GRID, geometry=False)
    assert torch.equal(plain.rgb, rendered.rgb) and torch.equal(plain.alpha, rendered.alpha)
    assert not plain.depth.any() and plain.flow is plain.visible is plain.in_fixed_view is None


def quad(file_options=None, normal=(0, 0, 1), **material) -> GltfFile:
    """A square that faces +z, of one material."""
    file = GltfFile()
    corners = np.array([(-1, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0)], np.float32)
    look = file.material(**material)
    mesh = file.mesh(corners, [(0, 1, 2), (0, 2, 3)], look, NORMAL=np.array([normal] * 4, np.float32))
    file.node(mesh=mesh, **(file_options or {}))
    return file


def picture(
    file: GltfFile, path: Path, azimuth_deg: float = 0.0, background=(1.0, 1.0, 1.0), **options
) -> torch.Tensor:
    """The middle pixel from a camera at an azimuth."""
    c2w = circular_trajectory(torch.tensor([azimuth_deg]), 0.0, 4.0)
    record = render(
        read_asset(file.save(path / "a.glb")), None, np.zeros(1), c2w, 40.0, 9, background=background, **options
    )
    return record.rgb[0, 0, 0, :, 4, 4]


def test_unlit_and_glowing_materials_show_their_colours(tmp_path):
    unlit = {"KHR_materials_unlit": {}}
    grey = 0.2140411  # is 0.5 as the number of a picture
    file = quad(colour=(grey, 1, 0.0031308, 1), extensions=unlit)
    assert_close(picture(file, tmp_path), torch.tensor([0.5, 1.0, 0.04045]), atol=1e-5, rtol=0)
    file = quad(colour=(0, 0, 0, 1), emissiveFactor=[grey, 0, 0])
    assert_close(picture(file, tmp_path), torch.tensor([0.5, 0.0, 0.0]), atol=1e-5, rtol=0)


def test_light_stays_with_the_world_and_backs_have_their_own(tmp_path):
    """A sheet that faces away from the light is darker there; its back, of the side that is lit, is brighter."""
    front = picture(quad(colour=(0.3, 0.3, 0.3, 1)), tmp_path)
    away = picture(quad(dict(rotation=[0, 1, 0, 0]), colour=(0.3, 0.3, 0.3, 1)), tmp_path, 180.0)
    assert (front > away + 0.1).all() and (away > 0.2).all()
    both = quad(dict(rotation=[0, 1, 0, 0]), colour=(0.3, 0.3, 0.3, 1), doubleSided=True)
    assert_close(picture(both, tmp_path), front, atol=1e-5, rtol=0)
    assert_close(picture(both, tmp_path, 180.0), away, atol=1e-5, rtol=0)
    turned = picture(quad(colour=(0.3, 0.3, 0.3, 1)), tmp_path, light_deg=180.0)
    assert (turned < front - 0.1).all()


def test_a_clip_that_mirrors_and_a_skin_that_mirrors(tmp_path):
    """From the front and from behind, before and after x is mirrored in time; by a node, and by a joint."""
    for skinned in (False, True):
        file = quad(colour=(0.3, 0.3, 0.3, 1))
        bone = 0
        if skinned:
            bone = file.node()
            file.lists["nodes"][0]["skin"] = file.add("skins", joints=[bone])
            attributes = file.lists["meshes"][0]["primitives"][0]["attributes"]
            attributes["JOINTS_0"] = file.buffer.add(np.zeros((4, 4), np.uint8))
            attributes["WEIGHTS_0"] = file.buffer.add(np.tile(np.float32([1, 0, 0, 0]), (4, 1)))
        file.clip({(bone, "scale"): [(1, 1, 1), (-1, 1, 1)]})
        found = read_asset(file.save(tmp_path / "a.glb"))
        c2w = circular_trajectory(torch.tensor([0.0, 180.0]), 0.0, 4.0)
        record = render(found, 0, np.array([0.5, 1.5]), c2w, 40.0, 9)
        assert (record.alpha[0, 0, :, 0, 4, 4] == 1).all() and not record.alpha[0, 1].any(), skinned
        assert_close(record.rgb[0, 0, 0, :, 4, 4], record.rgb[0, 0, 1, :, 4, 4], atol=1e-5, rtol=0)


def test_tensors_are_made_on_the_device_that_was_given(asset):
    """Any that is made on the default device instead would be a meta tensor, and end in an error or as one."""
    found = read_asset(asset)
    c2w = circular_trajectory(torch.tensor([0.0, 20.0]), 10.0, 4.0)
    expected = render(found, 1, np.array([0.5, 1.0]), c2w, 40.0, 16)
    with torch.device("meta"):
        record = render(found, 1, np.array([0.5, 1.0]), c2w, 40.0, 16, device="cpu")
    for name in ("rgb", "alpha", "depth", "flow", "visible", "in_fixed_view"):
        assert torch.equal(getattr(record, name), getattr(expected, name)), name
