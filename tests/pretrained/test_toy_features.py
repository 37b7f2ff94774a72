"""Toy features: any size and length goes in, order in time counts, and the shipped ones order known corruptions."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from refused import refused
from torch.testing import assert_close

from fourd_minimal.data.corruptions import CORRUPTIONS
from fourd_minimal.data.procedural import HELD_OUT, sample_scenes
from fourd_minimal.metrics import frechet_distance
from fourd_minimal.pretrained.toy_features import ToyFeatures, ToyFeaturesConfig

LABELS = (("shape", ("ball", "box")), ("motion", ("still", "moves", "turns")))
TINY = ToyFeaturesConfig(LABELS, image_size=8, frames=4, widths=(8, 16), picture_dim=6, time_width=8, video_dim=5)


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return ToyFeatures(TINY).requires_grad_(False)


@pytest.fixture(scope="module")
def toy():
    return ToyFeatures.from_pretrained("toy")


@pytest.fixture(scope="module")
def grids():
    return sample_scenes(40, 1, 8, 32, HELD_OUT + 77, "plain", geometry=False).rgb


def noise(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def test_a_folder_brings_back_what_was_saved(tiny, tmp_path):
    tiny.save_pretrained(tmp_path, torch.float32, made_by="a test")
    again = ToyFeatures.from_pretrained(tmp_path)
    assert again.config == TINY and again.notes == dict(made_by="a test")
    assert_close(again.videos(noise(2, 4, 3, 8, 8)), tiny.videos(noise(2, 4, 3, 8, 8)))
    assert not any(p.requires_grad for p in again.parameters())
    refused(lambda: ToyFeatures.from_pretrained(tmp_path / "nowhere"), tmp_path / "nowhere")


def test_pictures_are_brought_to_its_size(tiny):
    """A picture enlarged fourfold, pixel by pixel, is nearly the same one; its mirror image is not."""
    small = F.interpolate(noise(3, 3, 4, 4), 8, mode="bilinear")
    large = small.repeat_interleave(4, -1).repeat_interleave(4, -2)
    same, apart = (tiny.pictures(x) - tiny.pictures(small) for x in (large, small.flip(-1)))
    assert same.norm() < 0.2 * apart.norm()
    assert tiny.pictures(noise(2, 3, 5, 11)).shape == (2, 6)


def test_each_video_counts_by_itself_and_its_order_matters(tiny):
    videos = noise(3, 4, 3, 8, 8)
    assert_close(tiny.videos(videos)[1:2], tiny.videos(videos[1:2]))
    assert (tiny.videos(videos) - tiny.videos(videos[:, [1, 0, 2, 3]])).abs().max() > 1e-3


def test_what_is_no_video_is_named(tiny):
    for videos, said in (
        (noise(2, 1, 3, 8, 8), 1),
        (noise(2, 3, 8, 8), (2, 3, 8, 8)),
        (noise(2, 4, 1, 8, 8), (2, 4, 1, 8, 8)),
        (noise(2, 4, 3, 8, 8) * 2 - 1, "[-1, 1]"),
        (noise(2, 4, 3, 8, 8) / 0, "NaN"),
        (torch.zeros(2, 4, 3, 8, 8), "0.00"),
    ):
        refused(partial(tiny.videos, videos), "videos", said)
    refused(lambda: tiny.pictures(noise(2, 4, 3, 8, 8)), "pictures", (2, 4, 3, 8, 8))


def test_the_shipped_ones_name_what_they_see(toy):
    record = sample_scenes(48, 1, 8, 32, HELD_OUT + 5, "plain", geometry=False)
    _, scores = toy(record.rgb[:, 0])
    for name, least in dict(shape=0.8, colour=0.8).items():
        names = dict(toy.config.labels)[name]
        said = [names[i] for i in scores[name].argmax(1).tolist()]
        assert sum(s in c.split() for s, c in zip(said, record.captions, strict=True)) > least * len(said)


@pytest.mark.parametrize("corruption", ["blur", "noise", "colour shift", "frozen motion"])
def test_the_shipped_ones_order_what_they_can_see(toy, grids, corruption):
    """Each strength is farther from the clean videos than the one before."""
    corrupt, strengths = CORRUPTIONS[corruption]
    clean, *corrupted = (toy.videos(torch.cat([corrupt(g, s) for g in grids])) for s in (0.0, *strengths))
    distances = [frechet_distance(features, clean) for features in corrupted]
    assert 1e-4 < distances[0] < distances[1] < distances[2]
