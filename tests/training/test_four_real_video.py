"""Training: only what should train does, an interrupted run ends bit for bit as an uninterrupted one, and it learns."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from refused import refused
from resuming import killed_and_resumed, last
from torch.testing import assert_close

from fourd_minimal.configs.four_real_video import PRESETS
from fourd_minimal.data.procedural import sample_scenes
from fourd_minimal.data.shards import Shards, sample, write_tar
from fourd_minimal.pseudo_4d import maps_along, pseudo_grid, random_motions
from fourd_minimal.systems.four_real_video import FourRealVideo
from fourd_minimal.training.four_real_video import (
    Source,
    base_batch,
    batch_loss,
    grid_batch,
    learning_rate,
    random_masks,
    step_generator,
    train,
    velocity_loss,
)
from fourd_minimal.training.loop import averaging

SMOKE = PRESETS["smoke"]


@pytest.mark.parametrize("stage", ["base", "sync", "joint"])
def test_killed_and_resumed_equals_uninterrupted(stage, tmp_path):
    preset = replace(SMOKE, base_steps=6, sync_steps=6, joint_steps=6)
    base = None if stage == "base" else FourRealVideo(preset.model)
    killed_and_resumed(partial(train, stage, preset, base=base), tmp_path)


@pytest.mark.parametrize(
    ("stage", "name", "value"),
    [("base", "base_lr", 1.0), ("sync", "sync_pseudo_steps", 1), ("sync", "sync_batch", 3), ("joint", "grid_ema", 0.5)],
)
def test_a_checkpoint_of_other_settings_is_refused(tmp_path, stage, name, value):
    base = None if stage == "base" else FourRealVideo(SMOKE.model)
    last(train(stage, SMOKE, tmp_path, base))
    refused(lambda: next(train(stage, replace(SMOKE, **{name: value}), tmp_path, base)), tmp_path, name)


def test_a_checkpoint_of_other_first_weights_is_refused(tmp_path):
    torch.manual_seed(0)
    one, other = FourRealVideo(SMOKE.model), FourRealVideo(SMOKE.model)
    last(train("sync", SMOKE, tmp_path, one))
    refused(lambda: next(train("sync", SMOKE, tmp_path, other)), tmp_path, "weights")


def test_a_finished_run_is_its_result_also_where_later_stages_have_other_settings(tmp_path):
    done = last(train("base", SMOKE, tmp_path)).averaged()
    (again,) = train("base", replace(SMOKE, sync_lr=1.0, joint_steps=9, grid_ema=0.5), tmp_path)
    assert again.number == SMOKE.base_steps
    assert_close(again.averaged().state_dict(), done.state_dict(), rtol=0, atol=0)


def test_the_seconds_of_an_interrupted_run_add_up(tmp_path):
    killed = train("base", replace(SMOKE, base_steps=3), tmp_path, checkpoint_every=1)
    seconds = [next(killed).seconds for _ in range(2)][-1]
    killed.close()
    assert last(train("base", replace(SMOKE, base_steps=3), tmp_path)).seconds > seconds > 0


@pytest.mark.parametrize("stage", ["sync", "joint"])
def test_a_stage_trains_its_part_alone(stage):
    """The synchronisation layers, and, in "joint", the base; they start from a base, without which they are refused."""
    base = last(train("base", SMOKE)).averaged()
    done = last(train(stage, SMOKE, base=base)).averaged()
    fresh = FourRealVideo(SMOKE.model).streams.sync.state_dict()
    changed = [not torch.equal(v, fresh[k]) for k, v in done.streams.sync.state_dict().items()]
    assert sum(changed) > len(changed) / 2
    same = [torch.equal(a, b) for a, b in zip(done.base.parameters(), base.base.parameters(), strict=True)]
    assert all(same) if stage == "sync" else not all(same)
    refused(lambda: next(train(stage, SMOKE)), "base", None)


def test_a_step_is_a_function_of_seed_stage_and_number():
    draw = lambda *a: torch.rand(3, generator=step_generator(*a))  # noqa: E731
    assert torch.equal(draw(SMOKE, "base", 1), draw(SMOKE, "base", 1))
    others = [(SMOKE, "base", 2), (SMOKE, "sync", 1), (replace(SMOKE, seed=1), "base", 1)]
    assert not any(torch.equal(draw(SMOKE, "base", 1), draw(*o)) for o in others)


def test_the_loss_falls():
    preset = replace(SMOKE, base_steps=60, base_batch=8, warmup=10, ema=0.0, sources=(("simple", 1.0),))
    start = FourRealVideo(preset.model)
    done = last(train("base", preset)).averaged()
    with torch.no_grad():
        before, after = (batch_loss(m, base_batch(preset, 999)) for m in (start, done))
    assert after < 0.7 * before


def test_velocity_loss_is_the_loss_of_the_velocity():
    """Frames predicted from x_sigma, turned into velocities: the plain velocity-matching loss, for sigma above 0.3."""
    x, eps, predicted = (torch.rand(5, 4, 3, 2, 2) for _ in range(3))
    sigma, unseen = torch.rand(5) * 0.7 + 0.3, torch.rand(5, 4) > 0.3
    s = sigma[:, None, None, None, None]
    noisy = (1 - s) * x + s * eps
    plain = (((noisy - predicted) / s - (eps - x)) ** 2).mean((2, 3, 4))[unseen].mean()
    assert_close(velocity_loss(predicted, x, sigma, unseen), plain)


def test_the_first_sync_steps_are_on_pseudo_4d():
    """Row 0 is a rendered video, and every other row is that video under one map, the same at all times."""
    preset = replace(SMOKE, sync_pseudo_steps=2)
    (before,), (first,), (then,) = (grid_batch(preset, "sync", number) for number in (0, 1, 2))
    assert_close(then.clean, grid_batch(SMOKE, "sync", 2)[0].clean, rtol=0, atol=0)
    assert not torch.equal(first.clean, grid_batch(SMOKE, "sync", 1)[0].clean)
    assert first.clean.abs().max() <= 1 and not torch.equal(before.clean, first.clean)
    generator = step_generator(preset, "sync", 1)
    motions = random_motions(2, torch.Generator().manual_seed(generator.initial_seed() + 5_000_000))
    video = Source(preset, generator, 1, 0).frames(2, 1, 3)[:, 0]
    grid, _ = pseudo_grid(video, maps_along(motions, torch.linspace(0, 1, 3)))
    assert_close(first.clean, grid)
    (true,) = grid_batch(SMOKE, "sync", 1)  # the noise is the same on either kind of grid
    assert_close(first.sigma, true.sigma, rtol=0, atol=0)
    sigma = first.sigma[:, None, None, None, None, None]
    assert_close(first.noisy - (1 - sigma) * first.clean, true.noisy - (1 - sigma) * true.clean)
    (joint,) = grid_batch(preset, "joint", 0)  # the stage that trains everything sees true grids only
    assert_close(joint.clean, grid_batch(SMOKE, "joint", 0)[0].clean, rtol=0, atol=0)


def shards(folder, scenes, size=16):
    folder.mkdir()
    records = (sample_scenes(1, 4, 5, size, seed, "creature", geometry=False) for seed in scenes)
    members = [member for i, record in enumerate(records) for member in sample(f"{i:06}", record)]
    write_tar(folder / "000000.tar", members)
    return str(folder)


def test_stored_grids_take_the_place_of_the_families(tmp_path):
    """Rows and columns of single videos are of different grids, until all have been seen."""
    data = shards(tmp_path / "shards", range(4))
    preset = replace(SMOKE, shards=data, base_batch=2)
    (dynamic, frozen), stored = base_batch(preset, 0), Shards(data)
    order = stored.order(0, preset.seed)
    frames = torch.stack([stored[i].rgb.flatten(0, 1) * 2 - 1 for i in order])
    for batch, item in ((dynamic, 0), (frozen, 1)):
        distance = (batch.clean[0][:, None] - frames[item]).abs().amax((2, 3, 4)).amin(1)
        assert distance.max() < 1e-5
    (grid,) = grid_batch(preset, "sync", 0)
    assert grid.clean.shape == (2, 3, 3, 3, 16, 16) and not torch.equal(grid.clean[0], grid.clean[1])
    flat, true = (grid_batch(replace(preset, sync_pseudo_steps=n), "sync", 0)[0].clean for n in (1, 0))
    assert not torch.equal(flat, true)


def test_a_run_goes_on_with_the_same_data_wherever_it_lies(tmp_path):
    one, moved = (shards(tmp_path / name, [0, 1]) for name in ("one", "moved"))
    other = shards(tmp_path / "other", [0, 2])
    preset = replace(SMOKE, shards=one)
    last(train("base", preset, tmp_path))
    (again,) = train("base", replace(preset, shards=moved), tmp_path)
    assert again.number == SMOKE.base_steps
    for data in (other, ""):
        refused(lambda data=data: next(train("base", replace(preset, shards=data), tmp_path)), tmp_path, "data")


def test_masks_always_leave_something_to_predict():
    masks = random_masks(2000, 4, torch.Generator().manual_seed(0))
    assert not masks.all(1).any()
    only_first = (masks == torch.tensor([True, False, False, False])).all(1).float().mean()
    both_ends = (masks == torch.tensor([True, False, False, True])).all(1).float().mean()
    assert 0.35 < only_first < 0.55 and 0.22 < both_ends < 0.35
    assert (masks.sum(1) == 0).any()


def test_learning_rate_warms_up_and_ends_at_zero():
    preset = replace(SMOKE, base_steps=100, warmup=10, base_lr=1.0)
    rates = [learning_rate(preset, "base", i) for i in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(1.0) and rates[-1] < 0.01
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)


def test_the_two_phases_of_the_sync_have_a_schedule_each():
    preset = replace(SMOKE, sync_steps=300, sync_pseudo_steps=200, warmup=10, sync_lr=1.0)
    rates = [learning_rate(preset, "sync", i) for i in range(300)]
    assert rates[199] < 0.01 and rates[299] < 0.01
    assert max(rates[:200]) == pytest.approx(1.0) and max(rates[200:]) == pytest.approx(1.0)
    assert rates[200] == pytest.approx(0.1)
    short = replace(preset, sync_steps=20, sync_pseudo_steps=0, warmup=100)
    assert max(learning_rate(short, "sync", i) for i in range(20)) == pytest.approx(1.0)  # a warm-up leaves room


def test_the_average_forgets_its_start():
    """A weight that jumps at step 1: after 300 steps at decay 0.995 the start counts for nothing, not for a fifth."""
    start = 1.0
    for n in range(1, 301):
        start *= averaging(0.995, n)
    assert start < 1e-4
    assert averaging(0.9, 10_000) == 0.9 and averaging(0.9, 0) == 0
