"""Tracks: exact on known geometry, close by optical flow, and aligned to the central frame."""

from functools import partial

import pytest
import torch
from refused import refused
from torch.testing import assert_close

from fourd_minimal.cameras import circular_trajectory, pixel_grid, project, rays
from fourd_minimal.data.poses import flow_tracks, triangulate
from fourd_minimal.data.procedural import FOV_DEG, HELD_OUT, RADIUS, sample_scenes
from fourd_minimal.data.tracks import track_points, true_depth, true_tracks


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
        straight, _ = project(found.points, c2w[i], FOV_DEG, (16, 16))
        assert_close((xy - straight).mean(0), torch.full((2,), float(i - 1)), atol=0.15, rtol=0)
    assert found.view_offsets[1].abs().max() < 1e-5
    # a point that began in frame 0 lies where the tracker says that the central frame shows it, one pixel further
    first = track_points(video, c2w, FOV_DEG, drifting, depth, every=4, keyframes=[0])
    begun = pixel_grid((16, 16))[::4, ::4, 0].reshape(-1, 2)
    there, _ = drifting(video, 0, begun)
    assert len(first.points) == 16
    assert_close(project(first.points, c2w[1], FOV_DEG, (16, 16))[0], there[1], atol=0.05, rtol=0)


def _directions(c2w, xy):
    return rays(c2w, FOV_DEG, (16, 16), xy)[1]


def test_optical_flow_follows_a_picture_that_grows():
    """A flow that is not the same everywhere: looked up in the wrong place or scale, it would not add up."""
    generator = torch.Generator().manual_seed(1)
    picture = torch.nn.functional.interpolate(torch.rand(1, 3, 14, 14, generator=generator), (96, 96), mode="bicubic")
    video = []
    for i in range(4):
        axis = (torch.arange(48) + 0.5 - 24) / 48 * 0.7**0.5 * 0.93**i * 2 * 0.6
        at = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
        video.append(torch.nn.functional.grid_sample(picture, at[None], align_corners=False))
    xy = pixel_grid((48, 48))[:, :, 0][8:40:4, 8:40:4].reshape(-1, 2)
    there, seen = flow_tracks(torch.cat(video).clamp(0, 1), 0, xy)
    expected = torch.stack([24 + (xy - 24) / 0.93**i for i in range(4)])
    inside = ((expected > 1) & (expected < 47)).all(-1)
    assert seen[inside].float().mean() > 0.8
    assert ((there - expected).norm(dim=-1)[seen & inside] < 0.7).float().mean() > 0.85


def test_a_track_ends_where_something_else_is_in_front():
    """Seen is what the frame shows first: the others lie behind what its depth map says."""
    record = sample_scenes(1, 5, 1, 48, HELD_OUT + 1, sweep_deg=110)
    xy = on_surfaces(record, 0)
    there, seen = true_tracks(record)(record.rgb[0, :, 0], 0, xy)
    depths, c2w = true_depth(record), record.c2w[0]
    origin, direction = rays(c2w[0], FOV_DEG, (48, 48), xy)
    x, y = xy.floor().long().unbind(-1)
    points = origin + depths[0, y, x, None] * direction
    _, distance = project(points, c2w[4], FOV_DEG, (48, 48))
    x, y = there[4].floor().long().clamp(0, 47).unbind(-1)
    front = depths[4, y, x]
    hidden = (front > 0) & (distance > front + 0.15)
    assert hidden.any() and not seen[4][hidden].any()
    assert seen[4][(front > 0) & (distance < front + 0.05)].all()


def test_colour_and_radius_are_those_of_the_pixel_where_a_point_began(record):
    video, c2w, depth = record.rgb[0, :, 0], record.c2w[0], true_depth(record)
    found = track_points(video, c2w, FOV_DEG, true_tracks(record), depth, keyframes=[3])
    y, x = (depth[3] > 0).nonzero().T
    assert_close(found.colour, video[3][:, y, x].T, atol=1e-4, rtol=0)
    pixel = 2 * torch.tan(torch.deg2rad(torch.tensor(FOV_DEG / 2))) / 48
    assert_close(found.radius, 0.5 * pixel * depth[3, y, x], atol=1e-5, rtol=0)


def test_one_wild_track_does_not_move_its_neighbours(record):
    video, c2w, depth = record.rgb[0, :, 0], record.c2w[0], true_depth(record)
    exact = true_tracks(record)

    def wild(video, frame, xy):
        there, seen = exact(video, frame, xy)
        jump = torch.zeros_like(there)
        jump[:, ::9] = 4.0
        jump[frame] = 0
        return there + jump, seen

    offsets = track_points(video, c2w, FOV_DEG, wild, depth).view_offsets.norm(dim=-1)
    assert (offsets > 0.02).float().mean() < 0.02  # of the tracks 11% are wild


def test_triangulated_points_whose_rays_do_not_meet_are_dropped(record):
    video, c2w = record.rgb[0, :, 0], record.c2w[0]
    still = lambda video, frame, xy: (xy.expand(5, -1, -1), torch.ones(5, len(xy), dtype=torch.bool))  # noqa: E731
    refused(lambda: track_points(video, c2w[:1].expand(5, -1, -1), FOV_DEG, still, every=8), "video", "tracks")
    met = track_points(video, c2w, FOV_DEG, true_tracks(record), every=4)
    surface = track_points(video, c2w, FOV_DEG, true_tracks(record), true_depth(record)).points
    assert torch.cdist(met.points, surface).min(1).values.max() < 0.15


def test_what_does_not_belong_together_is_named(record):
    given = dict(video=record.rgb[0, :, 0], c2w=record.c2w[0], fov_deg=FOV_DEG, depth=true_depth(record))
    for change, *said in (
        (dict(c2w=torch.eye(4).repeat(3, 1, 1)), "c2w", 3, "video", 5),
        (dict(depth=torch.ones(4, 48, 48)), "depth", 4, "video", 5),
        (dict(video=torch.full((5, 3, 48, 48), 2.0)), "video", "2.00"),
        (dict(c2w=2 * torch.eye(4).repeat(5, 1, 1)), "c2w", "rotations"),
        (dict(depth=torch.zeros(5, 48, 48)), "video", "depth"),  # nothing to track
    ):
        refused(partial(track_points, **given | change, tracker=true_tracks(record)), *said)
