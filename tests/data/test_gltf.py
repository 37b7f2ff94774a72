"""Animated assets: what is read from the file, what is refused, and Blender's pictures against exact ones."""

import base64
import json
import os
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from fourd_minimal.cameras import project, rays
from fourd_minimal.data import analytic_renderer, gltf
from fourd_minimal.data.gltf import BLENDER_ENVIRONMENT, list_clips, render_asset

ASSETS = Path(__file__).parents[3] / "shared/data/assets"
BLENDER = Path(os.environ.get("FOURD_BLENDER_PYTHON", "~/.cache/fourd_minimal/blender/bin/python")).expanduser()
needs_blender = pytest.mark.skipif(not BLENDER.is_file(), reason=f"no Blender here; {BLENDER_ENVIRONMENT}")
needs_assets = pytest.mark.skipif(not ASSETS.is_dir(), reason="the assets of shared/data are not here")

TRIANGLES = [(0, 1, 3), (0, 3, 2), (4, 6, 7), (4, 7, 5), (0, 4, 5), (0, 5, 1)]
TRIANGLES += [(2, 3, 7), (2, 7, 6), (0, 2, 6), (0, 6, 4), (1, 5, 7), (1, 7, 3)]
CUBE = np.array(list(product((-1, 1), repeat=3)), np.float32)
POST_AT, POST_HALF, CUBE_HALF = (0.5, 0.4, 2.2), (0.3, 1.4, 0.2), (0.9, 0.7, 1.0)
SLIDE_FROM, SLIDE_TO = (-1.0, 0.2, 0.0), (1.4, 0.2, 0.3)


def asset_document():
    """A red box that one of three clips slides past a green post: the JSON and its buffer."""
    arrays = {
        "corners": CUBE,
        "faces": np.array(TRIANGLES, np.uint16).reshape(-1),
        "times": np.array([0.5, 1.5], np.float32),
        "rest": np.array([SLIDE_FROM, SLIDE_FROM], np.float32),
        "slide": np.array([SLIDE_FROM, SLIDE_TO], np.float32),
        "spline": np.array([(0, 0, 0), SLIDE_FROM, (3, 0, 0), (0, 3, 0), SLIDE_FROM, (0, 0, 0)], np.float32),
    }
    data, views, accessors = b"", [], []
    for i, array in enumerate(arrays.values()):
        views.append({"buffer": 0, "byteOffset": len(data), "byteLength": array.nbytes})
        data += array.tobytes()
        component, kind = (5123 if array.dtype == np.uint16 else 5126), ("VEC3" if array.ndim == 2 else "SCALAR")
        bounds = {f: np.atleast_1d(getattr(array, f)(0)).tolist() for f in ("min", "max")}
        accessors.append({"bufferView": i, "componentType": component, "count": len(array), "type": kind, **bounds})

    def clip(output, **more):
        sampler = {"input": 2, "output": list(arrays).index(output), **more}
        return {"samplers": [sampler], "channels": [{"sampler": 0, "target": {"node": 0, "path": "translation"}}]}

    def material(*colour):
        return {"pbrMetallicRoughness": {"baseColorFactor": [*colour, 1], "metallicFactor": 0}}

    document = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0, 1]}],
        "nodes": [{"mesh": 0, "scale": CUBE_HALF}, {"mesh": 1, "scale": POST_HALF, "translation": POST_AT}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1, "material": i}]} for i in (0, 1)],
        "materials": [material(0.8, 0.02, 0.02), material(0.02, 0.6, 0.02)],
        "buffers": [{"byteLength": len(data)}],
        "bufferViews": views,
        "accessors": accessors,
        "animations": [
            {"name": "rest", **clip("rest")},
            clip("slide"),
            {"name": "spline", **clip("spline", interpolation="CUBICSPLINE")},
        ],
    }
    return document, data


@pytest.fixture(scope="module")
def asset(tmp_path_factory):
    document, data = asset_document()
    document["buffers"][0]["uri"] = "data:application/octet-stream;base64," + base64.b64encode(data).decode()
    path = tmp_path_factory.mktemp("asset") / "slide.gltf"
    path.write_text(json.dumps(document))
    return path


def write(path, **changes):
    document, data = asset_document()
    path.with_name("with space.bin").write_bytes(data)
    document["buffers"][0]["uri"] = "with%20space.bin"
    path.write_text(json.dumps({**document, **changes}))
    return path


def test_clips_are_read_from_the_file(asset, tmp_path):
    clips = list_clips(asset)
    assert [(c.name, c.start_s, c.duration_s, c.moves) for c in clips] == [
        ("rest", 0.5, 1.0, False),
        ("clip_1", 0.5, 1.0, True),
        ("spline", 0.5, 1.0, False),  # its tangents differ, its values do not
    ]
    assert list_clips(write(tmp_path / "beside.gltf")) == clips


def test_a_copy_with_a_single_clip(asset, tmp_path):
    single = tmp_path / "single.glb"
    single.write_bytes(gltf._single_clip(asset, 2))
    assert list_clips(single) == list_clips(asset)[2:]
    assert gltf._single_clip(single, 0) == single.read_bytes()


@needs_assets
def test_clips_of_real_assets():
    fox, pose = list_clips(ASSETS / "khronos_Fox.glb"), list_clips(ASSETS / "raylib_greenman.glb")[0]
    assert [c.name for c in fox] == ["Survey", "Walk", "Run"] and all(c.moves for c in fox)
    assert pose.name == "0_pose" and not pose.moves
    assert len(list_clips(ASSETS / "kaykit_Knight.glb")) == 76
    assert all(c.moves for c in list_clips(ASSETS / "khronos_MorphStressTest.gltf"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"views": 1}, "views is 1; it must be at least 2"),
        ({"times": 1}, "times is 1; it must be at least 2"),
        ({"size": 7}, "size is 7; it must be at least 8"),
        ({"oversample": 4}, "oversample is 4; it must be odd"),
        ({"time_range": (0.5, 0.5)}, r"time_range is \(0.5, 0.5\); it must rise"),
        ({"fov_deg": 180.0}, "fov_deg is 180.0; it must lie between"),
        ({"background": (0.0, 0.0, 255.0)}, "background is .*; it must lie in"),
        ({"clip": "run"}, "clip is 'run'; .* has rest, clip_1, spline, or an index from 0 to 2"),
        ({"clip": 3}, "clip is 3; .* has rest"),
    ],
)
def test_bad_arguments(asset, changes, said):
    with pytest.raises(ValueError, match=said):
        render_asset(**{"path": asset, "views": 2, "times": 2, "size": 8, **changes})


def test_bad_files(tmp_path):
    for content in b"not glTF", b"glTF", b"[1]", b'{"asset": {"version": "1.0"}}':
        (tmp_path / "bad.glb").write_bytes(content)
        with pytest.raises(ValueError, match=r"must be a complete glTF 2.0 file"):
            list_clips(tmp_path / "bad.glb")
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        list_clips(tmp_path / "none.glb")
    with pytest.raises(FileNotFoundError, match=r"needs '.*missing.png'"):
        list_clips(write(tmp_path / "a.gltf", images=[{"uri": "missing.png"}]))
    with pytest.raises(ValueError, match="holds no animation"):
        render_asset(write(tmp_path / "b.gltf", animations=[]), 2, 2, 8)
    with pytest.raises(ValueError, match="in which nothing moves"):
        render_asset(write(tmp_path / "c.gltf", animations=asset_document()[0]["animations"][:1]), 2, 2, 8)


def test_blender_missing_or_failing(asset, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="There is no Blender at") as error:
        render_asset(asset, 2, 2, 8, blender_python=tmp_path / "python")
    assert BLENDER_ENVIRONMENT in str(error.value)
    monkeypatch.setenv("FOURD_BLENDER_PYTHON", str(tmp_path / "elsewhere"))
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        render_asset(asset, 2, 2, 8)
    with pytest.raises(RuntimeError, match=r"slide.gltf'; it said: ModuleNotFoundError: No module named 'bpy'"):
        render_asset(asset, 2, 2, 8, blender_python=sys.executable)


def test_srgb_has_its_published_values():
    linear = torch.tensor([-1.0, 0.0, 0.0031308, 0.2140411, 1.0, 2.0])
    assert_close(gltf._srgb(linear), torch.tensor([0.0, 0.0, 0.04045, 0.5, 1.0, 1.0]), atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def rendered(asset):
    return render_asset(asset, 3, 4, 32, time_range=(0.25, 1.0), elevation_deg=15.0, fov_deg=40.0)


@pytest.fixture(scope="module")
def exact(rendered):
    """The same scene from the analytic renderer."""
    fraction = torch.linspace(0.25, 1.0, 4)[:, None]
    box = torch.tensor(SLIDE_FROM) * (1 - fraction) + torch.tensor(SLIDE_TO) * fraction
    middles = torch.stack([box, torch.tensor(POST_AT).expand(4, 3)], 1)
    halves = torch.tensor([CUBE_HALF, POST_HALF])
    corners = (middles[:, :, None] + halves[:, None] * torch.from_numpy(CUBE)).reshape(-1, 3)
    centre = (corners.amin(0) + corners.amax(0)) / 2
    scale = 1 / (corners - centre).norm(dim=1).max()
    linear = torch.diag_embed(halves * scale).expand(4, 2, 3, 3)
    to_world = torch.cat([linear, ((middles - centre) * scale)[..., None]], -1)[None]
    white, light = torch.ones(1, 2, 6, 3), torch.tensor([[0.0, 1.0, 0.0]])
    objects = analytic_renderer.MovingObjects(to_world, 0, white, torch.zeros(2), light, torch.ones(1, 2, 3))
    return analytic_renderer.render(objects, rendered.c2w, rendered.fov_deg, (32, 32), antialias=5)


@needs_blender
def test_geometry_is_exact(rendered, exact):
    """Times, unit ball, cameras, depth along the axis, flow and visibility: each would break this."""
    assert_close(rendered.alpha, exact.alpha, atol=0.041, rtol=0)  # one ray of 25 may graze an edge
    assert (rendered.alpha - exact.alpha).abs().mean() < 1e-4
    assert_close(rendered.depth, exact.depth, atol=1e-4, rtol=0)
    assert_close(rendered.flow, exact.flow, atol=1e-3, rtol=0)
    agree = rendered.visible == exact.visible
    assert (~exact.visible).sum() > 50 and agree.float().mean() > 0.99
    assert agree[~exact.visible].float().mean() > 0.9


@needs_blender
def test_colours(rendered):
    rgb, solid = rendered.rgb, (rendered.alpha == 1).expand_as(rendered.rgb)
    assert rgb.min() >= 0 and rgb.max() <= 1
    assert (rgb[(rendered.alpha == 0).expand_as(rgb)] == 1).all()
    red, green, blue = (torch.where(solid, rgb, 0.0)[:, :, :, i] for i in range(3))
    assert ((red > 0.5) & (green < 0.35)).sum() > 500 and ((green > 0.4) & (red < 0.35)).sum() > 200
    assert (blue < 0.5).all()
    assert ((rgb[:, :, 1:] - rgb[:, :, :-1]).abs().mean((0, 1, 3, 4, 5)) > 0.005).all()


@needs_blender
def test_the_same_call_gives_the_same_numbers_on_any_background(asset, rendered):
    black = render_asset(
        asset, 3, 4, 32, "clip_1", time_range=(0.25, 1.0), elevation_deg=15.0, fov_deg=40.0, background=(0.0, 0.0, 0.0)
    )
    assert_close(black.rgb + 1 - black.alpha, rendered.rgb, atol=1e-6, rtol=0)
    assert torch.equal(black.depth, rendered.depth) and torch.equal(black.alpha, rendered.alpha)


@needs_blender
@needs_assets
@pytest.mark.parametrize(
    ("name", "clip", "colour"),
    [
        ("khronos_Fox.glb", "Run", (0.72, 0.42, 0.18)),  # a skin
        ("khronos_MorphStressTest.gltf", "TheWave", (0.8, 0.2, 0.55)),  # morph targets
        ("kenney_character/character.glb", "walk", (0.5, 0.3, 0.8)),  # nodes; a texture beside the file
    ],
)
def test_real_assets_agree_between_views(name, clip, colour):
    record = render_asset(ASSETS / name, 2, 3, 48, clip, azimuth_sweep_deg=20.0, time_range=(0.0, 0.7))
    alpha, depth, rgb = record.alpha[0], record.depth[0, :, :, 0], record.rgb[0]
    assert alpha[..., 0, :].max() == alpha[..., :, 0].max() == 0  # in frame
    assert (rgb[:, 0] - rgb[:, 1]).abs().mean() > 0.005
    assert (rgb - torch.tensor(colour)[:, None, None]).abs().amax(2).min() < 0.12
    assert ((depth > 0) == (alpha[:, :, 0] > 0.5)).float().mean() > 0.98
    origins, directions = rays(record.c2w[0], record.fov_deg, (48, 48))
    for t in range(3):
        hit = depth[0, t] > 0
        points = origins[0] + depth[0, t][hit][:, None] * directions[0][hit]
        assert points.norm(dim=-1).max() <= 1 + 1e-4
        xy, expected = project(points, record.c2w[0, 1], record.fov_deg, (48, 48))
        x, y = xy.long().clamp(0, 47).unbind(-1)
        found = depth[1, t][y, x]
        on_object, behind = found > 0, found < expected + 0.05
        assert on_object.float().mean() > 0.85 and behind.float().mean() > 0.9
        assert ((found - expected).abs() < 0.05)[on_object].float().mean() > 0.7
