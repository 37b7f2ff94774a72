"""PSNR against torch's own error, completions against their definitions, consistency against the analytic world."""

import math
from dataclasses import replace

import pytest
import torch
from refused import refused
from torch.testing import assert_close

from fourd_minimal.data.procedural import HELD_OUT, sample_scenes
from fourd_minimal.training.evaluation import (
    TRIVIAL,
    copy_column,
    copy_row,
    flicker,
    from_view,
    gain_interval,
    hidden_from_fixed_view,
    moving_pixels,
    psnr,
    reprojection_error,
)


@pytest.fixture(scope="module")
def record():
    return sample_scenes(6, 3, 3, 16, HELD_OUT)


@pytest.fixture(scope="module")
def fine():
    return sample_scenes(4, 4, 4, 48, HELD_OUT)


def test_psnr_counts_unseen_cells_only_and_pools(record):
    truth = record.rgb
    wrong = truth.clone()
    wrong[:, 0], wrong[:, :, 0] = 0.0, 0.0  # known cells do not count
    wrong[:, 1:, 1:] += torch.linspace(0.01, 0.3, 6)[:, None, None, None, None, None]
    expected = -10 * math.log10(torch.nn.functional.mse_loss(wrong[:, 1:, 1:], truth[:, 1:, 1:]).item())
    assert psnr(wrong, truth) == pytest.approx(expected, abs=1e-4)


def test_moving_pixels_are_the_object_now_or_at_first(record):
    moving = moving_pixels(record.alpha)
    assert moving[record.alpha > 0.5].all()
    nothing = (record.alpha < 0.01) & (record.alpha[:, :, :1] < 0.01)
    assert not moving[nothing].any()


def test_trivial_completions_read_only_what_is_known(record):
    truth = record.rgb
    hidden = truth.clone()
    hidden[:, 1:, 1:] = 9.0
    for name, complete in TRIVIAL.items():
        assert_close(complete(hidden), complete(truth), msg=name)
    assert_close(TRIVIAL["copy row"](truth)[:, 2, 1], truth[:, 0, 1])
    assert_close(TRIVIAL["copy column"](truth)[:, 2, 1], truth[:, 2, 0])
    expected = (truth[:, 2, 0] + truth[:, 0, 1] - truth[:, 0, 0]).clamp(0, 1)
    assert_close(TRIVIAL["sum of differences"](truth)[:, 2, 1], expected)


def test_the_interval_holds_the_gain(record):
    truth, moving = record.rgb, moving_pixels(record.alpha)
    ours, other = truth + 0.05, TRIVIAL["copy row"](truth)
    low, high = gain_interval(ours, other, truth, moving)
    assert low < psnr(ours, truth, moving) - psnr(other, truth, moving) < high


def test_the_truth_agrees_with_itself_and_better_the_finer_it_is(fine):
    coarse = sample_scenes(4, 4, 4, 16, HELD_OUT)
    for measure in (flicker, reprojection_error):
        assert measure(fine.rgb, fine) < 0.035
        assert measure(fine.rgb, fine) < measure(coarse.rgb, coarse)


def test_copies_fail_where_they_are_wrong(fine):
    """A copied row does not turn the object, a copied column does not move it; each is fine in the other respect."""
    truth_flicker, truth_error = flicker(fine.rgb, fine), reprojection_error(fine.rgb, fine)
    assert flicker(copy_column(fine.rgb), fine) > truth_flicker + 0.03
    assert reprojection_error(copy_row(fine.rgb), fine) > truth_error + 0.03


def test_noise_of_known_size():
    """Independent uniform noise in every frame: two frames differ by a third of its width, on average."""
    record = sample_scenes(8, 3, 3, 24, HELD_OUT)
    still = replace(record, flow=torch.zeros_like(record.flow))
    noise = 0.5 + 0.3 * torch.rand(record.rgb.shape, generator=torch.Generator().manual_seed(0))
    assert flicker(noise, still) == pytest.approx(0.1, abs=0.002)
    assert flicker(torch.full_like(noise, 0.5), record) == pytest.approx(0, abs=1e-6)
    assert reprojection_error(torch.full_like(noise, 0.5), record) == pytest.approx(0, abs=1e-6)


def test_only_unknown_cells_of_the_right_kind_count(fine):
    """The fixed view has no part in the flicker, the first time none in the reprojection error."""
    grids = fine.rgb.clone()
    grids[:, 0] = 0
    assert flicker(grids, fine) == flicker(fine.rgb, fine)
    grids = fine.rgb.clone()
    grids[:, :, 0] = 0
    assert reprojection_error(grids, fine) == reprojection_error(fine.rgb, fine)


def test_what_is_covered_next_does_not_flicker(fine):
    """Surfaces that vanish behind others by the next time may have any colour."""
    gone = (~fine.visible | (fine.depth == 0)).expand_as(fine.rgb)
    assert gone[:, 1:, :-1].logical_and(fine.depth[:, 1:, :-1].expand_as(fine.rgb[:, 1:, :-1]) > 0).any()
    grids = fine.rgb.clone()
    grids[:, :, 0] = torch.where(gone[:, :, 0], 9.0, grids[:, :, 0])  # the first time is only ever "now"
    assert flicker(grids, fine) == flicker(fine.rgb, fine)


def test_depth_maps_know_most_of_what_the_fixed_view_sees(fine):
    """The guess from a depth map, which the reprojection error uses, against the exact answer of the renderer."""
    _, guess = from_view(fine, 0, slice(1, None))
    exact, there = fine.in_fixed_view[:, 1:], fine.depth[:, 1:] > 0
    assert (guess == exact)[there].float().mean() > 0.85
    assert (guess & exact).sum() > 0.85 * exact.sum()


def test_a_record_without_geometry_is_refused():
    bare = sample_scenes(1, 2, 2, 8, HELD_OUT, geometry=False)
    refused(lambda: hidden_from_fixed_view(bare), "record", "in_fixed_view")
    refused(lambda: flicker(bare.rgb, bare), "record", "flow")


def test_what_leaves_the_other_picture_is_not_seen_there():
    """A plane before two cameras that look past each other: points beyond the edge must not read the edge's depth."""
    record = sample_scenes(1, 2, 2, 16, HELD_OUT, "ground", sweep_deg=25)
    away = record.c2w.clone()
    away[:, 0, :3, 3] += 3 * away[:, 0, :3, 0]  # the first camera, moved to its right: all it sees lies to the left
    moved = replace(record, c2w=away, depth=torch.where(record.depth > 0, record.depth, 9.0))
    xy, seen = from_view(moved, 0, slice(1, 2))
    outside = ((xy < 0) | (xy > 16)).any(-1)[:, :, :, None]
    assert outside.any() and not (seen & outside).any()
