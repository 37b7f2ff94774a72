"""The race: a budget becomes steps, what is finished is not made again, errors mean what they say, one table."""

import json
import math

import pytest
import torch

from fourd_minimal.lab import rivals, rivals_table
from fourd_minimal.lab.evaluation import psnr
from fourd_minimal.lab.rivals import METHODS, Entry, Made, Method, Priors, Race, steps_within
from fourd_minimal.lab.rivals_table import Rivals, decibels, frechet, interval, pooled, scored
from fourd_minimal.metrics import frechet_distance
from fourd_minimal.systems.toy_features import ToyFeatures


@pytest.fixture(scope="module")
def features():
    return ToyFeatures.from_pretrained("toy")


def entry(task, method, exam, views, seconds=1.0, steps=3, seed=0):
    return Entry(Made(task, method, exam.name, seed, steps), views, seconds)


@pytest.fixture
def race(tmp_path):
    return Race(Priors(preset="smoke"), tmp_path, scenes=2)


def test_a_budget_becomes_the_steps_that_fit(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(rivals, "clock", lambda: clock[0])

    asked = []

    def run(n):  # 3 s before the first step, then half a second each
        asked.append(n)
        clock[0] += 3 + 0.5 * n

    assert steps_within(23, run, 1000) == 40 and asked == [8, 8, 24]  # the first one warms up
    assert steps_within(303, run, 1000) == 600 and asked[3:] == [8, 8, 24, 72, 216]
    assert steps_within(23, run, 30) == 30
    assert steps_within(1, run, 1000) == 8  # never none
    assert steps_within(1000, run, 5) == 5 and asked[-1] == 5


def test_a_method_that_fits_whole_takes_all_steps(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(rivals, "clock", lambda: clock[0])
    cold = [2.0]

    def run(n):
        clock[0] += 0.05 * n + (cold.pop() if cold else 0)

    assert steps_within(10, run, 32) == 32


def test_every_way_of_the_papers_is_in_the_table():
    assert rivals_table.OWN["film"] in METHODS["film"] and rivals_table.OWN["grid"] in METHODS["grid"]
    assert set(rivals_table.PAPER_DB) <= set(METHODS["film"])


def test_exams_are_held_out_and_ask_only_what_was_not_given(race):
    films, grids = race.exams("film"), race.exams("grid")
    assert [e.group for e in grids] == ["simple", "simple", "hard", "hard"] and len(films) == 2
    film, grid = films[0], grids[0]
    assert film.asked.all() and not torch.equal(film.given[0], film.truth[0])
    assert not grid.asked[0].any() and not grid.asked[:, 0].any() and grid.asked[1:, 1:].all()
    assert not grid.counted[0].any() and not grid.counted[:, 0].any()
    torch.testing.assert_close(grid.given[0], grid.truth[0])
    torch.testing.assert_close(grid.given[1], grid.truth[:, 0])


def test_the_numbers_are_those_of_the_other_tables(race, features):
    exam = race.exams("grid")[0]
    made = rivals.TRIVIAL["sum of differences"](exam.truth[None])[0]
    found = scored(entry("grid", "x", exam, made), exam, features, None)
    for name, pixels in (("all", None), ("object", exam.counted[None])):
        expected = psnr(made[None], exam.truth[None], pixels)
        assert math.isclose(-10 * math.log10(pooled([found], name)), expected, abs_tol=1e-3)
    perfect = scored(entry("grid", "x", exam, exam.truth), exam, features, lambda a, b: (a - b).abs().mean((1, 2, 3)))
    assert all(abs(error) < 1e-3 for error, _ in perfect.sums.values())
    still = scored(entry("grid", "x", exam, exam.truth[:, :1].expand_as(exam.truth)), exam, features, None)
    assert pooled([still], "change") > 0  # a frozen grid does not change as the truth does


def test_known_cells_do_not_count(race, features):
    exam = race.exams("grid")[0]
    spoilt = exam.truth.clone()
    spoilt[0], spoilt[:, 0] = 0, 1
    found = scored(entry("grid", "x", exam, spoilt), exam, features, None)
    assert all(found.sums[name][0] == 0 for name in ("all", "object"))


def test_intervals_hold_the_middle_and_want_several_scenes(race, features):
    found = []
    for i, exam in enumerate(race.exams("grid")):
        generator = torch.Generator().manual_seed(i)
        noisy = (exam.truth + 0.1 * (i + 1) * torch.randn(exam.truth.shape, generator=generator)).clamp(0, 1)
        found.append(scored(entry("grid", "x", exam, noisy), exam, features, None))
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

    def make(priors, exam, n, seed):
        asked.append((exam.name, n, seed))
        return (exam.truth + 0.1 * seed).clamp(0, 1) * 0.9

    own = {rivals_table.OWN["grid"]: Method(make, most=5), "copy row": METHODS["grid"]["copy row"]}
    monkeypatch.setitem(METHODS, "grid", own)
    return asked


def test_the_same_line_again_makes_nothing_anew_and_writes_the_same(small, tmp_path, capsys):
    line = Rivals(preset="smoke", scenes=2, film_seconds=0, grid_seconds=0.01, runs=tmp_path / "runs", out=tmp_path)
    line.run()
    times = len(small)
    assert {"rivals.md", "rivals.json", "rivals_grid.png"} <= {path.name for path in tmp_path.iterdir()}
    first = (tmp_path / "rivals.md").read_text()
    line.run()
    assert len(small) == times and (tmp_path / "rivals.md").read_text() == first
    assert "copy row" in first and "Frechet distance, toy features" in first
    numbers = json.loads((tmp_path / "rivals.json").read_text())
    assert len(numbers) == 8 and all(n["steps"] == 5 for n in numbers if n["method"] == rivals_table.OWN["grid"])


def test_one_missing_scene_is_made_and_no_other(small, tmp_path):
    line = Rivals(preset="smoke", scenes=2, film_seconds=0, grid_seconds=0.01, runs=tmp_path)
    line.run()
    times = len(small)
    next(tmp_path.glob("grid_4Real*hard_1_0.safetensors")).unlink()
    line.run()
    assert len(small) == times + 1 and small[-1][0] == "hard 1"


def test_other_settings_want_another_folder(small, tmp_path):
    options = dict(scenes=2, film_seconds=0, grid_seconds=0.01, runs=tmp_path)
    Rivals(preset="smoke", **options).run()
    with pytest.raises(ValueError, match=r"other settings \(preset\); another folder is wanted"):
        Rivals(preset="cpu", **options).run()


def test_some_methods_leave_the_other_task_out(small, tmp_path, capsys):
    Rivals(preset="smoke", scenes=2, methods=("copy row",), runs=tmp_path).run()  # no film's method is called so
    told = capsys.readouterr().out
    assert "copy row" in told and "A film becomes" not in told and not small
    with pytest.raises(ValueError, match=r"--methods has copy rows; parts of these are wanted: .*copy row"):
        Rivals(preset="smoke", methods=("copy rows",), runs=tmp_path).run()


def test_what_was_given_is_known_to_every_method(small, tmp_path):
    race = Race(Priors(preset="smoke"), tmp_path, scenes=2, seconds=(("grid", 0.01),))
    exams = {exam.name: exam for exam in race.exams("grid")}
    for found in race.run():
        exam = exams[found.made.exam]
        assert torch.equal(found.views[~exam.asked], exam.truth[~exam.asked])
        assert not torch.equal(found.views[exam.asked], exam.truth[exam.asked])


def test_two_clips_of_an_asset_are_two_exams():
    assert rivals._named("a/khronos_Fox.glb#Walk") == "khronos_Fox Walk"
    assert rivals._named("robot.glb") == "robot"


def test_another_budget_wants_another_folder(small, tmp_path):
    options = dict(preset="smoke", scenes=2, film_seconds=0, runs=tmp_path)
    Rivals(grid_seconds=0.01, **options).run()
    with pytest.raises(ValueError, match=r"0.01 seconds; another folder is wanted"):
        Rivals(grid_seconds=0.02, **options).run()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (dict(scenes=1), "--scenes is 1"),
        (dict(preset="foo"), "--preset is 'foo'; it must be one of"),
        (dict(methods=("copy", "nonsense")), "--methods has nonsense; parts of these"),
        (dict(seeds=()), "1 to 10 are wanted"),
        (dict(film_seconds=0, grid_seconds=0), "at least one above 0"),
        (dict(film_seconds=-1), "at least one above 0"),
    ],
)
def test_what_makes_no_sense_is_refused(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        Rivals(**given).run()


def test_a_film_is_raced_by_every_method_in_the_smoke_preset(tmp_path, monkeypatch):
    race = Race(Priors(preset="smoke"), tmp_path, scenes=2)
    exam = race.exams("film")[0]
    for name, method in METHODS["film"].items():
        if name != rivals.FOUR_DIFFUSION:  # its anchor wants lpips
            views = race._make(method, exam, method.steps or 8, 0)
            assert views.shape == exam.truth.shape and views.isfinite().all(), name
            assert views.min() >= 0 and views.max() <= 1, name


def test_a_grid_is_completed_by_every_method(tmp_path):
    race = Race(Priors(preset="smoke"), tmp_path, scenes=2)
    exam = race.exams("grid")[0]
    for name, method in METHODS["grid"].items():
        views = race._make(method, exam, 2 if method.steps is None else method.steps, 0)
        assert views.shape == exam.truth.shape and views.isfinite().all(), name
