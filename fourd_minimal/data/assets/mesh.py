"""What the meshes of a .gltf or .glb file draw: triangles, materials, skin weights, morph targets.

glTF 2.0, sections 3.7 and 3.9, and of its extensions those that decide what is seen: KHR_texture_transform,
KHR_materials_unlit, KHR_materials_pbrSpecularGlossiness (its diffuse part), KHR_mesh_quantization, EXT_texture_webp,
and KHR_draco_mesh_compression by the package DracoPy. What is constant is folded into vertices: texture transforms into
their coordinates, colour factors into their colours.

Departures: triangles only, no points and lines; normal maps and metalness are ignored, and a glow texture is read with
the coordinates of the colour texture, where there is one.
"""

from dataclasses import dataclass

import numpy as np
import torch

from fourd_minimal.data.assets.document import Document, fractions, numbers
from fourd_minimal.data.assets.surface import BLEND, MASK, OPAQUE, REPEAT, Surface

MOST_VERTICES = 1 << 24
"""Of one asset: one large mesh may be drawn by thousands of nodes."""
USED = ("POSITION", "NORMAL", "COLOR_0", "TEXCOORD_", "JOINTS_", "WEIGHTS_")
"""Attributes that decide what is seen."""
Attributes = dict[str, np.ndarray]
"""Values by an attribute's name, one row a vertex."""


@dataclass
class Part:
    """What one node draws: a run of the asset's vertices."""

    node: int
    vertices: slice
    skin: int | None = None
    joints: np.ndarray | None = None
    """(j,) those of the skin's joints that the part follows."""
    weights: np.ndarray | None = None
    """(n, j) by how much each vertex follows each; rows add up to 1."""
    morphs: np.ndarray | None = None
    """(m, n, 3) displacements of positions."""
    morph_normals: np.ndarray | None = None
    morph_weights: np.ndarray | None = None
    """(m,) where no clip says otherwise."""


class Meshes:
    """Collects what nodes draw: parts, textures, and columns with a row for each vertex or triangle."""

    def __init__(self, document: Document, largest_texture: int):
        self.document, self.largest = document, largest_texture
        self.parts: list[Part] = []
        self.columns: dict[str, list[np.ndarray]] = {}
        self.textures: dict[tuple[int, int, int], tuple[int, np.ndarray]] = {}
        """From an image and how u and v go on beyond it to its number and pixels."""
        self.count = 0

    def surface(self) -> Surface:
        """Everything that was added but positions and normals, which change over time."""
        texels, sheets, start = [np.full((1, 4), 255, np.uint8)], [[0, 1, 1, REPEAT, REPEAT]], 1
        for (_, *wrap), (_, pixels) in self.textures.items():
            h, w = pixels.shape[:2]
            sheets.append([start, h, w, *wrap])
            texels.append(pixels.reshape(-1, 4))
            start += h * w
        columns = dict(self.columns, texels=texels, sheets=[np.array(sheets)])
        del columns["positions"], columns["normals"]
        return Surface(**{name: torch.from_numpy(np.concatenate(arrays)) for name, arrays in columns.items()})

    def add(self, i: int, node: dict) -> None:
        """What node number i draws."""
        mesh = self.document.item("meshes", node["mesh"])
        for primitive in mesh["primitives"]:
            if primitive.get("mode", 4) in (4, 5, 6) and "POSITION" in primitive["attributes"]:
                self._add(i, node, mesh, primitive)

    def _add(self, i: int, node: dict, mesh: dict, primitive: dict) -> None:
        given, indices = self._attributes(primitive)
        position = np.asarray(given["POSITION"], np.float32)
        n = len(position)
        if position.shape[1] != 3 or not np.isfinite(position).all() or any(len(a) != n for a in given.values()):
            raise ValueError("a mesh has vertices that are not three finite numbers, or attributes of other lengths")
        faces = _triangles(np.arange(n) if indices is None else indices, primitive.get("mode", 4))
        if not len(faces):
            return
        if faces.max() >= n or faces.min() < 0:
            raise ValueError(f"a triangle names vertex {faces.max()} of {n}")
        morphs, morph_normals = self._morphs(primitive, n)

        normal = given.get("NORMAL")
        if normal is None:  # section 3.7.2.1: flat ones, so no vertex is shared
            flat = faces.reshape(-1)
            position, n, faces = position[flat], len(flat), np.arange(len(flat)).reshape(-1, 3)
            a, b, c = position.reshape(-1, 3, 3).transpose(1, 0, 2)
            normal = np.repeat(np.cross(b - a, c - a), 3, axis=0)
            given = {name: values[flat] for name, values in given.items()}
            morphs, morph_normals = None if morphs is None else morphs[:, flat], None

        if self.count + n > MOST_VERTICES:
            raise ValueError(f"it draws more than {MOST_VERTICES} vertices")
        part = Part(i, slice(self.count, self.count + n), morphs=morphs, morph_normals=morph_normals)
        if morphs is not None:
            weights = node.get("weights", mesh.get("weights", [0.0] * len(morphs)))
            part.morph_weights = numbers(weights, len(morphs), "the morph weights of a mesh").astype(np.float32)
        if "skin" in node and "JOINTS_0" in given:
            self.document.item("skins", node["skin"])
            part.skin, (part.joints, part.weights) = node["skin"], _binding(given)
        self.parts.append(part)
        normal = np.nan_to_num(np.asarray(normal, np.float32))
        normal = normal / np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-20)
        columns = dict(positions=position, normals=normal, faces=faces + self.count)
        for name, values in (columns | self._material(primitive, given, n, len(faces))).items():
            self.columns.setdefault(name, []).append(values)
        self.count += n

    def _attributes(self, primitive: dict) -> tuple[Attributes, np.ndarray | None]:
        """The attributes, and the indices where it has some."""
        document, indices, found = self.document, None, {}
        if draco := primitive.get("extensions", {}).get("KHR_draco_mesh_compression"):
            found, indices = _decompressed(bytes(document.view(draco["bufferView"])[0]), draco["attributes"])
            for name, values in found.items():
                if document.item("accessors", primitive["attributes"][name]).get("normalized"):
                    found[name] = fractions(values)
        elif "indices" in primitive:
            indices = document.accessor(primitive["indices"])[:, 0]
        rest = {k: i for k, i in primitive["attributes"].items() if k.startswith(USED) and k not in found}
        return found | {name: document.accessor(i) for name, i in rest.items()}, indices

    def _morphs(self, primitive: dict, n: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Displacements of positions and of normals; 0 for targets without them."""
        targets = primitive.get("targets", [])
        found = []
        for name in ("POSITION", "NORMAL"):
            rows = [self.document.accessor(t[name]) if name in t else np.zeros((n, 3), np.float32) for t in targets]
            if any(row.shape != (n, 3) or not np.isfinite(row).all() for row in rows):
                raise ValueError(f"a morph target is not finite, or has not the {n} vertices of its mesh")
            needed = rows and (name == "POSITION" or any(name in target for target in targets))
            found.append(np.stack(rows).astype(np.float32) if needed else None)
        return found[0], found[1]

    def _material(self, primitive: dict, given: Attributes, n: int, f: int) -> Attributes:
        """Columns of `Surface` for n vertices and f triangles."""
        material = self.document.item("materials", primitive["material"]) if "material" in primitive else {}
        extensions, pbr = material.get("extensions", {}), material.get("pbrMetallicRoughness", {})
        factor, texture = pbr.get("baseColorFactor", [1, 1, 1, 1]), pbr.get("baseColorTexture")
        if gloss := extensions.get("KHR_materials_pbrSpecularGlossiness"):
            factor, texture = gloss.get("diffuseFactor", [1, 1, 1, 1]), gloss.get("diffuseTexture")
        colour = np.ones((n, 4), np.float32)
        if "COLOR_0" in given:
            colour[:, : given["COLOR_0"].shape[1]] = given["COLOR_0"]
        colour = np.nan_to_num(colour * numbers(factor, 4, "a material's colour").astype(np.float32)).clip(0, 1)

        unlit = "KHR_materials_unlit" in extensions
        glow = numbers(material.get("emissiveFactor", [0, 0, 0]), 3, "a material's glow") * (not unlit)
        sheet, alpha, uv = self._texture(texture, given, n)
        glow_sheet, _, glow_uv = self._texture(material.get("emissiveTexture") if glow.any() else None, given, n)

        mode = {"MASK": MASK, "BLEND": BLEND}.get(material.get("alphaMode"), OPAQUE)
        if mode and colour[:, 3].min() > 0.98 and alpha > 250:
            mode = OPAQUE  # files that say BLEND and have nothing to blend are common
        return dict(
            uv=uv if sheet else glow_uv,
            colours=colour,
            glow=np.tile(glow.astype(np.float32), (n, 1)),
            lit=np.full(n, not unlit),
            texture=np.full(f, sheet),
            glow_texture=np.full(f, glow_sheet),
            mode=np.full(f, mode),
            cutoff=np.full(f, float(material.get("alphaCutoff", 0.5)), np.float32),
            both_sides=np.full(f, bool(material.get("doubleSided"))),
        )

    def _texture(self, info: dict | None, given: Attributes, n: int) -> tuple[int, int, np.ndarray]:
        """A texture's row in `Surface.sheets`, 0 for none, its smallest alpha, and each vertex' place in it."""
        uv = np.zeros((n, 2), np.float32)
        if info is None:
            return 0, 255, uv
        moved = info.get("extensions", {}).get("KHR_texture_transform", {})
        places = given.get(f"TEXCOORD_{moved.get('texCoord', info.get('texCoord', 0))}")
        texture = self.document.item("textures", info["index"])
        image = texture.get("extensions", {}).get("EXT_texture_webp", texture).get("source", texture.get("source"))
        if places is None or image is None:
            return 0, 255, uv
        sampler = self.document.item("samplers", texture["sampler"]) if "sampler" in texture else {}
        key = (image, sampler.get("wrapS", REPEAT), sampler.get("wrapT", REPEAT))
        if key not in self.textures:
            self.textures[key] = len(self.textures) + 1, self.document.picture(image, self.largest)
        number, pixels = self.textures[key]

        # KHR_texture_transform: scaled, then turned counterclockwise as seen on the picture, whose v runs down (the
        # listing in the extension's text turns the other way than its examples and all viewers; glTF issue 1563)
        (sx, sy), (x, y) = (numbers(moved.get(k, d), 2, k) for k, d in (("scale", [1, 1]), ("offset", [0, 0])))
        (turn,) = numbers([moved.get("rotation", 0)], 1, "rotation")
        u, v = np.nan_to_num(np.asarray(places, np.float32)).T
        c, s = np.cos(turn), np.sin(turn)
        uv[:, 0], uv[:, 1] = c * sx * u + s * sy * v + x, c * sy * v - s * sx * u + y
        return number, int(pixels[..., 3].min()), uv


def _decompressed(data: bytes, ids: dict[str, int]) -> tuple[Attributes, np.ndarray]:
    """Attributes and indices of a mesh that Draco has compressed."""
    try:
        import DracoPy
    except ImportError:
        raise ValueError('it is compressed by Draco; pip install "fourd-minimal[draco]" reads that') from None
    try:
        mesh = DracoPy.decode(data)
    except (DracoPy.FileTypeException, RuntimeError, ValueError) as error:
        raise ValueError(f"Draco cannot read it ({error})") from None
    values = {name: np.asarray(mesh.get_attribute_by_unique_id(i)["data"]) for name, i in ids.items()}
    return {name: a.reshape(len(a), -1) for name, a in values.items()}, np.asarray(mesh.faces).reshape(-1)


def _triangles(indices: np.ndarray, mode: int) -> np.ndarray:
    """(f, 3) of a list (mode 4), a strip (5) or a fan (6) of triangles, without those that have no area."""
    indices = indices.astype(np.int64)
    if mode == 4:
        faces = indices[: len(indices) // 3 * 3].reshape(-1, 3)
    elif mode == 5:
        faces = np.stack([indices[:-2], indices[1:-1], indices[2:]], 1)
        faces[1::2] = faces[1::2, [1, 0, 2]]
    else:
        faces = np.stack([indices[1:-1], indices[2:], np.full(max(0, len(indices) - 2), indices[0])], 1)
    a, b, c = faces.T
    return faces[(a != b) & (b != c) & (a != c)]


def _binding(given: Attributes) -> tuple[np.ndarray, np.ndarray]:
    """The joints that vertices follow, and by how much, of all sets of four."""
    sets = [s for s in range(8) if {f"JOINTS_{s}", f"WEIGHTS_{s}"} <= given.keys()]
    if not sets:
        raise ValueError("a mesh has joints and no weights")
    joints = np.concatenate([given[f"JOINTS_{s}"] for s in sets], 1).astype(np.int64)
    weights = np.concatenate([np.asarray(given[f"WEIGHTS_{s}"], np.float32) for s in sets], 1)
    if joints.shape != weights.shape or joints.min() < 0:
        raise ValueError(f"a mesh has joints of shape {joints.shape} and weights of shape {weights.shape}")
    weights = np.nan_to_num(weights, posinf=0, neginf=0).clip(0)  # exporters write NaN where nothing is bound
    weights[weights.sum(1) == 0, 0] = 1
    joints[weights == 0] = joints[weights > 0][0]  # joints of weight 0 do not count
    used, column = np.unique(joints, return_inverse=True)
    dense = np.zeros((len(joints), len(used)), np.float32)
    np.add.at(dense, (np.arange(len(joints))[:, None], column.reshape(joints.shape)), weights)
    return used, dense / dense.sum(1, keepdims=True)
