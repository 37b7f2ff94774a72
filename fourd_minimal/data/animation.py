"""An asset at given times: keys become node transforms, morph targets and skins become positions of vertices.

glTF 2.0, section 3.11 and appendix C. Between two keys at distance d, with u in [0, 1] from one to the other:

    STEP          the earlier value
    LINEAR        (1 - u) a + u b; rotations along the shorter arc of the sphere (slerp)
    CUBICSPLINE   (2u^3 - 3u^2 + 1) a + d (u^3 - 2u^2 + u) out_a + (3u^2 - 2u^3) b + d (u^3 - u^2) in_b;
                  rotations are normalised

A vertex with morph targets moves by their weighted sum, then by its node, or, where it has a skin, by the weighted sum
of its joints' matrices. All times are computed at once, in numpy, whose small arrays are faster than torch's.
"""

import numpy as np
from jaxtyping import Float

from fourd_minimal.data.gltf_reader import Asset, Part, Track

Array = np.ndarray


def sample_track(track: Track, times_s: Float[Array, " t"]) -> Float[Array, "t nodes width"]:
    """The values of a track's nodes; before the first key and after the last, theirs."""
    keys, values = track.times.astype(np.float64), track.values
    spline = track.interpolation == "CUBICSPLINE"
    right = np.clip(np.searchsorted(keys, times_s, side="right"), 1, max(1, len(keys) - 1))
    left = right - 1
    right = np.minimum(right, len(keys) - 1)
    distance = (keys[right] - keys[left])[:, None, None]
    u = np.clip((times_s[:, None, None] - keys[left][:, None, None]) / np.maximum(distance, 1e-12), 0, 1)
    if track.interpolation == "STEP":
        return np.where(u < 1, values[left], values[right])
    if spline:
        a, b = values[left, 1], values[right, 1]
        out_a, in_b = distance * values[left, 2], distance * values[right, 0]
        result = (2 * u**3 - 3 * u**2 + 1) * a + (u**3 - 2 * u**2 + u) * out_a
        result = result + (3 * u**2 - 2 * u**3) * b + (u**3 - u**2) * in_b
    elif track.path == "rotation":
        result = slerp(values[left], values[right], u)
    else:
        result = (1 - u) * values[left] + u * values[right]
    if track.path == "rotation":
        result = result / np.maximum(np.linalg.norm(result, axis=-1, keepdims=True), 1e-12)
    return result


def slerp(a: Float[Array, "*b 4"], b: Float[Array, "*b 4"], u: Float[Array, "*b 1"]) -> Float[Array, "*b 4"]:
    """From a to b along the shorter arc, at constant speed."""
    cosine = (a * b).sum(-1, keepdims=True)
    b, cosine = np.where(cosine < 0, -b, b), np.clip(np.abs(cosine), 0, 1)
    angle = np.arccos(cosine)
    small = angle < 1e-3
    sine = np.where(small, 1, np.sin(angle))
    along = np.where(small, 1 - u, np.sin((1 - u) * angle) / sine)
    return along * a + np.where(small, u, np.sin(u * angle) / sine) * b


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
    for track in tracks:
        values = sample_track(track, times_s)
        if track.path == "weights":
            weights |= {node: values[:, i] for i, node in enumerate(track.nodes)}
        else:
            local[track.path][track.nodes] = values.transpose(1, 0, 2)
            moved[track.nodes] = True
    world = matrices(**local)
    given = rest["matrix"].any((1, 2)) & ~moved
    world[given] = rest["matrix"][given, None]
    for level in _levels(asset.parents):
        world[level] = world[[asset.parents[i] for i in level]] @ world[level]
    return world, weights


def _levels(parents: list[int]) -> list[list[int]]:
    """The nodes below the roots, parents before their children, all of one depth together."""
    depths = []
    for i in range(len(parents)):
        depth = 0
        while (i := parents[i]) != -1:
            depth += 1
        depths.append(depth)
    return [[i for i, d in enumerate(depths) if d == depth] for depth in range(1, max(depths, default=0) + 1)]


def pose(
    asset: Asset, clip: int | None, times_s: Float[Array, " t"], normals: bool = True
) -> tuple[Float[Array, "t n 3"], Float[Array, "t n 3"] | None]:
    """Positions and normals of all vertices in the world.

    Args:
        asset: from `read_asset`.
        clip: index; None for the asset at rest.
        times_s: seconds, on the clip's own clock.
        normals: also compute those.
    """
    tracks = [] if clip is None else asset.clips[clip][1]
    world, weights = node_transforms(asset, tracks, np.asarray(times_s, np.float64))
    t, n = len(times_s), len(asset.positions)
    positions = np.empty((t, n, 3), np.float32)
    directions = np.empty((t, n, 3), np.float32) if normals else None
    skinned: dict[int, Array] = {}
    for part in asset.parts:
        here = part.vertices
        x, normal = asset.positions[here], asset.normals[here]
        if part.morphs is not None:
            w = weights.get(part.node)
            w = np.repeat(part.morph_weights[None], t, 0) if w is None else w[:, : len(part.morphs)]
            x = x + np.tensordot(w.astype(np.float32), part.morphs[: w.shape[1]], 1)
            if part.morph_normals is not None and normals:
                normal = normal + np.tensordot(w.astype(np.float32), part.morph_normals[: w.shape[1]], 1)
        if part.skin is None:
            moves = world[part.node][:, None].astype(np.float32)
        else:
            if part.skin not in skinned:
                skin = asset.skins[part.skin]
                skinned[part.skin] = (world[skin.joints] @ skin.inverse_bind[:, None]).astype(np.float32)
            moves = _blend(part, skinned[part.skin])
        positions[:, here] = _apply(moves[..., :3, :3], x) + moves[..., :3, 3]
        if normals:
            directions[:, here] = _apply(_cofactors(moves[..., :3, :3]), normal)
    if normals:
        directions /= np.maximum(np.sqrt(np.einsum("tni,tni->tn", directions, directions)), 1e-20)[..., None]
    return positions, directions


def _blend(part: Part, joints: Float[Array, "j t 4 4"]) -> Float[Array, "t n 4 4"]:
    """Each vertex' weighted sum of joint matrices, as one product of a dense matrix."""
    n = len(part.joints)
    dense = np.zeros((n, len(joints)), np.float32)
    np.add.at(dense, (np.arange(n)[:, None], part.joints), part.weights)
    t = joints.shape[1]
    flat = joints[:, :, :3].transpose(1, 0, 2, 3).reshape(t, len(joints), 12)
    return (dense @ flat).reshape(t, n, 3, 4)


def _apply(linear: Float[Array, "t n 3 3"], x: Float[Array, "*t n 3"]) -> Float[Array, "t n 3"]:
    x = x if x.ndim == 3 else x[None]
    if linear.shape[1] == 1:  # one matrix for all vertices of a part
        return x @ linear[:, 0].transpose(0, 2, 1)
    return sum(linear[..., i] * x[..., i, None] for i in range(3))


def _cofactors(m: Float[Array, "*b 3 3"]) -> Float[Array, "*b 3 3"]:
    """What turns normals where m turns positions: the inverse transpose, up to its positive or negative scale."""
    a, b, c = m[..., 0], m[..., 1], m[..., 2]
    columns = np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)], -1)
    if m.shape[1] > 1:
        return columns
    return columns * np.sign(np.linalg.det(m))[..., None, None]
