"""Triangles to pictures in plain torch, on the CPU or a GPU: colour, coverage, depth, flow and visibility.

No compiler, no OpenGL, no loop over triangles or pixels. A pixel is k x k samples. Every triangle is cut into the rows
of samples that it covers, every row into its samples, for many frames at once (`repeat_interleave`); each sample makes
one 64-bit key, nearness above and triangle below, and the largest key at a place is what is seen there. Only what is
seen is shaded: light at the corners, interpolated in perspective, times a texture.

With k odd a pixel has a sample in its middle. Depth belongs to it, and flow and visibility follow its surface point to
the next time: to where its triangle's corners are then, and to what the pictures of then show there.

Conventions: `cameras.py`. Colours are linear light until the end, when they become the numbers of a picture (sRGB).
"""

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fourd_minimal.cameras import project

OPAQUE, MASK, BLEND = 0, 1, 2
REPEAT, CLAMP, MIRROR = 10497, 33071, 33648
BYTES = torch.arange(256) / 255
NEAR = 1e-3
SLACK = 2e-3
"""Share of its nearness by which a surface may lie before a point and not hide it."""
LAYERS = 8
"""Of half-transparent surfaces behind each other, the nearest so many are seen."""
AT_ONCE = 1 << 18
"""Samples rasterised together: more need memory, fewer need time."""


@dataclass(frozen=True)
class Surface:
    """What does not change over time: n vertices, f triangles, their materials. Made by `gltf.surface`."""

    faces: Int[Tensor, "f 3"]
    uv: Float[Tensor, "n 2"]
    colours: Float[Tensor, "n 4"]
    """Linear colour and alpha that the texture is multiplied with."""
    glow: Float[Tensor, "n 3"]
    """Light of its own."""
    texture: Int[Tensor, " f"]
    """Rows of `sheets`."""
    glow_texture: Int[Tensor, " f"]
    mode: Int[Tensor, " f"]
    """OPAQUE, MASK (a hole where alpha is below the cutoff) or BLEND."""
    cutoff: Float[Tensor, " f"]
    both_sides: Bool[Tensor, " f"]
    texels: Int[Tensor, "m 4"]
    """Bytes of all textures, one after the other; the first texture is one white texel."""
    sheets: Int[Tensor, "s 5"]
    """Of each texture: where its texels begin, height, width, and how u and v go on beyond it."""

    def __post_init__(self):
        """What need not be asked again for every sample."""
        shared = lambda values: bool((values[self.faces] == values[self.faces[:, :1]]).all())  # noqa: E731
        decided = dict(
            clear=bool((self.mode == OPAQUE).all()),
            flat=shared(self.colours) and shared(self.glow),
            glows=bool(self.glow.any()),
            repeats=bool((self.sheets[:, 3:] == REPEAT).all()),
            linear=torch.where(BYTES <= 0.04045, BYTES / 12.92, ((BYTES + 0.055) / 1.055) ** 2.4).to(self.uv.device),
        )
        for name, value in decided.items():
            object.__setattr__(self, name, value)

    def texel(self, sheet: Int[Tensor, " m"], uv: list[Float[Tensor, " m"]]) -> Float[Tensor, "m 4"]:
        """The nearest texel of a texture, linear."""
        start, h, w, wrap_u, wrap_v = _take(self.sheets.T.contiguous(), sheet)
        x, y = self._wrapped(uv[0], w, wrap_u), self._wrapped(uv[1], h, wrap_v)
        texel = self.texels.index_select(0, start + y * w + x).int()
        return torch.cat([_take(self.linear, texel[:, :3]), texel[:, 3:] / 255], 1)

    def _wrapped(self, u: Tensor, n: Tensor, wrap: Tensor) -> Tensor:
        i = (u * n).floor().long()
        at = i.remainder(n)
        if not self.repeats:
            at = torch.where(wrap == CLAMP, i.clamp(min=0).minimum(n - 1), at)
            back = i.remainder(2 * n)
            at = torch.where(wrap == MIRROR, torch.minimum(back, 2 * n - 1 - back), at)
        return at

    def to(self, device: torch.device | str) -> "Surface":
        return Surface(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


class Frames(NamedTuple):
    """Frames of v cameras at t times."""

    rgb: Float[Tensor, "v t 3 h w"]
    """In [0, 1], not multiplied by alpha; 0 where nothing is."""
    alpha: Float[Tensor, "v t 1 h w"]
    depth: Float[Tensor, "v t 1 h w"] | None = None
    flow: Float[Tensor, "v t 2 h w"] | None = None
    visible: Bool[Tensor, "v t 1 h w"] | None = None
    in_fixed_view: Bool[Tensor, "v t 1 h w"] | None = None


def draw(
    surface: Surface,
    positions: Float[Tensor, "t n 3"],
    light: Float[Tensor, "t n"],
    c2w: Float[Tensor, "v 4 4"],
    fov_deg: float,
    size: int,
    oversample: int = 3,
    geometry: bool = True,
) -> Frames:
    """Every camera's frame at every time.

    Args:
        surface: what is drawn.
        positions: of its vertices in the world.
        light: that falls on each vertex, in linear light; 1 shows its colour as it is.
        c2w: cameras, all vertices before them.
        fov_deg: vertical field of view.
        size: pixels along each side.
        oversample: k, odd.
        geometry: also depth, flow and visibility.
    """
    views_at_once = max(1, AT_ONCE // (len(positions) * (size * oversample) ** 2))
    at, fixed = dict(fov_deg=fov_deg, size=size, k=oversample), None
    frames = []
    for cameras in c2w.split(views_at_once):
        pictures = _Pictures(surface, positions, cameras, **at)
        rgb, alpha = pictures.colours(light)
        if not geometry:
            frames.append(Frames(rgb, alpha))
            continue
        fixed = fixed or (pictures if len(cameras) == 1 else _Pictures(surface, positions, c2w[:1], **at))
        frames.append(Frames(rgb, alpha, *pictures.geometry(fixed)))
    return Frames(*(None if values[0] is None else torch.cat(values) for values in zip(*frames, strict=True)))


class _Pictures:
    """What each sample of some cameras' pictures shows, at all times: n = v t pictures, one camera's times in a row."""

    def __init__(self, surface: Surface, positions: Tensor, c2w: Tensor, fov_deg: float, size: int, k: int):
        self.surface, self.positions, self.c2w, self.fov_deg = surface, positions, c2w, fov_deg
        self.size, self.k, self.side, self.v, self.t = size, k, size * k, len(c2w), len(positions)
        self._set_up()
        clear = None if surface.clear else (surface.mode == OPAQUE)[self.face]
        place, key, _ = self._samples(clear)
        self.keys = torch.zeros(self.v * self.t * self.side**2, dtype=torch.int64, device=positions.device)
        self.keys.scatter_reduce_(0, place, key, "amax")
        self.clear = clear

    def _set_up(self) -> None:
        """Of the triangles that face a camera and may cover a sample, where they lie in the picture."""
        xy, depth = self._project(self.positions, self.c2w[:, None, None])
        x, y, depth = (values.flatten(0, 1) for values in (*xy.unbind(-1), depth))  # (n, vertices)
        corners = self.surface.faces.T
        x0, x1, x2 = (x.index_select(1, corner) for corner in corners)
        y0, y1, y2 = (y.index_select(1, corner) for corner in corners)
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)  # y runs down: negative where the front is seen
        self.facing = (area < 0) | (self.surface.both_sides & (area > 0))
        on = self.facing & (area.abs() > 1e-9)
        for a, b, c in ((x0, x1, x2), (y0, y1, y2)):
            low, high = torch.minimum(torch.minimum(a, b), c), torch.maximum(torch.maximum(a, b), c)
            on &= torch.ceil(low - 0.5) < torch.ceil(high - 0.5)  # else it covers the middle of no row, of no column
            on &= (high > 0.5) & (low < self.side)
        if depth.min() < NEAR:
            on &= torch.stack([depth.index_select(1, corner) > NEAR for corner in corners]).all(0)
        at = on.flatten().nonzero()[:, 0]
        self.frame = torch.div(at, on.shape[1], rounding_mode="floor")
        self.face = at - self.frame * on.shape[1]
        x, y = (torch.stack([_take(values.flatten(), at) for values in axis]) for axis in ((x0, x1, x2), (y0, y1, y2)))
        self.x, self.y = x, y  # (3, j)
        self.corners = _take(corners.contiguous(), self.face)  # (3, j)
        self.w = 1 / _take(
            depth.flatten(), self.corners + self.frame * depth.shape[1]
        )  # nearness: linear in the picture
        over = 1 / _take(area.flatten(), at)
        # the weights of corners 1 and 2 at (x, y) are plane[0] (x - x0) + plane[1] (y - y0), and the same with 2 and 3
        self.plane = torch.stack([y[2] - y[0], x[0] - x[2], y[0] - y[1], x[1] - x[0]]) * over

    def _project(self, points: Tensor, c2w: Tensor) -> tuple[Tensor, Tensor]:
        """Where points land, in samples, and their depths."""
        return project(points, c2w, self.fov_deg, (self.side, self.side))

    def _samples(self, chosen: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Every sample that some triangles cover: its place, its key, and which triangle of the set-up."""
        pick = None if chosen is None else chosen.nonzero()[:, 0]
        x, y, w, plane, frame = (
            v if pick is None else _take(v, pick) for v in (self.x, self.y, self.w, self.plane, self.frame)
        )
        # from top to bottom, so that two neighbours cut their common edge alike and leave no gap
        down, order = y.sort(0)
        across = x.gather(0, order)
        slope = torch.stack([(across[j] - across[i]) / (down[j] - down[i]).clamp(min=1e-9) for i, j in EDGES])
        first = _first(down[0]).clamp(0, self.side)
        n_rows = _first(down[2]).clamp(0, self.side) - first
        r, step = _runs(n_rows)  # a row of a triangle
        row = _take(first, r) + step
        middle = row + 0.5
        long = _take(across[0], r) + (middle - _take(down[0], r)) * _take(slope[0], r)
        edge = torch.where(middle < _take(down[1], r), r, r + len(frame))
        short = _take(across[:2].flatten(), edge)
        short = short + (middle - _take(down[:2].flatten(), edge)) * _take(slope[1:].flatten(), edge)
        begin = _first(torch.minimum(long, short)).clamp(0, self.side)
        length = (_first(torch.maximum(long, short)) - begin).clamp(min=0).minimum(self.side - begin)

        x1, y1, x2, y2 = _take(plane, r)
        w0, w1, w2 = _take(w, r)
        dx, dy = begin + 0.5 - _take(x[0], r), middle - _take(y[0], r)
        low, high = torch.minimum(torch.minimum(w0, w1), w2), torch.maximum(torch.maximum(w0, w1), w2)
        w1, w2 = w1 - w0, w2 - w0
        along = x1 * w1 + x2 * w2
        near = w0 + (x1 * w1 + x2 * w2) * dx + (y1 * w1 + y2 * w2) * dy
        far = (near + along * length).clamp(low, high)  # a sliver's plane is not to be trusted
        near = near.clamp(low, high)
        along = (far - near) / length.clamp(min=1)
        base = (_take(frame, r) * self.side + row) * self.side + begin

        s, step = _runs(length)  # a sample of a row
        triangle = _take(r if pick is None else _take(pick, r), s)
        nearness = torch.addcmul(_take(near, s), _take(along, s), step.to(near))
        return (
            _take(base, s) + step,
            (nearness.view(torch.int32).long() << 32) | triangle,
            triangle,
        )  # its bits grow with it

    def _weights(self, triangle: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of a triangle's three corners, at places in the picture, in perspective: (3, m); and the nearness there."""
        dx, dy = x - _take(self.x[0], triangle), y - _take(self.y[0], triangle)
        x1, y1, x2, y2 = _take(self.plane, triangle)
        one = (x1 * dx + y1 * dy).clamp(0, 1)
        two = torch.minimum((x2 * dx + y2 * dy).clamp(min=0), 1 - one)
        weights = torch.stack([1 - one - two, one, two]) * _take(self.w, triangle)
        near = weights.sum(0)
        return weights / near, near

    def _shade(self, place: Tensor, triangle: Tensor, light: Tensor) -> tuple[Tensor, Tensor]:
        """Linear colour (m, 3) and alpha (m,) of triangles at samples."""
        surface, face, frame = self.surface, _take(self.face, triangle), _take(self.frame, triangle)
        line = torch.div(place, self.side, rounding_mode="floor")
        x, y = place - line * self.side + 0.5, line - frame * self.side + 0.5
        p, _ = self._weights(triangle, x, y)
        corners = _take(self.corners, triangle)
        lit = (p * _take(light.flatten(), corners + (frame % self.t) * light.shape[1])).sum(0)
        if surface.flat:  # every triangle has one colour
            colour = surface.colours.index_select(0, corners[0])
            glow = surface.glow.index_select(0, corners[0]) if surface.glows else None
        else:
            colour, glow = ((p[..., None] * values[corners]).sum(0) for values in (surface.colours, surface.glow))
        if len(surface.sheets) > 1:
            uv = [(p * _take(surface.uv[:, i].contiguous(), corners)).sum(0) for i in (0, 1)]
            colour = colour * surface.texel(_take(surface.texture, face), uv)
        rgb = colour[:, :3] * lit[:, None]
        if surface.glows:
            rgb = rgb + glow * (
                surface.texel(_take(surface.glow_texture, face), uv)[:, :3] if len(surface.sheets) > 1 else 1
            )
        return rgb, colour[:, 3]

    def colours(self, light: Float[Tensor, "t n"]) -> tuple[Tensor, Tensor]:
        """rgb and alpha, (v, t, 3 | 1, h, w)."""
        light = light.contiguous()
        veil = None if self.clear is None else self._see_through(light)
        place = self.keys.nonzero()[:, 0]
        rgb, _ = self._shade(place, _take(self.keys, place) & LOW, light)
        samples = rgb.new_zeros(len(self.keys), 4)
        samples[place] = F.pad(rgb, (0, 1), value=1.0)
        if veil is not None:
            samples = veil[0] + veil[1] * samples
        n, k = self.v * self.t, self.k
        samples = rearrange(samples, "(n y x) c -> n c y x", n=n, y=self.side)
        rgb, alpha = F.avg_pool2d(samples, k).unflatten(0, (self.v, self.t)).split([3, 1], 2)
        return srgb(rgb / alpha.clamp(min=1e-6)), alpha.clamp(max=1).contiguous()

    def _see_through(self, light: Tensor) -> tuple[Tensor, Tensor]:
        """Holes and half-transparent surfaces: what lies before the opaque, and how much of that shows through."""
        surface = self.surface
        place, key, triangle = self._samples(~self.clear)
        rgb, alpha = self._shade(place, triangle, light)
        face = self.face[triangle]
        mask = surface.mode[face] == MASK
        alpha = torch.where(mask, (alpha >= surface.cutoff[face]).to(alpha), alpha)
        whole = alpha > 0.996
        self.keys.scatter_reduce_(0, place[whole], key[whole], "amax")
        left = ~whole & (alpha > 0.004) & (key > self.keys[place])
        place, key, rgb, alpha = place[left], key[left], rgb[left], alpha[left, None]
        order = key.argsort(descending=True)
        order = order[place[order].argsort(stable=True)]
        place, rgb, alpha = place[order], rgb[order], alpha[order]
        begins = torch.ones_like(place, dtype=torch.bool)
        begins[1:] = place[1:] != place[:-1]
        count = torch.arange(len(place), device=place.device)
        rank = count - count[begins][begins.cumsum(0) - 1] if len(place) else count
        over, through = rgb.new_zeros(len(self.keys), 4), rgb.new_ones(len(self.keys), 1)
        for layer in range(LAYERS):  # the nearest first
            here = rank == layer
            at = place[here]
            over[at] += through[at] * alpha[here] * F.pad(rgb[here], (0, 1), value=1.0)
            through[at] *= 1 - alpha[here]
        solid = alpha[:, 0] >= 0.5  # what counts as a surface for depth and flow
        self.solid = self.keys.scatter_reduce(0, place[solid], key[order][solid], "amax")
        return over, through

    def geometry(self, fixed: "_Pictures") -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Depth, flow, visibility at the next time, and in the pictures of view 0; each (v, t, 1 | 2, h, w)."""
        n, size, k = self.v * self.t, self.size, self.k
        middle = torch.arange(size, device=self.keys.device) * k + k // 2
        keys = getattr(self, "solid", self.keys).view(n, self.side, self.side)[:, middle[:, None], middle].flatten()
        at = keys.nonzero()[:, 0]
        triangle = keys[at] & LOW
        frame, pixel = self.frame[triangle], at % size**2
        x, y = (middle[i] + 0.5 for i in (pixel % size, torch.div(pixel, size, rounding_mode="floor")))
        p, near = self._weights(triangle, x, y)
        time, face, corners = frame % self.t, self.face[triangle], self.corners[:, triangle]
        last = time == self.t - 1

        def points(time: Tensor) -> Tensor:
            flat = self.positions.flatten(0, 1)[corners + time * self.positions.shape[1]]
            return (p[..., None] * flat).sum(0)

        now, later = points(time), points((time + 1).clamp(max=self.t - 1))
        next_frame = (frame + 1).where(~last, frame)
        xy, seen = self._shows(later, face, next_frame)
        flow = torch.where(last[:, None], 0.0, (xy - torch.stack([x, y], -1)) / k)
        _, from_fixed = fixed._shows(now, face, time)

        def frames(values: Tensor, rest: float | bool) -> Tensor:
            whole = values.new_full((n * size**2, values.shape[1]), rest)
            whole[at] = values
            return rearrange(whole, "(v t y x) c -> v t c y x", v=self.v, t=self.t, y=size)

        stays = self._nothing_comes(keys, size)
        return (
            frames(1 / near[:, None], 0.0),
            frames(flow, 0.0),
            frames((seen | last)[:, None], False) | stays,
            frames(from_fixed[:, None], False),
        )

    def _nothing_comes(self, keys: Tensor, size: int) -> Tensor:
        """Where the background is seen, and still is at the next time."""
        empty = (keys == 0).view(self.v, self.t, 1, size, size)
        return empty & torch.cat([empty[:, 1:], torch.ones_like(empty[:, :1])], 1)

    def _shows(self, points: Tensor, face: Tensor, frame: Tensor) -> tuple[Tensor, Tensor]:
        """Where points of faces land in some of the pictures, in samples, and whether nothing hides them there."""
        xy, depth = self._project(points, self.c2w[torch.div(frame, self.t, rounding_mode="floor")])
        inside = ((xy >= 0) & (xy < self.side)).all(-1) & (depth > NEAR)
        x, y = xy.long().clamp(0, self.side - 1).unbind(-1)
        key = getattr(self, "solid", self.keys)[(frame * self.side + y) * self.side + x]
        if not len(self.face):
            return xy, inside
        _, near = self._weights(key & LOW, *xy.unbind(-1))
        free = (key == 0) | (1 / depth > near * (1 - SLACK))
        return xy, inside & free & self.facing[frame, face]


EDGES = ((0, 2), (0, 1), (1, 2))
LOW = (1 << 32) - 1


def _take(values: Tensor, at: Int[Tensor, "*m"]) -> Tensor:
    """`values[..., at]`, faster."""
    return values.index_select(-1, at.flatten()).view(*values.shape[:-1], *at.shape)


def _first(edge: Tensor) -> Tensor:
    """The first sample whose middle lies at an edge or beyond it."""
    return torch.ceil(edge - 0.5).long()


def _runs(lengths: Int[Tensor, " m"]) -> tuple[Int[Tensor, " total"], Int[Tensor, " total"]]:
    """For every element of runs that lie one after the other: which run, and how far into it."""
    run = torch.repeat_interleave(lengths)
    return run, torch.arange(len(run), device=run.device) - _take(lengths.cumsum(0) - lengths, run)


def srgb(linear: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Linear light to the numbers of a picture (IEC 61966-2-1), in [0, 1]."""
    linear = linear.clamp(0, 1)
    return torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clamp(min=1e-8) ** (1 / 2.4) - 0.055)
