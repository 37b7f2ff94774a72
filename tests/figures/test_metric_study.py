"""The study: its numbers are the metrics' own, its cells mean what the header says, and known blindness shows."""

import json

import pytest
import torch
from refused import refused
from torch.testing import assert_close

from figures import metric_study
from figures.metric_study import (
    ADJACENT,
    ALL,
    BEND,
    FRECHET,
    FRECHET_SAME,
    METRICS,
    PSNR,
    SECOND,
    SIMILAR,
    MetricStudy,
    judged,
    per_scene,
    scene,
    shown,
    video,
)
from figures.train_features import FEATURES
from fourd_minimal.data.corruptions import noise
from fourd_minimal.data.procedural import HELD_OUT
from fourd_minimal.metrics import clip_c, clip_i, psnr
from fourd_minimal.pretrained.perceptual import Perceptual
from fourd_minimal.pretrained.toy_features import ToyFeatures
from fourd_minimal.training.evaluation import flicker, reprojection_error


@pytest.fixture(scope="module")
def record():
    return video("creature", 3, 4, 5, 16, HELD_OUT)


@pytest.fixture(scope="module")
def features():
    torch.manual_seed(0)
    return ToyFeatures(FEATURES["smoke"].model).requires_grad_(False)


def corrupted(record, corruption, strength):
    return torch.stack([corruption(grid, strength) for grid in record.rgb])


def test_values_are_those_of_the_metrics_themselves(record, features):
    made = corrupted(record, noise, 0.1)
    distance = Perceptual(lambda a, b: (a - b).abs().mean((1, 2, 3)), "test")
    found = per_scene(made, record, features, distance)
    assert list(found) == [name for name in METRICS if name not in (FRECHET, FRECHET_SAME)]
    assert shown(PSNR, found[PSNR].mean().item()) == f"{psnr(made, record.rgb).pooled:.1f}"
    one, truth = made[1], record.rgb[1]
    assert found[SIMILAR][1].item() == pytest.approx(clip_i(one.flatten(0, 1), truth.flatten(0, 1), features.pictures))
    for name, pairs in {ADJACENT: "adjacent", ALL: "all"}.items():
        each = [clip_c(video, features.pictures, pairs) for video in one]
        assert found[name][1].item() == pytest.approx(sum(each) / 4, abs=1e-5)
    assert found["flicker"][1].item() == pytest.approx(flicker(made[1:2], scene(record, 1)))
    assert found["reprojection error"][2].item() == pytest.approx(reprojection_error(made[2:3], scene(record, 2)))
    bend, true = (x[:, 2:] - 2 * x[:, 1:-1] + x[:, :-2] for x in (one, truth))
    assert_close(found[BEND][1], bend.abs().mean())
    assert_close(found[SECOND][1], (bend - true).square().mean().sqrt())
    few = (made - record.rgb)[:, ::4, ::4]  # every fourth view at every fourth time
    assert_close(found["perceptual"], 2 * few.abs().flatten(1).mean(1))
    assert "perceptual" not in per_scene(made, record, features)


def test_a_cell_is_a_share_or_a_number_of_deviations():
    clean = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert judged(PSNR, torch.full((4,), 0.2), torch.zeros(4), torch.tensor([0.2, 0.4, 0.6, 0.4])) == (
        pytest.approx(0.5),
        0.0,
    )
    assert judged("SSIM", torch.full((4,), 0.9), torch.ones(4), torch.full((4,), 0.6))[0] == pytest.approx(0.25)
    up, margin = judged("flicker", clean + 2, clean, None)
    assert up == pytest.approx(2 / clean.std().item()) and margin == pytest.approx(0, abs=1e-6)
    assert judged(ADJACENT, clean + 2, clean, None)[0] == pytest.approx(-up)
    change = clean + torch.tensor([1.0, -1.0, 1.0, -1.0])
    _, of_scenes = judged("flicker", change, clean, None)
    _, of_halves = judged(FRECHET, change, clean, None)
    assert of_halves == pytest.approx(2 * of_scenes) and of_scenes > 0


def test_the_command_writes_its_report(tmp_path, capsys, features, monkeypatch):
    chosen = {name: metric_study.CORRUPTIONS[name] for name in ("blur", "swapped views")}
    monkeypatch.setattr(metric_study, "CORRUPTIONS", chosen)
    features.save_pretrained(tmp_path)
    command = dict(scenes=4, views=4, times=4, size=16, families=("simple",), perceptual=False)
    MetricStudy(str(tmp_path), **command, out=tmp_path / "out").run()
    assert FRECHET in capsys.readouterr().out
    assert {f.name for f in (tmp_path / "out").iterdir()} == {f"metric_study.{k}" for k in ("md", "json", "png")}
    found = json.loads((tmp_path / "out/metric_study.json").read_text())
    assert len(found) == 2 * 3 * (len(METRICS) - 1)
    assert all(
        c["cell"] == pytest.approx(0, abs=1e-4) for c in found if "Frechet" in c["metric"] and "view" in c["corruption"]
    )


def test_bad_input_is_named():
    for name, value in dict(families=("cube",), scenes=3, views=3, size=12).items():
        refused(MetricStudy(**{name: value}).run, f"--{name}", value if name != "families" else "cube")
