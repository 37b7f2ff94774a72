"""Words in, videos out: captions are read as sets of words, guidance is a straight line, first frames are kept."""

from functools import partial

import pytest
import torch
from refused import refused
from torch.testing import assert_close

from fourd_minimal.configs.four_real_video import PRESETS
from fourd_minimal.configs.text_to_video import TEXT_TO_VIDEO, WORDS
from fourd_minimal.data.procedural import FAMILIES, HELD_OUT, sample_scenes
from fourd_minimal.systems.four_real_video import FourRealVideo
from fourd_minimal.systems.text_to_video import TextToVideo, TextToVideoConfig
from fourd_minimal.training.text_to_video import start
from fourd_minimal.video_dit import VideoDiTConfig

CONFIG = TextToVideoConfig(VideoDiTConfig((8, 8), 4, 24, 2, 2, text_dim=8), WORDS, views=3, times=4)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = TextToVideo(CONFIG)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model.requires_grad_(False)


def test_captions_are_sets_of_words(model):
    encoded = model.encode(["a red ball bouncing", "Red  ball, bouncing.", ""])
    assert torch.equal(encoded[0], encoded[1]) and (encoded[2] == 0).all()
    assert [CONFIG.words[i - 1] for i in encoded[0] if i] == ["red", "ball", "bouncing"]
    assert torch.equal(model.encode(["red red ball, red"]), model.encode(["red ball"]))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_caption_of_our_worlds_can_be_read(model, family):
    captions = sample_scenes(40, 1, 1, 8, HELD_OUT, family, geometry=False).captions
    assert len(captions) == 40 and (model.encode(captions) > 0).any(1).all()


def test_guidance_is_a_straight_line_from_no_words_to_words(model):
    """Over one step, and where nothing is clamped."""
    with torch.no_grad():
        model.dit.patch_out.weight *= 0.05
        model.dit.patch_out.bias.zero_()
    nothing, plain, double = (
        model.sample([caption], "freeze", n_steps=1, guidance=g)
        for caption, g in (("", 1.0), ("red ball", 1.0), ("red ball", 2.0))
    )
    assert plain.abs().max() < 1 and not torch.allclose(plain, nothing, atol=1e-5)
    assert_close(double, nothing + 2 * (plain - nothing), atol=1e-5, rtol=1e-4)


def test_both_videos_start_at_the_same_picture(model):
    fixed_view, freeze_time = model.generate("a red ball bouncing", n_steps=2)
    assert fixed_view.shape == (4, 3, 8, 8) and freeze_time.shape == (3, 3, 8, 8)
    assert torch.equal(fixed_view[0], freeze_time[0])
    assert fixed_view.min() >= 0 and fixed_view.max() <= 1
    assert not torch.equal(freeze_time[0], freeze_time[1])


def test_a_batch_of_captions_is_the_captions_one_by_one(model):
    first = torch.rand(2, 3, 8, 8) * 2 - 1
    both = model.sample(["red ball", "box"], "freeze", first, n_steps=1, seed=3)
    assert torch.equal(both[:, 0], first)
    words = model.encode(["red ball", "box"])
    clean, seen = torch.cat([first[:, None], torch.zeros(2, 2, 3, 8, 8)], 1), torch.tensor([[True, False, False]] * 2)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(3))
    of = lambda w: model.denoise(noise, torch.ones(2), seen, clean, "freeze", w)  # noqa: E731
    guided = of(0 * words) + 2.0 * (of(words) - of(0 * words))
    assert_close(both[:, 1:], guided[:, 1:].clamp(-1, 1), atol=1e-5, rtol=1e-4)


def test_it_starts_as_the_base_it_was_given():
    preset = TEXT_TO_VIDEO["smoke"]
    torch.manual_seed(0)
    base = FourRealVideo(PRESETS["smoke"].model).requires_grad_(False)
    with torch.no_grad():
        for p in base.parameters():
            p.add_(0.1 * torch.randn_like(p))
    model = start(preset, base.base)
    x, sigma = torch.randn(2, 3, 3, 16, 16), torch.tensor([1.0, 0.4])
    seen, clean = torch.tensor([[True, False, False]] * 2), torch.randn(2, 3, 3, 16, 16)
    words = model.encode(["a red ball", "a box"])
    expected = base.denoise_video(x, sigma, seen, clean, "dynamic")
    assert_close(model.denoise(x, sigma, seen, clean, "dynamic", words), expected)


def test_what_it_cannot_take_is_refused(model):
    refused(lambda: model.sample(["red ball"], "freeze", torch.zeros(2, 3, 8, 8)), "first", (2, 3, 8, 8))
    refused(lambda: model.sample(["red ball"], "freeze", torch.full((1, 3, 8, 8), 255.0)), "first", 128)
    refused(lambda: model.sample([], "dynamic"), "captions")
    refused(lambda: model.generate("on the ground"), "on the ground", "red")
    refused(lambda: model.generate("a mauve ball"), "mauve", "a mauve ball")
    seven = "red blue green pink cyan ball box"
    refused(lambda: model.generate(seven), seven, 7)
    refused(lambda: TextToVideoConfig(CONFIG.dit, ()), "words")
    refused(lambda: TextToVideoConfig(CONFIG.dit, ("red", "red")), "words", "red")
    refused(lambda: TextToVideoConfig(VideoDiTConfig((8, 8), 4, 24, 2, 2), WORDS), "text_dim", 0)
    for name, value in (("slots", 0), ("times", 1), ("shift", 0.0)):
        refused(partial(TextToVideoConfig, CONFIG.dit, WORDS, **{name: value}), name, value)
