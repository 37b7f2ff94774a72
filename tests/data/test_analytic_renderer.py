from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from fourd_minimal.cameras import circular_trajectory, project, rays
from fourd_minimal.data import analytic_renderer
from fourd_minimal.data.analytic_renderer import MovingObjects, render, trace

FRONT = circular_trajectory(0.0, 0.0, 4.0)[None, None]  # one camera, at z = 4
FOV_DEG = 40.0


@pytest.fixture
def uniform():
    generator = torch.Generator().manual_seed(0)
    return lambda low, high, *shape: low + (high - low) * torch.rand(*shape, generator=generator)


def affine(scale=(1.0, 1.0, 1.0), position=(0.0, 0.0, 0.0)):
    return torch.cat([torch.diag(torch.tensor(scale)), torch.tensor(position)[:, None]], 1)


def scene(to_world, n_balls, **fields):
    """Scenes from maps `(n, t, k, 3, 4)` or one from `(t, k, 3, 4)`; object i is of colour i, on black."""
    to_world = to_world.reshape(-1, *to_world.shape[-4:])
    n, _, k = to_world.shape[:3]
    colours = torch.linspace(0.2, 1, 3 * k).view(1, k, 1, 3).expand(n, -1, 6, -1)
    light, background = F.normalize(torch.tensor([0.3, 0.5, 0.8]), dim=0).expand(n, 3), torch.zeros(n, 2, 3)
    return replace(MovingObjects(to_world, n_balls, colours, torch.zeros(k), light, background), **fields)


def tumbling(uniform, n_balls, k, times=2, n=1):
    """Objects under any affine map: rotated, sheared and stretched; every second one is checkered."""
    linear = 0.35 * torch.eye(3) + uniform(-0.25, 0.25, n, times, k, 3, 3)
    to_world = torch.cat([linear, uniform(-0.5, 0.5, n, times, k, 3, 1)], -1)
    checker = torch.where(torch.arange(k) % 2 == 1, 3.0, 0.0)
    return scene(to_world, n_balls, colours=uniform(0, 1, n, k, 6, 3), checker=checker)


def first_hit_by_hand(objects, time, origin, direction):
    """The ray in one object after another, in double precision: (depth, object, point in its space), or None."""
    found = []
    for k, to_world in enumerate(objects.to_world[0, time].double().numpy()):
        inverse = np.linalg.inv(to_world[:, :3])
        o, d = inverse @ (origin - to_world[:, 3]), inverse @ direction
        if k < objects.n_balls:
            roots = np.roots([d @ d, 2 * o @ d, o @ o - 1])
            hits = roots.real[abs(roots.imag) < 1e-12]
        else:  # the planes of the six faces
            planes = [(side - o[axis]) / d[axis] for axis in range(3) for side in (-1, 1)]
            hits = [s for s in planes if abs(o + s * d).max() < 1 + 1e-9]
        found += [(s, k, o + s * d) for s in hits if s > 0]
    return min(found, default=None, key=lambda hit: hit[0])


def colour_by_hand(objects, time, k, local):
    """The normal is the cross product of two tangents carried into the world, not an inverse transpose."""
    linear = objects.to_world[0, time, k, :, :3].double().numpy()
    axis = abs(local).argmax()
    outwards = local if k < objects.n_balls else np.eye(3)[axis] * np.sign(local[axis])
    first, second = np.linalg.svd(outwards[None])[2][1:]
    normal = np.cross(linear @ first, linear @ second)
    normal *= np.sign(normal @ linear @ outwards) / np.linalg.norm(normal)
    face, rate = 2 * axis + (local[axis] < 0), objects.checker[k].item()
    if rate and face == 2:
        face += int(np.floor(local[0] * rate) + np.floor(local[2] * rate)) % 2
    return objects.colours[0, k, face].numpy() * (0.45 + 0.55 * max(normal @ objects.light[0].numpy(), 0))


@pytest.mark.parametrize(("n_balls", "k"), [(3, 3), (0, 3), (2, 5)])
def test_every_ray_by_hand(uniform, n_balls, k):
    objects, size = tumbling(uniform, n_balls, k), (9, 11)
    c2w = circular_trajectory(torch.tensor([[20.0, 140.0]]), torch.tensor([[10.0, -50.0]]), 3.0)
    record = render(objects, c2w, FOV_DEG, size, antialias=1)
    origins, directions = (a[0].double().numpy() for a in rays(c2w, FOV_DEG, size))
    assert 0.1 < record.alpha.mean() < 0.9
    for view, time, row, column in np.ndindex(2, 2, *size):
        hit = first_hit_by_hand(objects, time, origins[view], directions[view, row, column])
        rgb, alpha, depth = (a[0, view, time, :, row, column].numpy() for a in (record.rgb, record.alpha, record.depth))
        assert (alpha, depth) == pytest.approx((1, hit[0]) if hit else (0, 0), abs=1e-4)
        assert rgb == pytest.approx(colour_by_hand(objects, time, *hit[1:]) if hit else np.zeros(3), abs=1e-3)


def test_a_ray_along_a_face_is_no_hole():
    """In a picture of odd width the middle column of rays has no x component at all."""
    odd = render(scene(affine((0.5, 0.5, 0.5))[None, None], 0), FRONT, FOV_DEG, (15, 15), antialias=1)
    square = torch.zeros(15, 15)
    square[5:10, 5:10] = 1
    assert torch.equal(odd.alpha[0, 0, 0, 0], square)
    assert_close(odd.depth[0, 0, 0, 0], 3.5 * square)


def test_the_background_runs_from_top_to_bottom():
    background = torch.tensor([[[1.0, 0.0, 0.5], [0.0, 1.0, 0.5]]])
    rgb = render(scene(affine((0.1, 0.1, 0.1))[None, None], 1, background=background), FRONT, FOV_DEG, (5, 7)).rgb
    ramp = torch.linspace(1, 0, 5)
    assert_close(rgb[0, 0, 0, :, :, 0], torch.stack([ramp, 1 - ramp, torch.full((5,), 0.5)]))


def test_geometry_is_optional_and_chunks_do_not_show(uniform, monkeypatch):
    objects, c2w = tumbling(uniform, 1, 3, n=5), circular_trajectory(uniform(0, 360, 5, 2), 20.0, 3.0)
    objects = replace(objects, light=F.normalize(uniform(-1, 1, 5, 3), dim=-1), background=uniform(0, 1, 5, 2, 3))
    whole = render(objects, c2w, FOV_DEG, (8, 8))
    monkeypatch.setattr(analytic_renderer, "AT_ONCE", 1)
    one_by_one = render(objects, c2w, FOV_DEG, (8, 8))
    for name in ("rgb", "alpha", "depth", "flow", "visible", "in_fixed_view"):
        assert_close(getattr(one_by_one, name), getattr(whole, name), atol=1e-4, rtol=1e-4)
    fast = render(objects, c2w, FOV_DEG, (8, 8), geometry=False)
    assert torch.equal(fast.rgb, one_by_one.rgb) and torch.equal(fast.alpha, one_by_one.alpha)
    assert fast.flow is None and fast.visible is None and not fast.depth.any()


def test_flow_of_any_affine_motion(uniform):
    """A material point seen now, taken back into its object and out again a moment later."""
    objects, c2w, size = tumbling(uniform, 1, 2, times=3), circular_trajectory(70.0, 15.0, 3.0)[None, None], (12, 12)
    record = render(objects, c2w, FOV_DEG, size)
    origins, directions = rays(c2w, FOV_DEG, size)
    _, which = trace(objects, origins, directions.flatten(2, 3)[:, :, None])
    for time in range(2):
        depth, flow = record.depth[0, 0, time, 0], record.flow[0, 0, time]
        for k in range(2):
            hit = (which[0, 0, time].view(size) == k) & (depth > 0)
            assert hit.any()
            points = origins[0, 0] + depth[hit][:, None] * directions[0, 0, hit]
            now, later = objects.to_world[0, time : time + 2, k]
            local = torch.linalg.solve(now[:, :3], (points - now[:, 3]).T)
            moved = (later[:, :3] @ local).T + later[:, 3]
            here, there = (project(p, c2w[0, 0], FOV_DEG, size)[0] for p in (points, moved))
            assert_close(flow[:, hit].T, there - here, atol=1e-3, rtol=1e-3)


def test_what_is_covered_or_leaves_is_not_visible():
    """A ball slides over the front of a box; then out of the picture."""
    box, small = affine((0.7, 0.7, 0.2), (0.0, 0.0, -1.0)), (0.3, 0.3, 0.3)
    places = torch.tensor([[-1.2, 0.0, 0.8], [0.0, 0.0, 0.8], [3.0, 0.0, 0.8]])
    to_world = torch.stack([torch.stack([affine(small, tuple(p.tolist())), box]) for p in places])
    record = render(scene(to_world, 1), FRONT, FOV_DEG, (33, 33), antialias=1)
    depth, visible, flow = record.depth[0, 0, :, 0], record.visible[0, 0, :, 0], record.flow[0, 0]
    ball = (depth > 0) & (depth < 4)
    assert (ball[:2].flatten(1).sum(1) > 20).all() and not ball[2].any()
    assert torch.equal(~visible[0] & ~ball[0], ball[1] & ~ball[0])  # what rests is hidden where the ball will be
    assert not visible[1][ball[1]].any() and visible[1][~ball[1]].all()
    assert (flow[1, 0][ball[1]] > 16).all()
    assert visible[2].all()
    assert_close(flow[2], torch.zeros(2, 33, 33), atol=1e-4, rtol=0)


def test_what_one_object_hides_from_the_fixed_view(uniform):
    """Any objects: the ray from view 0 to a point meets nothing before it, one ray at a time."""
    objects = tumbling(uniform, 2, 4, times=1)
    c2w = circular_trajectory(torch.tensor([[0.0, 60.0]]), 20.0, 3.0)
    record = render(objects, c2w, FOV_DEG, (12, 12))
    origins, directions = (a[0].double() for a in rays(c2w, FOV_DEG, (12, 12)))
    found = []
    for y, x in record.depth[0, 1, 0, 0].nonzero().tolist():
        point = origins[1] + record.depth[0, 1, 0, 0, y, x] * directions[1, y, x]
        way = (point - origins[0]).numpy()
        first, *_ = first_hit_by_hand(objects, 0, origins[0].numpy(), way)  # at 1 it is the point itself
        pixel, _ = project(point.float(), c2w[0, 0], FOV_DEG, (12, 12))
        seen = bool(first > 1 - 1e-4 and ((pixel >= 0) & (pixel <= 12)).all())
        found.append((seen, record.in_fixed_view[0, 1, 0, 0, y, x].item()))
    assert all(a == b for a, b in found) and {a for a, _ in found} == {True, False}
