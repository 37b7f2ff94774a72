"""The baselines: a budget becomes steps, what is finished is not made again, errors mean what they say, one table."""

import json
import math

import pytest
import torch
from refused import refused

from figures import baselines, baselines_runs
from figures.baselines import Baselines, decibels, frechet, interval, pooled, scored
from figures.baselines_runs import METHODS, Comparison, Made, Method, Priors, Result, steps_within
from fourd_minimal.metrics import frechet_distance
from fourd_minimal.pretrained.toy_features import ToyFeatures
from fourd_minimal.training.evaluation import psnr


@pytest.fixture(scope="module")
def features():
    return ToyFeatures.from_pretrained("toy")


def result(task, method, scene, views, seconds=1.0, steps=3, seed=0):
    return Result(Made(task, method, scene.name, seed, steps), views, seconds)


@pytest.fixture
def runs(tmp_path):
    return Comparison(Priors(preset="smoke"), tmp_path, scenes=2)


def test_a_budget_becomes_the_steps_that_fit(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(baselines_runs, "clock", lambda: clock[0])

    asked = []

    def run(n):  # 3 s before the first step, then half a second each
        asked.append(n)
        clock[0] += 3 + 0.5 * n

    assert steps_within(23, run, 1000) == 40 and asked == [8, 8, 24]  # the first one warms up
    assert steps_within(303, run, 1000) == 600 and asked[3:] == [8, 8, 24, 72, 216]
    assert steps_within(23, run, 30) == 30
    assert steps_within(1, run, 1000) == 8  # never none
    assert steps_within(1000, run, 5) == 5 and asked[-1] == 5


def test_scenes_are_held_out_and_ask_only_what_was_not_given(runs):
    videos, grids = runs.held_out("video"), runs.held_out("grid")
    assert [e.group for e in grids] == ["simple", "simple", "hard", "hard"] and len(videos) == 2
    video, grid = videos[0], grids[0]
    assert video.asked.all() and not torch.equal(video.given[0], video.truth[0])
    assert not grid.asked[0].any() and not grid.asked[:, 0].any() and grid.asked[1:, 1:].all()
    assert not grid.counted[0].any() and not grid.counted[:, 0].any()
    torch.testing.assert_close(grid.given[0], grid.truth[0])
    torch.testing.assert_close(grid.given[1], grid.truth[:, 0])


def test_the_numbers_are_those_of_the_other_tables(runs, features):
    scene = runs.held_out("grid")[0]
    made = baselines_runs.TRIVIAL["sum of differences"](scene.truth[None])[0]
    found = scored(result("grid", "x", scene, made), scene, features, None)
    for name, pixels in (("all", None), ("object", scene.counted[None])):
        expected = psnr(made[None], scene.truth[None], pixels)
        assert math.isclose(-10 * math.log10(pooled([found], name)), expected, abs_tol=1e-3)
    perfect = scored(
        result("grid", "x", scene, scene.truth), scene, features, lambda a, b: (a - b).abs().mean((1, 2, 3))
    )
    assert all(abs(error) < 1e-3 for error, _ in perfect.sums.values())
    still = scored(result("grid", "x", scene, scene.truth[:, :1].expand_as(scene.truth)), scene, features, None)
    assert pooled([still], "change") > 0  # a frozen grid does not change as the truth does


def test_intervals_hold_the_middle_and_want_several_scenes(runs, features):
    found = []
    for i, scene in enumerate(runs.held_out("grid")):
        generator = torch.Generator().manual_seed(i)
        noisy = (scene.truth + 0.1 * (i + 1) * torch.randn(scene.truth.shape, generator=generator)).clamp(0, 1)
        found.append(scored(result("grid", "x", scene, noisy), scene, features, None))
    low, high = interval(found, "all")
    assert low < pooled(found, "all") < high
    assert "to" in decibels(found, "all") and "to" not in decibels(found[:1], "all")
    value, half = frechet(found).split(" ± ")
    expected = frechet_distance(torch.cat([s.made for s in found]), torch.cat([s.truth for s in found]))
    assert math.isclose(float(value), expected, abs_tol=0.006) and float(half) > 0
    assert frechet(found[:1]) == ""


@pytest.fixture
def small(monkeypatch):
    """Two methods: one that needs no model, and one that counts how often it was asked."""
    asked = []

    def make(priors, scene, n, seed):
        asked.append((scene.name, n, seed))
        return (scene.truth + 0.1 * seed).clamp(0, 1) * 0.9

    own = {baselines.OWN["grid"]: Method(make, most=5), "copy row": METHODS["grid"]["copy row"]}
    monkeypatch.setitem(METHODS, "grid", own)
    return asked


def test_the_same_line_again_makes_nothing_anew_and_writes_the_same(small, tmp_path, capsys):
    line = Baselines(preset="smoke", scenes=2, video_seconds=0, grid_seconds=0.01, runs=tmp_path / "runs", out=tmp_path)
    line.run()
    times = len(small)
    assert {"baselines.md", "baselines.json", "baselines_grid.png"} <= {path.name for path in tmp_path.iterdir()}
    first = (tmp_path / "baselines.md").read_text()
    line.run()
    assert len(small) == times and (tmp_path / "baselines.md").read_text() == first
    assert "copy row" in first and "Frechet distance, toy features" in first
    numbers = json.loads((tmp_path / "baselines.json").read_text())
    assert len(numbers) == 8 and all(n["steps"] == 5 for n in numbers if n["method"] == baselines.OWN["grid"])


def test_one_missing_scene_is_made_and_no_other_and_other_settings_want_another_folder(small, tmp_path):
    options = dict(preset="smoke", scenes=2, video_seconds=0, grid_seconds=0.01, runs=tmp_path)
    Baselines(**options).run()
    times = len(small)
    next(tmp_path.glob("grid_4Real*hard_1_0.safetensors")).unlink()
    Baselines(**options).run()
    assert len(small) == times + 1 and small[-1][0] == "hard 1"
    refused(Baselines(**options | dict(preset="cpu")).run, "--runs", "preset")
    refused(Baselines(**options | dict(grid_seconds=0.02)).run, "--runs", 0.01)


def test_what_was_given_is_known_to_every_method(small, tmp_path):
    runs = Comparison(Priors(preset="smoke"), tmp_path, scenes=2, seconds=(("grid", 0.01),))
    scenes = {scene.name: scene for scene in runs.held_out("grid")}
    for found in runs.run():
        scene = scenes[found.made.scene]
        assert torch.equal(found.views[~scene.asked], scene.truth[~scene.asked])
        assert not torch.equal(found.views[scene.asked], scene.truth[scene.asked])


def test_what_makes_no_sense_is_refused(tmp_path):
    refused(Baselines(scenes=1).run, "--scenes", 1)
    refused(Baselines(preset="foo").run, "--preset", "foo")
    refused(Baselines(methods=("copy", "nonsense")).run, "--methods", "nonsense")
    refused(Baselines(methods=("copy rows",)).run, "--methods", "copy rows", "copy row")
    refused(Baselines(seeds=()).run, "--seeds", ())
    refused(Baselines(video_seconds=0, grid_seconds=0).run, "--video-seconds", 0)
    refused(Baselines(video_seconds=-1).run, "--video-seconds", -1)


@pytest.mark.parametrize("task", ["video", "grid"])
def test_every_method_makes_pictures(task, runs):
    scene = runs.held_out(task)[0]
    for name, method in METHODS[task].items():
        if name != baselines_runs.FOUR_DIFFUSION:  # its anchor wants lpips
            views = runs.make(method, scene, (3 if task == "video" else 2) if method.steps is None else method.steps, 0)
            assert views.shape == scene.truth.shape and views.isfinite().all(), name
            assert views.min() >= 0 and views.max() <= 1, name
