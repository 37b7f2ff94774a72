"""Clips, node trees, morph targets and skins at given times, against scipy and values worked out by hand."""

import numpy as np
import pytest
from gltf_files import GltfFile, one_mesh
from numpy.testing import assert_allclose

from fourd_minimal.data.assets.animation import Track, sample_tracks
from fourd_minimal.data.assets.pose import matrices, node_transforms, pose
from fourd_minimal.data.assets.reader import read_asset

interpolate = pytest.importorskip("scipy.interpolate")
spatial = pytest.importorskip("scipy.spatial.transform")

KEYS = np.array([0.25, 0.5, 1.25, 2.0])
TIMES = np.linspace(0.25, 2.0, 40)
RNG = np.random.default_rng(0)


def track(path, values, interpolation="LINEAR", keys=KEYS):
    """Of nodes 0, 1, ...; values (k, nodes, width) or (k, 3, nodes, width)."""
    values = np.asarray(values, np.float32)
    return Track(path, interpolation, keys, list(range(values.shape[-2])), values)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_linear():
    values = RNG.standard_normal((4, 2, 3))
    expected = interpolate.interp1d(KEYS, values, axis=0)(TIMES)
    assert_allclose(sample_tracks([track("translation", values)], TIMES), expected, atol=1e-6)


def test_step():
    values = RNG.standard_normal((4, 2, 3))
    expected = interpolate.interp1d(KEYS, values, axis=0, kind="previous")(TIMES)
    assert_allclose(sample_tracks([track("scale", values, "STEP")], TIMES), expected, atol=1e-6)


@pytest.mark.parametrize(("path", "width"), [("translation", 3), ("rotation", 4), ("weights", 5)])
def test_cubic_spline(path, width):
    """Tangents are per second, so scipy's Hermite spline is the same thing; rotations are normalised afterwards."""
    values = RNG.standard_normal((4, 3, 2, width))
    pieces = [
        interpolate.CubicHermiteSpline(KEYS[i : i + 2], values[i : i + 2, 1], [values[i, 2], values[i + 1, 0]])
        for i in range(3)
    ]
    expected = np.stack([pieces[min(2, np.searchsorted(KEYS, t, side="right") - 1)](t) for t in TIMES])
    expected = unit(expected) if path == "rotation" else expected
    assert_allclose(sample_tracks([track(path, values, "CUBICSPLINE")], TIMES), expected, atol=1e-5)


def test_rotations_follow_the_shorter_arc():
    values = unit(RNG.standard_normal((4, 1, 4)))
    values[2] = -values[1] + 1e-4 * values[2]  # nearly the same rotation, on the other side of the sphere
    found = sample_tracks([track("rotation", values)], TIMES)[:, 0]
    expected = spatial.Slerp(KEYS, spatial.Rotation.from_quat(values[:, 0]))(TIMES).as_matrix()
    assert_allclose(spatial.Rotation.from_quat(found).as_matrix(), expected, atol=1e-3)
    assert_allclose(np.linalg.norm(found, axis=-1), 1, atol=1e-6)


def test_one_key_and_keys_at_one_time():
    single = track("scale", [[(1, 2, 3)]], keys=np.array([0.5]))
    assert_allclose(sample_tracks([single], np.array([0.0, 0.5, 3.0])), [[(1, 2, 3)]] * 3)
    jump = track("scale", [[(0, 0, 0)], [(1, 1, 1)], [(5, 5, 5)]], keys=np.array([0.0, 1.0, 1.0]))
    assert_allclose(sample_tracks([jump], np.array([0.5, 1.5]))[:, 0, 0], [0.5, 5])


def test_tracks_with_keys_of_their_own_are_sampled_together():
    tracks = [track("rotation", unit(RNG.standard_normal((4, n, 4))), keys=KEYS + n) for n in (1, 2)]
    together = sample_tracks(tracks, TIMES)
    assert_allclose(together, np.concatenate([sample_tracks([t], TIMES) for t in tracks], 1), atol=1e-12)


def test_matrices():
    """Scale, then rotate, then move; rotations need not be normalised."""
    place, turn, scale = RNG.standard_normal((5, 3)), RNG.standard_normal((5, 4)), RNG.standard_normal((5, 3))
    found = matrices(place, turn, scale)
    rotation = spatial.Rotation.from_quat(turn).as_matrix()
    for i in range(5):
        assert_allclose(found[i, :3, :3], rotation[i] @ np.diag(scale[i]), atol=1e-9)
        assert_allclose(found[i, :, 3], [*place[i], 1])


def affine(linear, place):
    return np.block([[np.asarray(linear), np.asarray(place, float)[:, None]], [np.zeros((1, 3)), np.ones((1, 1))]])


SHEAR = np.array([[1, 0.5, 0], [0, 2, 0], [0, 0, 1.0]])


def tree(tmp_path, **last):
    """A matrix, below it a node that a clip moves, below it a node with a mesh; stored children first."""
    file = GltfFile()
    leaf = file.node(mesh=file.mesh(np.eye(3), [0, 1, 2]), **(last or dict(translation=[0, 0, 5])))
    middle = file.node(children=[leaf], scale=[2, 2, 2])
    file.node(children=[middle], matrix=affine(SHEAR, (1, 2, 3)).T.reshape(-1).tolist())
    file.clip({(middle, "rotation"): [(0, 0, 0, 1), (0, 0, 1, 0)]}, (0, 1))
    return read_asset(file.save(tmp_path / "a.glb"))


def test_trees_of_nodes(tmp_path):
    found = tree(tmp_path)
    world, _ = node_transforms(found, found.clips[0].tracks, np.array([0.0, 0.5]))
    for t, turn in enumerate((np.eye(3), [[0, -1, 0], [1, 0, 0], [0, 0, 1]])):  # half of 180 degrees about z
        expected = affine(SHEAR, (1, 2, 3)) @ affine(2 * np.array(turn), (0, 0, 0)) @ affine(np.eye(3), (0, 0, 5))
        assert_allclose(world[0, t], expected, atol=1e-6)
    at_rest, _ = node_transforms(found, [], np.zeros(1))
    assert_allclose(at_rest[0, 0], world[0, 0], atol=1e-6)


def test_normals_stay_perpendicular(tmp_path):
    """Under a shear and an uneven scale, they are not turned as positions are."""
    found = tree(tmp_path, scale=[1, 3, 0.2])
    positions, normals, mirrored = pose(found, 0, np.array([0.0, 0.3, 1.0]))
    a, b, c = positions.transpose(1, 0, 2)
    cross = unit(np.cross(b - a, c - a))
    assert_allclose(normals, np.repeat(cross[:, None], 3, 1), atol=1e-5)
    assert not mirrored.any()


def test_mirrored_parts(tmp_path):
    found = tree(tmp_path, scale=[1, -1, 1])
    positions, normals, mirrored = pose(found, 0, np.array([0.0, 0.3]))
    a, b, c = positions.transpose(1, 0, 2)
    assert mirrored.all()
    assert_allclose(normals, -np.repeat(unit(np.cross(b - a, c - a))[:, None], 3, 1), atol=1e-5)


def test_morph_targets(tmp_path):
    """Displacements add up; weights come from the clip, else from the node, else from the mesh."""
    file = GltfFile()
    base, more = np.eye(3, dtype=np.float32), RNG.standard_normal((2, 3, 3)).astype(np.float32)
    targets = [{"POSITION": file.buffer.add(target)} for target in more]
    mesh = file.mesh(base, [0, 1, 2], targets=targets, NORMAL=np.eye(3))
    file.lists["meshes"][mesh]["weights"] = [0.5, -1]
    file.node(mesh=mesh)
    file.node(mesh=mesh, weights=[0, 2])
    file.clip({(0, "weights"): [0, 0, 1, 4]}, (0, 1))
    found = read_asset(file.save(tmp_path / "a.glb"))
    x = pose(found, 0, np.array([0.0, 0.25])).positions
    assert_allclose(x[:, :3], [base, base + 0.25 * more[0] + more[1]], atol=1e-6)
    assert_allclose(x[:, 3:], [base + 2 * more[1]] * 2, atol=1e-6)
    assert_allclose(pose(found, None, np.zeros(1)).positions[0, :3], base + 0.5 * more[0] - more[1], atol=1e-6)


def test_morph_targets_of_normals(tmp_path):
    file = GltfFile()
    up, targets = np.tile(np.float32([0, 0, 1]), (3, 1)), []
    targets.append({"NORMAL": file.buffer.add(np.tile(np.float32([1, 0, 0]), (3, 1)))})
    file.node(mesh=file.mesh(np.eye(3), [0, 1, 2], targets=targets, NORMAL=up), weights=[1])
    normals = pose(read_asset(file.save(tmp_path / "a.glb")), None, np.zeros(1)).normals
    assert_allclose(normals, [[[0.5**0.5, 0, 0.5**0.5]] * 3], atol=1e-6)


def test_skins_after_morph_targets(tmp_path):
    """(w0 J0 B0 + w1 J1 B1) (x + morph), whatever the mesh's own node says; all four by hand."""
    base = RNG.standard_normal((3, 3)).astype(np.float32)
    step = RNG.standard_normal((3, 3)).astype(np.float32)
    weights = np.float32([(1, 0, 0, 0), (0.25, 0.75, 0, 0), (0.5, 0.5, 0, 0)])
    inverse = np.stack([affine(np.eye(3), (0, -1, 0)), affine(SHEAR, (3, 0, 1))])
    file = GltfFile()
    targets = [{"POSITION": file.buffer.add(step)}]
    binding = dict(JOINTS_0=np.uint8([(0, 1, 0, 0)] * 3), WEIGHTS_0=weights)
    mesh = file.mesh(base, [0, 1, 2], targets=targets, NORMAL=np.eye(3), **binding)
    file.node(mesh=mesh, skin=0, translation=[100, 0, 0], weights=[0.5])
    root = file.node(translation=[0, 1, 0], scale=[2, 2, 2], children=[2])
    file.node()
    file.add("skins", joints=[root, 2], inverseBindMatrices=file.buffer.add(inverse))
    file.clip({(2, "translation"): [(0, 0, 0), (4, 0, 0)]}, (0, 1))
    found = read_asset(file.save(tmp_path / "a.glb"))

    x = np.concatenate([base + 0.5 * step, np.ones((3, 1))], 1)
    joints = [affine(2 * np.eye(3), (0, 1, 0)), affine(2 * np.eye(3), (2, 1, 0))]  # the second has moved by 1, twice
    moves = [joint @ bind for joint, bind in zip(joints, inverse, strict=True)]
    expected = [sum(w * move @ x[i] for w, move in zip(weights[i, :2], moves, strict=True))[:3] for i in range(3)]
    assert_allclose(pose(found, 0, np.array([0.25])).positions[0], expected, atol=1e-5)


def test_a_vertex_of_one_joint_is_a_vertex_of_its_node(tmp_path):
    """Positions, normals and handedness, under an uneven scale that mirrors."""
    place = dict(translation=[1, 2, 3], rotation=[0.6, 0, 0, 0.8], scale=[2, 0.5, -3])
    corners = RNG.standard_normal((3, 3)).astype(np.float32)
    rigid = read_asset(one_mesh(corners, [0, 1, 2], place).save(tmp_path / "a.glb"))
    binding = dict(JOINTS_0=np.zeros((3, 4), np.uint8), WEIGHTS_0=np.float32([(1, 0, 0, 0)] * 3))
    file = one_mesh(corners, [0, 1, 2], dict(skin=0), **binding)
    file.add("skins", joints=[file.node(**place)])
    skinned = read_asset(file.save(tmp_path / "b.glb"))
    for ours, theirs in zip(pose(rigid, None, np.zeros(1)), pose(skinned, None, np.zeros(1)), strict=True):
        assert_allclose(ours, theirs, atol=1e-5)


def test_a_joint_of_scale_zero_hides_what_follows_it(tmp_path):
    found = read_asset(one_mesh(node=dict(scale=[0, 0, 0])).save(tmp_path / "a.glb"))
    positions, normals, _ = pose(found, None, np.zeros(1))
    assert not positions.any() and np.isfinite(normals).all()
