"""Training the toy features: it resumes exactly, and learns what captions say."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from resuming import killed_and_resumed
from torch.testing import assert_close

from figures import train_features as feature_training
from figures.train_features import (
    CAMERA,
    FEATURES,
    LABELS,
    STILL,
    TrainFeatures,
    answers,
    batch_loss,
    make_batch,
    train_features,
    video,
    whitened,
)
from fourd_minimal.data.procedural import HELD_OUT
from fourd_minimal.pretrained.toy_features import ToyFeatures

SMOKE = FEATURES["smoke"]


def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    killed_and_resumed(partial(train_features, SMOKE), tmp_path)


@pytest.mark.parametrize(
    ("caption", "kind", "said"),
    [
        ("a red ball bouncing", "moves", ("ball", "red", "bouncing")),
        ("an orange box squashing", "moves", ("box", "orange", "squashing")),
        ("a colourful box bouncing and squashing", "moves", ("box", None, "bouncing and squashing")),
        ("a colourful ball squashing and sliding and tilting", "moves", ("ball", None, "sliding and tilting")),
        ("a colourful ball bouncing and squashing and sliding and tilting", "moves", ("ball", None, LABELS[2][1][3])),
        ("a cyan animal walking", CAMERA, ("animal", "cyan", CAMERA)),
        ("colourful objects on the ground", "moves", ("several", None, None)),
    ],
)
def test_captions_answer(caption, kind, said):
    assert tuple(answers(caption, kind).values()) == said


def test_videos_do_what_their_answer_says():
    config = SMOKE.model
    still, said = video(config, 3, "creature", STILL, 5)
    assert torch.equal(still[:, 0], still[:, -1]) and (said["motion"] == LABELS[2][1].index(STILL)).all()
    around, said = video(config, 3, "creature", CAMERA, 5)
    assert around.shape == still.shape and (around[:, 0] - around[:, -1]).abs().mean() > 0.01
    assert (said["motion"] == LABELS[2][1].index(CAMERA)).all() and (said["shape"] == 2).all()
    moving, said = video(config, 8, "plain", "moves", 5)
    assert (moving[:, 0] - moving[:, -1]).abs().mean() > 0.005
    assert (said["colour"] >= 0).all() and (said["motion"] < 3).all()


def test_training_seeds_and_held_out_seeds_never_meet(monkeypatch):
    used = []
    monkeypatch.setattr(
        feature_training, "video", lambda c, n, f, k, seed: used.append(seed) or video(c, n, f, k, seed)
    )
    for number in range(3):
        make_batch(SMOKE, number)
    assert max(used) < HELD_OUT
    used.clear()
    for number in range(3):
        make_batch(SMOKE, number, held_out=True)
    assert min(used) >= HELD_OUT


def test_questions_without_an_answer_do_not_count():
    torch.manual_seed(0)
    model, batch = ToyFeatures(SMOKE.model), make_batch(SMOKE, 0)
    unknown = torch.full_like(batch.answers["shape"], -1)
    none = batch._replace(answers={name: unknown for name, _ in LABELS})
    assert batch_loss(model, none) == 0
    only = none._replace(answers=none.answers | dict(motion=torch.zeros_like(unknown)))
    scores = model(batch.videos)[1]["motion"]
    assert_close(batch_loss(model, only), -scores.log_softmax(1)[:, 0].mean() / 5)  # of five terms, one is asked


def test_whitened_features_say_the_same():
    torch.manual_seed(0)
    model = ToyFeatures(SMOKE.model).requires_grad_(False)
    videos = make_batch(replace(SMOKE, groups=4, group=8), 0).videos
    before = model(videos)[1]
    found = whitened(model, videos).videos(videos)
    assert_close(found.mean(0), torch.zeros(4), atol=1e-3, rtol=0)
    assert_close(found.T.cov(), torch.eye(4), atol=1e-2, rtol=0)
    assert_close(model(videos)[1], before, atol=1e-4, rtol=1e-4)


def test_the_command_leaves_weights_and_says_how_good_they_are(tmp_path, capsys):
    TrainFeatures("smoke", tmp_path, SMOKE).run()
    assert "features.safetensors" in capsys.readouterr().out
    notes = ToyFeatures.from_pretrained(tmp_path).notes
    assert (
        notes["made_by"] == "python -m figures.train_features --preset smoke" and "chance" in notes["accuracy"]["shape"]
    )
