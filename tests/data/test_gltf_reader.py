"""What is read from a .gltf or .glb: against values worked out by hand, other readers, and files that are damaged."""

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from gltf_files import CUBE, QUAD, QUAD_FACES, GltfFile, asset_document, glb, one_mesh, write_gltf

from fourd_minimal.data.assets.document import Document
from fourd_minimal.data.assets.reader import read_asset
from fourd_minimal.data.gltf import list_clips, render_asset

SHARED = Path(__file__).parents[3] / "shared/data"
INDEX = SHARED / "characters/INDEX.json"
needs_characters = pytest.mark.skipif(not INDEX.is_file(), reason="the characters of shared/data are not here")


def document(file: GltfFile, path: Path) -> Document:
    return Document(file.save(path / "a.glb"))


def test_a_file_is_the_same_with_its_buffer_inside_or_beside(tmp_path):
    written, data = asset_document()
    (tmp_path / "with space.bin").write_bytes(data)
    written["buffers"][0]["uri"] = "with%20space.bin"
    (tmp_path / "beside.gltf").write_text(json.dumps(written), encoding="utf-8")
    expected = read_asset(write_gltf(tmp_path / "a.glb"))
    for path in (tmp_path / "beside.gltf", write_gltf(tmp_path / "inside.gltf")):
        found = read_asset(path)
        assert np.array_equal(found.positions, expected.positions) and np.array_equal(found.normals, expected.normals)
        assert torch.equal(found.surface.faces, expected.surface.faces)
        assert torch.equal(found.surface.colours, expected.surface.colours)
        assert list_clips(path) == list_clips(tmp_path / "a.glb")


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (np.uint8([[0, 51, 255]]), [0.0, 0.2, 1.0]),
        (np.uint16([[0, 13107, 65535]]), [0.0, 0.2, 1.0]),
        (np.int8([[-128, -127, 127]]), [-1.0, -1.0, 1.0]),
        (np.int16([[-32768, -32767, 16383]]), [-1.0, -1.0, 16383 / 32767]),
    ],
)
def test_integers_that_stand_for_fractions(stored, expected, tmp_path):
    file = GltfFile()
    whole, part = file.buffer.add(stored), file.buffer.add(stored, normalized=True)
    found = document(file, tmp_path)
    assert np.allclose(found.accessor(part)[0], expected, atol=1e-7)
    assert np.array_equal(found.accessor(whole), stored)


def test_sparse_accessors(tmp_path):
    """Rows 1 and 3 are replaced, of stored values and of the zeros that stand for values that are not stored."""
    file = GltfFile()
    stored = file.buffer.add(np.arange(8.0).reshape(4, 2))
    indices = dict(bufferView=file.buffer.view(np.uint8([1, 3]).tobytes()), componentType=5121)
    values = dict(bufferView=file.buffer.view(np.float32([[50, 51], [70, 71]]).tobytes()))
    sparse = dict(count=2, indices=indices, values=values)
    file.buffer.accessors[stored]["sparse"] = sparse
    file.buffer.accessors.append(dict(componentType=5126, count=4, type="VEC2", sparse=sparse))
    found = document(file, tmp_path)
    assert found.accessor(stored).tolist() == [[0, 1], [50, 51], [4, 5], [70, 71]]
    assert found.accessor(stored + 1).tolist() == [[0, 0], [50, 51], [0, 0], [70, 71]]


FIVE = np.random.default_rng(0).standard_normal((5, 3))


@pytest.mark.parametrize(
    ("mode", "indices", "expected"),
    [
        (4, None, [(0, 1, 2)]),  # what is left over is not drawn
        (4, [0, 1, 2, 2, 2, 3, 4, 3, 2], [(0, 1, 2), (4, 3, 2)]),  # nor what has no area
        (5, None, [(0, 1, 2), (1, 3, 2), (2, 3, 4)]),  # section 3.7.2.1: v_i, v_(i + 1 + i % 2), v_(i + 2 - i % 2)
        (6, None, [(1, 2, 0), (2, 3, 0), (3, 4, 0)]),
    ],
)
def test_lists_strips_and_fans(mode, indices, expected, tmp_path):
    normals = np.tile([0.0, 0, 1], (5, 1))
    found = read_asset(one_mesh(FIVE, indices, mode=mode, NORMAL=normals).save(tmp_path / "a.glb")).surface.faces
    as_cycles = [tuple(np.roll(face, -int(np.argmin(face))).tolist()) for face in found]
    assert as_cycles == [tuple(np.roll(face, -int(np.argmin(face))).tolist()) for face in expected]


def test_normals_that_are_left_out_are_flat(tmp_path):
    found = read_asset(one_mesh(np.float32([(0, 0, 0), (2, 0, 0), (0, 0, 3)]), [0, 1, 2]).save(tmp_path / "a.glb"))
    assert np.allclose(found.normals, [[0, -1, 0]] * 3)  # counterclockwise as seen from below


def test_quantized_positions(tmp_path):
    """KHR_mesh_quantization: whole numbers that the node's scale makes small, and normals of bytes."""
    normals = np.int8([[0, 0, 127, 0]] * 4)
    file = GltfFile()
    normal = file.buffer.view(normals.tobytes(), byteStride=4)
    file.buffer.accessors.append(dict(bufferView=normal, componentType=5120, count=4, type="VEC3", normalized=True))
    positions = np.zeros((4, 4), np.int16)
    positions[:, :3] = QUAD * 30000
    file.buffer.accessors.append(
        dict(bufferView=file.buffer.view(positions.tobytes(), byteStride=8), componentType=5122, count=4, type="VEC3")
    )
    file.node(mesh=file.mesh(1, QUAD_FACES, NORMAL=0), scale=[1 / 30000] * 3)
    path = file.save(tmp_path / "a.glb", extensionsRequired=["KHR_mesh_quantization"])
    found = read_asset(path)
    assert np.array_equal(found.positions, QUAD * 30000) and np.allclose(found.normals, [0, 0, 1])


RED = np.full((1, 1, 3), (255, 0, 0), np.uint8)
CORNERS = np.float32([(0, 0), (1, 0), (1, 1), (0, 1)])


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        # "utilizes only the lower left quadrant of the source image, rotated clockwise 90 degrees" (its first example)
        (dict(offset=[0, 1], rotation=np.pi / 2, scale=[0.5, 0.5]), [(0, 1), (0, 0.5), (0.5, 0.5), (0.5, 1)]),
        # "inverts the T axis, effectively defining a bottom-left origin" (its second)
        (dict(offset=[0, 1], scale=[1, -1]), [(0, 1), (1, 1), (1, 0), (0, 0)]),
        # by hand: (3 u, v) turned by atan2(3, 4), then moved
        (
            dict(offset=[0.1, 0.2], rotation=float(np.arctan2(3, 4)), scale=[3, 1]),
            [(0.1, 0.2), (0.8 * 3 + 0.1, -0.6 * 3 + 0.2), (2.4 + 0.6 + 0.1, -1.8 + 0.8 + 0.2), (0.6 + 0.1, 0.8 + 0.2)],
        ),
    ],
)
def test_texture_transforms(transform, expected, tmp_path):
    """KHR_texture_transform; its `texCoord` counts before the plain one."""
    file = GltfFile()
    info = dict(texCoord=0, extensions={"KHR_texture_transform": dict(texCoord=1, **transform)})
    material = file.material(pixels=RED, info=info)
    normals = np.tile([0.0, 0, 1], (4, 1))
    file.node(mesh=file.mesh(QUAD, QUAD_FACES, material, NORMAL=normals, TEXCOORD_0=CORNERS * 9, TEXCOORD_1=CORNERS))
    assert np.allclose(read_asset(file.save(tmp_path / "a.glb")).surface.uv, expected, atol=1e-6)


def test_colours_multiply(tmp_path):
    """A vertex colour of three numbers is opaque; factor times vertex colour, clipped."""
    file = GltfFile()
    normals = np.tile([0.0, 0, 1], (4, 1))
    given = np.float32([(1, 0.5, 0.25), (0.5, 0.5, 0.5), (0, 0, 0), (1, 1, 3)])
    file.node(mesh=file.mesh(QUAD, QUAD_FACES, file.material((0.5, 1, 1, 0.25)), NORMAL=normals, COLOR_0=given))
    expected = [(0.5, 0.5, 0.25, 0.25), (0.25, 0.5, 0.5, 0.25), (0, 0, 0, 0.25), (0.5, 1, 1, 0.25)]
    assert np.allclose(read_asset(file.save(tmp_path / "a.glb")).surface.colours, expected)


def test_specular_glossiness_and_unlit(tmp_path):
    file = GltfFile()
    gloss = dict(diffuseFactor=[0.2, 0.4, 0.6, 1], diffuseTexture=dict(index=file.texture(RED)))
    extensions = {"KHR_materials_pbrSpecularGlossiness": gloss, "KHR_materials_unlit": {}}
    material = file.material((1, 1, 1, 1), extensions=extensions, emissiveFactor=[1, 1, 1])
    file.node(mesh=file.mesh(QUAD, QUAD_FACES, material, TEXCOORD_0=CORNERS))
    found = read_asset(file.save(tmp_path / "a.glb"))
    assert (
        np.allclose(found.surface.colours, [0.2, 0.4, 0.6, 1])
        and not found.surface.lit.any()
        and not found.surface.glow.any()
    )
    assert (found.surface.texture == 1).all() and found.surface.texels[1:].tolist() == [[255, 0, 0, 255]]


def one_picture(path: Path, largest: int = 512, **image) -> np.ndarray:
    """What a picture reads as, in a material."""
    file = GltfFile()
    index = file.image(**image)
    texture = dict(source=index)
    if image.get("form") == "WEBP":
        texture = dict(extensions={"EXT_texture_webp": dict(source=index)})
    base = dict(baseColorTexture=dict(index=file.add("textures", **texture)))
    file.node(mesh=file.mesh(QUAD, QUAD_FACES, file.add("materials", pbrMetallicRoughness=base), TEXCOORD_0=CORNERS))
    found = read_asset(file.save(path / "a.glb"), largest).surface
    start, h, w = found.sheets[1, :3].tolist()
    return found.texels[start:].reshape(h, w, 4).numpy()


def test_pictures(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (5, 7, 4)).astype(np.uint8)
    assert np.array_equal(one_picture(tmp_path, pixels=colours), colours)
    opaque = np.concatenate([colours[..., :3], np.full((5, 7, 1), 255, np.uint8)], -1)
    assert np.array_equal(one_picture(tmp_path, pixels=colours[..., :3], form="WEBP", lossless=True), opaque)
    grey = one_picture(tmp_path, pixels=np.uint16([[0, 257 * 100, 65535]]))
    assert grey[0, :, :3].tolist() == [[0, 0, 0], [100, 100, 100], [255, 255, 255]]


def test_a_large_picture_becomes_smaller_and_keeps_colours_that_alpha_hides(tmp_path):
    """Opaque materials do not look at alpha, which may be anything then."""
    pixels = np.zeros((40, 80, 4), np.uint8)
    pixels[:, :40, :3], pixels[:, 40:, :3] = (200, 100, 50), (10, 20, 30)
    found = one_picture(tmp_path, 20, pixels=pixels)
    assert found.shape == (10, 20, 4)
    assert (found[:, :10] == (200, 100, 50, 0)).all() and (found[:, 10:] == (10, 20, 30, 0)).all()


def test_what_is_said_to_blend_and_has_nothing_to_blend_is_opaque(tmp_path):
    half = np.full((1, 1, 4), (255, 0, 0, 128), np.uint8)
    for colour, pixels, expected in (((1, 1, 1, 1), None, 0), ((1, 1, 1, 0.5), None, 2), ((1, 1, 1, 1), half, 2)):
        file = GltfFile()
        material = file.material(colour, pixels, alphaMode="BLEND")
        file.node(mesh=file.mesh(QUAD, QUAD_FACES, material, TEXCOORD_0=CORNERS))
        assert (read_asset(file.save(tmp_path / "a.glb")).surface.mode == expected).all()


def test_the_shown_scene_decides(tmp_path):
    file = GltfFile()
    mesh = file.mesh(QUAD, QUAD_FACES)
    for children in ([1], [], [3], []):
        file.node(mesh=mesh, children=children)
    file.node(mesh=mesh, name="wall_COLLIDER")
    nodes = lambda **changes: [p.node for p in read_asset(file.save(tmp_path / "a.glb", **changes)).parts]  # noqa: E731
    assert nodes() == [0, 1, 2, 3]  # without scenes, all
    scenes = [dict(nodes=[0, 4]), dict(nodes=[3, 3])]
    assert nodes(scenes=scenes) == [0, 1]
    assert nodes(scenes=scenes, scene=1) == [3]


def skinned(joints, weights, **more) -> GltfFile:
    """Three vertices that follow four joints."""
    sets = {f"JOINTS_{i}": np.asarray(j) for i, j in enumerate(joints)}
    sets |= {f"WEIGHTS_{i}": np.float32(w) for i, w in enumerate(weights)}
    file = one_mesh(np.eye(3), [0, 1, 2], dict(skin=0), NORMAL=np.eye(3), **sets)
    file.add("skins", joints=[file.node() for _ in range(4)], **more)
    return file


def test_weights_of_all_sets_count_and_add_up_to_one(tmp_path):
    """JOINTS_1 too; the same joint twice; weights that do not add up to 1; none at all, or not a number."""
    joints = [
        np.uint8([(0, 1, 2, 3), (1, 1, 0, 0), (2, 0, 0, 0)]),
        np.uint8([(0, 0, 0, 0), (3, 0, 0, 0), (9, 0, 0, 0)]),
    ]
    weights = [
        [(0.1, 0.2, 0.3, 0.4), (0.5, 0.5, 0, 0), (np.nan, 0, 0, 0)],
        [(0, 0, 0, 0), (1, 0, 0, 0), (0, 0, 0, 0)],
    ]
    (part,) = read_asset(skinned(joints, weights).save(tmp_path / "a.glb")).parts
    found = np.zeros((3, 4))
    found[:, part.joints] = part.weights
    assert np.allclose(found, [(0.1, 0.2, 0.3, 0.4), (0, 0.5, 0, 0.5), (0, 0, 1, 0)])


def test_draco(tmp_path):
    """Encoded by Draco itself; as exact as its 14 bits."""
    DracoPy = pytest.importorskip("DracoPy")
    rng = np.random.default_rng(0)
    points, faces = (
        CUBE + rng.uniform(-0.2, 0.2, (8, 3)).astype(np.float32),
        np.uint32([(0, 1, 3), (4, 6, 7), (2, 7, 5)]),
    )
    uv = rng.random((8, 2))
    data = DracoPy.encode(points, faces, quantization_bits=14, tex_coord=uv, preserve_order=True)
    decoded = DracoPy.decode(data)
    ids = {a["attribute_type"]: a["unique_id"] for a in decoded.attributes}  # 0 positions, 3 texture coordinates
    file = GltfFile()
    file.buffer.accessors.append(dict(componentType=5126, count=8, type="VEC3"))
    file.buffer.accessors.append(dict(componentType=5126, count=8, type="VEC2"))
    file.buffer.accessors.append(dict(componentType=5125, count=9, type="SCALAR"))
    draco = dict(bufferView=file.buffer.view(data), attributes={"POSITION": ids[0], "TEXCOORD_0": ids[3]})
    primitive = dict(attributes={"POSITION": 0, "TEXCOORD_0": 1}, indices=2, material=file.material(pixels=RED))
    extensions = {"KHR_draco_mesh_compression": draco}
    file.node(mesh=file.add("meshes", primitives=[dict(primitive, extensions=extensions)]))
    found = read_asset(file.save(tmp_path / "a.glb", extensionsRequired=list(extensions)))
    assert found.positions[found.surface.faces.numpy()].shape == (3, 3, 3)
    ours = found.positions[found.surface.faces.numpy()].mean(1)
    theirs = points[faces.astype(int)].mean(1)
    assert np.abs(ours[:, None] - theirs[None]).max(-1).min(1).max() < 1e-3
    for place, there in zip(found.positions, found.surface.uv.numpy(), strict=True):
        nearest = np.abs(points - place).max(1).argmin()
        assert np.abs(points[nearest] - place).max() < 1e-3 and np.abs(uv[nearest] - there).max() < 1e-2


@needs_characters
@pytest.mark.parametrize(
    "name", ["assets/khronos_Fox.glb", "characters/kenney_mini_arena/kenney_soldier/character-soldier.glb"]
)
def test_trimesh_reads_the_same_mesh(name):
    """Positions, normals, texture coordinates and triangles; an independent reader."""
    trimesh = pytest.importorskip("trimesh")
    path = SHARED / name
    found = read_asset(path)
    scene = trimesh.load(path, process=False)
    meshes = list(scene.geometry.values())
    triangles = np.concatenate([m.triangles for m in meshes])
    ours = found.positions[found.surface.faces.numpy()]
    order = lambda t: np.lexsort(np.round(t.reshape(len(t), -1), 5).T)  # noqa: E731
    assert np.allclose(ours[order(ours)], triangles[order(triangles)], atol=1e-6)
    uv = np.concatenate([m.visual.uv[m.faces] for m in meshes])
    uv[..., 1] = 1 - uv[..., 1]  # trimesh turns v up
    assert np.allclose(found.surface.uv[found.surface.faces][order(ours)], uv[order(triangles)], atol=1e-6)
    if "NORMAL" in Document(path).all("meshes")[0]["primitives"][0]["attributes"]:
        normals = np.concatenate([m.vertex_normals[m.faces] for m in meshes])
        assert np.allclose(
            found.normals[found.surface.faces.numpy()][order(ours)], normals[order(triangles)], atol=1e-4
        )


# Files that are damaged: each ends in one sentence that names it.


def changed(**changes):
    """The box and the post with other lists."""
    return lambda: glb({**asset_document()[0], **changes}, asset_document()[1])


def edited(*keys, to):
    """The box and the post with another value at a place of the JSON; `...` deletes it."""

    def make():
        written, data = asset_document()
        at = written
        for key in keys[:-1]:
            at = at[key]
        if to is ...:
            del at[keys[-1]]
        else:
            at[keys[-1]] = to
        return glb(written, data)

    return make


def made(file: GltfFile, **changes):
    return lambda: glb({**file.document(), **changes}, file.buffer.data)


def header(w: int, h: int) -> bytes:
    """A PNG that says how large it is, and ends."""
    body = struct.pack(">II5B", w, h, 8, 6, 0, 0, 0)
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))  # noqa: E731
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", body) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def pictured(data: bytes | None = None, **image):
    """A square with a picture."""
    file = GltfFile()
    entry = image or dict(bufferView=file.buffer.view(data), mimeType="image/png")
    base = dict(baseColorTexture=dict(index=file.add("textures", source=file.add("images", **entry))))
    file.node(mesh=file.mesh(QUAD, QUAD_FACES, file.add("materials", pbrMetallicRoughness=base), TEXCOORD_0=CORNERS))
    return made(file)


def with_clip(values, times=(0, 1), path="translation", interpolation="LINEAR", **sampler):
    file = one_mesh()
    file.clip({(0, path): values}, times, interpolation=interpolation)
    file.lists["animations"][0]["samplers"][0].update(sampler)
    return made(file)


GOOD = glb(*asset_document())
TWO = one_mesh()
HUGE = GltfFile()
HUGE.buffer.accessors.append(dict(componentType=5126, count=1 << 40, type="VEC3"))
HUGE.node(mesh=HUGE.mesh(0))
COMPRESSED = one_mesh()
COMPRESSED.lists["meshes"][0]["primitives"][0]["extensions"] = {
    "KHR_draco_mesh_compression": dict(bufferView=0, attributes=dict(POSITION=0))
}
NO_WEIGHTS = one_mesh(np.eye(3), [0, 1, 2], dict(skin=0), JOINTS_0=np.zeros((3, 4), np.uint8))

CLIPS_TOO = {  # `list_clips` refuses these, too
    "nothing": lambda: b"",
    "four bytes": lambda: b"glTF",
    "cut in its JSON": lambda: GOOD[:300],
    "cut in its buffer": lambda: GOOD[:-40],
    "a list": lambda: b"[1]",
    "a list nested deeply": lambda: b"[" * 100000,
    "version 1": lambda: b'{"asset": {"version": "1.0"}}',
    "a view beyond its buffer": edited("bufferViews", 3, "byteLength", to=1 << 20),
    "a negative offset": edited("bufferViews", 3, "byteOffset", to=-4),
    "a string for a count": edited("accessors", 3, "count", to="2"),
    "no count": edited("accessors", 3, "count", to=...),
    "a type that does not exist": edited("accessors", 3, "type", to="VEC9"),
    "a component that does not exist": edited("accessors", 3, "componentType", to=5124),
    "an animated node that is not there": edited("animations", 0, "channels", 0, "target", "node", to=9),
    "a sampler that is not there": edited("animations", 0, "channels", 0, "sampler", to=-1),
    "a buffer that is missing": edited("buffers", 0, "uri", to="none.bin"),
    "a buffer in a folder above": edited("buffers", 0, "uri", to="a/../../b"),
    "a buffer at an absolute path": edited("buffers", 0, "uri", to="/etc/passwd"),
    "a buffer in no base64": edited("buffers", 0, "uri", to="data:nothing"),
    "keys whose times fall": with_clip([(0, 0, 0), (1, 0, 0)], (1, 0)),
    "values that are not finite": with_clip([(0, 0, 0), (np.inf, 0, 0)]),
    "three values for two keys": with_clip([(0, 0, 0)] * 3),
    "a rotation of three numbers": with_clip([(0, 0, 0)] * 2, path="rotation"),
    "an interpolation that does not exist": with_clip([(0, 0, 0), (1, 0, 0)], interpolation="BEZIER"),
}
DAMAGED = CLIPS_TOO | {
    "nodes that are numbers": changed(nodes=[1, 2]),
    "an accessor beyond its view": edited("accessors", 0, "count", to=9),
    "an index below zero": edited("nodes", 0, "mesh", to=-1),
    "an index that is a string": edited("nodes", 0, "mesh", to="0"),
    "a scene that is not there": changed(scene=4),
    "a translation of two numbers": edited("nodes", 0, "translation", to=[1, 2]),
    "a scale that is not finite": edited("nodes", 0, "scale", to=[1, 1, float("nan")]),
    "nodes in a circle": made(TWO, nodes=[dict(mesh=0), dict(children=[2]), dict(children=[1])]),
    "two parents": made(TWO, nodes=[dict(mesh=0, children=[2]), dict(children=[2]), dict()]),
    "positions that are not numbers": made(one_mesh(np.where(np.eye(4, 3), np.nan, QUAD))),
    "triangles beyond the vertices": made(one_mesh(QUAD, [0, 1, 4])),
    "no triangles": made(one_mesh(mode=0)),
    "fewer colours than vertices": made(one_mesh(COLOR_0=np.ones((3, 4)), NORMAL=QUAD)),
    "a morph target of another mesh": made(one_mesh(targets=[dict(POSITION=1)], NORMAL=QUAD[:3])),
    "a count without data": made(HUGE),
    "a picture of 81 million pixels": pictured(header(9000, 9000)),
    "a picture cut short": pictured(header(64, 64)),
    "a picture that is none": pictured(b"GIF89 no"),
    "an extension that is not read": changed(extensionsRequired=["EXT_meshopt_compression"]),
    "Draco that is none": made(COMPRESSED),
    "an empty animation": changed(animations=[dict(channels=[], samplers=[])]),
    "a joint out of range": made(skinned([np.uint8([(0, 1, 2, 4)] * 3)], [np.full((3, 4), 0.25)])),
    "joints without weights": made(NO_WEIGHTS, skins=[dict(joints=[0])]),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_end_in_one_sentence_that_names_them(name, tmp_path):
    path = tmp_path / "damaged.glb"
    path.write_bytes(DAMAGED[name]())
    for call in [lambda: render_asset(path, 2, 2, 8)] + [lambda: list_clips(path)] * (name in CLIPS_TOO):
        with pytest.raises((ValueError, FileNotFoundError)) as error:
            call()
        message = str(error.value)
        assert "damaged.glb" in message and "\n" not in message and len(message) < 700
        assert "Error(" not in message and "object at" not in message, message


def test_a_long_chain_of_nodes_is_read_in_no_time(tmp_path):
    """20,000 nodes, each the child of the one before; each once, though the scene names them all."""
    file = GltfFile()
    mesh = file.mesh(QUAD, QUAD_FACES)
    n = 20000
    nodes = [dict(children=[i + 1]) for i in range(n - 1)] + [dict(mesh=mesh)]
    found = read_asset(file.save(tmp_path / "a.glb", nodes=nodes, scenes=[dict(nodes=list(range(n)))]))
    assert len(found.parts) == 1 and len(found.levels) == n - 1
