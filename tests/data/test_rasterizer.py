"""Triangles as pictures: coverage, depth, flow, visibility, textures and half-transparency, against closed forms."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from fourd_minimal.cameras import circular_trajectory, project, rays
from fourd_minimal.data.assets.rasterizer import LAYERS, draw
from fourd_minimal.data.assets.surface import BLEND, CLAMP, MASK, MIRROR, OPAQUE, REPEAT, Surface, soft, srgb

FOV = 40.0
CAMERA = circular_trajectory(torch.tensor([0.0]), 0.0, 4.0)
HALF = float(4 * np.tan(np.radians(FOV / 2)))
"""Half the height of what the camera sees, in the plane through the origin."""
QUAD = torch.tensor([(-1.0, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0)])
QUAD_FACES = torch.tensor([(0, 1, 2), (0, 2, 3)])
TEXTURE_PLACES = torch.tensor([(0.0, 1), (1, 1), (1, 0), (0, 0)])


def surface(faces=QUAD_FACES, **given) -> Surface:
    """Opaque, white and seen from the front, but for what is given: per vertex, or per triangle."""
    n, f = int(faces.max()) + 1, len(faces)
    parts = dict(
        faces=faces,
        uv=torch.zeros(n, 2),
        colours=torch.ones(n, 4),
        glow=torch.zeros(n, 3),
        lit=torch.zeros(n, dtype=torch.bool),
        texture=torch.zeros(f, dtype=torch.long),
        glow_texture=torch.zeros(f, dtype=torch.long),
        mode=torch.full((f,), OPAQUE),
        cutoff=torch.full((f,), 0.5),
        both_sides=torch.zeros(f, dtype=torch.bool),
        texels=torch.full((1, 4), 255, dtype=torch.uint8),
        sheets=torch.tensor([[0, 1, 1, REPEAT, REPEAT]]),
    )
    return Surface(**{**parts, **given})


def textured(pixels, wrap=(REPEAT, REPEAT), uv=TEXTURE_PLACES, **given) -> Surface:
    """A square with a picture of (h, w, 4) bytes."""
    texels = torch.cat([torch.full((1, 4), 255, dtype=torch.uint8), pixels.reshape(-1, 4)])
    sheets = torch.tensor([[0, 1, 1, REPEAT, REPEAT], [1, *pixels.shape[:2], *wrap]])
    return surface(uv=uv, texels=texels, sheets=sheets, texture=torch.ones(2, dtype=torch.long), **given)


def squares(*layers: tuple) -> tuple[Surface, torch.Tensor]:
    """Squares that face the camera at depths z, each (z, RGBA, mode), as one surface and its positions."""
    positions = torch.cat([QUAD + torch.tensor([0, 0, float(z)]) for z, _, _ in layers])
    faces = torch.cat([QUAD_FACES + 4 * i for i in range(len(layers))])
    colours = torch.cat([torch.tensor([colour]).expand(4, 4) for _, colour, _ in layers])
    mode = torch.tensor([mode for _, _, mode in layers for _ in range(2)])
    return surface(faces, colours=colours, mode=mode), positions[None]


def shown(drawn: Surface, positions=QUAD[None], c2w=CAMERA, size=16, k=3, light=None, **options):
    light = torch.ones(1, *positions.shape[:2]) if light is None else light
    return draw(drawn, positions, light, c2w, FOV, size, k, **options)


def test_a_square_covers_the_samples_inside_of_it():
    """Edges at 3.4 and 12.6 of 16 pixels, of 3 x 3 samples each: at 1/6, 1/2 and 5/6 of a pixel."""
    half = 4.6 / 8 * HALF
    alpha = shown(surface(), QUAD[None] * half).alpha[0, 0, 0]
    samples = (torch.arange(48) + 0.5) / 3
    row = ((samples > 3.4) & (samples < 12.6)).float().view(16, 3).mean(1)
    assert_close(alpha, row[:, None] * row, atol=1e-6, rtol=0)


@pytest.mark.parametrize("seed", range(4))
def test_triangles_that_share_edges_leave_no_gap_and_no_overlap(seed):
    """Half-transparent: a sample left out would show nothing, a sample taken twice too much."""
    generator = torch.Generator().manual_seed(seed)
    n = 9
    y, x = torch.meshgrid(torch.linspace(1, -1, n), torch.linspace(-1, 1, n), indexing="ij")
    points = torch.stack([x, y, torch.zeros(n, n)], -1)
    points[1:-1, 1:-1, :2] += 0.06 * (2 * torch.rand(n - 2, n - 2, 2, generator=generator) - 1)  # none turns over
    i = torch.arange(n * n).view(n, n)
    a, b, c, d = i[:-1, :-1].flatten(), i[:-1, 1:].flatten(), i[1:, 1:].flatten(), i[1:, :-1].flatten()
    faces = torch.cat([torch.stack([a, d, c], 1), torch.stack([a, c, b], 1)])
    for colour, mode in ((1.0, OPAQUE), (0.5, BLEND)):
        look = surface(faces, colours=torch.full((n * n, 4), colour), mode=torch.full((len(faces),), mode))
        alpha = shown(look, 1.5 * points.view(1, -1, 3), size=24).alpha
        assert_close(alpha, torch.full_like(alpha, colour), atol=1e-6, rtol=0)


TILTED = QUAD @ torch.tensor([[1, 0, 0], [0, 0.5, 0.8], [0, 0.3, -0.9]]).T * 1.3
"""A square whose upper edge leans back."""


def on_plane(points, c2w, size):
    """Where the rays of pixels hit the plane of a square: depth, and its two coordinates in [-1, 1]."""
    origin, directions = rays(c2w, FOV, (size, size))
    across, up, middle = (points[1] - points[0]) / 2, (points[3] - points[0]) / 2, points.mean(0)
    columns = torch.stack([across.expand_as(directions), up.expand_as(directions), -directions], -1)
    a, b, depth = torch.linalg.solve(columns, (origin - middle).expand_as(directions)).unbind(-1)
    return depth, a, b


def test_depth_is_that_of_the_plane():
    depth, a, b = on_plane(TILTED, CAMERA[0], 32)
    inside = (a.abs() < 0.97) & (b.abs() < 0.97)
    found = shown(surface(), TILTED[None], size=32).depth[0, 0, 0]
    assert inside.sum() > 100
    assert_close(found[inside], depth[inside], atol=2e-5, rtol=0)
    assert not found[(a.abs() > 1.03) | (b.abs() > 1.03)].any()


def test_textures_are_read_in_perspective():
    """A chequered square that leans back: every pixel, but for those at the fields' edges, by the ray that meets it."""
    field = torch.tensor([[0, 255], [255, 0]], dtype=torch.uint8)[..., None].expand(2, 2, 4).clone()
    field[..., 3] = 255
    rgb = shown(textured(field, uv=TEXTURE_PLACES * 2), TILTED[None], size=48, k=1).rgb[0, 0, 0]
    _, a, b = on_plane(TILTED, CAMERA[0], 48)
    u, v = (a + 1) * 2, (1 - b) * 2  # in fields, four along each side
    clear = (a.abs() < 0.98) & (b.abs() < 0.98) & ((u - u.round()).abs() > 0.02) & ((v - v.round()).abs() > 0.02)
    expected = ((u.floor() + v.floor()) % 2).float()
    assert clear.sum() > 300
    assert_close(rgb[clear], expected[clear], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("wrap", "expected"),
    [
        (REPEAT, [0, 1, 2, 0, 1, 2, 0, 1, 2]),
        (CLAMP, [0, 0, 0, 0, 1, 2, 2, 2, 2]),
        (MIRROR, [2, 1, 0, 0, 1, 2, 2, 1, 0]),
    ],
)
def test_textures_beyond_their_edge(wrap, expected):
    """Three texels, looked at from -1 to 2, along u and along v; v runs down."""
    steps = (torch.arange(9) + 0.5) / 3 - 1
    for down in (False, True):
        pixels = torch.tensor([10, 20, 30], dtype=torch.uint8)[:, None].expand(3, 4)
        look = textured(pixels.view(3, 1, 4) if down else pixels.view(1, 3, 4), (wrap, wrap))
        zeros = torch.full((9,), 0.5)
        u, v = (zeros, steps) if down else (steps, zeros)
        found = look.texel(torch.ones(9, dtype=torch.long), u, v)
        assert ((255 * found[:, 3] / 10).round() - 1).long().tolist() == expected


def test_srgb_has_its_published_values():
    linear = torch.tensor([-1.0, 0.0, 0.0031308, 0.2140411, 1.0, 2.0])
    assert_close(srgb(linear), torch.tensor([0.0, 0.0, 0.04045, 0.5, 1.0, 1.0]), atol=1e-5, rtol=0)
    assert_close(srgb(surface().linear), torch.arange(256) / 255, atol=1e-5, rtol=0)


def test_colours_and_light_of_the_corners_are_interpolated():
    """Left edge dark, right edge bright: the middle is the mean, in linear light."""
    light = torch.tensor([[[0.2, 0.6, 0.6, 0.2]]])
    colours = torch.tensor([(1.0, 1, 1, 1), (0.5, 1, 1, 1), (0.5, 1, 1, 1), (1, 1, 1, 1)])
    lit = torch.ones(4, dtype=torch.bool)
    rgb = shown(surface(colours=colours, lit=lit), light=light, size=15, k=1).rgb[0, 0, :, 7, 7]
    assert_close(rgb, srgb(torch.tensor([0.75 * 0.4, 0.4, 0.4])), atol=1e-4, rtol=0)


RED, GREEN, BLUE = (1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_two_half_transparent_squares_before_an_opaque_one(order):
    """The nearest first: a red, (1 - a) b green, (1 - a) (1 - b) blue, however they are stored."""
    layers = [(0.5, (*RED, 0.25), BLEND), (0, (*GREEN, 0.5), BLEND), (-0.5, (*BLUE, 1), OPAQUE)]
    look, positions = squares(*(layers[i] for i in order))
    frames = shown(look, positions)
    assert_close(frames.rgb[0, 0, :, 8, 8], srgb(torch.tensor([0.25, 0.75 * 0.5, 0.75 * 0.5])), atol=1e-5, rtol=0)
    assert_close(frames.alpha[0, 0, 0, 8, 8], torch.tensor(1.0))
    assert_close(frames.depth[0, 0, 0, 8, 8], torch.tensor(4.0))  # of the nearest that is at least half there


def test_the_nearest_layers_are_seen():
    n = LAYERS + 3
    layers = [(0.1 * i, (*(GREEN if i < 3 else RED), 0.5), BLEND) for i in range(n)]
    frames = shown(*squares(*layers))
    assert_close(frames.alpha[0, 0, 0, 8, 8], torch.tensor(1 - 0.5**LAYERS))
    assert frames.rgb[0, 0, 1, 8, 8] == 0


def masked():
    """A square whose left half is cut out, by a texture."""
    pixels = torch.full((1, 2, 4), 255, dtype=torch.uint8)
    pixels[0, 0, 3] = 100  # of 255: below the cutoff of one half
    return textured(pixels, mode=torch.full((2,), MASK))


def test_holes_show_what_is_behind():
    frames = shown(masked(), size=17)
    assert not frames.alpha[0, 0, 0, :, :8].any() and not frames.depth[0, 0, 0, :, :8].any()
    assert frames.alpha[0, 0, 0, 8, 9] == 1 and frames.depth[0, 0, 0, 8, 9] == pytest.approx(4)


def test_a_surface_is_seen_from_its_front_or_from_both_sides():
    behind = circular_trajectory(torch.tensor([180.0]), 0.0, 4.0)
    both = surface(both_sides=torch.tensor([True, False]))
    assert not shown(surface(), c2w=behind).alpha.any()
    assert 0.2 < shown(both, c2w=behind).alpha.mean() / shown(surface()).alpha.mean() < 0.8  # one of its triangles
    light = torch.stack([torch.full((1, 4), 0.3), torch.full((1, 4), 0.7)])
    for c2w, expected in ((CAMERA, 0.3), (behind, 0.7)):
        sheet = surface(both_sides=torch.ones(2, dtype=torch.bool), lit=torch.ones(4, dtype=torch.bool))
        found = shown(sheet, c2w=c2w, light=light).rgb[0, 0, :, 8, 8]
        assert_close(found, srgb(soft(torch.full((3,), expected))), atol=1e-5, rtol=0)


def test_flow_follows_the_surface():
    """A square that slides, turns and comes nearer: every visible pixel goes where its point goes."""
    turn = torch.tensor([[0.9, -0.1, 0.2], [0.1, 1.1, 0], [-0.2, 0, 0.8]])
    later = TILTED @ turn.T + torch.tensor([0.1, -0.05, 0.2])
    frames = shown(surface(), torch.stack([TILTED, later]), size=32)
    depth, a, b = on_plane(TILTED, CAMERA[0], 32)
    inside = (a.abs() < 0.97) & (b.abs() < 0.97)
    points = later.mean(0) + a[..., None] * (later[1] - later[0]) / 2 + b[..., None] * (later[3] - later[0]) / 2
    xy, _ = project(points, CAMERA[0], FOV, (32, 32))
    pixel = torch.stack(torch.meshgrid(torch.arange(32), torch.arange(32), indexing="xy"), -1) + 0.5
    flow = frames.flow[0, 0].permute(1, 2, 0)
    assert_close(flow[inside], (xy - pixel)[inside], atol=1e-3, rtol=0)
    assert not frames.flow[0, 1].any() and frames.visible[0, 1].all()
    assert frames.visible[0, 0, 0][inside].float().mean() > 0.95


def test_a_square_that_passes_hides_what_is_behind():
    """Half of the back one is covered at the next time, as a shadow without light would be."""
    look, positions = squares((0, (*BLUE, 1), OPAQUE), (1, (*RED, 1), OPAQUE))
    now, later = positions[0].clone(), positions[0].clone()
    now[4:, 0] += 9
    later[4:, 0] += 0.75  # its left edge stands at -0.25, seen from 4 at 3: before -1/3 of the back one
    frames = shown(look, torch.stack([now, later]), size=33, k=1)
    x = ((torch.arange(33) + 0.5) / 33 * 2 - 1) * HALF
    row = frames.depth[0, 0, 0, 16] > 0
    assert torch.equal(frames.visible[0, 0, 0, 16][row], x[row] < -1 / 3)
    background = ~row & (x < 1.0)
    assert frames.visible[0, 0, 0, 16][background].all()


def test_batches_of_cameras_do_not_matter(monkeypatch):
    look, positions = squares((0.5, (*RED, 0.5), BLEND), (0, (*GREEN, 1), OPAQUE))
    positions = torch.cat([positions, positions * 0.9])
    c2w = circular_trajectory(torch.linspace(0, 40, 5), 10.0, 4.0)
    together = shown(look, positions, c2w)
    monkeypatch.setattr("fourd_minimal.data.assets.rasterizer.AT_ONCE", 1)
    for ours, theirs in zip(shown(look, positions, c2w), together, strict=True):
        assert torch.equal(ours, theirs)
