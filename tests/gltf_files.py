"""Tiny glTF files for tests: a red box that slides past a green post, and clips, buffers and files of any other."""

import base64
import json
import struct
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np

COMPONENTS = {"int8": 5120, "uint8": 5121, "int16": 5122, "uint16": 5123, "uint32": 5125, "float32": 5126}
KINDS = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}

TRIANGLES = [(0, 1, 3), (0, 3, 2), (4, 6, 7), (4, 7, 5), (0, 4, 5), (0, 5, 1)]
TRIANGLES += [(2, 3, 7), (2, 7, 6), (0, 2, 6), (0, 6, 4), (1, 5, 7), (1, 7, 3)]
CUBE = np.array(list(product((-1, 1), repeat=3)), np.float32)
POST_AT, POST_HALF, CUBE_HALF = (0.5, 0.4, 2.2), (0.3, 1.4, 0.2), (0.9, 0.7, 1.0)
SLIDE_FROM, SLIDE_TO = (-1.0, 0.2, 0.0), (1.4, 0.2, 0.3)
BOX, POST = 0, 1
"""The nodes of `asset_document`."""


class Buffer:
    """Arrays, one after the other, and the accessors that name them."""

    def __init__(self):
        self.data, self.views, self.accessors = b"", [], []

    def add(self, values, **more) -> int:
        """The index of a new accessor. Numbers that are no integers become float32.

        Args:
            values: (n,), (n, width), or (n, 4, 4), whose matrices are stored column by column.
            more: fields of the accessor, such as `normalized`.
        """
        array = np.asarray(values)
        array = array.astype(np.float32) if array.dtype.kind == "f" else array
        array = array.transpose(0, 2, 1) if array.ndim == 3 else array
        flat = np.ascontiguousarray(array).reshape(len(array), -1)
        self.accessors.append(
            {
                "bufferView": self.view(flat.tobytes()),
                "componentType": COMPONENTS[array.dtype.name],
                "count": len(flat),
                "type": KINDS[flat.shape[1]],
                "min": flat.min(0).tolist(),
                "max": flat.max(0).tolist(),
                **more,
            }
        )
        return len(self.accessors) - 1

    def view(self, content: bytes, **more) -> int:
        """The index of a new buffer view."""
        self.data += bytes(-len(self.data) % 4)
        self.views.append({"buffer": 0, "byteOffset": len(self.data), "byteLength": len(content), **more})
        self.data += content
        return len(self.views) - 1

    def fields(self) -> dict:
        """What of a document names the buffer."""
        return dict(buffers=[{"byteLength": len(self.data)}], bufferViews=self.views, accessors=self.accessors)


def clip(
    buffer: Buffer,
    channels: Mapping[tuple[int, str], Sequence],
    times: Sequence[float] | int = (0.5, 1.5),
    name: str | None = None,
    interpolation: str | None = None,
) -> dict:
    """An animation.

    Args:
        buffer: where its arrays go.
        channels: from a node and "translation", "rotation", "scale" or "weights" to its values at the times.
        times: in seconds, or the accessor that holds them.
        name, interpolation: left out where None.
    """
    keys = times if isinstance(times, int) else buffer.add(np.array(times, np.float32))
    how = {} if interpolation is None else {"interpolation": interpolation}
    samplers = [
        {"input": keys, "output": buffer.add(np.array(values, np.float32)), **how} for values in channels.values()
    ]
    targets = [{"sampler": i, "target": {"node": node, "path": path}} for i, (node, path) in enumerate(channels)]
    named = {} if name is None else {"name": name}
    return {**named, "samplers": samplers, "channels": targets}


def asset_document(clips: Mapping[str, Mapping[tuple[int, str], Sequence]] | None = None) -> tuple[dict, bytes]:
    """A red box (node 0) and a green post (node 1): the JSON and its buffer.

    Args:
        clips: by their names, from 0.5 to 1.5 seconds, see `clip`. Left out, three: "rest", in which nothing moves;
            one without a name, in which the box slides past the post; and "spline", in which it rests, though the
            tangents of its cubic spline do not.
    """
    buffer = Buffer()
    corners, faces = buffer.add(CUBE), buffer.add(np.array(TRIANGLES, np.uint16).reshape(-1))
    times = buffer.add(np.array([0.5, 1.5], np.float32))
    if clips is None:
        spline = [(0, 0, 0), SLIDE_FROM, (3, 0, 0), (0, 3, 0), SLIDE_FROM, (0, 0, 0)]
        animations = [
            clip(buffer, {(BOX, "translation"): [SLIDE_FROM, SLIDE_FROM]}, times, "rest"),
            clip(buffer, {(BOX, "translation"): [SLIDE_FROM, SLIDE_TO]}, times),
            clip(buffer, {(BOX, "translation"): spline}, times, "spline", "CUBICSPLINE"),
        ]
    else:
        animations = [clip(buffer, channels, times, name) for name, channels in clips.items()]

    def material(*colour):
        return {"pbrMetallicRoughness": {"baseColorFactor": [*colour, 1], "metallicFactor": 0}}

    document = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [BOX, POST]}],
        "nodes": [{"mesh": 0, "scale": CUBE_HALF}, {"mesh": 1, "scale": POST_HALF, "translation": POST_AT}],
        "meshes": [
            {"primitives": [{"attributes": {"POSITION": corners}, "indices": faces, "material": i}]} for i in (0, 1)
        ],
        "materials": [material(0.8, 0.02, 0.02), material(0.02, 0.6, 0.02)],
        "animations": animations,
        **buffer.fields(),
    }
    return document, buffer.data


def write_gltf(path: Path, document: dict | None = None, data: bytes | None = None, **changes) -> Path:
    """Write a .gltf with its buffer inside, or a .glb; left out, `asset_document`'s.

    Args:
        path: its suffix decides.
        document, data: the JSON and its only buffer.
        changes: fields of the document that are replaced.
    """
    if document is None:
        document, data = asset_document()
    document = {**document, **changes}
    if path.suffix == ".glb":
        path.write_bytes(glb(document, data))
    else:
        inside = {"uri": "data:application/octet-stream;base64," + base64.b64encode(data).decode()}
        document["buffers"] = [{**document["buffers"][0], **inside}]
        path.write_text(json.dumps(document), encoding="utf-8")
    return path


def glb(document: dict, data: bytes) -> bytes:
    """The content of a .glb."""
    text = json.dumps(document).encode()
    chunks = b""
    for kind, content in ((b"JSON", text + b" " * (-len(text) % 4)), (b"BIN\0", data + bytes(-len(data) % 4))):
        chunks += struct.pack("<I4s", len(content), kind) + content
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks
