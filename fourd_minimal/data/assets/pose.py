"""An asset at given times: keys become node transforms, morph targets and skins become positions of vertices.

glTF 2.0, section 3.7.3 and appendix C. A vertex with morph targets moves by their weighted sum, then by its node, or,
where it has a skin, by the weighted sum of its joints' matrices. All times are computed at once, in numpy, whose small
arrays are faster than torch's.

Departure: the normal of a vertex that several joints move is turned by the weighted sum of what turns it for each; its
own matrix' inverse transpose is the same for one joint, and for joints that agree.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from fourd_minimal.data.assets.animation import Track, sample_tracks
from fourd_minimal.data.assets.mesh import Part
from fourd_minimal.data.assets.reader import Asset

Array = np.ndarray


class Pose(NamedTuple):
    """All vertices in the world, at t times."""

    positions: Float[Array, "t n 3"]
    normals: Float[Array, "t n 3"] | None
    """Length 1."""
    mirrored: Bool[Array, "t parts"]
    """Whether a part is seen as in a mirror, so that its triangles run clockwise (section 3.7.4)."""


def matrices(
    translation: Float[Array, "*b 3"], rotation: Float[Array, "*b 4"], scale: Float[Array, "*b 3"]
) -> Float[Array, "*b 4 4"]:
    """Translation times rotation (x, y, z, w) times scale."""
    x, y, z, w = np.moveaxis(rotation / np.maximum(np.linalg.norm(rotation, axis=-1, keepdims=True), 1e-12), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    result = np.zeros((*x.shape, 4, 4))
    result[..., :3, :3] = np.stack([np.stack(row, -1) for row in rows], -2) * scale[..., None, :]
    result[..., :3, 3], result[..., 3, 3] = translation, 1
    return result


def node_transforms(
    asset: Asset, tracks: list[Track], times_s: Float[Array, " t"]
) -> tuple[Float[Array, "nodes t 4 4"], dict[int, Float[Array, "t m"]]]:
    """Every node's transform to the world, and the morph weights that the clip sets."""
    n, t, rest = len(asset.parents), len(times_s), asset.rest
    local = {name: np.repeat(rest[name][:, None], t, 1) for name in ("translation", "rotation", "scale")}
    weights: dict[int, Array] = {}
    moved = np.zeros(n, bool)
    alike: dict[tuple, list[Track]] = {}
    for track in tracks:
        alike.setdefault((track.path, track.interpolation, track.values.shape[-1]), []).append(track)
    for (path, *_), group in alike.items():
        values, nodes = sample_tracks(group, times_s), [node for track in group for node in track.nodes]
        if path == "weights":
            weights |= {node: values[:, i] for i, node in enumerate(nodes)}
        else:
            local[path][nodes] = values.transpose(1, 0, 2)
            moved[nodes] = True
    world = matrices(**local)
    given = rest["matrix"].any((1, 2)) & ~moved
    world[given] = rest["matrix"][given, None]
    for level in asset.levels:
        world[level] = world[asset.parents[level]] @ world[level]
    return world, weights


def pose(asset: Asset, clip: int | None, times_s: Float[Array, " t"], normals: bool = True) -> Pose:
    """Positions and normals of all vertices in the world.

    Args:
        asset: from `read_asset`.
        clip: index; None for the asset at rest.
        times_s: seconds, on the clip's own clock.
        normals: also compute those.
    """
    tracks = [] if clip is None else asset.clips[clip].tracks
    world, weights = node_transforms(asset, tracks, np.asarray(times_s, np.float64))
    t, n = len(times_s), len(asset.positions)
    positions = np.empty((t, n, 3), np.float32)
    directions = np.empty((t, n, 3), np.float32) if normals else None
    mirrored = np.zeros((t, len(asset.parts)), bool)
    for i, part in enumerate(asset.parts):
        here = part.vertices
        x, normal = _morphed(asset, part, weights.get(part.node))
        if part.skin is None:
            moves = world[part.node][None]
        else:  # the node itself does not count
            skin = asset.skins[part.skin]
            moves = world[skin.joints[part.joints]] @ skin.inverse_bind[part.joints, None]
        turns, sign = _cofactors(moves[..., :3, :3])
        mirrored[:, i] = sign.sum(0) < 0
        columns = np.concatenate([moves[..., :3, :], turns], -1).transpose(1, 2, 3, 0)  # (t, 3, 4 + 3, joints)
        columns = columns.reshape(t * 21, -1).astype(np.float32)
        if part.skin is not None:
            columns = columns @ part.weights.T  # one product for all times
        columns = columns.reshape(t, 3, 7, -1)
        positions[:, here] = (_apply(columns, x) + columns[:, :, 3]).transpose(0, 2, 1)
        if normals:
            normal = _apply(columns[:, :, 4:], normal)
            normal /= np.maximum(np.sqrt(np.square(normal).sum(1, keepdims=True)), 1e-20)
            directions[:, here] = normal.transpose(0, 2, 1)
    return Pose(positions, directions, mirrored)


def _morphed(
    asset: Asset, part: Part, weights: Float[Array, "t m"] | None
) -> tuple[Float[Array, "*t n 3"], Float[Array, "*u n 3"]]:
    """Positions and normals in the space of the part's node, moved by its morph targets."""
    x, normal = asset.positions[part.vertices], asset.normals[part.vertices]
    if part.morphs is None:
        return x, normal
    w = part.morph_weights[None] if weights is None else weights[:, : len(part.morphs)].astype(np.float32)
    m = w.shape[1]
    x = x + np.tensordot(w, part.morphs[:m], 1)
    return x, normal if part.morph_normals is None else normal + np.tensordot(w, part.morph_normals[:m], 1)


def _apply(columns: Float[Array, "t 3 c #n"], vectors: Float[Array, "*t n 3"]) -> Float[Array, "t 3 n"]:
    """The first three columns of each vertex' matrix times its vector."""
    x, y, z = np.moveaxis(vectors, -1, 0)[..., None, :]
    return columns[:, :, 0] * x + columns[:, :, 1] * y + columns[:, :, 2] * z


def _cofactors(m: Float[Array, "j t 3 3"]) -> tuple[Float[Array, "j t 3 3"], Float[Array, "j t"]]:
    """What turns normals where m turns positions, its inverse transpose up to a positive scale; and m's handedness."""
    one, two = [1, 2, 0], [2, 0, 1]
    below, beyond = m[..., one, :], m[..., two, :]
    cofactors = below[..., one] * beyond[..., two] - below[..., two] * beyond[..., one]
    volume = (m[..., 0, :] * cofactors[..., 0, :]).sum(-1)
    sign = np.where(volume < 0, -1.0, 1.0)
    size = np.where(volume == 0, 1, np.cbrt(volume)) ** 2  # so that a large joint does not outweigh a small one
    return cofactors * (sign / size)[..., None, None], sign
