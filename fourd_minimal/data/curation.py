"""Which animated objects are worth learning from: 4Diffusion's curation, by measurement.

Sections 3.2 and A.1 of 4Diffusion: of about 44,000 animated objects of Objaverse, 926 were picked by hand; left out was
what does not move, what moves out of the scene, what merely turns in front of the camera, and what means nothing. Here
each of the four is a number, measured on a small render (a few cameras around, a few moments):

    empty       how much of the picture is covered: next to nothing, or nearly all, from inside
    flat        how much colours differ over the object: a silhouette, a missing texture
    static      how far surfaces move over the clip, in object sizes
    leaves      how much of the picture's rim the object covers in its worst frame
    rigid       how much of the motion one rigid motion explains: near 1, only the object or the camera turned

Departures: the authors looked; we measure. "Meaningless" is more than `empty` and `flat` can tell.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
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
    """Standard deviation of colour over the object, its outline excepted, in [0, 1]."""
    motion: float
    """Path of a surface over the whole clip, mean over the object, in parts of its size."""
    touches: float
    """Share of the picture's rim that the object covers, in the worst frame."""
    rigid: float
    """Share of the motion that one rigid motion per step explains, in [0, 1]; 0 where nothing moves."""


@dataclass(frozen=True)
class Thresholds:
    """What is refused. The paper states no numbers; these are ours, each with what it was set by."""

    least_covered: float = 0.02
    """The smallest of eight bundled assets covers 0.08 of its pictures, a speck made to fail 0.0005."""
    most_covered: float = 0.9
    """Beyond it the cameras are inside the object."""
    least_colours: float = 0.02
    """The plainest bundled clip, a black cannon, has 0.07 by its shading; a silhouette has 0."""
    least_motion: float = 0.1
    """A cannon's recoil and a figure that breathes have 0.09, walks 0.3 and more."""
    most_touches: float = 0.05
    """A twentieth of the rim: a tail may swing out, a body may not."""
    most_rigid: float = 0.9
    """At 64 pixels 12 turning creatures have 0.95 to 0.99 and walking ones 0.60 to 0.77; smaller pictures blur it (32:
    0.89 to 0.99). Of the bundled clips one goes that is no turntable: a blob that rocks as a whole, 0.93."""


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
        raise ValueError("record has no flow; expected one with geometry.")
    alpha, flow = record.alpha[scene, :, :, 0], record.flow[scene]
    on = alpha > 0.5
    if not on.any():
        return Scores(0.0, 0.0, 0.0, 0.0, 0.0)
    inside = record.rgb[scene].movedim(2, -1)[alpha > 0.99]  # the background shines through at the outline
    colours = inside.std(0).mean().item() if len(inside) > 1 else 0.0

    # the mean path of a surface, in object sizes: the square root of the covered area
    size = on.float().sum((-2, -1)).mean().sqrt()
    steps = (flow.norm(dim=2) * on).sum((0, 2, 3)) / on.sum((0, 2, 3)).clamp(min=1)

    rim = torch.zeros_like(on[0, 0])
    rim[0], rim[-1], rim[:, 0], rim[:, -1] = True, True, True, True
    touches = on[..., rim].float().mean(-1).max().item()
    return Scores(on.float().mean().item(), colours, (steps[:-1].sum() / size).item(), touches, _rigid(record, scene))


def _rigid(record: SceneRecord, scene: int) -> float:
    """1 - what the best rigid motion of each step leaves, over what moved (both squared), all views together."""
    moved, left = 0.0, 0.0
    _, views, times = record.rgb.shape[:3]
    seen = (record.alpha[scene, :, :, 0] > 0.5) & record.visible[scene, :, :, 0]
    for time in range(times - 1):
        before, after = [], []
        for view in range(views):
            y, x = seen[view, time].nonzero(as_tuple=True)
            here = torch.stack([x, y], -1) + 0.5
            a, whole = _points(record, scene, view, time, here)
            b, still_whole = _points(record, scene, view, time + 1, here + record.flow[scene, view, time][:, y, x].T)
            before.append(a[whole & still_whole])
            after.append(b[whole & still_whole])
        a, b = torch.cat(before), torch.cat(after)
        if len(a) > 3:
            moved += (b - a).square().sum().item()
            left += (kabsch(a, b) - b).square().sum().item()
    return 0.0 if moved < 1e-6 else max(0.0, 1 - left / moved)


def _points(
    record: SceneRecord, scene: int, view: int, time: int, xy: Float[Tensor, "n 2"]
) -> tuple[Float[Tensor, "n 3"], Bool[Tensor, " n"]]:
    """Surfaces at positions in the picture, in the world, and which of them lie wholly on the object."""
    size = tuple(record.rgb.shape[-2:])
    depth = record.depth[scene, view, time]
    maps = torch.stack([depth[0], (depth[0] > 0).float()])
    at = 2 * xy / torch.tensor([size[1], size[0]]) - 1
    found, whole = F.grid_sample(maps[None], at[None, None], align_corners=False)[0, :, 0]
    origin, direction = rays(record.c2w[scene, view], record.fov_deg, size, xy)
    return origin + found[:, None] * direction, whole > 0.999


def kabsch(a: Float[Tensor, "n 3"], b: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """`a`, moved rigidly as near to `b` as can be (Kabsch 1976)."""
    u, _, vh = torch.linalg.svd((a - a.mean(0)).T @ (b - b.mean(0)))
    sign = torch.ones(3).to(a)
    sign[2] = torch.det(u @ vh).sign()  # a rotation, no mirror
    return (a - a.mean(0)) @ (u * sign @ vh) + b.mean(0)
