"""Triangles to pictures in plain torch, on the CPU or a GPU: colour, coverage, depth, flow and visibility.

No compiler, no OpenGL, no loop over triangles or pixels. A pixel is k x k samples. Every triangle is cut into the rows
of samples that it covers, every row into its samples, for many frames at once (`repeat_interleave`); each sample makes
one 64-bit key, nearness above and triangle below, and the largest key at a place is what is seen there. Only what is
seen is shaded: light at the corners, interpolated in perspective, times a texture.

With k odd a pixel has a sample in its middle. Depth belongs to it, and flow and visibility follow its surface point to
the next time: to where its triangle's corners are then, and to what the pictures of then show there.

Conventions: `cameras.py`. Colours are linear light until the end, when they become the numbers of a picture (sRGB).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fourd_minimal.cameras import project
from fourd_minimal.data.assets.surface import MASK, OPAQUE, Surface, soft, srgb

NEAR = 1e-3
SLACK = 2e-3
"""Share of its nearness by which a surface may lie before a point and not hide it."""
LAYERS = 8
"""Of half-transparent surfaces behind each other, the nearest so many are seen."""
AT_ONCE = 1 << 18
"""Samples rasterised together: more need memory, fewer need time."""
EDGES = ((0, 2), (0, 1), (1, 2))
"""Of a triangle's corners from top to bottom: the long edge, and the two short ones."""
LOW = (1 << 32) - 1


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
    light: Float[Tensor, "sides t n"],
    c2w: Float[Tensor, "v 4 4"],
    fov_deg: float,
    size: int,
    oversample: int = 3,
    geometry: bool = True,
    mirrored: Bool[Tensor, "t f"] | None = None,
) -> Frames:
    """Every camera's frame at every time. All tensors lie on one device.

    Args:
        surface: what is drawn.
        positions: of its vertices in the world.
        light: that falls on each vertex, in linear light. Of two sides the second is for backs.
        c2w: cameras; triangles that reach behind one are not drawn.
        fov_deg: vertical field of view.
        size: pixels along each side.
        oversample: k, odd.
        geometry: also depth, flow and visibility.
        mirrored: where triangles run clockwise.
    """
    if oversample < 1 or oversample % 2 == 0:
        raise ValueError(f"oversample is {oversample}; expected odd and positive.")
    frames, first = [], None
    for cameras in c2w.split(max(1, AT_ONCE // (len(positions) * (size * oversample) ** 2))):
        pictures = _Pictures(surface, positions, mirrored, cameras, fov_deg, size, oversample)
        first = first or pictures  # holds the fixed view
        rgb, alpha = pictures.colours(light)
        frames.append(Frames(rgb, alpha, *(pictures.geometry(first) if geometry else ())))
    return Frames(*(None if values[0] is None else torch.cat(values) for values in zip(*frames, strict=True)))


class _Pictures:
    """What each sample of some cameras' pictures shows, at all times: n = v t pictures, one camera's times in a row.

    What is seen is chosen at once; `colours` and then `geometry` say what it looks like and where it goes.
    """

    def __init__(self, surface: Surface, positions, mirrored, c2w: Tensor, fov_deg: float, size: int, k: int):
        self.surface, self.positions, self.c2w, self.fov_deg = surface, positions, c2w, fov_deg
        self.size, self.k, self.side, self.v, self.t = size, k, size * k, len(c2w), len(positions)
        self._set_up(mirrored)
        self.clear = None if surface.opaque else (surface.mode == OPAQUE)[self.face]
        place, key, _ = self._samples(self.clear)
        self.keys = torch.zeros(self.v * self.t * self.side**2, dtype=torch.int64, device=positions.device)
        self.keys.scatter_reduce_(0, place, key, "amax")
        self.solid = self.keys

    def _set_up(self, mirrored: Tensor | None) -> None:
        """Of the j triangles that face a camera and may cover a sample: where they lie in which picture."""
        xy, depth = project(self.positions, self.c2w[:, None, None], self.fov_deg, (self.side, self.side))
        x, y, depth = (values.flatten(0, 1) for values in (*xy.unbind(-1), depth))  # (n, vertices)
        corners = self.surface.faces.T
        x0, x1, x2 = (x.index_select(1, corner) for corner in corners)
        y0, y1, y2 = (y.index_select(1, corner) for corner in corners)

        # which side is seen: with y down, the area of a triangle that runs counterclockwise is negative
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        front = area < 0
        if mirrored is not None:
            front ^= mirrored.repeat(self.v, 1)
        self.facing = (front | self.surface.both_sides) & (area != 0)

        # most triangles of an animated character are smaller than a pixel: those between samples are dropped here
        on = self.facing & (area.abs() > 1e-9)
        for a, b, c in ((x0, x1, x2), (y0, y1, y2)):
            low, high = torch.minimum(torch.minimum(a, b), c), torch.maximum(torch.maximum(a, b), c)
            on &= torch.ceil(low - 0.5) < torch.ceil(high - 0.5)  # otherwise it covers the middle of no row or column
            on &= (high > 0.5) & (low < self.side)
        if depth.min() < NEAR:
            on &= torch.stack([depth.index_select(1, corner) > NEAR for corner in corners]).all(0)
        at = on.flatten().nonzero()[:, 0]

        # what is left: its picture, its face, which side, and its corners, (3, j) each
        self.frame = torch.div(at, on.shape[1], rounding_mode="floor")
        self.face = at - self.frame * on.shape[1]
        self.back = ~_take(front.flatten(), at)
        x, y = (torch.stack([_take(values.flatten(), at) for values in axis]) for axis in ((x0, x1, x2), (y0, y1, y2)))
        self.x, self.y = x, y
        self.corners = _take(corners.contiguous(), self.face)
        self.w = 1 / _take(depth.flatten(), self.corners + self.frame * depth.shape[1])  # linear in the picture
        # the weights of corners 1 and 2 at (x, y) are plane[0] (x - x0) + plane[1] (y - y0), and the same with 2 and 3
        self.plane = torch.stack([y[2] - y[0], x[0] - x[2], y[0] - y[1], x[1] - x[0]]) / _take(area.flatten(), at)

    def _samples(self, chosen: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Every sample that some of the triangles cover: its place, its key, and which triangle of the set-up."""
        pick = None if chosen is None else chosen.nonzero()[:, 0]
        x, y, w, plane, frame = (
            v if pick is None else _take(v, pick) for v in (self.x, self.y, self.w, self.plane, self.frame)
        )
        # edges from top to bottom, whichever way a triangle runs: two neighbours cut their common edge with the same
        # numbers, so that no sample between them is left out or taken by both
        down, order = y.sort(0)
        across = x.gather(0, order)
        slope = torch.stack([(across[j] - across[i]) / (down[j] - down[i]).clamp(min=1e-9) for i, j in EDGES])

        # one entry for each row of samples of each triangle: r is its triangle
        first = _first(down[0]).clamp(0, self.side)
        r, step = _runs(_first(down[2]).clamp(0, self.side) - first)
        row = _take(first, r) + step
        middle = row + 0.5

        # where the row enters and leaves the triangle: at its long edge, and at the upper or the lower short one
        long = _take(across[0], r) + (middle - _take(down[0], r)) * _take(slope[0], r)
        edge = torch.where(middle < _take(down[1], r), r, r + len(frame))
        short = _take(across[:2].flatten(), edge)
        short = short + (middle - _take(down[:2].flatten(), edge)) * _take(slope[1:].flatten(), edge)
        begin = _first(torch.minimum(long, short)).clamp(0, self.side)
        length = (_first(torch.maximum(long, short)) - begin).clamp(min=0).minimum(self.side - begin)

        # nearness at the row's first sample and from one to the next, clamped to that of the corners, since the plane
        # of a sliver is inaccurate
        x1, y1, x2, y2 = _take(plane, r)
        w0, w1, w2 = _take(w, r)
        low, high = torch.minimum(torch.minimum(w0, w1), w2), torch.maximum(torch.maximum(w0, w1), w2)
        w1, w2 = w1 - w0, w2 - w0
        along = x1 * w1 + x2 * w2
        near = w0 + along * (begin + 0.5 - _take(x[0], r)) + (y1 * w1 + y2 * w2) * (middle - _take(y[0], r))
        far = (near + along * length).clamp(low, high)
        near = near.clamp(low, high)
        along = (far - near) / length.clamp(min=1)

        # one entry for each sample of each row: the bits of a positive float grow with it, so nearness makes the key
        base = (_take(frame, r) * self.side + row) * self.side + begin
        s, step = _runs(length)
        triangle = _take(r if pick is None else _take(pick, r), s)
        nearness = torch.addcmul(_take(near, s), _take(along, s), step.to(near))
        return _take(base, s) + step, (nearness.view(torch.int32).long() << 32) | triangle, triangle

    def _weights(self, triangle: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
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
        p, _ = self._weights(triangle, place - line * self.side + 0.5, line - frame * self.side + 0.5)
        corners = _take(self.corners, triangle)

        # light at the corners: those of the frame's time, and of the side that is seen
        at = frame % self.t
        if len(light) == 2:
            at = at + _take(self.back, triangle) * self.t
        lit = (p * _take(light.flatten(), corners + at * light.shape[2])).sum(0)

        # colour and glow of the corners, times their textures
        if surface.flat:
            colour, glow = (v.index_select(0, corners[0]) for v in (surface.colours, surface.glow))
        else:
            colour, glow = ((p[..., None] * v[corners]).sum(0) for v in (surface.colours, surface.glow))
        if len(surface.sheets) > 1:
            u, v = ((p * _take(surface.uv[:, i].contiguous(), corners)).sum(0) for i in (0, 1))
            colour = colour * surface.texel(_take(surface.texture, face), u, v)
            if surface.glows:
                glow = glow * surface.texel(_take(surface.glow_texture, face), u, v)[:, :3]
        rgb = soft(colour[:, :3] * lit[:, None])
        if not surface.all_lit:
            rgb = torch.where(surface.lit[corners[0], None], rgb, colour[:, :3])
        return rgb + glow if surface.glows else rgb, colour[:, 3]

    def colours(self, light: Float[Tensor, "sides t n"]) -> tuple[Tensor, Tensor]:
        """rgb and alpha, (v, t, 3 | 1, h, w)."""
        veil = None if self.clear is None else self._see_through(light)
        place = self.keys.nonzero()[:, 0]
        rgb, _ = self._shade(place, _take(self.keys, place) & LOW, light)
        samples = rgb.new_zeros(len(self.keys), 4)
        samples[place] = F.pad(rgb, (0, 1), value=1.0)
        if veil is not None:
            samples = veil[0] + veil[1] * samples
        samples = rearrange(samples, "(n y x) c -> n c y x", y=self.side, x=self.side)
        rgb, alpha = F.avg_pool2d(samples, self.k).unflatten(0, (self.v, self.t)).split([3, 1], 2)
        return srgb(rgb / alpha.clamp(min=1e-6)), alpha.clamp(max=1).contiguous()

    def _see_through(self, light: Tensor) -> tuple[Tensor, Tensor]:
        """Holes and half-transparent surfaces: what lies before the opaque, and how much of that shows through."""
        place, key, triangle = self._samples(~self.clear)
        rgb, alpha = self._shade(place, triangle, light)
        face = self.face[triangle]
        mask = self.surface.mode[face] == MASK
        alpha = torch.where(mask, (alpha >= self.surface.cutoff[face]).to(alpha), alpha)

        # samples that are nearly opaque count as opaque; what lies behind them is not seen
        whole = alpha > 0.996
        self.keys.scatter_reduce_(0, place[whole], key[whole], "amax")
        left = ~whole & (alpha > 0.004) & (key > self.keys[place])
        place, key, rgb, alpha = place[left], key[left], rgb[left], alpha[left, None]

        # the layers of a place one after the other, the nearest first: rank counts them
        order = key.argsort(descending=True)
        order = order[place[order].argsort(stable=True)]
        place, key, rgb, alpha = place[order], key[order], rgb[order], alpha[order]
        begins = torch.ones_like(place, dtype=torch.bool)
        begins[1:] = place[1:] != place[:-1]
        count = torch.arange(len(place), device=place.device)
        rank = count - torch.where(begins, count, 0).cummax(0).values if len(place) else count
        over, through = rgb.new_zeros(len(self.keys), 4), rgb.new_ones(len(self.keys), 1)
        for layer in range(LAYERS):
            here = rank == layer
            at = place[here]
            over[at] += through[at] * alpha[here] * F.pad(rgb[here], (0, 1), value=1.0)
            through[at] *= 1 - alpha[here]

        # what counts as a surface for depth and flow
        solid = alpha[:, 0] >= 0.5
        self.solid = self.keys.scatter_reduce(0, place[solid], key[solid], "amax")
        return over, through

    def geometry(self, first: "_Pictures") -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Depth, flow, visibility at the next time, and in view 0; each (v, t, 1 | 2, h, w). Call `colours` before.

        Args:
            first: the pictures whose first camera is view 0; those are its first frames.
        """
        # what the middle samples show: frame, triangle, and the point of it
        n, size, k = self.v * self.t, self.size, self.k
        middle = torch.arange(size, device=self.keys.device) * k + k // 2
        keys = self.solid.view(n, self.side, self.side)[:, middle[:, None], middle].flatten()
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

        # the same point at the next time: where it lands, and whether that is what is seen there
        xy, seen = self._shows(points((time + 1).clamp(max=self.t - 1)), face, (frame + 1).where(~last, frame))
        flow = torch.where(last[:, None], 0.0, (xy - torch.stack([x, y], -1)) / k)
        _, from_first = first._shows(points(time), face, time)

        def frames(values: Tensor, rest: float | bool) -> Tensor:
            whole = values.new_full((n * size**2, values.shape[1]), rest)
            whole[at] = values
            return rearrange(whole, "(v t y x) c -> v t c y x", v=self.v, t=self.t, y=size)

        # background stays visible where nothing comes before it
        empty = (keys == 0).view(self.v, self.t, 1, size, size)
        stays = empty & torch.cat([empty[:, 1:], torch.ones_like(empty[:, :1])], 1)
        return (
            frames(1 / near[:, None], 0.0),
            frames(flow, 0.0),
            frames((seen | last)[:, None], False) | stays,
            frames(from_first[:, None], False),
        )

    def _shows(self, points: Tensor, face: Tensor, frame: Tensor) -> tuple[Tensor, Tensor]:
        """Where points of faces land in some of the pictures, in samples, and whether nothing hides them there."""
        c2w = self.c2w[torch.div(frame, self.t, rounding_mode="floor")]
        xy, depth = project(points, c2w, self.fov_deg, (self.side, self.side))
        inside = ((xy >= 0) & (xy < self.side)).all(-1) & (depth > NEAR)
        if not len(self.face):
            return xy, inside
        x, y = xy.long().clamp(0, self.side - 1).unbind(-1)
        key = self.solid[(frame * self.side + y) * self.side + x]
        _, near = self._weights(key & LOW, *xy.unbind(-1))
        free = (key == 0) | (1 / depth > near * (1 - SLACK))
        return xy, inside & free & self.facing[frame, face]


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
