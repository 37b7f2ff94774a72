"""A .gltf or .glb file as arrays: triangles, materials, a tree of nodes, skins, morph targets and clips.

glTF 2.0 as its specification says (section numbers below are the specification's), and of its extensions those that
decide what is seen: KHR_texture_transform, KHR_materials_unlit, KHR_materials_pbrSpecularGlossiness (its diffuse part),
KHR_mesh_quantization, EXT_texture_webp, and KHR_draco_mesh_compression by the package DracoPy. What is constant is
folded into vertices: texture transforms into their coordinates, colour factors into their colours.

Only what the shown scene holds is read (section 3.5.1). Departures: normal maps, metalness and lamps are left aside;
nodes called `*_collider`, which games use and never draw, are not drawn; triangles only, no points and lines.
"""

import base64
import binascii
import io
import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

import numpy as np
from PIL import Image

DTYPES = {5120: np.int8, 5121: np.uint8, 5122: np.int16, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
DRAWN_EXTENSIONS = {
    "KHR_texture_transform",
    "KHR_materials_unlit",
    "KHR_materials_pbrSpecularGlossiness",
    "KHR_mesh_quantization",
    "EXT_texture_webp",
    "KHR_draco_mesh_compression",
}
OPAQUE, MASK, BLEND = 0, 1, 2
MOST_PIXELS = 1 << 26
"""Of one picture: a larger one is refused by its header, before it is decoded."""
MOST_ELEMENTS = 1 << 26
"""Of one accessor without data of its own, whose size nothing else bounds."""


@dataclass
class Part:
    """What one node draws: a run of the asset's vertices."""

    node: int
    vertices: slice
    skin: int | None
    joints: np.ndarray | None = None
    """(n, 4 or 8) indices into the skin's joints."""
    weights: np.ndarray | None = None
    """The same shape; they add up to 1."""
    morphs: np.ndarray | None = None
    """(m, n, 3) displacements of positions."""
    morph_normals: np.ndarray | None = None
    morph_weights: np.ndarray | None = None
    """(m,) where no clip says otherwise."""


@dataclass
class Skin:
    joints: list[int]
    """Node of each joint."""
    inverse_bind: np.ndarray
    """(j, 4, 4)."""


@dataclass
class Track:
    """One property of several nodes, with keys at the same times."""

    path: str
    """translation, rotation, scale or weights."""
    interpolation: str
    """LINEAR, STEP or CUBICSPLINE."""
    times: np.ndarray
    """(k,) seconds, rising."""
    nodes: list[int]
    values: np.ndarray
    """(k, nodes, width); for CUBICSPLINE (k, 3, nodes, width): tangent in, value, tangent out."""


@dataclass
class Texture:
    pixels: np.ndarray
    """(h, w, 4) bytes."""
    wrap: tuple[int, int]
    """Of u and v: 10497 repeats, 33071 clamps, 33648 mirrors."""


@dataclass
class Asset:
    """Everything that is drawn of one file. Vertices of all parts lie one after the other."""

    path: Path
    parents: list[int]
    """Of each node; -1 for a root."""
    rest: dict[str, np.ndarray]
    """`translation` (n, 3), `rotation` (n, 4), `scale` (n, 3) and `matrix` (n, 4, 4) of each node where no clip moves it;
    a matrix that is all 0 stands for the other three."""
    parts: list[Part]
    skins: list[Skin]
    clips: list[tuple[str, list[Track]]]
    positions: np.ndarray
    """(n, 3) in the space of the part's node."""
    normals: np.ndarray
    """(n, 3), length 1."""
    uv: np.ndarray
    """(n, 2) of the colour texture."""
    colours: np.ndarray
    """(n, 4) linear: vertex colour times base colour factor."""
    glow: np.ndarray
    """(n, 3) linear: light of its own."""
    lit: np.ndarray
    """(n,) whether light falls on it; an unlit material shows its colour."""
    faces: np.ndarray
    """(f, 3) of vertices, counterclockwise from the front."""
    texture: np.ndarray
    """(f,) into `textures`; -1 for none."""
    glow_texture: np.ndarray
    mode: np.ndarray
    """(f,) OPAQUE, MASK or BLEND."""
    cutoff: np.ndarray
    """(f,) alpha below which a MASK is a hole."""
    both_sides: np.ndarray
    """(f,) whether the back is seen too."""
    textures: list[Texture] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """Memory held by the arrays."""
        arrays = [a for a in vars(self).values() if isinstance(a, np.ndarray)] + [t.pixels for t in self.textures]
        arrays += [a for part in self.parts for a in vars(part).values() if isinstance(a, np.ndarray)]
        arrays += [track.values for _, tracks in self.clips for track in tracks]
        return sum(a.nbytes for a in arrays)


def read_asset(path: str | Path, largest_texture: int = 512) -> Asset:
    """Read a file.

    Args:
        path: a .gltf or .glb; buffers and pictures may lie in files of the same folder or below it.
        largest_texture: pixels along the longer side, to which larger textures are reduced.

    Raises:
        FileNotFoundError: it, or a file it needs, is missing.
        ValueError: it is not glTF 2.0, damaged, needs an extension that is not drawn here, or has nothing to draw.
    """
    document = Document(path)
    with document.sentences():
        return _Reader(document, largest_texture).asset()


class Document:
    """The JSON of a file, and its accessors and pictures on demand."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"path is '{path}'; there is no such file.")
        data, self.binary = self.path.read_bytes(), b""
        with self.sentences():
            if data[:4] == b"glTF":
                length, kind = struct.unpack_from("<I4s", data, 12)
                if kind != b"JSON" or 20 + length > len(data):
                    raise ValueError("its JSON is cut short")
                self.binary, data = data[28 + length :], data[20 : 20 + length]
            self.json = json.loads(data)
            if not str(self.json["asset"]["version"]).startswith("2"):
                raise ValueError(f"asset.version is {self.json['asset']['version']!r}; expected 2.0")
        self._buffers: dict[int, bytes] = {}

    def sentences(self):
        """Whatever is wrong with a file, in one sentence that names it."""
        return _Sentences(self.path)

    def all(self, name: str) -> list[dict]:
        return self.json.get(name, [])

    def check_extensions(self) -> None:
        """Raises ValueError for one that the file cannot be drawn without."""
        unknown = set(self.json.get("extensionsRequired", [])) - DRAWN_EXTENSIONS
        if unknown:
            raise ValueError(f"it requires {', '.join(sorted(unknown))}, which is not drawn here")

    def load(self, uri: str) -> bytes:
        """What a URI names: inline data, or a file in the asset's folder or below it."""
        if uri.startswith("data:"):
            return base64.b64decode(uri.split(",", 1)[1])
        folder = self.path.parent.resolve()
        file = (folder / unquote(uri)).resolve()
        if not file.is_relative_to(folder):
            raise ValueError(f"it names '{uri}', which lies outside of its folder")
        if not file.is_file():
            raise FileNotFoundError(f"path is '{self.path}', which needs '{file}'; there is no such file.")
        return file.read_bytes()

    def view(self, index: int) -> tuple[memoryview, int]:
        """The bytes of a buffer view, and its stride (0 where packed)."""
        view = self.all("bufferViews")[_index(index)]
        number = view["buffer"]
        if number not in self._buffers:
            uri = self.all("buffers")[_index(number)].get("uri")
            self._buffers[number] = self.binary if uri is None else self.load(uri)
        start, length = view.get("byteOffset", 0), view["byteLength"]
        data = memoryview(self._buffers[number])[start : start + length]
        if start < 0 or len(data) < length:
            raise ValueError(f"buffer {number} ends before what buffer view {index} names")
        return data, view.get("byteStride", 0)

    def array(self, index: int, start: int, component: int, count: int, width: int) -> np.ndarray:
        """(count, width) elements of a buffer view."""
        dtype = np.dtype(DTYPES[component])
        data, stride = self.view(index)
        stride = stride or dtype.itemsize * width
        if start < 0 or start + (count - 1) * stride + dtype.itemsize * width > len(data):
            raise ValueError(f"buffer view {index} ends before the {count} elements that an accessor names")
        return np.ndarray((count, width), dtype, data, start, (stride, dtype.itemsize))

    def accessor(self, index: int) -> np.ndarray:
        """(count, width); integers that stand for fractions as floats (sections 3.6.2 and 3.11)."""
        accessor = self.all("accessors")[_index(index)]
        component, count, width = accessor["componentType"], accessor["count"], WIDTHS[accessor["type"]]
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"accessor {index} has a count of {count}; expected 1 or more")
        if "bufferView" in accessor:
            values = self.array(accessor["bufferView"], accessor.get("byteOffset", 0), component, count, width)
        elif count > MOST_ELEMENTS:
            raise ValueError(f"accessor {index} has a count of {count} and no data")
        else:
            values = np.zeros((count, width), DTYPES[component])
        if sparse := accessor.get("sparse"):
            where, what, n = sparse["indices"], sparse["values"], sparse["count"]
            at = self.array(where["bufferView"], where.get("byteOffset", 0), where["componentType"], n, 1)
            values = values.copy()
            values[at[:, 0]] = self.array(what["bufferView"], what.get("byteOffset", 0), component, n, width)
        if accessor.get("normalized") and component != 5126:
            values = np.maximum(values.astype(np.float32) / np.iinfo(values.dtype).max, -1)
        return values

    def picture(self, index: int, largest: int) -> np.ndarray:
        """(h, w, 4) bytes of an image, its longer side reduced to `largest`."""
        image = self.all("images")[_index(index)]
        data = self.load(image["uri"]) if "uri" in image else bytes(self.view(image["bufferView"])[0])
        picture = Image.open(io.BytesIO(data))
        if picture.width * picture.height > MOST_PIXELS:
            raise ValueError(
                f"image {index} has {picture.width}x{picture.height} pixels; at most {MOST_PIXELS} expected"
            )
        if max(picture.size) > 2 * largest:
            picture.draft("RGB", (2 * largest, 2 * largest))
        picture = picture.convert("RGBA")
        picture.thumbnail((largest, largest), Image.Resampling.BOX)
        return np.asarray(picture)

    def tracks(self, animation: dict) -> list[Track]:
        """One clip, channels with the same keys together (section 3.11)."""
        together: dict[tuple, Track] = {}
        for channel in animation["channels"]:
            target, sampler = channel["target"], animation["samplers"][_index(channel["sampler"])]
            path, node = target["path"], target.get("node")
            if node is None or path not in ("translation", "rotation", "scale", "weights"):
                continue  # an extension's
            self.all("nodes")[_index(node)]
            how = sampler.get("interpolation", "LINEAR")
            if how not in ("LINEAR", "STEP", "CUBICSPLINE"):
                raise ValueError(f"an animation has the interpolation {how!r}")
            times = self.accessor(sampler["input"])[:, 0].astype(np.float32)
            values = np.asarray(self.accessor(sampler["output"]), np.float32)
            keys = len(times) * (3 if how == "CUBICSPLINE" else 1)
            if len(values) % keys or not (np.isfinite(times).all() and np.isfinite(values).all()):
                raise ValueError(f"an animation has {len(times)} keys and {len(values)} values, or some are not finite")
            if (np.diff(times) < 0).any():
                raise ValueError("an animation has keys whose times fall")
            shape = (len(times), 3, 1, -1) if how == "CUBICSPLINE" else (len(times), 1, -1)
            values = values.reshape(shape)
            if values.shape[-1] != {"rotation": 4, "weights": values.shape[-1]}.get(path, 3):
                raise ValueError(f"an animation has {values.shape[-1]} numbers for a {path}")
            key = (sampler["input"], path, how, values.shape[-1])
            if key in together:
                together[key].nodes.append(node)
                together[key].values.append(values)
            else:
                together[key] = Track(path, how, times, [node], [values])
        for track in together.values():
            track.values = np.concatenate(track.values, -2)
        return list(together.values())


class _Sentences:
    """Turns what a damaged file does into a ValueError of one sentence."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        damage = (ValueError, LookupError, TypeError, AttributeError, struct.error, binascii.Error, OverflowError)
        damage += (RecursionError, MemoryError, OSError, Image.DecompressionBombError)
        if not isinstance(error, damage) or isinstance(error, FileNotFoundError):
            return False
        why = str(error).splitlines()[0] if isinstance(error, ValueError) and str(error) else repr(error)
        raise ValueError(f"path is '{self.path}'; expected a complete glTF 2.0 file (.gltf or .glb): {why}.") from None


def _index(i) -> int:
    """An index of the file; a negative one would count from the end without a word."""
    if isinstance(i, bool) or not isinstance(i, int) or i < 0:
        raise ValueError(f"an index is {i!r}")
    return i


class _Reader:
    """Collects what the nodes of the shown scene draw."""

    def __init__(self, document: Document, largest_texture: int):
        self.document, self.largest = document, largest_texture
        self.nodes = document.all("nodes")
        self.columns: dict[str, list[np.ndarray]] = {}
        self.parts: list[Part] = []
        self.textures: list[Texture] = []
        self.found: dict[int, int] = {}
        self.count = 0

    def asset(self) -> Asset:
        self.document.check_extensions()
        parents = self._parents()
        for i in self._shown(parents):
            node = self.nodes[i]
            if "mesh" in node and not node.get("name", "").lower().endswith("_collider"):
                mesh = self.document.all("meshes")[_index(node["mesh"])]
                for primitive in mesh["primitives"]:
                    self._add(i, node, mesh, primitive)
        if not self.parts:
            raise ValueError("its scene has no triangles to draw")
        skins = [self._skin(skin) for skin in self.document.all("skins")]
        clips = [("", self.document.tracks(animation)) for animation in self.document.all("animations")]
        clips = [(name, tracks) for name, (_, tracks) in zip(clip_names(self.document), clips, strict=True)]
        for part in self.parts:
            if part.skin is not None and int(part.joints.max()) >= len(skins[part.skin].joints):
                raise ValueError(f"a vertex names joint {int(part.joints.max())} of {len(skins[part.skin].joints)}")
        columns = {name: np.concatenate(arrays) for name, arrays in self.columns.items()}
        return Asset(
            self.document.path, parents, self._rest(), self.parts, skins, clips, textures=self.textures, **columns
        )

    def _parents(self) -> list[int]:
        parents = [-1] * len(self.nodes)
        for i, node in enumerate(self.nodes):
            for child in node.get("children", []):
                if parents[_index(child)] != -1 or child == i:
                    raise ValueError(f"node {child} has two parents")
                parents[child] = i
        for i in range(len(parents)):
            seen = 0
            while (i := parents[i]) != -1:
                seen += 1
                if seen > len(parents):
                    raise ValueError("its nodes form a circle")
        return parents

    def _shown(self, parents: list[int]) -> list[int]:
        """The nodes below the roots of the shown scene; of all roots in a file without scenes."""
        scenes = self.document.all("scenes")
        roots = [i for i, parent in enumerate(parents) if parent == -1]
        stack = scenes[_index(self.document.json.get("scene", 0))].get("nodes", []) if scenes else roots
        stack, shown = list(reversed(stack)), []
        while stack:
            shown.append(i := _index(stack.pop()))
            stack += reversed(self.nodes[i].get("children", []))
        return list(dict.fromkeys(shown))

    def _rest(self) -> dict[str, np.ndarray]:
        n = len(self.nodes)
        rest = {"translation": np.zeros((n, 3)), "rotation": np.tile([0.0, 0, 0, 1], (n, 1)), "scale": np.ones((n, 3))}
        matrix = np.zeros((n, 4, 4))
        for i, node in enumerate(self.nodes):
            for name, values in rest.items():
                if name in node:
                    values[i] = node[name]
            if "matrix" in node:
                matrix[i] = np.reshape(node["matrix"], (4, 4)).T
        rest["matrix"] = matrix
        if not all(np.isfinite(values).all() for values in rest.values()):
            raise ValueError("a node's place is not finite")
        return rest

    def _skin(self, skin: dict) -> Skin:
        joints = [_index(joint) for joint in skin["joints"]]
        if max(joints) >= len(self.nodes):
            raise ValueError(f"a skin names node {max(joints)} of {len(self.nodes)}")
        inverse = np.tile(np.eye(4), (len(joints), 1, 1))
        if "inverseBindMatrices" in skin:
            given = self.document.accessor(skin["inverseBindMatrices"])[: len(joints)]
            inverse = given.reshape(-1, 4, 4).transpose(0, 2, 1).astype(np.float64)
        if len(inverse) != len(joints) or not np.isfinite(inverse).all():
            raise ValueError(f"a skin has {len(inverse)} matrices for {len(joints)} joints, or some are not finite")
        return Skin(joints, inverse)

    def _add(self, i: int, node: dict, mesh: dict, primitive: dict) -> None:
        """The triangles of one primitive."""
        mode = primitive.get("mode", 4)
        if mode not in (4, 5, 6) or "POSITION" not in primitive["attributes"]:
            return
        get, faces = self._attributes(primitive)
        position = np.asarray(get("POSITION"), np.float32)
        n = len(position)
        if not np.isfinite(position).all():
            raise ValueError("a vertex is not finite")
        faces = _triangles(np.arange(n) if faces is None else faces, mode)
        if not len(faces):
            return
        if faces.max() >= n:
            raise ValueError(f"a triangle names vertex {faces.max()} of {n}")
        morphs, morph_normals = self._morphs(primitive, n)
        normal = get("NORMAL")
        if normal is None:  # section 3.7.2.1: flat ones, so no vertex is shared
            flat = faces.reshape(-1)
            position, n, faces = position[flat], len(flat), np.arange(len(flat)).reshape(-1, 3)
            a, b, c = position.reshape(-1, 3, 3).transpose(1, 0, 2)
            normal = np.repeat(np.cross(b - a, c - a), 3, axis=0)
            plain, get = get, lambda name: None if plain(name) is None else plain(name)[flat]
            morphs, morph_normals = (None if m is None else m[:, flat] for m in (morphs, morph_normals))
        part = Part(i, slice(self.count, self.count + n), None, morphs=morphs, morph_normals=morph_normals)
        if morphs is not None:
            weights = node.get("weights", mesh.get("weights", [0.0] * len(morphs)))
            part.morph_weights = np.resize(np.asarray(weights, np.float32), len(morphs))
        if "skin" in node and get("JOINTS_0") is not None:
            part.skin = _index(node["skin"])
            if part.skin >= len(self.document.all("skins")):
                raise ValueError(f"a node names skin {part.skin}")
            part.joints, part.weights = _binding(get)
        self.parts.append(part)
        self._columns(primitive, get, position, _unit(np.nan_to_num(np.asarray(normal, np.float32))), faces)
        self.count += n

    def _attributes(self, primitive: dict):
        """A function from an attribute's name to its values, None where it has none; and the indices."""
        names, document = primitive["attributes"], self.document
        draco = primitive.get("extensions", {}).get("KHR_draco_mesh_compression")
        if draco is None:
            indices = document.accessor(primitive["indices"])[:, 0] if "indices" in primitive else None
            return lambda name: document.accessor(names[name]) if name in names else None, indices
        try:
            import DracoPy
        except ImportError:
            raise ValueError('it is compressed by Draco; pip install "fourd-minimal[draco]" reads that') from None
        try:
            mesh = DracoPy.decode(bytes(document.view(draco["bufferView"])[0]))
        except (DracoPy.FileTypeException, RuntimeError) as error:
            raise ValueError(f"Draco cannot read it ({error})") from None
        compressed = {name: mesh.get_attribute_by_unique_id(i) for name, i in draco["attributes"].items()}

        def get(name: str) -> np.ndarray | None:
            if name not in compressed:
                return document.accessor(names[name]) if name in names else None
            values = np.asarray(compressed[name]["data"])
            values = values.reshape(len(values), -1)
            accessor = document.all("accessors")[_index(names[name])]
            whole = accessor.get("normalized") and values.dtype.kind in "iu"
            return np.maximum(values.astype(np.float32) / np.iinfo(values.dtype).max, -1) if whole else values

        return get, np.asarray(mesh.faces).reshape(-1)

    def _morphs(self, primitive: dict, n: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        targets = primitive.get("targets", [])
        found = []
        for name in ("POSITION", "NORMAL"):
            if not any(name in target for target in targets):
                found.append(None)
                continue
            rows = [self.document.accessor(t[name]) if name in t else np.zeros((n, 3), np.float32) for t in targets]
            if any(row.shape != (n, 3) for row in rows):
                raise ValueError(f"a morph target does not have the {n} vertices of its mesh")
            found.append(np.stack(rows).astype(np.float32))
        if found[0] is None and targets:
            found[0] = np.zeros((len(targets), n, 3), np.float32)
        return tuple(found)

    def _columns(self, primitive: dict, get, position, normal, faces) -> None:
        """What the material says, for each vertex and each triangle."""
        n, f = len(position), len(faces)
        material = {}
        if "material" in primitive:
            material = self.document.all("materials")[_index(primitive["material"])]
        extensions, pbr = material.get("extensions", {}), material.get("pbrMetallicRoughness", {})
        factor, texture = pbr.get("baseColorFactor", [1, 1, 1, 1]), pbr.get("baseColorTexture")
        if gloss := extensions.get("KHR_materials_pbrSpecularGlossiness"):
            factor, texture = gloss.get("diffuseFactor", [1, 1, 1, 1]), gloss.get("diffuseTexture")
        colour = np.ones((n, 4), np.float32)
        if (given := get("COLOR_0")) is not None:
            colour[:, : given.shape[1]] = given
        place, uv = self._texture(texture, get, n)
        glow_at, _ = self._texture(material.get("emissiveTexture"), get, n)
        unlit = "KHR_materials_unlit" in extensions
        glow = np.zeros(3) if unlit else np.asarray(material.get("emissiveFactor", [0, 0, 0]), np.float32)
        colour = colour * np.asarray(factor, np.float32)
        mode = {"MASK": MASK, "BLEND": BLEND}.get(material.get("alphaMode"), OPAQUE)
        if mode and colour[:, 3].min() > 0.98 and (place < 0 or self.textures[place].pixels[..., 3].min() > 250):
            mode = OPAQUE  # files that say BLEND and have nothing to blend are common
        columns = dict(
            positions=position,
            normals=normal,
            uv=uv,
            colours=np.nan_to_num(colour).clip(0, 1),
            glow=np.tile(glow.astype(np.float32), (n, 1)),
            lit=np.full(n, not unlit),
            faces=faces.astype(np.int64) + self.count,
            texture=np.full(f, place),
            glow_texture=np.full(f, glow_at if glow.any() else -1),
            mode=np.full(f, mode, np.int8),
            cutoff=np.full(f, material.get("alphaCutoff", 0.5), np.float32),
            both_sides=np.full(f, bool(material.get("doubleSided"))),
        )
        for name, values in columns.items():
            self.columns.setdefault(name, []).append(values)

    def _texture(self, info: dict | None, get, n: int) -> tuple[int, np.ndarray]:
        """A texture's number, -1 for none, and each vertex' place in it."""
        uv = np.zeros((n, 2), np.float32)
        if info is None:
            return -1, uv
        moved = info.get("extensions", {}).get("KHR_texture_transform", {})
        given = get(f"TEXCOORD_{moved.get('texCoord', info.get('texCoord', 0))}")
        number = _index(info["index"])
        texture = self.document.all("textures")[number]
        image = texture.get("extensions", {}).get("EXT_texture_webp", texture).get("source", texture.get("source"))
        if given is None or image is None:
            return -1, uv
        if number not in self.found:
            sampler = self.document.all("samplers")[_index(texture["sampler"])] if "sampler" in texture else {}
            wrap = (sampler.get("wrapS", 10497), sampler.get("wrapT", 10497))
            self.textures.append(Texture(self.document.picture(image, self.largest), wrap))
            self.found[number] = len(self.textures) - 1
        (sx, sy), turn = moved.get("scale", (1, 1)), moved.get("rotation", 0.0)
        (x, y), (c, s) = moved.get("offset", (0, 0)), (np.cos(turn), np.sin(turn))
        u, v = np.nan_to_num(np.asarray(given, np.float32)).T * np.array([[sx], [sy]], np.float32)
        uv[:, 0], uv[:, 1] = c * u + s * v + x, c * v - s * u + y
        return self.found[number], uv


def clip_names(document: Document) -> list[str]:
    """As in the file, `clip_<index>` where it has none; of several with one name, ` (2)` and so on tell them apart."""
    names: list[str] = []
    for i, animation in enumerate(document.all("animations")):
        name = given = str(animation.get("name") or f"clip_{i}")
        n = 1
        while name in names:
            n += 1
            name = f"{given} ({n})"
        names.append(name)
    return names


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


def _binding(get) -> tuple[np.ndarray, np.ndarray]:
    """Joints and weights of each vertex, of all sets that there are."""
    sets = [s for s in range(8) if get(f"JOINTS_{s}") is not None and get(f"WEIGHTS_{s}") is not None]
    joints = np.concatenate([get(f"JOINTS_{s}") for s in sets], 1).astype(np.int64)
    weights = np.concatenate([np.asarray(get(f"WEIGHTS_{s}"), np.float32) for s in sets], 1)
    weights = np.nan_to_num(weights, posinf=0, neginf=0).clip(0)  # exporters write NaN where nothing is bound
    total = weights.sum(1, keepdims=True)
    weights = np.where(total > 0, weights / np.maximum(total, 1e-12), np.eye(1, weights.shape[1], dtype=np.float32))
    return joints, weights.astype(np.float32)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-20)
