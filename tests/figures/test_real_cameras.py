"""A camera left out is predicted from the others only, and compared with what needs no fit."""

import json

import pytest
import torch

from figures import real_cameras
from figures.real_cameras import Cameras, fit_without, predict
from figures.recording import Recording
from fourd_minimal.data.procedural import HELD_OUT, sample_scenes


@pytest.fixture(scope="module")
def recording():
    record = sample_scenes(1, 4, 3, 20, HELD_OUT)
    return Recording(record.rgb[0], record.alpha[0], record.c2w[0], record.fov_deg)


def test_the_camera_left_out_is_never_looked_at(recording):
    changed = recording.rgb.clone()
    changed[1] = torch.rand(changed[1].shape)
    other = Recording(changed, recording.alpha, recording.c2w, recording.fov_deg)
    ours, theirs = (predict(fit_without(r, 1, n_steps=4), r, 1)[0] for r in (recording, other))
    assert (ours - theirs).abs().max() < 1e-4 and ours.shape == (3, 3, 20, 20)  # threads add up in any order
    assert (ours - predict(fit_without(other, 2, n_steps=4), other, 1)[0]).abs().max() > 1e-3


def test_the_table_and_the_picture(recording, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(real_cameras, "read_recording", lambda *_: recording)
    Cameras(tmp_path / "video", steps=2, out=tmp_path).run()
    table = (tmp_path / "real_cameras.md").read_text()
    assert table.strip() in capsys.readouterr().out
    assert all(name in table for name in ("nobody", "fitted scene", "(IoU)", "camera 4", "video"))
    scores, overlaps = json.loads((tmp_path / "real_cameras.json").read_text())
    assert len(scores["fitted scene"]) == len(overlaps) == 4 and all(0 <= o <= 1 for o in overlaps)
    assert (tmp_path / "real_cameras.png").exists()
