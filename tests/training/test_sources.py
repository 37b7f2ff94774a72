"""Where training frames come from: shares, names, datasets, and that everything hangs on the generator."""

import pytest
import torch
from torch.utils.data import Dataset

from fourd_minimal.data import collection
from fourd_minimal.data.procedural import sample_scenes
from fourd_minimal.data.video import write_video
from fourd_minimal.training.sources import Sources, video_clips, videos_in


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Flat(Dataset):
    """Grids of one grey each: item i is i / 10."""

    def __init__(self, shape=(2, 3, 3, 16, 16), most=1.0):
        self.shape, self.most = shape, most

    def __len__(self):
        return 10

    def __getitem__(self, i):
        return torch.full(self.shape, self.most * i / 10)


@pytest.fixture
def videos(tmp_path):
    """Two videos whose frames are all different, 9 and 12 of them."""
    for name, frames in (("a", 9), ("b", 12)):
        ramp = torch.linspace(0, 1, frames)[:, None, None, None].expand(frames, 3, 16, 16)
        write_video(ramp, tmp_path / f"{name}.mp4", lossless=True)
    return tmp_path


def test_shares_are_kept_and_names_do_not_mix():
    data = Sources([(Flat(), 3.0), ("simple", 1.0)])
    frames = data.frames(400, 2, 3, (16, 16), generator())
    assert frames.shape == (400, 2, 3, 3, 16, 16) and -1 <= frames.min() <= frames.max() <= 1
    flat = frames.flatten(1).std(1) < 1e-6
    assert 0.68 < flat.float().mean() < 0.82
    assert torch.equal(frames[flat].flatten(1)[:, 0].mul(5).add(5).round() / 5 - 1, frames[flat].flatten(1)[:, 0])


def test_the_generator_decides_everything(videos):
    shares = [("simple", 1.0), ("creature", 1.0), (f"videos:{videos}", 1.0)]
    draw = lambda seed: Sources(shares).frames(6, 1, 4, (16, 16), generator(seed))  # noqa: E731
    assert torch.equal(draw(3), draw(3)) and not torch.equal(draw(3), draw(4))


def test_one_procedural_family_is_that_family():
    frames = Sources([("plain", 2.0)]).frames(3, 2, 3, (16, 16), generator(5))
    draw = generator(5)
    torch.multinomial(torch.tensor([2.0]), 3, replacement=True, generator=draw)
    seed = int(torch.randint(1_000_000, (), generator=draw))
    assert torch.equal(frames, sample_scenes(3, 2, 3, 16, seed, "plain", geometry=False).rgb * 2 - 1)


def test_videos_are_read_anywhere_at_any_stride(videos):
    clips = video_clips(videos_in(videos), 40, 3, (16, 16), generator())
    assert clips.shape == (40, 1, 3, 3, 16, 16)
    steps = clips[:, 0, :, 0, 0, 0].diff(dim=1)
    assert torch.allclose(steps[:, 0], steps[:, 1], atol=0.03) and (steps > 0.05).all()  # evenly, and forwards
    assert len(steps[:, 0].mul(10).round().unique()) > 3


def test_videos_are_for_rows_alone(videos):
    name = f"videos:{videos}"
    mixed = Sources([(name, 9.0), (Flat((2, 1, 3, 16, 16)), 1.0)]).frames(20, 2, 1, (16, 16), generator())
    assert (mixed.flatten(1).std(1) < 1e-6).all()
    with pytest.raises(ValueError, match="2 views"):
        Sources([(name, 1.0)]).frames(1, 2, 1, (16, 16), generator())


@pytest.mark.parametrize(
    ("shares", "named"),
    [
        ([], "empty"),
        ([("cubes", 1.0)], "'cubes'"),
        ([("simple", 0.0)], "'simple'.*0.0"),
        ([("simple", float("nan"))], "'simple'.*nan"),
        ([("videos", 1.0)], "'videos'"),
    ],
)
def test_what_is_no_source(shares, named):
    with pytest.raises(ValueError, match=f"sources.*{named}"):
        Sources(shares)


def test_what_is_wrong_with_a_source(tmp_path, videos):
    with pytest.raises(ValueError, match=str(tmp_path / "none")):
        Sources([(f"videos:{tmp_path / 'none'}", 1.0)]).frames(1, 1, 3, (16, 16), generator())
    with pytest.raises(ValueError, match=r"a\.mp4 has 9|b\.mp4 has 12"):
        Sources([(f"videos:{videos}", 1.0)]).frames(1, 1, 30, (16, 16), generator())
    with pytest.raises(ValueError, match=r"shape \(2, 3, 3, 16, 16\).*\(2, 2, 3, 16, 16\)"):
        Sources([(Flat(), 1.0)]).frames(1, 2, 2, (16, 16), generator())
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        Sources([(Flat(most=255.0), 1.0)]).frames(9, 2, 3, (16, 16), generator())


def test_the_fingerprint_is_of_what_names_do_not_say(videos):
    before = Sources([(f"videos:{videos}", 1.0)]).fingerprint
    assert before and Sources([("simple", 1.0)]).fingerprint == ""
    write_video(torch.rand(9, 3, 16, 16), videos / "c.mp4")
    videos_in.cache_clear()
    assert Sources([(f"videos:{videos}", 1.0)]).fingerprint != before


@pytest.mark.skipif(not collection.BESIDE.is_dir(), reason="the collection of characters is not here")
def test_characters_are_of_the_training_split_and_augmented():
    data = Sources([("characters", 1.0)])
    frames = data.frames(2, 2, 2, (16, 16), generator())
    assert frames.shape == (2, 2, 2, 3, 16, 16) and frames.std() > 0.05 and data.fingerprint
    assert torch.equal(frames, data.frames(2, 2, 2, (16, 16), generator()))
    with pytest.raises(ValueError, match=r"size is \(16, 8\)"):
        data.frames(1, 2, 2, (16, 8), generator())
