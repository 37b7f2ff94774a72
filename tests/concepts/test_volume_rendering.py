"""Compositing against nerfacc and Beer and Lambert; rays that miss, grids that are empty, fog, a ball."""

import math

import pytest
import torch
from parity import assert_same
from torch.testing import assert_close

from fourd_minimal.cameras import circular_trajectory, rays
from fourd_minimal.volume_rendering import Occupancy, composite, render_rays, through_box


def test_outputs_and_gradients_are_nerfaccs():
    nerfacc = pytest.importorskip("nerfacc")
    edges, rgb = torch.rand(7, 21).sort(-1).values * 3, torch.rand(7, 20, 3)
    sigma = (torch.rand(7, 20) * 4).requires_grad_()
    seen = composite(sigma, rgb, edges.diff(dim=-1))
    weights, *_ = nerfacc.render_weight_from_density(edges[:, :-1], edges[:, 1:], sigma)
    colour = nerfacc.accumulate_along_rays(weights, rgb)
    opacity = nerfacc.accumulate_along_rays(weights, None)[:, 0]
    theirs = colour, opacity, weights
    assert_same((seen.rgb, seen.opacity, seen.weights), theirs, [sigma], dict(atol=1e-5, rtol=1e-4))


@pytest.mark.parametrize("sigma", [0.0, 0.3, 5.0, 1e6])
def test_a_homogeneous_medium_obeys_beer_and_lambert(sigma):
    """However the way is cut into samples."""
    deltas, density = torch.rand(7, 20, dtype=torch.float64), torch.full((7, 20), sigma, dtype=torch.float64)
    seen = composite(density, torch.ones(7, 20, 3, dtype=torch.float64), deltas)
    assert_close(seen.opacity, 1 - torch.exp(-sigma * deltas.sum(-1)))
    assert_close(seen.over(0.25), (0.25 + 0.75 * seen.opacity)[:, None].expand(-1, 3))


def test_rays_enter_and_leave_the_box():
    origins = torch.tensor([[0, 0, 4.0], [0, 0, 4], [0, 0, 0], [0, 0, 4], [3, 0, 0], [1, 0, 4]])
    directions = torch.tensor([[0, 0, -1.0], [0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, -1]])
    near, far = through_box(origins, directions)
    assert_close(torch.stack([near, far], 1)[[0, 2]], torch.tensor([[3.0, 5.0], [0.0, 1.0]]))
    assert ((far - near)[[1, 3, 4]] == 0).all()  # behind, beside, parallel and outside
    assert far.isfinite().all() and (near >= 0).all()


def ball(points, times, directions):
    """Red, of radius 0.5 + 0.3 t."""
    inside = points.norm(dim=1) < 0.5 + 0.3 * times
    return 1e3 * inside, torch.tensor([1.0, 0.0, 0.0]).expand(len(points), 3)


def density(points, times):
    return ball(points, times, None)[0]


def test_a_ball_covers_the_disc_that_it_must_at_every_time():
    """Seen from far away: pi r^2 of the picture's area."""
    times, size = torch.tensor([0.0, 0.5, 1.0]), 64
    origin, direction = rays(circular_trajectory(torch.zeros(3), radius=50.0), 2.4, (size, size))
    flat = direction.reshape(-1, 3)
    rays_o, moments = origin.repeat_interleave(size**2, 0), times.repeat_interleave(size**2)
    opacity = render_rays(ball, rays_o, flat, moments, n_samples=128).opacity.view(3, -1)
    side = 100 * math.tan(math.radians(1.2))
    assert_close(opacity.mean(1) * side**2, math.pi * (0.5 + 0.3 * times) ** 2, atol=0.02, rtol=0.02)


def test_stratified_samples_are_fair():
    """A thin shell between two middles is missed by all middles, and met by random places as often as it is thick."""

    def shell(points, times, directions):
        return 100.0 * (points[:, 2].abs() < 0.01), torch.ones(len(points), 3)

    origin, direction = torch.tensor([[0.0, 0.0, 3.0]]).expand(4000, 3), torch.tensor([[0, 0, -1.0]]).expand(4000, 3)
    times = torch.zeros(4000)
    assert not render_rays(shell, origin, direction, times, 8).opacity.any()
    found = render_rays(shell, origin, direction, times, 8, stratified=True).opacity
    assert_close((found > 0.5).float().mean(), torch.tensor(2 * 0.01 / 0.25), atol=0.015, rtol=0)


def test_a_field_is_evaluated_only_where_something_is_at_some_time():
    occupancy = Occupancy(16)
    occupancy.update(density, torch.tensor([0.0, 1.0]), torch.Generator().manual_seed(0))
    evaluated = []

    def watched(points, times, directions):
        evaluated.append(points)
        return ball(points, times, directions)

    origin, direction = rays(circular_trajectory(30.0, 10.0, 4.0), 40.0, (32, 32))
    given = origin.expand(1024, 3), direction.reshape(-1, 3)
    skipping = render_rays(watched, *given, torch.ones(1024), 64, occupancy)
    everything = render_rays(watched, *given, torch.ones(1024), 64)
    assert len(evaluated[0]) < 0.5 * len(evaluated[1]) and evaluated[0].norm(dim=1).max() < 1.05
    assert (skipping.opacity - everything.opacity).abs().mean() < 0.01


def test_the_grid_forgets_what_is_gone_and_keeps_what_comes_back():
    occupancy = Occupancy(8)
    assert occupancy.holds(torch.zeros(1, 3)).all()  # as long as nothing is known
    occupancy.update(density, torch.tensor([0.0]))
    assert occupancy.holds(torch.zeros(1, 3)).all() and not occupancy.holds(torch.full((1, 3), 0.9)).any()
    for _ in range(60):
        occupancy.update(lambda points, times: torch.zeros(len(points)), torch.tensor([0.0]))
    assert not occupancy.holds(torch.zeros(1, 3)).any()


def test_rays_that_miss_and_empty_grids_show_the_background():
    occupancy = Occupancy(8)
    occupancy.density.zero_()
    origin = torch.tensor([[0.0, 0.0, 4.0], [0.0, 0.0, 4.0]]).requires_grad_()
    direction = torch.tensor([[0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    for grid in (occupancy, None):
        where = slice(None) if grid is not None else slice(1, None)
        seen = render_rays(ball, origin[where], direction[where], torch.zeros(len(direction[where])), 16, grid)
        assert_close(seen.over(torch.tensor([0.1, 0.2, 0.3])), torch.tensor([[0.1, 0.2, 0.3]]).expand(len(seen.rgb), 3))
        assert seen.rgb.isfinite().all()


def test_a_field_gets_the_direction_of_its_ray():
    """Composited like a colour, whatever it is: here the direction itself, of length 1."""
    origin = torch.tensor([[0.0, 0.0, 3.0], [2.0, 0.0, 0.0]])
    direction = torch.tensor([[0.0, 0.0, -2.0], [-0.5, 0.0, 0.0]])
    seen = render_rays(lambda p, t, d: (torch.full((len(p),), 1e4), d), origin, direction, torch.zeros(2), 4)
    assert_close(seen.rgb, torch.tensor([[0.0, 0.0, -1.0], [-1.0, 0.0, 0.0]]))
