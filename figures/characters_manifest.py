"""Make `fourd_minimal/data/characters.json` again: the manifest of the animated characters, from a copy of them.

    python -m figures.characters_manifest ../shared/data

The folder holds `characters` (with its INDEX.json) and `assets` (older, without an index: the four of OLDER). Every
file that an asset needs is found by the URIs in it, and hashed. What moves is INDEX.json's own measure; for the older
assets it is taken here, of every vertex, with numpy, and agrees with INDEX.json (tests/data/test_collection.py).

The measure, from 8 moments, first key to last, as shares of the diagonal of the box around all of them: `max`, the
farthest that a vertex is from itself; `mean`, how far vertices are on average between the two moments that differ most;
`size`, the mean diagonal at one moment. A clip is good with max >= 0.05, mean >= 0.01 and size >= 0.5. Of clips with
the same keys to three decimals, or with one name (which then measure the same), the first counts; INDEX.json's
`n_good_clips` counts the former twice.
"""

import base64
import hashlib
import json
import posixpath
import struct
import sys
from pathlib import Path
from urllib.parse import unquote

import numpy as np
from scipy.spatial.transform import Rotation

MANIFEST = Path(__file__).parents[1] / "fourd_minimal/data/characters.json"
LEAST = dict(max=0.05, mean=0.01, size=0.5)
COPIED = ("id", "kind", "rig_family", "suggested_split", "licence", "attribution", "licence_source", "repo", "commit")
PREFIX = "LICENCE_from_repo__"
ELSEWHERE = {  # files whose names here do not say where they lie in their repositories
    "kenney_graveyard/kenney_ghost/Textures/colormap.png": "render/world_to_screen/assets/models/colormap.png",
    f"kaykit_animations_old/{PREFIX}Assets__KayKit_Character_Animations_1.2__License.txt": (
        "Assets/KayKit Character Animations 1.2/License.txt"
    ),
}
GLTF = "examples/models/resources/models/gltf"
KAYKIT = dict(
    repo="KayKit-Game-Assets/KayKit-Character-Pack-Adventures-1.0",
    commit="672074b73ba276876a19e8816ecdc5241817ab47",
    licences=[("licences/kaykit_LICENSE.txt", "LICENSE.txt")],
)
BEVY = dict(
    repo="bevyengine/bevy",
    commit="4805ca792c3e94eef07afd6fa9a2712f388c9a67",
    licences=[("licences/bevy_CREDITS.md", "CREDITS.md")],
)
RAYLIB = dict(
    repo="raysan5/raylib",
    commit="abe23bf82dcab18a618067843aed4eec2b24ba97",
    licences=[("licences/raylib_gltf_LICENSE.txt", f"{GLTF}/LICENSE")],
)
OLDER = [  # what ../shared/data/SOURCES.md says, in INDEX.json's words, and licence files as (here, there)
    dict(
        id="kaykit_Knight",
        file="assets/kaykit_Knight.glb",
        path="addons/kaykit_character_pack_adventures/Characters/gltf/Knight.glb",
        kind="humanoid",
        rig_family="kaykit_adventurers",  # with kaykit_Barbarian: the same rig and clips
        suggested_split="train",
        licence="CC0-1.0",
        attribution="Kay Lousberg, KayKit Adventurers",
        licence_source='repo LICENSE.txt: "License: (Creative Commons Zero, CC0)"',
        **KAYKIT,
    ),
    dict(
        id="khronos_Fox",
        file="assets/khronos_Fox.glb",
        path="assets/models/animated/Fox.glb",
        kind="quadruped",
        rig_family="khronos_fox",
        suggested_split="public-test",
        licence="CC0-1.0 AND CC-BY-4.0",
        attribution="PixelMannen (mesh), @tomkranis (rig and animation), @AsoboStudio and @scurest (conversion)",
        licence_source="repo CREDITS.md: low poly fox by PixelMannen, CC0; rig and animation by @tomkranis, CC BY 4.0",
        **BEVY,
    ),
    dict(
        id="quaternius_robot_raylib",
        file="assets/quaternius_robot_raylib.glb",
        path=f"{GLTF}/robot.glb",
        kind="robot",
        rig_family="quaternius_robot",
        suggested_split="public-test",
        licence="CC0-1.0",
        attribution="Quaternius",
        licence_source='LICENSE beside the file: "robot.glb model by @Quaternius ... CC0 1.0"',
        **RAYLIB,
    ),
    dict(
        id="raylib_greenman",
        file="assets/raylib_greenman.glb",
        path=f"{GLTF}/greenman.glb",
        kind="humanoid",
        rig_family="raylib_greenman",
        suggested_split="public-test",
        licence="CC0-1.0",
        attribution="@iP (github.com/ipzaur)",
        licence_source='LICENSE beside the file: "greenman.glb ... models by @iP ... CC0 1.0"',
        **RAYLIB,
    ),
]


class Gltf:
    """A .gltf or .glb, as its JSON, and its accessors as arrays (count, width)."""

    def __init__(self, path: Path):
        data, inside = path.read_bytes(), b""
        if data[:4] == b"glTF":
            (n,) = struct.unpack_from("<I", data, 12)
            data, inside = data[20 : 20 + n], data[28 + n :]
        self.json = json.loads(data)
        uris = [buffer.get("uri") for buffer in self.json["buffers"]]
        self.buffers = [
            inside if u is None else base64.b64decode(u.split(",", 1)[1]) if u[:5] == "data:" else beside(path, u)
            for u in uris
        ]

    def files(self) -> list[str]:
        """What it needs besides itself, relative to itself."""
        uris = [o["uri"] for kind in ("buffers", "images") for o in self.json.get(kind, []) if "uri" in o]
        return list(dict.fromkeys(unquote(uri) for uri in uris if not uri.startswith("data:")))

    def numbers(self, i: int) -> np.ndarray:
        accessor = self.json["accessors"][i]
        view = self.json["bufferViews"][accessor["bufferView"]]
        dtype = np.dtype({5121: "u1", 5123: "<u2", 5125: "<u4", 5126: "<f4"}[accessor["componentType"]])
        width = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}[accessor["type"]]
        start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
        strides = (view.get("byteStride", width * dtype.itemsize), dtype.itemsize)
        return np.ndarray((accessor["count"], width), dtype, self.buffers[view["buffer"]], start, strides)

    def channels(self, animation: dict) -> list[tuple[int, str, np.ndarray, np.ndarray]]:
        """(node, path, seconds (k,), values (k, w)) of each."""
        channels = [(c["target"], animation["samplers"][c["sampler"]]) for c in animation["channels"]]
        return [
            (t["node"], t["path"], self.numbers(s["input"])[:, 0], self.numbers(s["output"]))
            for t, s in channels
            if "node" in t
        ]


def beside(path: Path, uri: str) -> bytes:
    return (path.parent / unquote(uri)).read_bytes()


def motion(gltf: Gltf, animation: dict) -> dict[str, float]:
    """The measure above, for LINEAR keys, skins and rigid nodes."""
    channels = gltf.channels(animation)
    first, last = min(s[0] for *_, s, _ in channels), max(s[-1] for *_, s, _ in channels)
    points = positions(gltf, channels, np.linspace(first, last, 8))
    box = np.linalg.norm(np.ptp(points, axis=(0, 1)))
    moved = np.stack([np.linalg.norm(points - p, axis=-1) for p in points]) / box
    size = np.linalg.norm(np.ptp(points, axis=1), axis=-1).mean() / box
    return dict(max=moved.max(), mean=moved.mean(axis=-1).max(), size=size)


def positions(gltf: Gltf, channels: list[tuple], moments: np.ndarray) -> np.ndarray:
    """Every vertex in the world: (moments, vertices, 3)."""
    nodes, n, animated, world, found = gltf.json["nodes"], len(moments), {}, {}, []
    for node, path, seconds, values in channels:
        if path == "rotation":  # q and -q are one rotation: stay on one side
            turns = np.where((values[1:] * values[:-1]).sum(axis=1) < 0, -1, 1)
            values = values * np.cumprod([1, *turns])[:, None]
        animated[node, path] = np.stack([np.interp(moments, seconds, v) for v in values.T], axis=1)

    def walk(i: int, parent: np.ndarray) -> None:
        def at(path: str, rest: list[float]) -> np.ndarray:
            return animated.get((i, path), np.array([nodes[i].get(path, rest)] * n, float))

        local = np.tile(np.eye(4), (n, 1, 1))
        local[:, :3, :3] = Rotation.from_quat(at("rotation", [0, 0, 0, 1])).as_matrix()
        local[:, :3, :3] *= at("scale", [1, 1, 1])[:, None]
        local[:, :3, 3] = at("translation", [0, 0, 0])
        world[i] = parent @ local
        for child in nodes[i].get("children", []):
            walk(child, world[i])

    for root in gltf.json["scenes"][gltf.json.get("scene", 0)]["nodes"]:
        walk(root, np.eye(4))
    for i in (i for i in world if "mesh" in nodes[i]):
        for primitive in gltf.json["meshes"][nodes[i]["mesh"]]["primitives"]:
            attributes = {name: gltf.numbers(a) for name, a in primitive["attributes"].items()}
            rest = np.concatenate([attributes["POSITION"], np.ones((len(attributes["POSITION"]), 1))], axis=1)
            if "skin" in nodes[i]:
                skin = gltf.json["skins"][nodes[i]["skin"]]
                binds = gltf.numbers(skin["inverseBindMatrices"]).reshape(-1, 4, 4).swapaxes(1, 2)
                joints = np.stack([world[j] for j in skin["joints"]], axis=1) @ binds
                weights = attributes["WEIGHTS_0"] / attributes["WEIGHTS_0"].sum(axis=1, keepdims=True)
                dense = np.zeros((len(rest), len(binds)))
                np.add.at(dense, (np.arange(len(rest))[:, None], attributes["JOINTS_0"]), weights)
                blended = (dense @ joints.reshape(n, -1, 16)).reshape(n, -1, 4, 4)
                found.append((blended @ rest[..., None])[..., :3, 0])
            else:
                found.append((rest @ world[i].swapaxes(1, 2))[..., :3])
    return np.concatenate(found, axis=1)


def clips(gltf: Gltf, measured: dict[str, dict] | None) -> list[list]:
    """Those that are good: [index, name, seconds, max, mean, size], `measured` by name or '#index', or here."""
    found, seen = [], set()
    for i, animation in enumerate(gltf.json["animations"]):
        name, channels = animation.get("name"), gltf.channels(animation)
        keys = tuple(sorted((n, p, rounded(s), rounded(v)) for n, p, s, v in channels))
        if keys in seen or name in seen:
            continue
        seen |= {keys, name} - {None}
        seconds = max(s[-1] for *_, s, _ in channels) - min(s[0] for *_, s, _ in channels)
        if measured is None:
            moves = motion(gltf, animation) if seconds > 0 else None
        else:
            moves = measured.get(name or f"#{i}")
        if moves and all(moves[k] >= least for k, least in LEAST.items()):
            numbers = (seconds, *(moves[k] for k in LEAST))
            found.append([i, name or f"clip_{i}", *(round(float(x), 4) for x in numbers)])
    return found


def rounded(values: np.ndarray) -> bytes:
    return (values.round(3) + 0.0).tobytes()  # 0.0: no -0


def file(folder: Path, name: str, path: str) -> dict:
    data = (folder / name).read_bytes()
    return dict(path=ELSEWHERE.get(name, path), name=name, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))


def entry(folder: Path, asset: dict) -> dict:
    """One asset, with its files below the folder; a clip's `motion` is measured where INDEX.json has none."""
    gltf, (here, there) = Gltf(folder / asset["file"]), (posixpath.dirname(asset[k]) for k in ("file", "path"))
    needed = [(posixpath.join(here, uri), posixpath.join(there, uri)) for uri in gltf.files()]
    keys = ("id", "kind", "family", "split", "licence", "attribution", "stated", "repo", "commit")
    return dict(
        zip(keys, (asset[key] for key in COPIED), strict=True),
        files=[file(folder, n, p) for n, p in [(asset["file"], asset["path"]), *needed]],
        licence_files=[file(folder, n, p) for n, p in asset["licences"]],
        clips=clips(gltf, asset.get("motion")),
    )


def manifest(data: Path) -> list[dict]:
    """All assets, sorted by id."""
    folder, found = data / "characters", [entry(data, asset) for asset in OLDER]
    for asset in json.loads((folder / "INDEX.json").read_text(encoding="utf-8")):
        pack = asset["file"].split("/")[0]
        names = sorted(p.name for p in (folder / pack).glob(f"{PREFIX}*"))
        asset["licences"] = [(f"{pack}/{n}", n.removeprefix(PREFIX).replace("__", "/")) for n in names]
        found.append(entry(folder, asset))
    return sorted(found, key=lambda asset: asset["id"])


def main() -> None:
    lines = ",\n".join(json.dumps(asset, ensure_ascii=False) for asset in manifest(Path(sys.argv[1])))
    MANIFEST.write_bytes(f"[\n{lines}\n]\n".encode())
    print(f"{MANIFEST}: {MANIFEST.stat().st_size / 1e3:.0f} KB")


if __name__ == "__main__":
    main()
