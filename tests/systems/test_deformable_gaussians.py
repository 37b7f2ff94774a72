"""Deformable Gaussians: eq. 11, floaters that go, fits that show views between the training views, and refusals."""

import torch
from refused import refused
from torch.testing import assert_close

from fourd_minimal.cameras import circular_trajectory, rays
from fourd_minimal.data.procedural import FOV_DEG, HELD_OUT, RADIUS, sample_scenes
from fourd_minimal.systems.deformable_gaussians import (
    DeformableGaussians,
    between_views,
    fit,
    fit_steps,
    random_scene,
    remove_floaters,
)


def cameras(n):
    return circular_trajectory(torch.linspace(0, 300, n), 20.0, RADIUS)


def moved(points, **options):
    scene = DeformableGaussians(points, torch.rand(len(points), 3), torch.full((len(points),), 0.05), **options)
    torch.nn.init.normal_(scene.motion.mlp[-1].weight, std=0.05)
    return scene.requires_grad_(False)


def test_eq_11():
    torch.manual_seed(0)
    points, offsets = torch.randn(20, 3), 0.1 * torch.randn(4, 20, 3)
    scene, time, view = moved(points, view_offsets=offsets), torch.tensor([0.0, 0.7]), torch.tensor([3, 1])
    assert_close(scene.positions(time, view), points + offsets[view] + scene.motion(points, time))
    assert_close(scene.positions(time), points + scene.motion(points, time))  # a free camera sees the canonical scene
    assert not torch.allclose(scene.motion(points, time)[0], scene.motion(points, time)[1], atol=1e-3)
    still = DeformableGaussians(points, torch.rand(20, 3), torch.full((20,), 0.05))
    assert_close(still.positions(time), points.expand(2, -1, -1))  # no motion before training


def test_larger_pictures_are_as_soft_as_the_frames_it_was_fitted_to():
    scene = moved(torch.zeros(1, 3))
    with torch.no_grad():
        scene.log_radius.fill_(-6.0)  # far smaller than a pixel: all that is seen is the pixel's own extent
    c2w = cameras(2)[:1]
    sharp = scene.render(c2w, FOV_DEG, 0.0, 64).alpha[0, 0]
    scene.fitted_height = 16
    soft = scene.render(c2w, FOV_DEG, 0.0, 64).alpha[0, 0]
    small = scene.render(c2w, FOV_DEG, 0.0, 16).alpha[0, 0]
    assert (soft > 0.1).sum() > 8 * (sharp > 0.1).sum()
    pooled = torch.nn.functional.avg_pool2d(soft[None], 4)[0]
    assert_close(pooled, small, atol=0.12, rtol=0)


def test_between_two_views_the_offsets_are_mixed():
    torch.manual_seed(0)
    points, offsets = torch.randn(20, 3), 0.1 * torch.randn(3, 20, 3)
    scene, time = moved(points, view_offsets=offsets), torch.zeros(3)
    mixed = scene.positions(time, torch.tensor([0.25, 1.0, 2.0])) - scene.positions(time)
    assert_close(mixed, torch.stack([0.75 * offsets[0] + 0.25 * offsets[1], offsets[1], offsets[2]]))


def test_where_a_camera_stands_among_the_others():
    c2w = circular_trajectory(torch.linspace(0, 60, 4), 20.0, RADIUS)
    others = circular_trajectory(torch.tensor([0.0, 10.0, 20.0, 55.0, 60.0, 90.0, -30.0]), 20.0, RADIUS)
    expected = torch.tensor([0.0, 0.5, 1.0, 2.75, 3.0, 3.0, 0.0])
    assert_close(between_views(others, c2w), expected, atol=0.02, rtol=0)
    assert_close(between_views(others.reshape(7, 1, 4, 4).expand(7, 2, 4, 4), c2w)[:, 1], expected, atol=0.02, rtol=0)
    assert between_views(others, c2w[:1]).eq(0).all()


def a_grid(seed=HELD_OUT + 3, size=24):
    """A held-out scene: a grid of 4x4, and the true views between."""
    record = sample_scenes(1, 7, 4, size, seed)
    return record.rgb[0, ::2], record.c2w[0, ::2], record.rgb[0, 1::2], record.c2w[0, 1::2]


def psnr(a, b):
    return -10 * (a - b).square().mean().log10().item()


def test_a_fit_shows_views_between_the_training_views():
    grid, c2w, between, between_c2w = a_grid()
    torch.manual_seed(0)
    scene = random_scene(300)
    losses = [*fit_steps(scene, grid, c2w, FOV_DEG, n_steps=150)]
    seen = scene.render(between_c2w[:, None].expand(-1, 4, -1, -1), FOV_DEG, torch.linspace(0, 1, 4), 24).rgb
    assert len(losses) == 150 and sum(losses[-10:]) < 0.2 * sum(losses[:10])
    assert psnr(seen, between) > 23
    mean = grid.mean((0, 1), keepdim=True).expand_as(between)
    assert psnr(seen, between) > psnr(mean, between) + 4


def test_view_compensation_is_kept_unless_asked():
    grid, c2w, *_ = a_grid(size=16)
    offsets = 0.01 * torch.randn(4, 50, 3, generator=torch.Generator().manual_seed(0))
    start = lambda: DeformableGaussians(  # noqa: E731
        torch.randn(50, 3, generator=torch.Generator().manual_seed(1)) * 0.3, torch.rand(50, 3),
        torch.full((50,), 0.1), offsets,
    )  # fmt: skip
    kept = fit(grid, c2w, FOV_DEG, start(), n_steps=5)
    moved_too = fit(grid, c2w, FOV_DEG, start(), n_steps=5, optimise_views=True)
    assert torch.equal(kept.view_offsets, offsets) and not torch.equal(moved_too.view_offsets, offsets)


def test_floaters_go_and_the_object_stays():
    """Points of the object, and as many that hang in the air where some view sees the background."""
    record = sample_scenes(1, 4, 1, 24, HELD_OUT + 3)
    origin, direction = rays(record.c2w[0], FOV_DEG, (24, 24))
    depth = record.depth[0, :, 0, 0]
    there = depth > 0
    points = (origin[:, None, None] + depth[..., None] * direction)[there][::2]
    colour = record.rgb[0, :, 0].permute(0, 2, 3, 1)[there][::2]
    air = torch.nn.functional.normalize(torch.randn(60, 3, generator=torch.Generator().manual_seed(0)), dim=1) * 1.3
    wrong = torch.tensor([[1.0, 0.0, 1.0]]).expand(60, 3)
    scene = DeformableGaussians(
        torch.cat([points, air]), torch.cat([colour, wrong]), torch.full((len(points) + 60,), 0.05)
    )
    clean = remove_floaters(scene, record.rgb[0, :, 0], record.c2w[0], FOV_DEG)
    floats = (clean.points.norm(dim=1) > 1.25).sum().item()
    assert floats < 12 and len(clean.points) - floats > 0.6 * len(points)
    same = [i for i, p in enumerate(scene.points) if (clean.points == p).all(1).any()]
    assert len(same) == len(clean.points) and torch.equal(clean.colour_logit, scene.colour_logit[same])


def test_what_cannot_be_drawn_or_fitted_is_refused():
    grid, c2w, *_ = a_grid(size=16)
    inside = c2w.clone()
    inside[2, :3, 3] *= 0.05
    few = dict(n_points=50, n_steps=1)
    scene = DeformableGaussians(torch.zeros(5, 3), torch.rand(5, 3), torch.ones(5), torch.zeros(3, 5, 3))
    refused(lambda: random_scene(0), "n_points", 0)
    refused(lambda: moved(torch.zeros(0, 3)), "points", 0)
    refused(lambda: moved(torch.zeros(4, 3), view_offsets=torch.zeros(2, 3, 3)), "points", [3, 4])
    refused(lambda: remove_floaters(random_scene(9), torch.rand(4, 3, 8, 8), cameras(3), FOV_DEG), "c2w", 3)
    refused(lambda: remove_floaters(random_scene(9), torch.rand(1, 3, 8, 8), 0 * cameras(1), FOV_DEG), "c2w")
    refused(lambda: remove_floaters(random_scene(9), torch.rand(2, 3, 8, 8) - 1, cameras(2), FOV_DEG), "grid")
    refused(lambda: fit(grid, c2w * torch.nan, FOV_DEG), "c2w", "finite")
    refused(lambda: fit(grid, inside, FOV_DEG, **few), "c2w[2]", 50)
    refused(lambda: fit(grid, c2w[:3], FOV_DEG, **few), "c2w", 3, "grid", 4)
    refused(lambda: fit(0 * grid + 2, c2w, FOV_DEG, **few), "grid", 2)
    refused(lambda: fit(grid * torch.nan, c2w, FOV_DEG, **few), "grid", "NaN")
    refused(lambda: fit(grid, c2w, FOV_DEG, scene, n_steps=1), "scene", 3, "grid", 4)
