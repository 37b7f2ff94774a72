"""A .gltf or .glb file as its specification stores it: JSON that names accessors, pictures and the tracks of clips.

glTF 2.0; section numbers are the specification's. Files come from anywhere, so nothing in one is taken on trust: what
is missing, out of range or of another type ends in a ValueError of one sentence that names the file.
"""

import base64
import io
import json
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import numpy as np
from PIL import Image, UnidentifiedImageError

DTYPES = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
LISTS = ("accessors", "animations", "buffers", "bufferViews", "images", "materials", "meshes", "nodes", "samplers")
LISTS += ("scenes", "skins", "textures")
TRACK_WIDTHS = {"translation": 3, "rotation": 4, "scale": 3}
READ_EXTENSIONS = {
    "KHR_texture_transform",
    "KHR_materials_unlit",
    "KHR_materials_pbrSpecularGlossiness",
    "KHR_mesh_quantization",
    "EXT_texture_webp",
    "KHR_draco_mesh_compression",
}
MOST_PIXELS = 1 << 26
"""Of one picture: a larger one is refused by its header, before it is decoded."""
MOST_NUMBERS = 1 << 24
"""Of one accessor without data of its own, whose size nothing else bounds."""


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


class Document:
    """The JSON of a file, and its accessors, pictures and clips on demand; use it `with document.sentences()`."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"path is '{path}'; there is no such file.")
        self._buffers: dict[int, bytes] = {}
        with self.sentences():
            text, self.binary = _chunks(self.path.read_bytes())
            try:
                self.json = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"its JSON cannot be read ({error})") from None
            if not str(self.json["asset"]["version"]).startswith("2"):
                raise ValueError(f"its version is {self.json['asset']['version']!r}")
            for name in LISTS:
                found = self.json.get(name, [])
                if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
                    raise ValueError(f"its '{name}' is no list of objects")

    @contextmanager
    def sentences(self) -> Iterator[None]:
        """Whatever is wrong with the file becomes a ValueError of one sentence that names it."""
        damage = (AttributeError, TypeError, LookupError, ArithmeticError)
        try:
            yield
        except FileNotFoundError:
            raise
        except (*damage, ValueError, OSError, MemoryError) as error:
            why = (str(error) or type(error).__name__).splitlines()[0][:200]
            if isinstance(error, KeyError):
                why = f"{why} is missing in it"
            elif isinstance(error, damage):
                why = "one of its properties has another type than glTF says"
            raise ValueError(
                f"path is '{self.path}'; expected a complete glTF 2.0 file (.gltf or .glb): {why}."
            ) from error

    def all(self, name: str) -> list[dict]:
        """One of the lists at the JSON's top."""
        return self.json.get(name, [])

    def item(self, name: str, index: object) -> dict:
        """An entry of such a list."""
        found = self.all(name)
        if whole(index, f"index into '{name}'") >= len(found):
            raise ValueError(f"it names number {index} of its '{name}', and has {len(found)}")
        return found[index]

    def check_extensions(self) -> None:
        """Raises ValueError for one that the file cannot be drawn without."""
        if unknown := set(self.json.get("extensionsRequired", [])) - READ_EXTENSIONS:
            raise ValueError(f"it requires {', '.join(sorted(map(str, unknown)))}, which is not read here")

    def load(self, uri: str) -> bytes:
        """What a URI names: inline data, or a file in the asset's folder or below it."""
        if uri.startswith("data:"):
            kind, comma, data = uri.partition(",")
            if not comma or not kind.endswith(";base64"):
                raise ValueError(f"its data '{uri[:40]}' is not in base64")
            return base64.b64decode(data)
        name = os.path.normpath(unquote(uri))  # by its name: links inside of the folder may lead anywhere
        if os.path.isabs(name) or Path(name).parts[:1] == ("..",):
            raise ValueError(f"it names '{uri}', which lies outside of its folder")
        file = self.path.parent / name
        if not file.is_file():
            raise FileNotFoundError(f"path is '{self.path}', which needs '{file}'; there is no such file.")
        return file.read_bytes()

    def view(self, index: object) -> tuple[memoryview, int]:
        """The bytes of a buffer view, and its stride (0 where packed)."""
        view = self.item("bufferViews", index)
        number = view["buffer"]
        uri = self.item("buffers", number).get("uri")
        if number not in self._buffers:
            self._buffers[number] = self.binary if uri is None else self.load(uri)
        start, length, stride = (whole(view.get(f"byte{name}", 0), name) for name in ("Offset", "Length", "Stride"))
        if start + length > len(self._buffers[number]):
            raise ValueError(f"its buffer {number} ends before what buffer view {index} names")
        return memoryview(self._buffers[number])[start : start + length], stride

    def array(self, part: dict, component: int, count: int, width: int) -> np.ndarray:
        """(count, width) elements that an accessor, or a part of one, names."""
        if component not in DTYPES:
            raise ValueError(f"an accessor has the component type {component!r}")
        dtype, index = np.dtype(DTYPES[component]), part["bufferView"]
        data, stride = self.view(index)
        start, element = whole(part.get("byteOffset", 0), "Offset"), dtype.itemsize * width
        stride = stride or element
        if start + (count - 1) * stride + element > len(data):
            raise ValueError(f"its buffer view {index} ends before the {count} elements that an accessor names")
        return np.ndarray((count, width), dtype, data, start, (stride, dtype.itemsize))

    def accessor(self, index: object) -> np.ndarray:
        """(count, width); integers that stand for fractions as floats (sections 3.6.2 and 3.11)."""
        accessor = self.item("accessors", index)
        component, count, kind = accessor["componentType"], whole(accessor["count"], "count"), accessor["type"]
        if count < 1 or kind not in WIDTHS:
            raise ValueError(f"its accessor {index} has {count} elements of type {kind!r}")
        width = WIDTHS[kind]
        if "bufferView" in accessor:
            values = self.array(accessor, component, count, width)
        elif count * width > MOST_NUMBERS:
            raise ValueError(f"its accessor {index} has {count} elements and no data")
        else:
            values = np.zeros((count, width), DTYPES[component])
        if sparse := accessor.get("sparse"):
            n = whole(sparse["count"], "count")
            at = self.array(sparse["indices"], sparse["indices"]["componentType"], n, 1)[:, 0]
            if n > count or (n and at.max() >= count):
                raise ValueError(f"its accessor {index} replaces elements that it does not have")
            values = values.copy()
            values[at] = self.array(sparse["values"], component, n, width)
        if accessor.get("normalized") and values.dtype.kind in "iu":
            return fractions(values)
        return values

    def picture(self, index: object, largest: int) -> np.ndarray:
        """(h, w, 4) bytes of an image, its longer side reduced to `largest`."""
        image = self.item("images", index)
        data = self.load(image["uri"]) if "uri" in image else bytes(self.view(image["bufferView"])[0])
        try:
            with Image.open(io.BytesIO(data)) as picture:
                w, h = picture.size
                if w * h > MOST_PIXELS:
                    raise ValueError(f"{w} x {h} pixels are too many")
                if max(w, h) > 2 * largest:
                    picture.draft("RGB", (2 * largest, 2 * largest))
                if picture.mode.startswith("I"):  # 16 bits a pixel
                    picture = Image.fromarray((np.asarray(picture) / 257).astype(np.uint8))
                picture = picture.convert("RGBA")
        except Exception as error:  # a decoder may raise anything on damaged bytes
            why = "of no known kind" if isinstance(error, UnidentifiedImageError) else error or type(error).__name__
            raise ValueError(f"its image {index} cannot be read ({why})") from error
        if max(picture.size) > largest:  # each channel alone: colour counts where alpha is 0, too
            scale = largest / max(picture.size)
            size = tuple(max(1, round(side * scale)) for side in picture.size)
            bands = [band.resize(size, Image.Resampling.BOX) for band in picture.split()]
            picture = Image.merge("RGBA", bands)
        return np.asarray(picture)

    def tracks(self, animation: dict) -> list[Track]:
        """One clip, channels with the same keys together (section 3.11)."""
        together: dict[tuple, list[tuple[int, np.ndarray]]] = {}
        for channel in animation["channels"]:
            target, samplers = channel["target"], animation["samplers"]
            path, node = target["path"], target.get("node")
            if node is None or path not in (*TRACK_WIDTHS, "weights"):
                continue  # an extension's
            self.item("nodes", node)
            if whole(channel["sampler"], "sampler") >= len(samplers):
                raise ValueError(f"an animation names sampler {channel['sampler']} of {len(samplers)}")
            sampler = samplers[channel["sampler"]]
            how = sampler.get("interpolation", "LINEAR")
            if how not in ("LINEAR", "STEP", "CUBICSPLINE"):
                raise ValueError(f"an animation has the interpolation {how!r}")
            times = self.accessor(sampler["input"])[:, 0].astype(np.float64)
            values = np.asarray(self.accessor(sampler["output"]), np.float32)
            keys = len(times) * (3 if how == "CUBICSPLINE" else 1)
            if len(values) % keys:
                raise ValueError(f"an animation has {len(times)} keys and {len(values)} values ({how})")
            if not (np.isfinite(times).all() and np.isfinite(values).all()):
                raise ValueError("an animation has keys or values that are not finite")
            if (np.diff(times) < 0).any():
                raise ValueError("an animation has keys whose times fall")
            values = values.reshape((len(times), 3, 1, -1) if how == "CUBICSPLINE" else (len(times), 1, -1))
            width = values.shape[-1]
            if width != TRACK_WIDTHS.get(path, width):
                raise ValueError(f"an animation has {width} numbers for a {path}")
            together.setdefault((path, how, width, times.tobytes()), []).append((node, values))
        return [
            Track(
                path, how, np.frombuffer(times), [node for node, _ in found], np.concatenate([v for _, v in found], -2)
            )
            for (path, how, _, times), found in together.items()
        ]

    def clip_names(self) -> list[str]:
        """As in the file, `clip_<index>` where it has none; of one name, ` (2)` and so on tell the later ones apart."""
        names: dict[str, int] = {}
        for i, animation in enumerate(self.all("animations")):
            name = given = str(animation.get("name") or f"clip_{i}")
            while name in names:
                names[given] += 1
                name = f"{given} ({names[given]})"
            names[name] = 1
        return list(names)


def _chunks(data: bytes) -> tuple[bytes, bytes]:
    """The JSON and the binary part of a file (section 4.4)."""
    if data[:4] != b"glTF":
        return data, b""
    found, at = {}, 12
    for kind in (b"JSON", b"BIN\0"):
        if kind == b"BIN\0" and at + 8 > len(data):
            break
        length, given = struct.unpack("<I4s", data[at : at + 8].ljust(8, b"\xff"))
        if at + 8 + length > len(data):
            raise ValueError(f"its {kind.decode().rstrip(chr(0))} is cut short")
        if kind == b"JSON" and given != kind:
            raise ValueError("its first chunk is not JSON")
        found[given] = data[at + 8 : at + 8 + length]
        at += 8 + length
    return found[b"JSON"], found.get(b"BIN\0", b"")


def whole(value: object, what: str) -> int:
    """A number of the JSON, from 0 on; an index below it would count from the end without a word."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{what} is {value!r:.40}; expected a whole number from 0 on")
    return value


def numbers(given: object, n: int, what: str) -> np.ndarray:
    """`n` finite numbers of the JSON."""
    right = isinstance(given, list) and all(type(x) in (int, float) and abs(x) < 1e38 for x in given)
    if not right or len(given) != n:
        raise ValueError(f"{what} is {given!r:.40}; expected {n} numbers")
    return np.array(given, np.float64)


def fractions(values: np.ndarray) -> np.ndarray:
    """Integers as shares of their largest (section 3.11)."""
    return np.maximum(values.astype(np.float32) / np.iinfo(values.dtype).max, -1)
