"""Training on captions: it resumes exactly, leaves words out as asked, and its videos are measured by colour."""

from dataclasses import replace
from functools import partial

import torch
from resuming import killed_and_resumed

from fourd_minimal.configs.text_to_video import TEXT_TO_VIDEO
from fourd_minimal.training.text_to_video import (
    agreement,
    batch_loss,
    colour_seen,
    make_batch,
    motion_seen,
    start,
    train_text_to_video,
)

SMOKE = TEXT_TO_VIDEO["smoke"]


def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    killed_and_resumed(partial(train_text_to_video, SMOKE), tmp_path)


def test_shares_are_what_they_say():
    preset = replace(SMOKE, batch=400, share_nothing_seen=0.5, share_no_caption=0.25, share_no_word=0.0)
    for batch in make_batch(preset, start(preset).encode, 0):
        assert 0.4 < (~batch.seen).all(1).float().mean() < 0.65
        assert 0.18 < (batch.words == 0).all(1).float().mean() < 0.32
        read = batch.words[(batch.words > 0).any(1)]
        assert ((read > 0).sum(1) >= 3).all()  # colour, noun, verb
    fixed, freeze = make_batch(preset, start(preset).encode, 0)
    assert (fixed.context, freeze.context) == ("dynamic", "freeze")


def test_words_are_left_out_one_by_one():
    whole, some = (replace(SMOKE, batch=400, share_no_caption=0.0, share_no_word=share) for share in (0.0, 0.3))
    for all_words, fewer in zip(*(make_batch(p, start(p).encode, 0) for p in (whole, some)), strict=True):
        left = (fewer.words > 0).sum() / (all_words.words > 0).sum()
        assert 0.62 < left < 0.78


def test_a_moving_bar_bounces_and_a_growing_one_squashes():
    up, growing = torch.zeros(3, 3, 16, 16), torch.zeros(3, 3, 16, 16)
    for i in range(3):
        up[i, 0, 2 + 3 * i : 6 + 3 * i, 4:8] = 1
        growing[i, 2, 7 - 2 * i : 9 + 2 * i, 4:8] = 1
    assert (motion_seen(up), colour_seen(up)) == ("bouncing", "red")
    assert (motion_seen(growing), colour_seen(growing)) == ("squashing", "blue")
    assert colour_seen(torch.full((2, 3, 8, 8), 0.6)) == "nothing"
    found = agreement(["a red ball bouncing", "a red box squashing"], torch.stack([up, growing]))
    assert found == dict(colour=0.5, motion=1.0)


def test_captions_belong_to_their_videos():
    """The colour that a caption names is the hue of the video's most saturated pixels."""
    preset = replace(SMOKE, batch=64, sources=(("plain", 1.0),), share_no_caption=0.0, share_no_word=0.0)
    model = start(preset)
    batch = make_batch(preset, model.encode, 0)[0]
    named = {w: (batch.words == i).any(1) for i, w in enumerate(model.config.words, 1)}
    red, blue = (batch.clean[named[c]][:, 0].flatten(2) for c in ("red", "blue"))
    strongest = lambda a: a.gather(2, (a.amax(1) - a.amin(1)).argmax(1)[:, None, None].expand(-1, 3, 1))[..., 0]  # noqa: E731
    assert (strongest(red).argmax(1) == 0).all() and (strongest(blue).argmax(1) == 2).all()


def test_it_learns():
    preset = replace(SMOKE, steps=40, batch=8, lr=3e-3)
    losses = [step.loss for step in train_text_to_video(preset)]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_words_get_gradients_though_their_attention_starts_at_nothing():
    model = start(SMOKE)
    batches = make_batch(SMOKE, model.encode, 0)
    with torch.no_grad():
        model.dit.patch_out.weight.normal_(0, 0.1)
    batch_loss(model, batches).backward()
    assert all(block.text_attention.to_out.weight.grad.abs().sum() > 0 for block in model.dit.blocks)
