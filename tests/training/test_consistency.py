"""Consistency against the analytic world: the truth agrees with itself, and every way to be wrong shows."""

from dataclasses import replace

import pytest
import torch
from refused import refused

from fourd_minimal.data.procedural import HELD_OUT, sample_scenes
from fourd_minimal.training.consistency import flicker, from_view, hidden_from_fixed_view, reprojection_error
from fourd_minimal.training.evaluation import copy_column, copy_row


@pytest.fixture(scope="module")
def record():
    return sample_scenes(4, 4, 4, 48, HELD_OUT)


def test_the_truth_agrees_with_itself_and_better_the_finer_it_is(record):
    coarse = sample_scenes(4, 4, 4, 16, HELD_OUT)
    for measure in (flicker, reprojection_error):
        assert measure(record.rgb, record) < 0.035
        assert measure(record.rgb, record) < measure(coarse.rgb, coarse)


def test_copies_fail_where_they_are_wrong(record):
    """A copied row does not turn the object, a copied column does not move it; each is fine in the other respect."""
    truth_flicker, truth_error = flicker(record.rgb, record), reprojection_error(record.rgb, record)
    assert flicker(copy_column(record.rgb), record) > truth_flicker + 0.03
    assert reprojection_error(copy_row(record.rgb), record) > truth_error + 0.03


def test_noise_of_known_size():
    """Independent uniform noise in every frame: two frames differ by a third of its width, on average."""
    record = sample_scenes(8, 3, 3, 24, HELD_OUT)
    still = replace(record, flow=torch.zeros_like(record.flow))
    noise = 0.5 + 0.3 * torch.rand(record.rgb.shape, generator=torch.Generator().manual_seed(0))
    assert flicker(noise, still) == pytest.approx(0.1, abs=0.002)
    assert flicker(torch.full_like(noise, 0.5), record) == pytest.approx(0, abs=1e-6)
    assert reprojection_error(torch.full_like(noise, 0.5), record) == pytest.approx(0, abs=1e-6)


def test_only_unknown_cells_of_the_right_kind_count(record):
    """The fixed view has no part in the flicker, the first time none in the reprojection error."""
    grids = record.rgb.clone()
    grids[:, 0] = 0
    assert flicker(grids, record) == flicker(record.rgb, record)
    grids = record.rgb.clone()
    grids[:, :, 0] = 0
    assert reprojection_error(grids, record) == reprojection_error(record.rgb, record)


def test_what_is_covered_next_does_not_flicker(record):
    """Surfaces that vanish behind others by the next time may have any colour."""
    gone = (~record.visible | (record.depth == 0)).expand_as(record.rgb)
    assert gone[:, 1:, :-1].logical_and(record.depth[:, 1:, :-1].expand_as(record.rgb[:, 1:, :-1]) > 0).any()
    grids = record.rgb.clone()
    grids[:, :, 0] = torch.where(gone[:, :, 0], 9.0, grids[:, :, 0])  # the first time is only ever "now"
    assert flicker(grids, record) == flicker(record.rgb, record)


def test_depth_maps_know_most_of_what_the_fixed_view_sees(record):
    """The guess from a depth map, which the reprojection error uses, against the exact answer of the renderer."""
    _, guess = from_view(record, 0, slice(1, None))
    exact, there = record.in_fixed_view[:, 1:], record.depth[:, 1:] > 0
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
