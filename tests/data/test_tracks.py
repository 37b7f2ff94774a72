"""Tracks: exact on known geometry, close by optical flow, and aligned to the central frame."""

import pytest
import torch
from torch.testing import assert_close

from fourd_minimal.cameras import circular_trajectory, pixel_grid, project
from fourd_minimal.data.procedural import FOV_DEG, HELD_OUT, RADIUS, sample_scenes
from fourd_minimal.data.tracks import flow_tracks, track_points, triangulate, true_depth, true_tracks


@pytest.fixture(scope="module")
def record():
    return sample_scenes(1, 5, 1, 48, HELD_OUT + 3, sweep_deg=40)


def on_surfaces(record, frame):
    return pixel_grid(tuple(record.rgb.shape[-2:]))[:, :, 0][true_depth(record)[frame] > 0]


def test_rays_through_a_point_meet_in_it():
    points = torch.randn(30, 3, generator=torch.Generator().manual_seed(0)) * 0.5
    c2w = circular_trajectory(torch.linspace(0, 50, 4), 20.0, RADIUS)
    direction = points - c2w[:, None, :3, 3]
    seen = torch.ones(4, 30, dtype=torch.bool)
    seen[1:, 5], seen[2:, 7] = False, False  # once; twice
    found = triangulate(c2w[:, :3, 3], 3 * direction, seen)
    assert found[5].isnan().all()
    kept = torch.arange(30) != 5
    assert_close(found[kept], points[kept], atol=1e-4, rtol=1e-4)


def test_true_tracks_land_on_the_surface_they_came_from(record):
    xy = on_surfaces(record, 1)
    there, seen = true_tracks(record)(record.rgb[0, :, 0], 1, xy)
    assert there.shape == (5, len(xy), 2) and seen[1].all() and 0.5 < seen[4].float().mean() < 1
    assert_close(there[1], xy, atol=1e-3, rtol=0)
    # a surface keeps its colour but for what a pixel mixes: medians, so that edges do not matter
    video = record.rgb[0, :, 0]
    x, y = there.floor().long().clamp(0, 47).unbind(-1)
    change = (video[1][:, y[1], x[1]] - video[4][:, y[4], x[4]]).abs().amax(0)[seen[4]]
    assert change.median() < 0.02


def test_a_cloud_from_true_tracks_is_the_surface_and_has_no_view_offsets(record):
    video, c2w = record.rgb[0, :, 0], record.c2w[0]
    lifted = track_points(video, c2w, FOV_DEG, true_tracks(record), true_depth(record))
    assert len(lifted.points) == (true_depth(record) > 0).sum()
    assert lifted.view_offsets.shape == (5, len(lifted.points), 3) and lifted.view_offsets.abs().max() < 1e-4
    xy, depth = project(lifted.points, c2w[2], FOV_DEG, (48, 48))
    assert (depth > 0).all() and (xy >= 0).all() and (xy <= 48).all()
    mask = true_depth(record) > 0
    met = track_points(video, c2w, FOV_DEG, true_tracks(record), mask=mask)
    assert torch.cdist(met.points, lifted.points).min(1).values.median() < 1e-3


def test_points_are_aligned_to_the_central_frame():
    """A tracker whose frames disagree: what the central frame shows is where the point is; the others keep the rest."""
    c2w = circular_trajectory(torch.linspace(0, 20, 3), 10.0, RADIUS)
    video, depth = torch.rand(3, 3, 16, 16), torch.full((3, 16, 16), RADIUS)

    def drifting(video, frame, xy):
        points = c2w[frame, :3, 3] + RADIUS * _directions(c2w[frame], xy)
        there, _ = project(points, c2w[:, None], FOV_DEG, (16, 16))
        return there + (torch.arange(3) - frame)[:, None, None], torch.ones(3, len(xy), dtype=torch.bool)

    found = track_points(video, c2w, FOV_DEG, drifting, depth, every=4)
    for i in range(3):
        xy, _ = project(found.points + found.view_offsets[i], c2w[i], FOV_DEG, (16, 16))
        centre, _ = project(found.points, c2w[1], FOV_DEG, (16, 16))
        straight, _ = project(found.points, c2w[i], FOV_DEG, (16, 16))
        assert_close((xy - straight).mean(0), torch.full((2,), float(i - 1)), atol=0.15, rtol=0)
    assert found.view_offsets[1].abs().max() < 1e-5


def _directions(c2w, xy):
    from fourd_minimal.cameras import rays

    return rays(c2w, FOV_DEG, (16, 16), xy)[1]


def test_optical_flow_follows_a_picture_that_shifts():
    generator = torch.Generator().manual_seed(0)
    wide = torch.nn.functional.interpolate(torch.rand(1, 3, 12, 12, generator=generator), (64, 80), mode="bicubic")
    video = torch.cat([wide[..., 2 * i : 2 * i + 64] for i in range(4)]).clamp(0, 1)  # 2 pixels to the left per frame
    xy = pixel_grid((64, 64))[:, :, 0][20:44:4, 20:44:4].reshape(-1, 2)
    there, seen = flow_tracks(video, 1, xy)
    expected = torch.tensor([[2.0, 0.0], [0.0, 0.0], [-2.0, 0.0], [-4.0, 0.0]])
    assert seen.float().mean() > 0.9
    assert ((there - xy - expected[:, None]).norm(dim=-1)[seen] < 0.5).float().mean() > 0.9


def test_nothing_to_track_is_refused(record):
    video, c2w = record.rgb[0, :, 0], record.c2w[0]
    with pytest.raises(ValueError, match="No pixel of the video became a point"):
        track_points(video, c2w, FOV_DEG, true_tracks(record), torch.zeros(5, 48, 48))
