"""Training sync layers for a tiny random Wan, and generating with them: the real commands, from files to files."""

import re
from dataclasses import replace
from functools import partial

import pytest
import torch
from refused import refused, says
from resuming import killed_and_resumed, last
from safetensors.torch import load_file
from torch.testing import assert_close

from fourd_minimal.data.procedural import sample_scenes
from fourd_minimal.data.shards import FAILURES, Shards, sample, write_tar
from fourd_minimal.data.video import write_video
from fourd_minimal.pretrained.wan import TwoStreamWan
from fourd_minimal.pretrained.wan_generation import GenerateWan
from fourd_minimal.pretrained.wan_text import Contexts, contexts, embed_texts
from fourd_minimal.pretrained.wan_training import (
    TrainWan,
    WanPreset,
    batch_loss,
    learning_rate,
    make_batch,
    make_frames,
    train_wan,
)
from fourd_minimal.rectified_flow import add_noise
from fourd_minimal.training.devices import Scale
from fourd_minimal.training.loop import seeded
from fourd_minimal.training.shard_frames import grids

SIZES = dict(views=2, times=3, image_size=(32, 48), sources=(("simple", 1.0),), batch=2, parts=2, drop_text=0.5)
PRESET = WanPreset(**SIZES, steps=4, pseudo_steps=2, lr=1e-3, warmup=1)


@pytest.fixture
def model(wan_folder):
    return TwoStreamWan.from_pretrained(wan_folder, dtype=torch.float32)


@pytest.fixture(scope="module")
def texts(wan_folder):
    return embed_texts(wan_folder, [*contexts(), ""])


def weights(model):
    return {name: weight.clone() for name, weight in model.trained().state_dict().items()}


def test_killed_and_resumed_equals_uninterrupted(wan_folder, texts, tmp_path):
    fresh = partial(TwoStreamWan.from_pretrained, wan_folder, dtype=torch.float32)
    killed_and_resumed(lambda folder, **more: train_wan(fresh(), PRESET, texts, folder, **more), tmp_path)
    refused(lambda: next(train_wan(fresh(), replace(PRESET, lr=2e-3), texts, tmp_path)), "lr")


def test_only_sync_layers_are_trained_and_recomputing_changes_nothing(wan_folder, texts):
    plain, again = (TwoStreamWan.from_pretrained(wan_folder, dtype=torch.float32) for _ in range(2))
    before, base = weights(plain), {name: weight.clone() for name, weight in plain.base.state_dict().items()}
    trained = last(train_wan(plain, PRESET, texts)).averaged()
    assert_close(trained.base.state_dict(), base, rtol=0, atol=0)
    assert any(not torch.equal(value, before[name]) for name, value in weights(trained).items())
    recomputed = last(train_wan(again, PRESET, texts, scale=Scale(recompute=True))).averaged()
    assert_close(weights(recomputed), weights(trained), rtol=0, atol=1e-6)


def test_sync_layers_learn_a_grid_by_heart(model, texts):
    """The frozen base is random; what lies between its blocks can still bring the loss down."""
    preset = replace(PRESET, steps=60, pseudo_steps=0, lr=2e-2, batch=1, parts=1, drop_text=0.0)
    grid = make_frames(preset, 1, 0, 0)
    losses = [step.loss for step in train_wan(model, preset, texts, frames=lambda *_: grid)]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_the_loss_is_the_models_on_latents_with_its_texts(model, texts):
    preset = replace(PRESET, batch=4, parts=1)
    batch = make_batch(preset, partial(make_frames, preset), model.latent_shape((32, 48)), 5.0, 0, 0)
    assert batch.silent.any() and not batch.silent.all()
    freeze, dynamic, empty = texts
    rows = [(empty, empty) if silent else (freeze, dynamic) for silent in batch.silent]
    text = Contexts(*(torch.stack(column) for column in zip(*rows, strict=True)))
    clean = model.encode(batch.frames)
    predicted = model.velocity_grid(add_noise(clean, batch.eps, batch.sigma), batch.sigma, clean, text)
    expected = (predicted - (batch.eps - clean))[:, 1:, 1:].square().mean()
    assert_close(batch_loss(model, batch, texts), expected)


def test_batches_are_functions_of_their_numbers(model):
    frames, latent = partial(make_frames, PRESET), model.latent_shape((32, 48))
    a, b, c, d = (make_batch(PRESET, frames, latent, 5.0, *numbers) for numbers in ((0, 0), (0, 0), (0, 1), (1, 0)))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    for other in (c, d):
        assert not torch.equal(a.frames, other.frames) and not torch.equal(a.eps, other.eps)


def test_first_flat_grids_of_fixed_view_videos_then_true_ones(tmp_path):
    """The frames of a flat grid's first row are the video's; its other rows move in another way in every part."""
    write_video(torch.rand(1, 3, 32, 48, generator=seeded(0, 0)).expand(3, -1, -1, -1), tmp_path / "still.mp4")
    preset = replace(PRESET, videos=str(tmp_path))
    one, other, true = (make_frames(preset, 1, number, part) for number, part in ((1, 0), (1, 1), (2, 0)))
    assert one.shape == true.shape == (1, 2, 3, 3, 32, 48)
    assert_close(one[:, 0], other[:, 0])
    assert (one[:, 1] - other[:, 1]).abs().mean() > 0.05 and (one[:, 0, 0] - one[:, 0, 2]).abs().max() < 1e-5
    assert_close(true, make_frames(replace(PRESET, pseudo_steps=0), 1, 2, 0))
    refused(lambda: make_frames(replace(preset, videos=str(tmp_path / "none")), 1, 0, 0), tmp_path / "none")


def test_true_grids_come_out_of_shards(tmp_path):
    members = sample("000000", sample_scenes(1, 4, 6, (32, 48), 5, "creature", geometry=False))
    write_tar(tmp_path / "000000.tar", [(FAILURES, b"[]"), *members])
    preset = replace(PRESET, shards=str(tmp_path))
    stored = partial(grids, Shards(tmp_path), 1)
    assert_close(make_frames(preset, 1, 2, 1), stored(2, 3, (32, 48), 2, 1, 2, preset.seed))
    flat = make_frames(preset, 1, 0, 0)
    assert_close(flat[:, 0], stored(1, 3, (32, 48), 0, 0, 2, preset.seed)[:, 0], rtol=0, atol=1e-4)


def test_the_rate_rises_and_falls_in_both_phases():
    preset = WanPreset()
    rates = [learning_rate(preset, n) for n in (0, 999, 19_999, 20_000, 20_599, 22_999)]
    assert rates[1] == pytest.approx(1e-4) and rates[4] == pytest.approx(1e-4)
    assert max(rates[0], rates[2], rates[3], rates[5]) < 1e-6


def test_from_videos_to_weights_to_a_grid(wan_folder, tmp_path, capsys):
    """Both commands, end to end."""
    torch.manual_seed(0)
    clip = torch.rand(1, 3, 32, 48).expand(6, -1, -1, -1)
    for name in ("a", "b"):
        write_video(clip, tmp_path / "videos" / f"{name}.mp4")
    settings = replace(PRESET, steps=2, pseudo_steps=2, videos=str(tmp_path / "videos"), prompt="frozen camera")
    TrainWan(str(wan_folder), tmp_path / "run", settings).run()
    sync = tmp_path / "run" / "sync.safetensors"
    assert {name.split(".")[0] for name in load_file(sync)} == {"0", "1"}
    a, b = (tmp_path / "videos" / f"{name}.mp4" for name in ("a", "b"))
    GenerateWan(a, b, sync, str(wan_folder), "camera", steps=1, guidance=2.0, out=tmp_path / "out").run()
    found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png")}
    assert found == {"grid.png", *(f"frames/view_{v}/{t:04d}.png" for v in range(2) for t in range(3))}
    assert (tmp_path / "out" / "grid.html").exists()
    assert re.search(says(3, 6), capsys.readouterr().out)  # frames of the video, as many as were trained


def test_without_sync_layers_the_streams_meet_by_eq_13(wan_folder, tmp_path):
    write_video(torch.full((3, 3, 32, 48), 0.5), tmp_path / "a.mp4")
    GenerateWan(*[tmp_path / "a.mp4"] * 2, model=str(wan_folder), size=(16, 32), steps=1, out=tmp_path / "out").run()
    assert (tmp_path / "out" / "frames" / "view_2").exists()


def test_bad_presets_get_one_sentence():
    refused(lambda: replace(PRESET, views=1), "views", 1)
    refused(lambda: replace(PRESET, batch=3), "batch", 3)


def test_what_cannot_run_is_said_before(model, texts, tmp_path):
    refused(lambda: next(train_wan(model, PRESET, texts, scale=Scale(compile=True))), "compile")
    refused(lambda: next(train_wan(model, replace(PRESET, image_size=(30, 48)), texts)), "image_size", (30, 48))
    a = tmp_path / "a.mp4"
    write_video(torch.full((3, 3, 32, 48), 0.5), a)
    refused(GenerateWan(a, a, steps=0).run, "--steps", 0)
    refused(GenerateWan(a, tmp_path / "b.mp4").run, "--freeze-time", "b.mp4")
    refused(GenerateWan(a, a, tmp_path / "sync.safetensors").run, "--sync", "sync.safetensors")
    for scale, said in ((Scale(compile=True), "compile"), (Scale(shard=True), "shard")):  # before anything is read
        refused(TrainWan(str(tmp_path / "nowhere"), tmp_path, PRESET, scale).run, said)


def test_prompts_are_left_out_as_often_as_the_preset_says():
    few = replace(PRESET, drop_text=0.1, batch=100, parts=1)
    frames = lambda n, *_: torch.zeros(n, few.views, few.times, 3, *few.image_size)  # noqa: E731
    silent = torch.cat([make_batch(few, frames, (1, 1, 1), 1.0, number, 0).silent for number in range(5)])
    assert 0.05 < silent.float().mean() < 0.16
    for share, expected in ((0.0, False), (1.0, True)):
        batch = make_batch(replace(few, drop_text=share), frames, (1, 1, 1), 1.0, 0, 0)
        assert (batch.silent == expected).all()
