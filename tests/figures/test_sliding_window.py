"""Large grids: distances and closures on grids that are known, windows against one pass, memory that stays flat."""

import math

import pytest
import torch
from refused import refused
from torch.testing import assert_close

from figures.sliding_window import WAYS, Windows, closure, complete, cost, large_scenes, psnr_by_distance
from fourd_minimal.configs.four_real_video import PRESETS
from fourd_minimal.data.procedural import HELD_OUT, sample_scenes
from fourd_minimal.systems.four_real_video import FourRealVideo
from fourd_minimal.training.evaluation import copy_row, moving_pixels, predict


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return FourRealVideo(PRESETS["smoke"].model).requires_grad_(False)


def test_an_orbit_ends_where_it_began_and_steps_are_those_of_training(model):
    record = large_scenes(model, 2, 25, 5)
    assert_close(record.c2w[:, -1], record.c2w[:, 0], atol=1e-5, rtol=0)
    assert closure(record.rgb, record) > 60
    assert not torch.allclose(record.rgb[:, 12], record.rgb[:, 0], atol=0.1)
    clip = sample_scenes(2, 3, 3, model.image_size, HELD_OUT, geometry=False)
    assert_close(record.rgb[:, 0, :3], clip.rgb[:, 0])  # the first clip of a longer one is that clip


def test_one_cell_wrong_counts_at_its_distance_only(model):
    record = large_scenes(model, 2, 5, 6)
    grids = record.rgb.clone()
    grids[:, 3, 2] = 1 - grids[:, 3, 2]
    found = psnr_by_distance(grids, record)
    assert len(found) == 4 and [math.isinf(x) for x in found] == [True, False, True, True]


def test_closure_is_the_error_of_the_last_row():
    record = sample_scenes(2, 4, 3, 16, HELD_OUT, sweep_deg=360)
    grids = record.rgb.clone()
    grids[:, -1] = grids[:, 0] + 0.1
    assert closure(grids, record) == pytest.approx(20, abs=1e-3)
    assert closure(copy_row(record.rgb), record) == 99
    outside = ~moving_pixels(record.alpha)[:, 0, 1:]
    grids[:, -1, 1:] = torch.where(outside, 0.5, record.rgb[:, -1, 1:])  # what is no object in the first row
    assert closure(grids, record) == closure(record.rgb, record)


def test_a_grid_of_one_window_is_one_pass(model):
    truth = large_scenes(model, 2, 3, 3).rgb
    assert_close(complete(model, truth, 2), predict(model, truth, 2))


@pytest.mark.parametrize("way", WAYS)
def test_costs_are_measured(way):
    found = cost(way, 3)
    assert found["seconds"] > 0 and found["mib"] >= 0
    if way != "windows":  # whose memory is flat
        large = cost(way, 9)
        assert large["mib"] > found["mib"] and large["seconds"] > found["seconds"]


def test_a_pass_that_fails_says_so():
    refused(lambda: cost("windows", 3, "nowhere"), "3x3", "nowhere")
    refused(Windows(sizes=(1,)).run, "--sizes", (1,))


def test_the_command_writes_table_and_picture(tmp_path, capsys):
    Windows(views=7, times=5, scenes=2, steps=(1,), sizes=(4,), out=tmp_path).run()
    assert "windows" in capsys.readouterr().out
    assert {f.name for f in tmp_path.iterdir()} == {"sliding_window.md", "sliding_window.json", "sliding_window.png"}
