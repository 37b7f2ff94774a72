"""Which animated objects are worth learning from: 4Diffusion's curation, by measurement.

Section 4.1 of 4Diffusion: of about 44,000 animated objects of Objaverse, 926 were picked by hand; left out was what
does not move, what moves out of the scene, what merely turns in front of the camera, and what means nothing. Here each
of the four is a number, measured on a small render (a few cameras around, a few moments):

    empty       less than this share of the picture is ever covered, or more than that: nothing to see, or inside of it
    flat        colours hardly differ over the object: a silhouette, a missing texture
    static      how far surfaces move, in object sizes, over the clip
    leaves      how much of the object's outline touches the frame's edge
    rigid       how much of the motion one rigid motion explains: near 1, somebody turned the thing or the camera

Departures: the paper's people looked; we measure. "Meaningless" is more than `empty` and `flat` can see.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fourd_minimal.cameras import rays
from fourd_minimal.data.scene_record import SceneRecord


@dataclass(frozen=True)
class Scores:
    """What is measured of one clip."""

    covered: float
    """Mean share of a picture that the object covers."""
    colours: float
    """Standard deviation of colour over the object, in [0, 1]."""
    motion: float
    """Path of a surface over the whole clip, mean over the object, in parts of its size."""
    touches: float
    """Share of the object's pixels that lie at the frame's edge, of a full rim; the worst frame."""
    rigid: float
    """Share of the motion that one rigid motion per step explains, in [0, 1]; 0 where nothing moves."""


@dataclass(frozen=True)
class Thresholds:
    """What is refused. Assumed: set by looking at the bundled assets and at procedural scenes made to fail."""

    least_covered: float = 0.02
    most_covered: float = 0.9
    least_colours: float = 0.02
    least_motion: float = 0.08
    most_touches: float = 0.05
    most_rigid: float = 0.9


def verdict(scores: Scores, thresholds: Thresholds = Thresholds()) -> tuple[str, ...]:
    """Why a clip is refused; nothing where it is not.

    >>> verdict(Scores(0.2, 0.1, 0.0, 0.0, 0.0))
    ('static',)
    """
    t = thresholds
    found = {
        "empty": not t.least_covered <= scores.covered <= t.most_covered,
        "flat": scores.colours < t.least_colours,
        "static": scores.motion < t.least_motion,
        "leaves": scores.touches > t.most_touches,
        "rigid": scores.rigid > t.most_rigid,
    }
    return tuple(name for name, bad in found.items() if bad)


def measure(record: SceneRecord, scene: int = 0) -> Scores:
    """The scores of one clip.

    Args:
        record: with depth, flow and visibility; several views, several times.
        scene: which.

    Raises:
        ValueError: a record without geometry.
    """
    if record.flow is None or record.visible is None:
        raise ValueError("record has no flow; one with geometry is wanted.")
    alpha, rgb = record.alpha[scene], record.rgb[scene]
    on = alpha[:, :, 0] > 0.5
    covered = on.float().mean().item()
    if covered == 0:
        return Scores(0.0, 0.0, 0.0, 0.0, 0.0)
    colours = rgb.movedim(2, -1)[on].std(0).mean().item()
    return Scores(covered, colours, *_motion(record, scene, on), _touches(on), _rigid(record, scene, on))


def _touches(on: Bool[Tensor, "v t h w"]) -> float:
    """The rim's covered share, in the worst frame."""
    rim = torch.zeros_like(on[0, 0])
    rim[0], rim[-1], rim[:, 0], rim[:, -1] = True, True, True, True
    return on[..., rim].float().mean(-1).max().item()


def _motion(record: SceneRecord, scene: int, on: Bool[Tensor, "v t h w"]) -> tuple[float]:
    """Mean path in object sizes: the square root of the covered area."""
    size = on.float().sum((-2, -1)).mean().sqrt()
    steps = record.flow[scene].norm(dim=2)
    per_step = (steps * on).sum((0, 2, 3)) / on.sum((0, 2, 3)).clamp(min=1)
    return ((per_step[:-1].sum() / size).item(),)


def _points(record: SceneRecord, scene: int, view: int, time: int, xy: Float[Tensor, "n 2"]) -> Float[Tensor, "n 3"]:
    """Surfaces at pixel positions, in the world."""
    size = tuple(record.rgb.shape[-2:])
    origin, direction = rays(record.c2w[scene, view], record.fov_deg, size, xy)
    depth = record.depth[scene, view, time, 0]
    x, y = (a.floor().long() for a in xy.unbind(-1))
    return origin + depth[y.clamp(0, size[0] - 1), x.clamp(0, size[1] - 1), None] * direction


def _rigid(record: SceneRecord, scene: int, on: Bool[Tensor, "v t h w"]) -> float:
    """1 - what the best rigid motion of each step leaves, over what moved (both squared), all views together."""
    moved, left = 0.0, 0.0
    views, times, h, w = on.shape
    for time in range(times - 1):
        before, after = [], []
        for view in range(views):
            y, x = (on[view, time] & record.visible[scene, view, time, 0]).nonzero(as_tuple=True)
            here = torch.stack([x, y], -1) + 0.5
            there = here + record.flow[scene, view, time][:, y, x].T
            inside = ((there >= 0) & (there < torch.tensor([w, h]))).all(-1)
            if inside.any():
                a = _points(record, scene, view, time, here[inside])
                b = _points(record, scene, view, time + 1, there[inside])
                near = (a - b).norm(dim=-1) < 0.5  # a pixel beside the surface has another depth
                before.append(a[near])
                after.append(b[near])
        if before and len(a := torch.cat(before)) > 3:
            b = torch.cat(after)
            moved += (b - a).square().sum().item()
            left += (kabsch(a, b) - b).square().sum().item()
    return 0.0 if moved < 1e-6 else max(0.0, 1 - left / moved)


def kabsch(a: Float[Tensor, "n 3"], b: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """`a`, moved rigidly as near to `b` as can be (Kabsch 1976)."""
    u, _, vh = torch.linalg.svd((a - a.mean(0)).T @ (b - b.mean(0)))
    sign = torch.diag(torch.tensor([1.0, 1.0, torch.det(u @ vh).sign().item()]))
    return (a - a.mean(0)) @ (u @ sign @ vh) + b.mean(0)
