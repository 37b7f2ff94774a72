"""Pseudo-4D against scipy's matrix exponential and resampling, closed forms, and pictures that are formulas."""

import math

import numpy as np
import pytest
import torch
from einops import rearrange
from refused import refused
from scipy.linalg import expm
from scipy.ndimage import map_coordinates
from torch.testing import assert_close

from fourd_minimal.pseudo_4d import AMPLITUDE, maps_along, pixel_centres, pseudo_grid, random_motions, transform

PATH = torch.linspace(0, 1, 4)


def motions(**options):
    return random_motions(3, torch.Generator().manual_seed(0), **options)


@pytest.mark.parametrize("perspective", [False, True])
def test_the_maps_are_scipys_matrix_exponential(perspective):
    of = motions(perspective=perspective)
    expected = np.stack([[expm(float(s) * g) for s in PATH] for g in of.numpy()])
    assert_close(maps_along(of, PATH), torch.from_numpy(expected))


def test_every_kind_of_motion_is_drawn_up_to_its_amplitude():
    of = random_motions(4000, torch.Generator().manual_seed(1), perspective=True)
    parts = {
        "shift": of[:, 0, 2],
        "rotation": (of[:, 1, 0] - of[:, 0, 1]) / 2,
        "zoom": (of[:, 0, 0] + of[:, 1, 1]) / 2,
        "stretch": (of[:, 0, 0] - of[:, 1, 1]) / 2,
        "shear": (of[:, 0, 1] + of[:, 1, 0]) / 2,
        "perspective": of[:, 2, 0],
    }
    for kind, part in parts.items():
        assert 0.98 * AMPLITUDE[kind] < part.max() <= AMPLITUDE[kind] + 1e-6
        assert -0.98 * AMPLITUDE[kind] > part.min()
    assert motions(strength=0.0).abs().max() == 0


@pytest.mark.parametrize("perspective", [False, True])
def test_pictures_and_gradients_are_scipys(perspective):
    """Every pixel inside the picture, by `map_coordinates`; and the gradient is the transpose of that resampling."""
    h, w = 6, 8
    video = torch.rand(3, 2, 3, h, w).requires_grad_()
    maps = maps_along(motions(perspective=perspective), PATH)
    grid, inside = pseudo_grid(video, maps)

    def resample(picture, n, v):
        at = transform(pixel_centres(h, w).reshape(-1, 2), torch.linalg.inv(maps[n, v])).numpy()
        x, y = at[:, 0] * h / 2 + (w - 1) / 2, at[:, 1] * h / 2 + (h - 1) / 2
        # scipy's "reflect" mirrors at the edges of the pixels, as grid_sample does without align_corners
        return map_coordinates(picture, np.stack([y, x]), order=1, mode="reflect").reshape(h, w)

    for n, v, t, c in ((0, 1, 0, 0), (1, 3, 1, 2), (2, 2, 1, 1)):
        expected = resample(video[n, t, c].detach().numpy(), n, v)
        assert_close(grid[n, v, t, c].detach(), torch.from_numpy(expected), atol=1e-5, rtol=0)
    weight = torch.rand(h, w)
    (grid[1, 3, 0, 0] * weight).sum().backward()
    basis = np.eye(h * w, dtype=np.float32).reshape(-1, h, w)
    expected = [float((resample(e, 1, 3) * weight.numpy()).sum()) for e in basis]
    assert_close(video.grad[1, 0, 0].flatten(), torch.tensor(expected), atol=1e-5, rtol=0)
    assert inside[:, 0].all() and not inside[:, 1:].all()


@pytest.mark.parametrize("perspective", [False, True])
def test_correspondence_is_exact(perspective):
    """A picture that is linear in x and y is interpolated exactly: what was at p is found at M p."""
    h, w = 16, 24
    maps = maps_along(motions(perspective=perspective), PATH)
    points = pixel_centres(h, w)
    video = rearrange(points, "h w c -> 1 1 c h w").expand(3, 2, -1, -1, -1)  # every pixel shows its own address
    grid, inside = pseudo_grid(video, maps)
    here = points.reshape(-1, 2).expand(3, 4, -1, -1)
    there = transform(rearrange(grid[:, :, 1], "n v c h w -> n v (h w) c"), maps)
    address = rearrange(grid[:, :, 1], "n v c h w -> n v (h w) c") / torch.tensor([w / h, 1.0])
    deep = (address.abs() < 0.9).all(-1) & rearrange(inside, "n v h w -> n v (h w)")  # away from the mirrored edge
    assert deep.float().mean() > 0.4
    assert_close(there[deep], here[deep], atol=1e-4, rtol=0)


def test_nothing_beyond_the_horizon_is_inside():
    """G with only a perspective term: the way back divides by 1 + 2x, so the horizon is x = -0.5."""
    motion = torch.zeros(1, 3, 3)
    motion[0, 2, 0] = -2.0
    _, inside = pseudo_grid(torch.rand(1, 1, 3, 8, 8), maps_along(motion, torch.tensor([0.0, 1.0])))
    assert inside[0, 0].all()
    assert not inside[0, 1, :, :2].any() and inside[0, 1, 3, 4]


def test_row_0_is_the_video_and_a_column_is_one_frame():
    video = torch.rand(3, 5, 3, 8, 8)
    maps = maps_along(motions(), PATH)
    grid, _ = pseudo_grid(video, maps)
    assert_close(grid[:, 0], video, atol=1e-5, rtol=0)
    still, _ = pseudo_grid(video[:, 2:3], maps)
    assert_close(grid[:, :, 2:3], still)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: pseudo_grid(torch.rand(2, 1, 3, 8, 8), maps_along(motions(), PATH)), ("maps", 3)),
        (lambda: random_motions(1, strength=-1), ("strength", -1)),
        (lambda: random_motions(1, strength=math.nan), ("strength", "nan")),
    ],
)
def test_bad_input_is_named(unchecked, call, said):
    refused(call, *said)
