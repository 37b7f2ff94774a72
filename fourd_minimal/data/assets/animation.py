"""Clips of an asset: keys, and the values between them.

glTF 2.0, section 3.11 and appendix C. Between two keys at distance d, with u in [0, 1] from one to the other:

    STEP          the earlier value
    LINEAR        (1 - u) a + u b; rotations along the shorter arc of the sphere (slerp)
    CUBICSPLINE   (2u^3 - 3u^2 + 1) a + d (u^3 - 2u^2 + u) out_a + (3u^2 - 2u^3) b + d (u^3 - u^2) in_b;
                  rotations are normalised
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

Array = np.ndarray


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


@dataclass(frozen=True)
class Clip:
    """One animation of an asset."""

    name: str
    """As in the file; `clip_<index>` where the file has none; ` (2)` follows the second of one name."""
    start_s: float
    """Time of the first key, in seconds."""
    end_s: float
    """Time of the last key, in seconds."""
    moves: bool
    """Whether any value changes by more than 1% of its size; poses are stored as clips too."""
    tracks: list[Track] = field(default_factory=list, repr=False, compare=False)

    @property
    def duration_s(self) -> float:
        return self.end_s - self.start_s


def clip_of(name: str, tracks: list[Track]) -> Clip:
    """A clip from its tracks."""
    start = min((float(track.times[0]) for track in tracks), default=0.0)
    end = max((float(track.times[-1]) for track in tracks), default=0.0)
    return Clip(name, start, end, any(map(_moves, tracks)), tracks)


def _moves(track: Track) -> bool:
    """Whether a value changes by more than 1% of the largest of its node."""
    values = track.values
    if track.interpolation == "CUBICSPLINE":  # it may also change between two equal keys
        times = np.concatenate([track.times, (track.times[1:] + track.times[:-1]) / 2])
        values = sample_tracks([track], np.sort(times))
    return bool((np.ptp(values, 0).max(-1) > 0.01 * np.abs(values).max((0, -1))).any())


def sample_tracks(tracks: list[Track], times_s: Float[Array, " t"]) -> Float[Array, "t nodes width"]:
    """The values of several tracks' nodes; constant before the first key and after the last.

    Args:
        tracks: of one path, one interpolation and one width; their nodes follow each other.
        times_s: seconds.
    """
    path, how = tracks[0].path, tracks[0].interpolation
    shares, spans, left, right = [], [], [], []
    for track in tracks:
        keys, n = track.times, len(track.nodes)
        j = np.minimum(keys.searchsorted(times_s, side="right"), len(keys) - 1)
        i = np.maximum(j - 1, 0)
        span = keys[j] - keys[i]
        share = np.where(span > 0, (times_s - keys[i]) / np.where(span > 0, span, 1), times_s >= keys[j]).clip(0, 1)
        shares.append(np.repeat(share[:, None], n, 1))
        spans.append(np.repeat(span[:, None], n, 1))
        left.append(track.values[i])
        right.append(track.values[j])
    u, d = np.concatenate(shares, 1)[..., None], np.concatenate(spans, 1)[..., None]
    a, b = np.concatenate(left, -2), np.concatenate(right, -2)
    if how == "STEP":
        return np.where(u < 1, a, b)
    if how == "CUBICSPLINE":
        (_, a, out_a), (in_b, b, _) = a.swapaxes(0, 1), b.swapaxes(0, 1)
        result = (2 * u**3 - 3 * u**2 + 1) * a + d * (u**3 - 2 * u**2 + u) * out_a
        result = result + (3 * u**2 - 2 * u**3) * b + d * (u**3 - u**2) * in_b
    elif path == "rotation":
        result = slerp(a, b, u)
    else:
        result = (1 - u) * a + u * b
    if path == "rotation":
        result = result / np.maximum(np.linalg.norm(result, axis=-1, keepdims=True), 1e-12)
    return result


def slerp(a: Float[Array, "*b 4"], b: Float[Array, "*b 4"], u: Float[Array, "*b 1"]) -> Float[Array, "*b 4"]:
    """From a to b along the shorter arc, at constant speed."""
    cosine = (a * b).sum(-1, keepdims=True)
    b, cosine = np.where(cosine < 0, -b, b), np.abs(cosine).clip(0, 1)
    angle = np.arccos(cosine)
    near = angle < 1e-3
    sine = np.where(near, 1, np.sin(angle))
    along = np.where(near, 1 - u, np.sin((1 - u) * angle) / sine)
    return along * a + np.where(near, u, np.sin(u * angle) / sine) * b
