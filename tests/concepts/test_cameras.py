"""Cameras against closed forms and the pinhole matrix of computer vision."""

import math

import pytest
import torch
from parity import assert_same
from refused import refused
from torch.testing import assert_close

from fourd_minimal.cameras import check_poses, circular_trajectory, look_up, pixel_grid, project, rays

SIZE, FOV_DEG = (24, 40), 50.0


def uniform(low, high, *shape):
    return low + (high - low) * torch.rand(*shape)


@pytest.fixture
def cameras(seed):
    return circular_trajectory(uniform(-360, 360, 5, 3), uniform(-80, 80, 5, 3), uniform(1.5, 4, 5, 3))


@pytest.mark.parametrize(
    ("azimuth_deg", "elevation_deg", "position"),
    [
        (0, 0, (0, 0, 2)),
        (90, 0, (2, 0, 0)),
        (-90, 0, (-2, 0, 0)),
        (0, 30, (0, 1, 3**0.5)),
        (90, -30, (3**0.5, -1, 0)),
        (45, 45, (1, 2**0.5, 1)),
    ],
)
def test_known_positions(azimuth_deg, elevation_deg, position):
    c2w = circular_trajectory(azimuth_deg, elevation_deg, 2.0)
    assert_close(c2w[:3, 3], torch.tensor(position, dtype=torch.float32), atol=1e-6, rtol=0)


def test_cameras_are_rigid_upright_and_look_at_the_origin(cameras):
    rotation, position = cameras[..., :3, :3], cameras[..., :3, 3]
    assert_close(rotation.mT @ rotation, torch.eye(3).expand(5, 3, 3, 3), atol=1e-6, rtol=0)
    assert_close(torch.linalg.det(rotation), torch.ones(5, 3))
    assert_close(cameras[..., 3, :], torch.tensor([0.0, 0, 0, 1]).expand(5, 3, 4))
    assert_close(rotation[..., 2], torch.nn.functional.normalize(position, dim=-1))  # -z looks at the origin
    assert_close(rotation[..., 1, 0], torch.zeros(5, 3))  # the horizon is level
    assert (rotation[..., 1, 1] > 0).all()


def test_pixel_centres_and_samples():
    assert_close(pixel_grid((2, 3))[1, 2, 0], torch.tensor([2.5, 1.5]))
    four = pixel_grid((2, 3), samples=2)
    assert_close(four[0, 1], torch.tensor([[1.25, 0.25], [1.75, 0.25], [1.25, 0.75], [1.75, 0.75]]))


def test_the_field_of_view_is_vertical_and_depth_is_negative_behind_the_camera():
    """A point at half the field of view lands on the picture's upper edge."""
    camera, height = circular_trajectory(0.0, 0.0, 3.0), 3 * math.tan(math.radians(FOV_DEG / 2))
    (x, y), depth = project(torch.tensor([0.0, height, 0.0]), camera, FOV_DEG, SIZE)
    assert_close(torch.stack([x, y, depth]), torch.tensor([20.0, 0.0, 3.0]), atol=1e-4, rtol=0)
    _, depth = project(torch.tensor([[0.0, 0, 4], [0, 0, 3]]), camera, FOV_DEG, SIZE)
    assert_close(depth, torch.tensor([-1.0, 0.0]))


def pinhole_matrix(c2w):
    """World to pixels as computer vision writes it: intrinsics K, a camera that looks along +z with y down."""
    h, w = SIZE
    f = h / 2 / math.tan(math.radians(FOV_DEG) / 2)
    k = torch.tensor([[f, 0, w / 2], [0, f, h / 2], [0, 0, 1]])
    return k @ torch.diag(torch.tensor([1.0, -1, -1])) @ torch.linalg.inv(c2w)[..., :3, :]


def test_projection_is_the_pinhole_matrix(cameras):
    points = uniform(-1, 1, 7, 1, 1, 3).requires_grad_()
    homogeneous = torch.cat([points, torch.ones(7, 1, 1, 1)], -1)
    image = (pinhole_matrix(cameras) @ homogeneous[..., None])[..., 0]
    theirs = image[..., :2] / image[..., 2:], image[..., 2]
    ours = project(points, cameras, FOV_DEG, SIZE)
    assert_same(ours, theirs, [points], dict(atol=1e-2, rtol=1e-4), atol=1e-3, rtol=1e-4)


def test_points_on_rays_land_where_the_rays_began(cameras):
    pixels, depth = uniform(-5, 45, 4, 6, 2), uniform(0.5, 9, 5, 3, 4, 6)
    origins, directions = rays(cameras, FOV_DEG, SIZE, pixels)
    points = origins[:, :, None, None] + depth[..., None] * directions
    xy, z = project(points, cameras[:, :, None, None], FOV_DEG, SIZE)
    assert_close(xy, pixels.expand_as(xy), atol=1e-3, rtol=1e-4)
    assert_close(z, depth)
    assert_close(rays(cameras, FOV_DEG, SIZE)[1], rays(cameras, FOV_DEG, SIZE, pixel_grid(SIZE)[:, :, 0])[1])


def test_look_up_reads_pixels_at_their_centres():
    frames, centres = torch.rand(2, 5, 3, 6, 8), pixel_grid((6, 8))[:, :, 0].expand(2, 5, -1, -1, -1)
    assert_close(look_up(frames, centres), frames, atol=1e-5, rtol=0)
    right = look_up(frames, centres + torch.tensor([1.0, 0.0]))
    assert_close(right[..., :-1], frames[..., 1:], atol=1e-5, rtol=0)
    down = look_up(frames, centres + torch.tensor([0.0, 1.0]))
    assert_close(down[..., :-1, :], frames[..., 1:, :], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda c: circular_trajectory(0.0, torch.tensor([0.0, -95.0]), 1.0), ("elevation_deg", 95)),
        (lambda c: circular_trajectory(0.0, 0.0, torch.tensor([1.0, 0.0])), ("radius", 0)),
        (lambda c: rays(c, 180.0, SIZE), ("fov_deg", 180)),
        (lambda c: check_poses(c, 0.0), ("fov_deg", 0)),
        (lambda c: check_poses(1.1 * c, 40.0), ("c2w", "rotations")),
        (lambda c: check_poses(c * torch.tensor([-1.0, 1, 1, 1]), 40.0), ("c2w", "mirrors")),
        (lambda c: check_poses(c / 0, 40.0), ("c2w", "finite")),
    ],
)
def test_bad_input_is_named(cameras, call, said):
    check_poses(cameras, 40.0)
    refused(lambda: call(cameras), *said)
