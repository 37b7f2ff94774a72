"""The scores of 4DM: exact on videos whose scores are known; frozen and flickering ones lose."""

import pytest
import torch
from torch.testing import assert_close
from torchmetrics.functional.image import peak_signal_noise_ratio

from fourd_minimal.configs.four_diffusion import FOUR_DM
from fourd_minimal.systems.four_diffusion import FourDM
from fourd_minimal.training.four_diffusion import orbits
from fourd_minimal.training.multiview_evaluation import (
    FROZEN,
    OURS,
    OWN,
    PASTE,
    SHARED,
    base_per_frame,
    compare,
    covered,
    gain,
    score,
    score_table,
)

CONFIG = FOUR_DM["smoke"].model


@pytest.fixture(scope="module")
def videos():
    clean, video, cameras = orbits(CONFIG, 2, 4, 1_000_001)
    return (clean + 1) / 2, video, cameras


@pytest.fixture(scope="module")
def base():
    torch.manual_seed(1)
    model = FourDM(CONFIG, motion=False)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return model.requires_grad_(False)


def test_the_truth_is_perfect(videos):
    truth, *_ = videos
    found = score("truth", truth, truth)
    assert found.psnr == float("inf") and found.change(1) == found.change(2) == 0


def test_a_known_error_is_measured(videos):
    """The same offset everywhere: its PSNR is torchmetrics', and no change is wrong."""
    truth, *_ = videos
    found = score("off", truth + 0.1, truth)
    assert found.psnr == pytest.approx(peak_signal_noise_ratio(truth + 0.1, truth, data_range=1.0).item(), abs=1e-3)
    assert found.psnr_object == pytest.approx(20, abs=1e-3)
    assert found.change(1) == pytest.approx(0, abs=1e-6)


def test_only_the_object_counts(videos):
    truth, *_ = videos
    on = covered(truth)
    assert 0.05 < on.float().mean() < 0.6 and (on == on[:, :1]).all()
    assert score("beside", torch.where(on, truth, 0.0), truth).psnr_object == float("inf")


def test_frozen_and_flickering_videos_lose(videos):
    """A video that flickers by ± d is off by 2 d in its first difference and by 4 d in its second."""
    truth, *_ = videos
    sign = torch.tensor([1.0, -1.0, 1.0, -1.0])[None, :, None, None, None, None]
    flicker = score("flickers", truth + 0.05 * sign, truth)
    assert flicker.change(1) == pytest.approx(0.1, abs=1e-5) and flicker.change(2) == pytest.approx(0.2, abs=1e-5)
    frozen = score("frozen", truth[:, :1].expand_as(truth), truth)
    on = covered(truth)
    expected = truth.diff(dim=1)[on[:, 1:]].square().mean().sqrt()
    assert frozen.change(1) == pytest.approx(expected.item(), abs=1e-5)
    assert frozen.change(1) > 0.05 and frozen.psnr_object < 25


def test_the_base_makes_frames_one_by_one(base, videos):
    """Shared noise: equal videos give equal frames; own noise: they differ; and a frame does not know the others."""
    _, video, cameras = videos
    still = video[:, :1].expand(-1, 3, -1, -1, -1)
    same, own = (base_per_frame(base, still, cameras, shared, 2) for shared in (True, False))
    assert_close(same[:, 0], same[:, 2], atol=1e-5, rtol=1e-4)
    assert (own[:, 0] - own[:, 2]).abs().max() > 1e-2
    assert_close(own[0, 0], same[0, 0], atol=1e-5, rtol=1e-4)
    changed = still.clone()
    changed[:, 2] = video[:, 2].flip(-1)
    assert_close(base_per_frame(base, changed, cameras, True, 2)[:, :2], same[:, :2], atol=1e-5, rtol=1e-4)


def test_all_methods_are_compared(base, videos):
    truth, video, cameras = videos
    model = FourDM(CONFIG)
    model.load_state_dict(base.state_dict(), strict=False)
    found = list(compare(model, base, truth * 2 - 1, video, cameras, 2, seeds=(0, 1)))
    assert [s.method for s, _ in found] == [PASTE, FROZEN, OWN, OWN, SHARED, SHARED, OURS, OURS]
    assert all(made.shape == truth.shape and made.min() >= 0 and made.max() <= 1 for _, made in found)
    own, untrained = (next(m for s, m in found if s.method == name) for name in (OWN, OURS))
    assert_close(untrained, own, atol=1e-4, rtol=1e-3)  # untrained modules are the identity
    scores = [s for s, _ in found]
    table = score_table(scores)
    assert table.count("\n") == 1 + 5 and "±" in table.splitlines()[-1]
    middle, low, high = gain(scores, OURS, OWN)
    assert abs(middle) < 0.01 and low <= middle <= high
