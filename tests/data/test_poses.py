"""Orbits fitted to tracks: exact where the tracks are."""

import pytest
import torch
from torch.testing import assert_close

from fourd_minimal.cameras import circular_trajectory, project
from fourd_minimal.data.poses import Orbit, fit_orbit

SIZE, FOV_DEG = (48, 64), 40.0


def tracks(c2w, n=60):
    points = torch.randn(n, 3, generator=torch.Generator().manual_seed(0)) * 0.4
    return project(points, c2w[:, None], FOV_DEG, SIZE)[0]


@pytest.mark.parametrize(("sweep", "elevation"), [(45.0, 20.0), (-60.0, 25.0), (30.0, -10.0), (100.0, 0.0)])
def test_an_orbit_is_found_again(sweep, elevation):
    c2w = circular_trajectory(torch.linspace(0, sweep, 6), elevation, 4.0)
    found = fit_orbit(tracks(c2w), torch.ones(6, 60, dtype=torch.bool), FOV_DEG, SIZE)
    assert abs(found.sweep_deg - sweep) < 0.5 and abs(found.elevation_deg - elevation) < 0.5
    assert found.error_px < 0.05
    assert_close(found.c2w(6), c2w, atol=0.05, rtol=0)


def test_noise_and_lost_tracks_move_it_little():
    c2w, generator = circular_trajectory(torch.linspace(0, 60, 8), 20.0, 4.0), torch.Generator().manual_seed(1)
    xy = tracks(c2w)
    xy = xy + 0.2 * torch.randn(xy.shape, generator=generator)
    xy[:, :6] += 20 * torch.rand(8, 6, 2, generator=generator)  # a tenth is wrong
    seen = torch.rand(8, 60, generator=generator) > 0.2
    found = fit_orbit(xy, seen, FOV_DEG, SIZE)
    assert abs(found.sweep_deg - 60) < 8 and abs(found.elevation_deg - 20) < 8
    assert found.error_px > 0.1


def test_an_orbit_scales_with_its_radius():
    assert_close(Orbit(30.0, 10.0, 8.0).c2w(3)[:, :3, 3], 2 * Orbit(30.0, 10.0, 4.0).c2w(3)[:, :3, 3])


def test_too_few_tracks_are_refused():
    xy, seen = torch.zeros(6, 60, 2), torch.zeros(6, 60, dtype=torch.bool)
    with pytest.raises(ValueError, match="6 views and 0 points seen in most"):
        fit_orbit(xy, seen, FOV_DEG, SIZE)
    with pytest.raises(ValueError, match="2 views and 60 points"):
        fit_orbit(xy[:2], ~seen[:2], FOV_DEG, SIZE)
