"""Two baselines that complete a grid: columns that know nothing of each other, and one stream through which all do."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from refused import refused
from torch.testing import assert_close

from fourd_minimal.baselines import independent_columns, sequential
from fourd_minimal.systems.four_real_video import FourRealVideo, FourRealVideoConfig, known_cells
from fourd_minimal.video_dit import VideoDiTConfig

VIEWS, TIMES = 3, 4
CONFIG = FourRealVideoConfig(VideoDiTConfig((8, 8), 4, 24, 2, 2), VIEWS, TIMES, sync="average")
COLUMNS = independent_columns.complete, CONFIG
SHARED = (lambda *a, **k: independent_columns.complete(*a, shared_noise=True, **k)), CONFIG
SEQUENTIAL = sequential.complete, replace(CONFIG, sync="sequential_attention")
each = pytest.mark.parametrize("baseline", [COLUMNS, SHARED, SEQUENTIAL], ids=["columns", "shared noise", "sequential"])


def awake(config: FourRealVideoConfig) -> FourRealVideo:
    """Zero-initialised layers would make most of these tests vacuous."""
    torch.manual_seed(0)
    model = FourRealVideo(config).requires_grad_(False)
    for p in model.parameters():
        p.add_(0.1 * torch.randn(p.shape))
    return model


def videos():
    generator = torch.Generator().manual_seed(0)
    fixed_view, freeze_time = (torch.rand(n, 3, 8, 8, generator=generator) for n in (TIMES, VIEWS))
    freeze_time[0] = fixed_view[0]
    return fixed_view, freeze_time


def changed(before, after):
    """Which cells of a grid differ."""
    return (before != after).flatten(2).any(2)


@each
def test_known_cells_come_back_exactly_and_the_rest_is_a_picture(baseline):
    complete, config = baseline
    fixed_view, freeze_time = videos()
    grid = complete(fixed_view, freeze_time, awake(config), n_steps=2)
    assert grid.shape == (VIEWS, TIMES, 3, 8, 8)
    assert torch.equal(grid[0], fixed_view) and torch.equal(grid[:, 0], freeze_time)
    assert grid.min() >= 0 and grid.max() <= 1 and grid[1:, 1:].std() > 0.05


@each
def test_same_seed_same_grid(baseline):
    complete, config = baseline
    a, b, c = (complete(*videos(), awake(config), n_steps=2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert torch.equal(changed(a, c), ~known_cells(VIEWS, TIMES))


@each
@pytest.mark.parametrize("which, i", [(0, 2), (1, 1)], ids=["video", "first column"])
def test_what_a_given_frame_changes(baseline, which, i):
    """Of the video, its column; of the first column, itself; in one stream, every unknown cell as well."""
    complete, config = baseline
    model, given = awake(config), list(videos())
    before = complete(*given, model, n_steps=2)
    given[which] = given[which].clone()
    given[which][i] = 1 - given[which][i]
    expected = torch.zeros(VIEWS, TIMES, dtype=torch.bool)
    expected[(slice(None), i) if which == 0 else (i, 0)] = True
    if complete is sequential.complete:
        expected |= ~known_cells(VIEWS, TIMES)
    assert torch.equal(changed(before, complete(*given, model, n_steps=2)), expected)


def test_columns_are_the_bases_own_freeze_time_videos():
    """The base's own sampler, given the first frames, says the same of all columns."""
    model, (fixed_view, freeze_time) = awake(CONFIG), videos()
    first = fixed_view[1:, None].expand(-1, VIEWS, -1, -1, -1) * 2 - 1
    *_, expected = model.sample_video(first, torch.arange(VIEWS) == 0, "freeze", n_steps=3, seed=7)
    grid = independent_columns.complete(fixed_view, freeze_time, model, n_steps=3, seed=7)
    assert_close(grid[:, 1:].transpose(0, 1), ((expected + 1) / 2).clamp(0, 1))


def test_with_shared_noise_equal_frames_have_equal_columns_and_otherwise_not():
    model, (fixed_view, freeze_time) = awake(CONFIG), videos()
    still = fixed_view[:1].expand(TIMES, -1, -1, -1)
    shared, own = (
        independent_columns.complete(still, freeze_time, model, n_steps=2, shared_noise=shared)
        for shared in (True, False)
    )
    assert_close(shared[:, 2:], shared[:, 1:2].expand(-1, TIMES - 2, -1, -1, -1))
    assert changed(own[:, 2:], own[:, 1:2])[1:].all()


def test_the_candidate_is_shared_whose_first_column_is_the_given_one():
    """The base remakes what it made itself from a candidate, so that candidate wins, in every grid its own."""
    model, generator = awake(CONFIG), torch.Generator().manual_seed(0)
    noise = torch.randn(3, 2, VIEWS, 3, 8, 8, generator=generator)
    given = torch.rand(2, VIEWS, 3, 8, 8, generator=generator) * 2 - 1
    *_, made = independent_columns.walk(model, given.expand_as(noise), noise, n_steps=2)
    given = torch.stack([made[2, 0], made[1, 1]])
    found = independent_columns.best_noise(model, given, noise, n_steps=2)
    assert torch.equal(found[0], torch.stack([noise[2, 0], noise[1, 1]]))


def test_what_cannot_be_is_refused():
    for candidates, shared in ((0, True), (2, False)):
        options = dict(shared_noise=shared, candidates=candidates)
        complete = partial(independent_columns.complete, *videos(), FourRealVideo(CONFIG), **options)
        refused(complete, "candidates", candidates)
    for design in ("soft", "sequential"):
        model = FourRealVideo(replace(CONFIG, sync=design))
        refused(partial(sequential.complete, *videos(), model), "model", design)
