"""A .gltf or .glb file as its specification stores it: JSON that names accessors, pictures and the keys of clips.

glTF 2.0; section numbers are the specification's. Files come from anywhere, so nothing in them is trusted: what is
missing, out of range or of another type becomes a ValueError of one sentence that names the file.
"""

import base64
import io
import json
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

import numpy as np
from PIL import Image

from fourd_minimal.data.assets.animation import Clip, Track, clip_of

DTYPES = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
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


class Document:
    """The JSON of a file, and its accessors, pictures and clips on demand; use it `with document.sentences()`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not glTF 2.0.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"path is '{path}'; there is no such file.")
        self._buffers: dict[int, bytes] = {}
        with self.sentences():
            text, self.binary = _chunks(self.path.read_bytes())
            self.json = json.loads(text)
            version = str(self.json["asset"].get("version", "2.0"))
            if not version.startswith("2"):
                raise ValueError(f"its version is {version!r}")

    @contextmanager
    def sentences(self) -> Iterator[None]:
        """Whatever is wrong with the file becomes a ValueError of one sentence that names it."""
        damage = (AttributeError, TypeError, LookupError, ArithmeticError, RecursionError)
        try:
            yield
        except FileNotFoundError:
            raise
        except (*damage, ValueError, OSError, MemoryError) as error:
            why = (str(error) or type(error).__name__).splitlines()[0][:200]
            if isinstance(error, KeyError):
                why = f"{why} is missing in it, or unknown"
            elif isinstance(error, damage):
                why = "one of its properties has another type or size than glTF says"
            raise ValueError(f"path is '{self.path}'; expected a complete glTF 2.0 file: {why}.") from error

    def all(self, name: str) -> list[dict]:
        """One of the lists at the JSON's top."""
        return self.json.get(name, [])

    def item(self, name: str, index: object) -> dict:
        """An entry of such a list."""
        return entry(self.all(name), index, name)

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
        name = os.path.normpath(unquote(uri))  # by its name: links inside the folder may lead anywhere
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
        start, length, stride = (view.get(f"byte{name}", 0) for name in ("Offset", "Length", "Stride"))
        if not 0 <= start <= start + length <= len(self._buffers[number]):
            raise ValueError(f"its buffer {number} does not hold what buffer view {index} names")
        return memoryview(self._buffers[number])[start : start + length], stride

    def array(self, part: dict, component: int, count: int, width: int) -> np.ndarray:
        """(count, width) elements that an accessor, or a part of one, names; numpy refuses what lies outside."""
        dtype = np.dtype(DTYPES[component])
        data, stride = self.view(part["bufferView"])
        strides = (stride or dtype.itemsize * width, dtype.itemsize)
        return np.ndarray((count, width), dtype, data, part.get("byteOffset", 0), strides)

    def accessor(self, index: object) -> np.ndarray:
        """(count, width); integers that stand for fractions as floats (sections 3.6.2 and 3.11)."""
        accessor = self.item("accessors", index)
        component, count, width = accessor["componentType"], accessor["count"], WIDTHS[accessor["type"]]
        if "bufferView" in accessor:
            values = self.array(accessor, component, count, width)
        elif count * width > MOST_NUMBERS:
            raise ValueError(f"its accessor {index} has {count} elements and no data")
        else:
            values = np.zeros((count, width), DTYPES[component])
        if count < 1:
            raise ValueError(f"its accessor {index} has {count} elements")
        if sparse := accessor.get("sparse"):
            at = self.array(sparse["indices"], sparse["indices"]["componentType"], sparse["count"], 1)[:, 0]
            values = values.copy()
            values[at] = self.array(sparse["values"], component, sparse["count"], width)
        return fractions(values) if accessor.get("normalized") else values

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
            why = error if isinstance(error, ValueError) else "no picture, or a damaged one"
            raise ValueError(f"its image {index} cannot be read ({why})") from error
        if max(picture.size) > largest:  # each channel alone: colour counts where alpha is 0, too
            scale = largest / max(picture.size)
            size = tuple(max(1, round(side * scale)) for side in picture.size)
            bands = [band.resize(size, Image.Resampling.BOX) for band in picture.split()]
            picture = Image.merge("RGBA", bands)
        return np.asarray(picture)

    def clips(self) -> list[Clip]:
        """All animations; those without a name are `clip_<index>`, of one name the later ones have ` (2)` and so on."""
        found: dict[str, Clip] = {}
        for i, animation in enumerate(self.all("animations")):
            name = given = str(animation.get("name") or f"clip_{i}")
            number = 1
            while name in found:
                number += 1
                name = f"{given} ({number})"
            found[name] = clip_of(name, self._tracks(animation))
        return list(found.values())

    def _tracks(self, animation: dict) -> list[Track]:
        """One animation, channels with the same keys together (section 3.11)."""
        together: dict[tuple, list[tuple[int, np.ndarray]]] = {}
        for channel in animation["channels"]:
            path, node = channel["target"]["path"], channel["target"].get("node")
            if node is None or path not in (*TRACK_WIDTHS, "weights"):
                continue  # an extension's
            self.item("nodes", node)
            sampler = entry(animation["samplers"], channel["sampler"], "samplers")
            how = sampler.get("interpolation", "LINEAR")
            if how not in ("LINEAR", "STEP", "CUBICSPLINE"):
                raise ValueError(f"an animation has the interpolation {how!r}")
            times = self.accessor(sampler["input"])[:, 0].astype(np.float64)
            values = np.asarray(self.accessor(sampler["output"]), np.float32)
            if not (np.isfinite(times).all() and np.isfinite(values).all()) or (np.diff(times) < 0).any():
                raise ValueError("an animation has keys that are not finite, or whose times fall")
            each = (len(times), 3, 1) if how == "CUBICSPLINE" else (len(times), 1)
            if len(values) % np.prod(each):
                raise ValueError(f"an animation has {len(times)} keys and {len(values)} values ({how})")
            values = values.reshape(*each, -1)
            width = values.shape[-1]
            if width != TRACK_WIDTHS.get(path, width):
                raise ValueError(f"an animation has {width} numbers for a {path}")
            together.setdefault((path, how, width, times.tobytes()), []).append((node, values))
        return [
            Track(path, how, np.frombuffer(times), [n for n, _ in found], np.concatenate([v for _, v in found], -2))
            for (path, how, _, times), found in together.items()
        ]


def _chunks(data: bytes) -> tuple[bytes, bytes]:
    """The JSON and the binary part of a file (section 4.4)."""
    if data[:4] != b"glTF":
        return data, b""
    found, at = {}, 12
    while at + 8 <= len(data) and len(found) < 2:
        length, kind = struct.unpack_from("<I4s", data, at)
        found[kind] = data[at + 8 : at + 8 + length]
        if len(found[kind]) < length:
            raise ValueError("it is cut short")
        at += 8 + length
    return found[b"JSON"], found.get(b"BIN\0", b"")


def entry(found: Sequence, index: object, name: str) -> dict:
    """An entry of one of the JSON's lists; an index below 0 would silently count from the end."""
    if type(index) is not int or not 0 <= index < len(found):
        raise ValueError(f"it names number {index!r:.40} of its {name!r}, and has {len(found)}")
    return found[index]


def numbers(given: object, n: int, what: str) -> np.ndarray:
    """`n` finite numbers of the JSON."""
    right = isinstance(given, list) and all(type(x) in (int, float) and abs(x) < 1e38 for x in given)
    if not right or len(given) != n:
        raise ValueError(f"{what} is {given!r:.40}; expected {n} numbers")
    return np.array(given, np.float64)


def fractions(values: np.ndarray) -> np.ndarray:
    """Integers as shares of their largest (section 3.11); floats as they are."""
    if values.dtype.kind not in "iu":
        return values
    return np.maximum(values.astype(np.float32) / np.iinfo(values.dtype).max, -1)
