"""The study from the first click to the summary; its statistics against scipy."""

import pytest
import torch
from refused import refused
from scipy.optimize import minimize
from scipy.stats import binomtest

from figures.user_study import (
    JUNK,
    LEFT,
    QUESTIONS,
    RIGHT,
    Answer,
    UserStudy,
    binomial,
    bradley_terry,
    read_answers,
    summary,
    write_answers,
)


def videos(methods="abc", subjects=("fox", "ball")):
    return {s: {m: torch.rand(2, 3, 4, 4) for m in methods} for s in subjects}


def answered(study, choose):
    """Click through one pair; `choose(left, right)` is the answer to every question."""
    _, left, right = study.left_over[0]
    for button in study.buttons.values():
        assert study.next.disabled
        button.value = choose(left, right)
    assert not study.next.disabled
    study.next.click()


def test_every_pair_is_asked_once_on_sides_that_vary_and_nothing_names_a_method(tmp_path):
    path = tmp_path / "answers.csv"
    study = UserStudy(videos(), path)
    pairs = [(s, *sorted(sides)) for s, *sides in study.left_over]
    assert len(pairs) == len(set(pairs)) == 6
    assert len({left < right for _, left, right in study.left_over}) == 2
    answered(study, lambda left, right: LEFT if left < right else RIGHT)
    assert "a" not in study.heading.value.replace("<b>", "").split(":")[0].replace("ball", "")
    resumed = UserStudy(videos(), path)
    assert sorted(resumed.left_over) == sorted(study.left_over)
    while study.left_over:
        answered(study, lambda left, right: LEFT if left < right else RIGHT)
        study.next.click()  # the second click of a double click answers nothing
    assert "Thank you" in study.heading.value
    answers = read_answers(path)
    assert len(answers) == 6 * len(QUESTIONS) and {a.winner for a in answers} == {"a", "b"}
    assert summary(answers, "motion")["a", "c"] == (2, 0, 0, 0.5)


def test_junk_counts_for_neither_method():
    answers = [Answer("fox", "shape", "a", "b", x) for x in (LEFT, RIGHT, RIGHT, JUNK)]
    answers += [Answer("fox", "shape", "b", "a", LEFT), Answer("fox", "motion", "a", "b", LEFT)]
    assert summary(answers, "shape") == {("a", "b"): (1, 3, 1, binomial(1, 4))}


@pytest.mark.parametrize("wins, n", [(0, 1), (3, 10), (7, 7), (20, 31)])
def test_the_binomial_test_is_scipys(wins, n):
    assert binomial(wins, n) == pytest.approx(binomtest(wins, n).pvalue)


def test_strengths_are_those_that_make_the_answers_likeliest():
    wins = torch.tensor([[0.0, 7, 4], [3, 0, 6], [6, 2, 0]])

    def unlikely(logits):
        s = torch.tensor(logits).exp()
        return -(wins * (s[:, None] / (s[:, None] + s)).log()).sum().item()

    best = torch.tensor(minimize(unlikely, [0.0, 0.0, 0.0]).x).softmax(0)
    assert torch.allclose(bradley_terry(wins), best, atol=1e-4)


def test_bad_input_is_named(tmp_path):
    refused(lambda: UserStudy(videos("a", ["fox"]), tmp_path / "a.csv"), "videos['fox']", 1)
    bright = {"fox": {"a": torch.full((1, 3, 2, 2), 2.0), "b": torch.zeros(1, 3, 2, 2)}}
    refused(lambda: UserStudy(bright, tmp_path / "a.csv"), "videos['fox']['a']", 2)
    refused(lambda: bradley_terry(torch.tensor([[0.0, 3.0], [0.0, 0.0]])), "wins")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    refused(lambda: read_answers(tmp_path / "other.csv"), "other.csv", "a, b")
    write_answers([Answer("fox", "taste", "a", "b", LEFT)], tmp_path / "odd.csv")
    refused(lambda: read_answers(tmp_path / "odd.csv"), "odd.csv", 2, "taste", "left")
