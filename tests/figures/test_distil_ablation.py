"""The programs of distillation: from start to end with the smallest model; what their numbers mean."""

import json

import pytest
from refused import refused
from torch.testing import assert_close

from figures import distil_ablation
from figures.distil import EvaluateDistil
from figures.distil_ablation import (
    ARMS,
    BOTH,
    QUESTIONS,
    AblateDistil,
    judged,
    recorded,
)
from fourd_minimal.anchor_loss import ssim
from fourd_minimal.data.video import write_video
from fourd_minimal.pretrained.perceptual import Perceptual
from fourd_minimal.systems.four_diffusion import FourDM
from fourd_minimal.training.multiview_evaluation import PASTE


def squared(a, b):
    return (a - b).square().mean((1, 2, 3))


@pytest.fixture(autouse=True)
def a_distance(monkeypatch):
    """In place of LPIPS, whose packages are large."""
    monkeypatch.setattr(distil_ablation, "lpips_vgg", lambda *_, **__: Perceptual(squared, "a stand-in"))


def test_every_way_is_scored_and_a_second_run_reads_what_the_first_made(weights, tmp_path, capsys):
    given = dict(preset="smoke", weights=str(weights), scenes=2, runs=tmp_path / "runs", out=tmp_path / "out")
    AblateDistil(seeds=(0,), **given).run()
    stamps = {f: f.stat().st_mtime_ns for f in (tmp_path / "runs").iterdir()}
    assert len(stamps) == 2 * len(ARMS)
    AblateDistil(seeds=(0, 1), **given).run()
    assert all(f.stat().st_mtime_ns == stamp for f, stamp in stamps.items())
    said = capsys.readouterr().out
    assert "a stand-in" in said and all(f"| {name} |" in said for name in (PASTE, *ARMS, *QUESTIONS))
    results = json.loads((tmp_path / "out" / "distil_ablation.json").read_text())
    assert [r["seed"] for r in results if r["arm"] == BOTH] == [0, 1]
    assert (tmp_path / "out" / "distil_ablation.png").exists()
    other = AblateDistil(seeds=(0,), **given | dict(anchor=0.5))
    refused(other.run, "--runs", "0_0_fit_of_4___anchor.safetensors")


def test_errors_are_those_of_the_pixels(weights):
    """Pooled by hand, for one creature and what is wrong with it by a known amount."""
    _, truth = recorded(FourDM.from_pretrained(weights), 3)
    truth = truth[None] * 0.8
    found = judged("darker", truth - 0.1 * (truth > 0.1), truth, 0, 0.0, squared)
    off = 0.1 * (truth > 0.1)
    assert_close(found.error("all"), off.square().mean().item())
    assert_close(found.error("perceptual"), 4 * off.square().mean().item())
    unlike = 1 - ssim((truth - off).flatten(0, 2), truth.flatten(0, 2)).mean().item()
    assert_close(found.error("ssim"), unlike, atol=1e-5, rtol=1e-4)
    same = judged("the same", truth, truth, 0, 0.0, squared)
    assert {name: same.error(name) for name in same.errors} == pytest.approx(dict.fromkeys(same.errors, 0), abs=1e-6)


def test_scenes_are_shown_beside_the_truth_where_there_is_one(weights, tmp_path, capsys):
    write_video(recorded(FourDM.from_pretrained(weights), 5)[0][0, :2], tmp_path / "video")  # shorter than the model's
    EvaluateDistil("smoke", str(weights), (0,), (), (tmp_path / "video",), out=tmp_path).run()
    table = (tmp_path / "distil.md").read_text()
    assert table.count("creature 0") == 3 and "| video |" not in table and PASTE in capsys.readouterr().out
    assert (tmp_path / "distil.png").exists() and (tmp_path / "distil.gif").exists()


def test_bad_input_is_one_sentence(tmp_path):
    refused(lambda: AblateDistil("tiny").run(), "--preset", "tiny")
    refused(lambda: AblateDistil(scenes=1).run(), "--scenes", 1)
    refused(lambda: EvaluateDistil("smoke", creatures=(), out=tmp_path).run(), "--creatures")
