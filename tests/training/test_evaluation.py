"""The numbers: PSNR against torch's own mean squared error, baselines against their definitions."""

import math

import pytest
import torch
from torch.testing import assert_close

from fourd_minimal.data.procedural import HELD_OUT, sample_scenes
from fourd_minimal.training.evaluation import (
    TRIVIAL,
    gain_interval,
    moving_pixels,
    psnr,
)


@pytest.fixture(scope="module")
def record():
    return sample_scenes(6, 3, 3, 16, HELD_OUT)


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
