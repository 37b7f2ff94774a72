"""A .gltf or .glb file as arrays: what its meshes draw, the tree of its nodes, its skins and its clips.

Only what the shown scene holds is read (glTF 2.0, section 3.5.1). Departures: lamps and cameras are ignored, and nodes
called `*_collider`, which games use and never draw, are not drawn.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fourd_minimal.data.assets.animation import Clip
from fourd_minimal.data.assets.document import Document, entry, numbers
from fourd_minimal.data.assets.mesh import Meshes, Part
from fourd_minimal.data.assets.surface import Surface


@dataclass
class Skin:
    joints: np.ndarray
    """(j,) node of each joint."""
    inverse_bind: np.ndarray
    """(j, 4, 4)."""


@dataclass
class Asset:
    """Everything that is drawn of one file. Vertices of all parts lie one after the other."""

    path: Path
    parents: np.ndarray
    """Of each node; -1 for a root."""
    levels: list[np.ndarray]
    """The nodes below the roots, all of one depth together, parents before their children."""
    rest: dict[str, np.ndarray]
    """`translation` (n, 3), `rotation` (n, 4), `scale` (n, 3) and `matrix` (n, 4, 4) of each node where no clip moves
    it; a matrix that is all 0 stands for the other three."""
    parts: list[Part]
    skins: dict[int, Skin]
    """Those that parts have, by their index in the file."""
    clips: list[Clip]
    positions: np.ndarray
    """(n, 3) in the space of the part's node."""
    normals: np.ndarray
    """(n, 3), length 1."""
    surface: Surface
    """Triangles, materials and textures."""


def read_asset(path: str | Path, largest_texture: int = 512) -> Asset:
    """Read a file.

    Args:
        path: a .gltf or .glb; buffers and pictures may lie in files of the same folder or below it.
        largest_texture: pixels along the longer side, to which larger textures are reduced.

    Raises:
        FileNotFoundError: it, or a file it needs, is missing.
        ValueError: it is not glTF 2.0, damaged, needs an extension that is not read here, or has nothing to draw.
    """
    document = Document(path)
    with document.sentences():
        document.check_extensions()
        nodes = document.all("nodes")
        parents, levels = _tree(nodes)
        meshes = Meshes(document, largest_texture)
        for i in _shown(document, parents):
            if "mesh" in nodes[i] and not str(nodes[i].get("name")).lower().endswith("_collider"):
                meshes.add(i, nodes[i])
        if not meshes.parts:
            raise ValueError("its scene has no triangles to draw")
        skins = {i: _skin(document, document.item("skins", i)) for i in {p.skin for p in meshes.parts} - {None}}
        for part in meshes.parts:
            if part.skin is not None and part.joints.max() >= len(skins[part.skin].joints):
                raise ValueError(f"a vertex names joint {part.joints.max()} of {len(skins[part.skin].joints)}")
        positions, normals = (np.concatenate(meshes.columns[name]) for name in ("positions", "normals"))
        tree, clips = (parents, levels, _rest(nodes)), document.clips()
        return Asset(document.path, *tree, meshes.parts, skins, clips, positions, normals, meshes.surface())


def _tree(nodes: list[dict]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Every node's parent, and the nodes by depth (section 3.5.2)."""
    parents = np.full(len(nodes), -1)
    for i, node in enumerate(nodes):
        for child in node.get("children", []):
            entry(nodes, child, "nodes")
            if parents[child] != -1:
                raise ValueError(f"node {child} has two parents")
            parents[child] = i
    levels, level = [], np.flatnonzero(parents == -1)
    while len(level):
        levels.append(level)
        level = np.array([child for i in level for child in nodes[i].get("children", [])], int)
    if sum(map(len, levels)) < len(nodes):
        raise ValueError("its nodes form a circle")
    return parents, levels[1:]


def _shown(document: Document, parents: np.ndarray) -> list[int]:
    """The nodes of the shown scene, each once; in a file without scenes all of them."""
    roots = np.flatnonzero(parents == -1).tolist()
    if document.all("scenes"):
        roots = document.item("scenes", document.json.get("scene", 0)).get("nodes", [])
    stack, shown = list(reversed(roots)), {}
    while stack:
        i = stack.pop()
        if i not in shown:
            stack += reversed(document.item("nodes", i).get("children", []))
            shown[i] = None
    return list(shown)


def _rest(nodes: list[dict]) -> dict[str, np.ndarray]:
    """Where nodes are without a clip (section 3.5.3)."""
    n = len(nodes)
    rest = {"translation": np.zeros((n, 3)), "rotation": np.tile([0.0, 0, 0, 1], (n, 1)), "scale": np.ones((n, 3))}
    rest["matrix"] = np.zeros((n, 4, 4))
    for i, node in enumerate(nodes):
        for name, values in rest.items():
            if name in node:
                given = numbers(node[name], values[i].size, f"the {name} of node {i}")
                values[i] = given.reshape(4, 4).T if name == "matrix" else given
    return rest


def _skin(document: Document, skin: dict) -> Skin:
    """Its joints, and what takes the mesh at rest to each joint's space (section 3.7.3)."""
    for joint in skin["joints"]:
        document.item("nodes", joint)
    joints = np.array(skin["joints"], int)
    inverse = np.tile(np.eye(4), (len(joints), 1, 1))
    if "inverseBindMatrices" in skin:
        given = document.accessor(skin["inverseBindMatrices"])[: len(joints)]
        inverse = given.reshape(-1, 4, 4).transpose(0, 2, 1).astype(np.float64)
    if len(inverse) != len(joints) or not np.isfinite(inverse).all():
        raise ValueError(f"a skin has {len(inverse)} matrices for {len(joints)} joints, or some are not finite")
    return Skin(joints, inverse)
