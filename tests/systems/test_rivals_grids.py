"""Two rivals that complete a grid: columns that know nothing of each other, and one stream through which all do."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from fourd_minimal.systems.four_real_video import FourRealVideo, FourRealVideoConfig, assemble, known_cells
from fourd_minimal.systems.rivals import independent_columns, sequential
from fourd_minimal.video_dit import VideoDiTConfig

VIEWS, TIMES = 3, 4
CONFIG = FourRealVideoConfig(VideoDiTConfig((8, 8), 4, 24, 2, 2), VIEWS, TIMES, sync="average")
COLUMNS = independent_columns.complete, CONFIG
SHARED = (lambda *a, **k: independent_columns.complete(*a, shared_noise=True, **k)), CONFIG
SEQUENTIAL = sequential.complete, replace(CONFIG, sync="sequential_attention")
each = pytest.mark.parametrize("rival", [COLUMNS, SHARED, SEQUENTIAL], ids=["columns", "shared noise", "sequential"])


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
def test_known_cells_come_back_exactly_and_the_rest_is_a_picture(rival):
    complete, config = rival
    fixed_view, freeze_time = videos()
    grid = complete(fixed_view, freeze_time, awake(config), n_steps=2)
    assert grid.shape == (VIEWS, TIMES, 3, 8, 8)
    assert torch.equal(grid[0], fixed_view) and torch.equal(grid[:, 0], freeze_time)
    assert grid.min() >= 0 and grid.max() <= 1 and grid[1:, 1:].std() > 0.05


@each
def test_same_seed_same_grid(rival):
    complete, config = rival
    a, b, c = (complete(*videos(), awake(config), n_steps=2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert torch.equal(changed(a, c), ~known_cells(VIEWS, TIMES))


@each
def test_a_frame_of_the_film_changes_its_column_and_in_one_stream_every_column(rival):
    complete, config = rival
    model, (fixed_view, freeze_time) = awake(config), videos()
    other = fixed_view.clone()
    other[2] = 1 - other[2]
    expected = torch.zeros(VIEWS, TIMES, dtype=torch.bool)
    expected[:, 2] = True
    if complete is sequential.complete:
        expected |= ~known_cells(VIEWS, TIMES)
    before, after = (complete(film, freeze_time, model, n_steps=2) for film in (fixed_view, other))
    assert torch.equal(changed(before, after), expected)


@each
def test_the_first_column_is_seen_by_one_stream_only(rival):
    complete, config = rival
    model, (fixed_view, freeze_time) = awake(config), videos()
    other = freeze_time.clone()
    other[1] = 1 - other[1]
    expected = torch.zeros(VIEWS, TIMES, dtype=torch.bool)
    expected[1, 0] = True
    if complete is sequential.complete:
        expected |= ~known_cells(VIEWS, TIMES)
    before, after = (complete(fixed_view, column, model, n_steps=2) for column in (freeze_time, other))
    assert torch.equal(changed(before, after), expected)


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


def test_with_candidates_the_first_column_chooses_the_noise_of_all():
    model, (fixed_view, freeze_time) = awake(CONFIG), videos()
    noise = torch.randn(4, 1, VIEWS, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    given = (freeze_time * 2 - 1)[None]
    chosen = independent_columns.best_noise(model, given, noise, n_steps=2)
    (index,) = [k for k in range(4) if torch.equal(noise[k], chosen[0])]
    assert index > 0  # or nothing was chosen
    grid = independent_columns.complete(fixed_view, freeze_time, model, 2, 5, shared_noise=True, candidates=4)
    first = fixed_view[1:, None, None].expand(-1, 1, VIEWS, -1, -1, -1) * 2 - 1
    *_, expected = independent_columns.walk(model, first, chosen.expand_as(first), n_steps=2)
    assert_close(grid[:, 1:].transpose(0, 1), ((expected[:, 0] + 1) / 2).clamp(0, 1))


@pytest.mark.parametrize("candidates, shared_noise", [(0, True), (2, False)])
def test_candidates_that_cannot_be_are_refused(candidates, shared_noise):
    with pytest.raises(ValueError, match=f"candidates is {candidates}; 1 is wanted, or more with shared_noise=True"):
        independent_columns.complete(*videos(), FourRealVideo(CONFIG), shared_noise=shared_noise, candidates=candidates)


@pytest.mark.parametrize("shared_noise", [False, True])
def test_states_of_several_grids_begin_at_noise_and_hold_known_cells(shared_noise):
    model = awake(CONFIG)
    clean = torch.cat([assemble(*videos()), 1 - assemble(*videos())]) * 2 - 1
    known = known_cells(VIEWS, TIMES)
    states = list(independent_columns.sample_columns(model, clean, 2, shared_noise=shared_noise))
    assert len(states) == 3
    assert all(torch.equal(state[:, known], clean[:, known]) for state in states)
    noise = states[0][:, 1:, 1:]
    assert abs(noise.mean()) < 0.1 and 0.9 < noise.std() < 1.1
    assert (noise[0] != noise[1]).any(-1).any(-1).all()  # grids never share it
    assert torch.equal(noise[:, :, 0], noise[:, :, 1]) == shared_noise


def test_the_model_that_was_lent_is_left_as_it_was():
    model = awake(CONFIG)
    before = model.generate(*videos(), n_steps=1)
    independent_columns.complete(*videos(), model, n_steps=1)
    assert torch.equal(model.generate(*videos(), n_steps=1), before)


@each
@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda a, b: (a[:1], b), "fixed_view has 1 frames; at least 2"),
        (lambda a, b: (a, torch.cat([b, b])), "freeze_time has 6 frames"),
        (lambda a, b: (a * float("nan"), b), "fixed_view holds NaN"),
        (lambda a, b: (a, 1 - b), "first frames of fixed_view and freeze_time differ by"),
    ],
)
def test_bad_videos_get_the_one_sentence_of_generate(rival, change, sentence):
    complete, config = rival
    with pytest.raises(ValueError, match=sentence):
        complete(*change(*videos()), FourRealVideo(config))


@each
def test_no_steps_are_refused(rival):
    complete, config = rival
    with pytest.raises(ValueError, match="n_steps is 0"):
        complete(*videos(), FourRealVideo(config), n_steps=0)


@pytest.mark.parametrize("design", ["soft", "sequential"])
def test_a_model_of_another_design_is_refused(design):
    model = FourRealVideo(replace(CONFIG, sync=design))
    with pytest.raises(ValueError, match=f"model is of design '{design}'; a 'sequential_attention' one is wanted"):
        sequential.complete(*videos(), model)
