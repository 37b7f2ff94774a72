"""The field's parts, its pictures, its derivatives, and a fit to a moving creature."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from refused import refused
from torch.testing import assert_close

from fourd_minimal.cameras import circular_trajectory
from fourd_minimal.data.procedural import FOV_DEG, HELD_OUT, sample_scenes
from fourd_minimal.systems.dynamic_nerf import (
    DynamicNeRF,
    DynamicNeRFConfig,
    fit_steps,
    pixels_of,
    reconstruction_loss,
)

SIZES = dict(n_levels=4, log2_table_size=10, base_resolution=4, per_level_scale=1.6, width=16)
SMALL = DynamicNeRFConfig(**SIZES, n_samples=24, occupancy_side=12, moments=3)


def grown(config=SMALL, seed=0):
    """A field whose tables hold something."""
    scene = DynamicNeRF(config, seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for grid in (scene.space, scene.space_time):
            grid.table.data.normal_(std=0.3)
    return scene


def cameras(n=2):
    return circular_trajectory(torch.linspace(0, 120, n), 20.0, 3.9)


def test_it_begins_as_a_blob():
    """softplus(10 (1 - |x| / 0.5)), the paper's start."""
    scene = DynamicNeRF(SMALL)
    points = torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0], [0.0, -0.8, 0.0]])
    assert_close(scene.density(points, torch.zeros(3)), F.softplus(torch.tensor([10.0, 0.0, -6.0])), atol=1e-3, rtol=0)
    seen = scene.render(cameras(1)[0], FOV_DEG, 0.5, 9)
    assert seen.alpha[0, 4, 4] > 0.99 and seen.alpha[0, 0, 0] < 0.01
    assert_close(seen.rgb[:, 0, 0], torch.ones(3), atol=0.01, rtol=0)  # white, by default


def test_features_of_both_grids_are_summed_and_only_one_knows_the_time():
    scene = grown()
    points, early, late = torch.rand(50, 3) * 2 - 1, torch.zeros(50), torch.ones(50)
    inside = (points + 1) / 2
    h = scene.space(inside) + scene.space_time(torch.cat([inside, late[:, None]], 1))
    assert_close(scene(points, late)[1], scene.to_colour(h).sigmoid())
    assert (scene.density(points, early) != scene.density(points, late)).any()
    scene.space_time.table.data.zero_()
    assert torch.equal(scene.density(points, early), scene.density(points, late))


def test_views_and_times_in_one_batch_are_what_they_are_alone():
    scene, c2w, times = grown(), cameras(3), torch.tensor([0.0, 0.3, 1.0])
    together = scene.render(c2w, FOV_DEG, times, (6, 8))
    assert together.rgb.shape == (3, 3, 6, 8) and together.alpha.shape == (3, 1, 6, 8)
    for camera, time, rgb in zip(c2w, times, together.rgb, strict=True):
        assert_close(scene.render(camera, FOV_DEG, time.item(), (6, 8)).rgb, rgb)
    with torch.no_grad():  # in pieces
        assert_close(scene.render(c2w, FOV_DEG, times, (6, 8)).rgb, together.rgb)


def test_a_pixel_is_the_mean_of_its_rays():
    scene = grown()
    fine = scene.render(cameras(), FOV_DEG, 0.4, 12, background=0.2)
    scene.config = replace(SMALL, rays_per_side=2)
    coarse = scene.render(cameras(), FOV_DEG, 0.4, 6, background=0.2)
    assert_close(coarse.rgb, F.avg_pool2d(fine.rgb, 2))
    assert_close(coarse.alpha, F.avg_pool2d(fine.alpha, 2))
    assert_close(scene.render(cameras(), FOV_DEG, 0.4, 12, background=0.2, rays_per_side=1).rgb, fine.rgb)


def test_what_faces_away_is_seen_only_through_what_is_in_front():
    """A ball of fog turns its far half away; an opaque one hides it."""
    scene = DynamicNeRF(replace(SMALL, n_samples=96))
    origin, directions = scene.pixel_rays(cameras(1), FOV_DEG, (1, 1))
    given = origin, directions.flatten(0, 2), torch.zeros(1)
    found = []
    for blob in (0.3, 60.0):
        scene.config = replace(scene.config, blob=blob)
        colour, opacity = scene.render_pixels(*given, orientation=True)
        assert_close(colour[:, :3], scene.render_pixels(*given)[0])
        found.append((colour[0, 3] / opacity[0]).item())
    assert found[0] > 0.2 > 0.02 > found[1]
    colour[0, 3].backward()
    assert scene.space.table.grad.isfinite().all() and scene.space.table.grad.any()


def test_a_moving_creature_is_fitted_and_seen_from_in_between():
    around = torch.arange(8)[None] * 45.0
    record = sample_scenes(1, 8, 3, 16, HELD_OUT + 1, "creature", elevation_deg=20.0, azimuths_deg=around)
    rgb, alpha, c2w = record.rgb[0], record.alpha[0], record.c2w[0]
    scene = DynamicNeRF(replace(SMALL, rays_per_side=2, blob=5.0, blob_radius=0.8))
    shown = torch.tensor([0, 1, 2, 4, 5, 6])
    losses = list(fit_steps(scene, rgb[shown], alpha[shown], c2w[shown], FOV_DEG, 120, 256))
    assert sum(losses[-10:]) < 0.4 * sum(losses[:10])
    with torch.no_grad():
        seen = scene.render(c2w[[3, 7], None].expand(-1, 3, 4, 4), FOV_DEG, torch.linspace(0, 1, 3).expand(2, 3), 16)
    error = (seen.rgb - rgb[[3, 7]]).square().mean()
    assert error < 0.5 * (1 - rgb[[3, 7]]).square().mean()  # nothing at all
    assert error < 0.7 * (rgb[[2, 6]] - rgb[[3, 7]]).square().mean()  # the view beside it
    assert scene.occupancy.holds(torch.zeros(1, 3)).all() and not scene.occupancy.holds(torch.full((1, 3), 0.95)).any()


def test_without_a_mask_opacity_is_unknown_and_white_may_be_something():
    scene, picture = grown(), torch.rand(2, 2, 3, 8, 8)
    losses = []
    for alpha in (torch.zeros(2, 2, 1, 8, 8), torch.ones(2, 2, 1, 8, 8)):
        pixels = pixels_of(scene, picture, alpha, cameras(), FOV_DEG)
        losses.append([reconstruction_loss(scene, pixels, torch.Generator().manual_seed(0), m) for m in (0.0, 0.1)])
    (without, known), (same, other) = losses
    assert without == same and known != other


def test_bad_input_is_named():
    refused(lambda: replace(SMALL, n_levels=0), "nerf.n_levels", 0)
    scene, rgb = DynamicNeRF(SMALL), torch.rand(2, 1, 3, 4, 4)
    refused(lambda: scene.render(cameras(), FOV_DEG, torch.tensor([0.0, 1.5]), 4), "time", 0, "1.5")
    refused(lambda: scene.render(torch.zeros(4, 4), FOV_DEG, 0.0, 4), "c2w")
    refused(lambda: next(fit_steps(scene, rgb, rgb[:, :, :1], cameras(3), FOV_DEG)), "c2w", 3, "rgb", 2)
    refused(lambda: next(fit_steps(scene, 0 * rgb + 3, rgb[:, :, :1], cameras(), FOV_DEG)), "rgb", 3)
