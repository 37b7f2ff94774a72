"""Curation: each kind of bad clip is refused for what it is, good ones are not, and a rigid motion is one."""

from dataclasses import replace

import pytest
import torch
from refused import refused
from scipy.spatial.transform import Rotation
from torch.testing import assert_close

from fourd_minimal.data.curation import Scores, kabsch, measure, verdict
from fourd_minimal.data.procedural import CORRUPTED, sample_scenes

REASON = {"static": "static", "leaves": "leaves", "turns": "rigid", "speck": "empty"}
GOOD = Scores(0.2, 0.1, 0.5, 0.0, 0.5)


def clips(corrupted=None, n=6, size=32):
    around = (torch.arange(4.0) * 90).expand(n, 4)
    return sample_scenes(n, 4, 8, size, 7, "creature", elevation_deg=20.0, azimuths_deg=around, corrupted=corrupted)


@pytest.mark.parametrize("corrupted", CORRUPTED)
def test_bad_clips_are_refused_for_what_they_are(corrupted):
    record = clips(corrupted)
    for i in range(6):
        assert REASON[corrupted] in verdict(measure(record, i))


def test_walking_creatures_are_kept():
    record = clips()
    assert [verdict(measure(record, i)) for i in range(6)] == [()] * 6


def test_one_colour_is_flat():
    record = clips(n=1)
    grey = replace(record, rgb=torch.lerp(torch.ones(()), torch.tensor(0.5), record.alpha).expand_as(record.rgb))
    assert verdict(measure(grey)) == ("flat",)


def test_nothing_to_see_is_empty_and_everything_too():
    record = clips(n=1)
    nothing = replace(record, alpha=torch.zeros_like(record.alpha))
    assert "empty" in verdict(measure(nothing))
    assert "empty" in verdict(replace(GOOD, covered=0.95))


def test_motion_is_the_path_in_object_sizes():
    """Everything moves by 3 pixels a step, and the object covers a square of 10 by 10 pixels."""
    record = clips(n=1)
    alpha, flow = torch.zeros_like(record.alpha), torch.zeros_like(record.flow)
    alpha[..., 10:20, 10:20], flow[:, :, :, 0] = 1.0, 3.0
    assert measure(replace(record, alpha=alpha, flow=flow)).motion == pytest.approx(7 * 3 / 10)


def test_kabsch_is_scipys():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(50, 3, generator=generator, dtype=torch.double)
    turn = torch.from_numpy(Rotation.from_euler("xyz", [0.4, -1.0, 2.0]).as_matrix())
    b = a @ turn.T + torch.tensor([1.0, -2.0, 0.5]) + 0.1 * torch.randn(50, 3, generator=generator, dtype=torch.double)
    best, _ = Rotation.align_vectors((b - b.mean(0)).numpy(), (a - a.mean(0)).numpy())
    expected = torch.from_numpy(best.apply((a - a.mean(0)).numpy())) + b.mean(0)
    assert_close(kabsch(a, b), expected)


def test_mirrored_points_are_turned_not_mirrored():
    a = torch.tensor([[1.0, 0, 0], [0, 2.0, 0], [0, 0, 3.0], [1.0, 1.0, 1.0]])
    moved = kabsch(a, a * torch.tensor([-1.0, 1.0, 1.0]))
    assert_close(torch.cdist(moved, moved), torch.cdist(a, a), atol=1e-4, rtol=0)
    assert not torch.allclose(moved, a * torch.tensor([-1.0, 1.0, 1.0]), atol=0.1)


def test_a_record_without_geometry_is_refused():
    record = sample_scenes(1, 2, 2, 16, 0, "creature", geometry=False)
    refused(lambda: measure(record), "record", "flow")
