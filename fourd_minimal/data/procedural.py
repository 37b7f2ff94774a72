"""Toy 4D worlds with everything known: any seed gives new scenes, seen from any number of views and times.

    simple     one ellipsoid or box that bounces or squashes: motion that one view shows. The headline world.
    hard       the same object, sliding and tilting as well: motion in depth, which one view hides.
    creature   an articulated animal walking on white: the small Objaverse.
    ground     two to four moving objects on a checkered ground.
    plain      the object of `simple` in one colour that has a name, so that its caption says what is seen.

A scene is continuous: 4x4 and 8x8 grids of one seed show the same scene. Objects stay within 1.5 units of the origin
(the slab of `ground` reaches 2.1) and in sight, but for an edge now and then. Training uses seeds below 1,000,000 only;
what is measured uses seeds from there on.
"""

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from fourd_minimal.cameras import circular_trajectory
from fourd_minimal.data.analytic_renderer import MovingObjects, render
from fourd_minimal.data.scene_record import SceneRecord

RADIUS, FOV_DEG = 3.9, 36.0
FAMILIES = ("simple", "hard", "creature", "ground", "plain")
COLOURS = dict(red=0.0, orange=0.08, yellow=0.16, green=0.35, cyan=0.5, blue=0.63, purple=0.78, pink=0.9)
"""Names of hues, in [0, 1] around the circle."""
HELD_OUT = 1_000_000
"""First seed that no training run may use."""
CORRUPTED = ("static", "leaves", "turns", "speck")
"""Ways in which a clip of an open collection is useless: nothing moves; the object leaves the picture; it only turns,
as if the camera did; it is too small to mean anything."""


class _Draw:
    """Random numbers for `n` scenes from one seed."""

    def __init__(self, n: int, seed: int):
        self.n, self.generator = n, torch.Generator().manual_seed(seed)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(self.n, *shape, generator=self.generator)

    def chance(self, p: float, *shape: int) -> Tensor:
        return torch.rand(self.n, *shape, generator=self.generator) < p

    def sign(self, *shape: int) -> Tensor:
        return torch.where(self.chance(0.5, *shape), 1.0, -1.0)

    def wave(self, time: Float[Tensor, " t"], *shape: int) -> Float[Tensor, "n t *shape"]:
        """Smooth motions in [-1, 1]: a third to 0.6 of a period of a sine over the clip, from a random phase."""
        phase, rate = self.uniform(0, 2 * math.pi, 1, *shape), self.uniform(0.6 * math.pi, 1.2 * math.pi, 1, *shape)
        time = time.reshape(-1, *(1,) * len(shape))
        return torch.sin(phase + rate * time)


def hue(h: Float[Tensor, "*b"], saturation: float = 0.85, value: float = 0.95) -> Float[Tensor, "*b 3"]:
    """HSV to RGB; the hue in [0, 1] runs once around the circle."""
    k = (torch.tensor([5.0, 3.0, 1.0]) + h[..., None] * 6) % 6
    return value - value * saturation * torch.minimum(k, 4 - k).clamp(0, 1)


def rotation(angle: Float[Tensor, "*b"], axis: str) -> Float[Tensor, "*b 3 3"]:
    """Right-handed rotation about x, y or z; radians."""
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    r = torch.eye(3).repeat(*angle.shape, 1, 1)
    r[..., i, i] = r[..., j, j] = angle.cos()
    r[..., i, j], r[..., j, i] = -angle.sin(), angle.sin()
    return r


def affine(linear: Float[Tensor, "*b 3 3"], position: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3 4"]:
    return torch.cat([linear, position[..., None]], -1)


def _facing_colours(draw: _Draw, k: int) -> Float[Tensor, "n k 6 3"]:
    """Up to six hues by the direction the surface faces: neighbours may share one."""
    hues = draw.uniform(0, 1, k, 6)
    same = draw.chance(0.25, k, 6)
    return hue(torch.where(same, hues[..., :1], hues))


def colour_name(h: float) -> str:
    """The nearest of `COLOURS`."""
    return min(COLOURS, key=lambda name: abs((COLOURS[name] - h + 0.5) % 1 - 0.5))


def _sentence(name: str, noun: str, verb: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name} {noun} {verb}"


Scenes = tuple[tuple[Tensor, int, Tensor, Tensor], list[str]]
"""The fields of `MovingObjects` that a family decides, and a caption for each scene."""


def _one_object(draw: _Draw, time: Tensor, family: str) -> Scenes:
    """`simple`, `hard` and `plain`: a ball slot and a box slot, one of which is shrunk to nothing."""
    n, t = draw.n, len(time)
    half = draw.uniform(0.42, 0.72, 1, 3).expand(n, t, 3)
    bounces = draw.chance(0.6, 1)
    height = torch.where(bounces, 0.4 * draw.wave(time), 0.0)
    rigid = bounces & draw.chance(0.6, 1)
    squash = torch.where(rigid, 0.0, 0.35 * draw.wave(time)).exp()
    scale = half * torch.stack([squash**-0.5, squash, squash**-0.5], -1)
    position = torch.stack([torch.zeros(n, t), height, torch.zeros(n, t)], -1)
    turn = rotation(draw.uniform(0, 2 * math.pi, 1), "y")
    if family == "hard":
        slide = 0.3 * draw.wave(time, 2)
        position = position + torch.stack([slide[..., 0], torch.zeros(n, t), slide[..., 1]], -1)
        turn = turn @ rotation(0.4 * draw.wave(time), "x") @ rotation(0.4 * draw.wave(time), "z")
    linear = turn * scale[..., None, :]
    box = draw.chance(0.5, 1, 1)
    shown = torch.stack([torch.where(box, 1e-4, 1.0), torch.where(box, 1.0, 1e-4)], 2)[..., None]
    to_world = affine(linear[:, :, None] * shown, position[:, :, None].expand(-1, -1, 2, -1))
    colours, names = _facing_colours(draw, 2), ["colourful"] * n
    if family == "plain":
        which = torch.randint(len(COLOURS), (n,), generator=draw.generator)
        names = [list(COLOURS)[i] for i in which.tolist()]
        hues = torch.tensor(list(COLOURS.values()))[which, None, None] + draw.uniform(-0.02, 0.02, 1, 1)
        colours = hue(hues % 1) * draw.uniform(0.6, 1.0, 2, 6)[..., None]
    verbs = (
        " and ".join(["bouncing"] * a + ["squashing"] * (not b) + ["sliding", "tilting"] * (family == "hard"))
        for a, b in zip(bounces[:, 0].tolist(), rigid[:, 0].tolist(), strict=True)
    )
    nouns = ("box" if b else "ball" for b in box.flatten().tolist())
    captions = [_sentence(*words) for words in zip(names, nouns, verbs, strict=True)]
    return (to_world, 1, colours, torch.zeros(2)), captions


def _creature(draw: _Draw, time: Tensor) -> Scenes:
    """Body, head, two ears, four legs, and a box for a tail: rigid parts on joints, one walking cycle per clip."""
    n, t = draw.n, len(time)
    rate, phase = draw.uniform(1.0, 2.0, 1) * math.pi, draw.uniform(0, 2 * math.pi, 1)
    cycle = phase + rate * time
    length, girth, leg = draw.uniform(0.38, 0.5, 1), draw.uniform(0.2, 0.28, 1), draw.uniform(0.2, 0.28, 1)
    head, neck = draw.uniform(0.16, 0.22, 1), draw.uniform(0.15, 0.4, 1)
    swing, nod, wag = draw.uniform(0.4, 0.7, 1), draw.uniform(0.1, 0.3, 1), draw.uniform(0.3, 0.8, 1)
    bob = 0.06 * torch.sin(2 * cycle)
    zero, one = torch.zeros(n, t), torch.ones(n, t)

    def part(offset, scale, angle=zero, axis="x", hang=0.0):
        """Centre of the joint, half axes, rotation about the joint, and how far the part hangs below it."""
        offset, scale = (torch.stack([zero + a for a in triple], -1) for triple in (offset, scale))
        r = rotation(angle, axis)
        centre = offset - r[..., :, 1] * (zero + hang)[..., None]
        return affine(r * scale[..., None, :], centre)

    body = part((zero, bob, zero), (girth, girth, length))
    tilt = nod * torch.sin(cycle)
    skull = part((zero, bob + neck, length), (head, head, head * 1.2), tilt)
    ears = [part((s * head * 0.7, bob + neck, length), (0.05, 0.14, 0.05), tilt, hang=-head * 1.2) for s in (-1, 1)]
    legs = [
        part(
            (sx * girth * 0.7, bob - girth * 0.5, sz * length * 0.6),
            (0.08, leg, 0.08),
            swing * torch.sin(cycle + math.pi * (sx * sz > 0)),
            hang=leg * 0.9,
        )
        for sx in (-1, 1)
        for sz in (-1, 1)
    ]
    tail = part((zero, bob + 0.1, -length * 1.15), (0.05, 0.05, 0.2), wag * torch.sin(cycle), "y")
    parts = torch.stack([body, skull, *ears, *legs, tail], 2)
    heading = rotation(draw.uniform(0, 2 * math.pi, 1, 1), "y")
    coat = draw.uniform(0, 1, 1)
    base, accent = hue(coat, 0.6), hue(draw.uniform(0, 1, 1), 0.9, 0.8)
    face = hue(draw.uniform(0, 1, 1), 0.5)
    order = [base, face, accent, accent, base, accent, accent, base, accent]
    colours = torch.cat(order, 1)[:, :, None].expand(-1, -1, 6, -1)
    captions = [_sentence(colour_name(h), "animal", "walking") for h in coat[:, 0].tolist()]
    return (heading @ parts * (1.3 * one[..., None, None, None]), 8, colours, torch.zeros(9)), captions


def _several(draw: _Draw, time: Tensor) -> Scenes:
    """`ground`: two balls and two boxes (up to two of them absent), each hopping or sliding, on a checkered slab."""
    n, t, k = draw.n, len(time), 4
    half = draw.uniform(0.18, 0.32, 1, k, 3)
    angle = draw.uniform(0, 2 * math.pi, 1, 1) + torch.arange(k) * (2 * math.pi / k) + draw.uniform(-0.3, 0.3, 1, k)
    reach = draw.uniform(0.35, 0.6, 1, k)
    slide = 0.15 * draw.wave(time, k, 2)
    hop = 0.35 * torch.sin(draw.uniform(1, 2, 1, k) * math.pi * time[:, None] + draw.uniform(0, math.pi, 1, k)).abs()
    hop = torch.where(draw.chance(0.6, 1, k), hop, 0.0)
    position = torch.stack([reach * angle.sin() + slide[..., 0], half[..., 1] - 0.6 + hop,
                            reach * angle.cos() + slide[..., 1]], -1)  # fmt: skip
    spin = rotation(draw.uniform(0, 2 * math.pi, 1, k) + 0.6 * draw.wave(time, k), "y")
    present = torch.where(draw.chance(0.5, 1, k) & (torch.arange(k) % 2 == 1), 1e-4, 1.0)
    moving = affine(spin * (half * present[..., None])[..., None, :], position)
    slab = affine(torch.diag(torch.tensor([1.4, 0.05, 1.4])), torch.tensor([0.0, -0.65, 0.0])).expand(n, t, 1, 3, 4)
    colours = _facing_colours(draw, k + 1)
    tones = draw.uniform(0.3, 0.9, 1, 2, 1)
    colours[:, k:] = 0.5
    colours[:, k:, 2:4] = tones
    parts = torch.cat([moving, slab], 2), 2, colours, torch.tensor([0.0, 0.0, 0.0, 0.0, 3.0])
    return parts, ["colourful objects on the ground"] * n


def _corrupt(
    how: str, to_world: Float[Tensor, "n t k 3 4"], time: Float[Tensor, " t"], draw: _Draw
) -> Float[Tensor, "n t k 3 4"]:
    if how == "speck":
        return 0.1 * to_world
    if how == "leaves":
        gone = torch.zeros_like(to_world)
        gone[..., 1, 3] = (2.5 * draw.sign(1) * time)[..., None]
        return to_world + gone
    still = to_world[:, :1].expand_as(to_world)
    if how == "static":
        return still
    return rotation(draw.sign(1) * draw.uniform(0.5, 1.5, 1) * math.pi * time, "y")[:, :, None] @ still


def sample_scenes(
    n: int,
    views: int,
    times: int,
    size: int | tuple[int, int],
    seed: int,
    family: str = "simple",
    antialias: int = 2,
    geometry: bool = True,
    sweep_deg: float | None = None,
    duration: float = 1.0,
    elevation_deg: float | None = None,
    azimuths_deg: Float[Tensor, "n v"] | None = None,
    corrupted: str | None = None,
) -> SceneRecord:
    """`n` new scenes as grids of `views` x `times` frames.

    Args:
        n: how many scenes.
        views: cameras on an arc, in either sense, at an elevation of 15 to 30 degrees.
        times: moments spread evenly over `duration`.
        size: (h, w) in pixels, or one number for square frames.
        seed: the same arguments and seed give the same scenes; below 1,000,000 for training.
        family: one of `FAMILIES`.
        antialias: rays per side of a pixel.
        geometry: also depth, flow and visibility (slower); without it depth is zeros and the others None.
        sweep_deg: the arc from the first camera to the last; 40 to 60 degrees, drawn, when left out; 360 is an orbit
            that ends where it began.
        duration: in clips; the motion of a longer one goes on at the same speed.
        elevation_deg: of all cameras; 15 to 30 degrees, drawn, when left out.
        azimuths_deg: of the cameras of each scene, from a first direction that is drawn; replaces the arc.
        corrupted: one of `CORRUPTED`: clips as an open collection has them, for experiments with curation.

    Raises:
        ValueError: an unknown family or way to corrupt, a count below 1, or azimuths for other cameras.

    >>> sample_scenes(2, views=3, times=4, size=16, seed=1).rgb.shape
    torch.Size([2, 3, 4, 3, 16, 16])
    """
    if family not in FAMILIES:
        raise ValueError(f"family is {family!r}; expected one of {', '.join(FAMILIES)}.")
    if corrupted is not None and corrupted not in CORRUPTED:
        raise ValueError(f"corrupted is {corrupted!r}; expected one of {', '.join(CORRUPTED)}.")
    size = (size, size) if isinstance(size, int) else tuple(size)
    for name, value in dict(n=n, views=views, times=times, size=min(size), antialias=antialias).items():
        if value < 1:
            raise ValueError(f"{name} is {value}; expected at least 1.")
    if azimuths_deg is not None and tuple(azimuths_deg.shape) != (n, views):
        raise ValueError(f"azimuths_deg has shape {tuple(azimuths_deg.shape)}; expected {(n, views)}.")
    draw, time = _Draw(n, seed), torch.linspace(0, duration, times)
    start, sweep = draw.uniform(0, 360, 1), draw.uniform(40, 60, 1) * draw.sign(1)
    if sweep_deg is not None:
        sweep = sweep_deg * sweep.sign()
    elevation = draw.uniform(15, 30, 1)
    if elevation_deg is not None:
        elevation = torch.full_like(elevation, elevation_deg)
    along = sweep * torch.linspace(0, 1, views) if azimuths_deg is None else azimuths_deg
    c2w = circular_trajectory(start + along, elevation, RADIUS)
    light_azimuth = torch.deg2rad(draw.uniform(0, 360))
    light = torch.stack([0.5 * light_azimuth.sin(), torch.full((n,), 0.75), 0.5 * light_azimuth.cos()], -1)
    background = hue(draw.uniform(0, 1, 2), 0.25, 0.7)
    if family == "creature":
        background = torch.ones(n, 2, 3)
        parts, captions = _creature(draw, time)
    elif family == "ground":
        parts, captions = _several(draw, time)
    else:
        parts, captions = _one_object(draw, time, family)
    if corrupted:
        parts = (_corrupt(corrupted, parts[0], time, draw), *parts[1:])
    objects = MovingObjects(*parts, light / light.norm(dim=-1, keepdim=True), background)
    return replace(render(objects, c2w, FOV_DEG, size, antialias, geometry), captions=tuple(captions))
