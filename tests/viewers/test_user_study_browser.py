"""The user study as an evaluator meets it: in JupyterLab, in Chromium, clicked to the end; then its file is read."""

import json
import re

import browser
import pytest

from fourd_minimal.viewers.user_study import LEFT, QUESTIONS, read_answers, summary

SUBJECTS = ("fox", "ball")
CELL = """
import torch
from fourd_minimal.viewers.user_study import UserStudy
shades = torch.linspace(0, 1, 3)[:, None, None, None].expand(3, 3, 8, 8)
UserStudy({subject: {"ours": shades, "theirs": 1 - shades} for subject in ("fox", "ball")}, "answers.csv")
"""


@pytest.fixture
def lab(tmp_path):
    """The address of a JupyterLab with one notebook in it."""
    pytest.importorskip("jupyterlab", reason="needs JupyterLab: pip install -e '.[notebooks]'")
    cell = dict(cell_type="code", id="study", metadata={}, execution_count=None, outputs=[], source=CELL.strip())
    kernel = dict(name="python3", display_name="Python 3", language="python")
    notebook = dict(cells=[cell], metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=5)
    (tmp_path / "work").mkdir()
    (tmp_path / "work/study.ipynb").write_text(json.dumps(notebook))
    with browser.lab(tmp_path) as address:
        yield address


@pytest.fixture
def page():
    """A page of a real browser; `page.errors` collects what went wrong in it."""
    pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    if not browser.CHROMIUM:
        pytest.skip("needs Chromium: no chromium, chromium-browser or google-chrome on the path")
    with browser.page() as page:
        yield page


def test_a_study_is_answered_by_clicks_and_its_file_is_read(page, lab, tmp_path):
    browser.open_notebook(page, lab, "study.ipynb")
    page.locator(".jp-CodeCell .cm-content").first.click()
    page.keyboard.press("Shift+Enter")
    study = page.locator(".jp-OutputArea-output .widget-vbox").first
    study.get_by_text(re.compile("2 to go")).wait_for()
    following = study.get_by_role("button", name="Next")
    for left_over in (2, 1):
        study.get_by_text(re.compile(f"{left_over} to go")).wait_for()
        shown = study.inner_text()
        assert sum(subject in shown for subject in SUBJECTS) == 1
        assert not re.search(r"\b(ours|theirs)\b", study.inner_html())
        sources = [study.locator("img").nth(i).get_attribute("src") for i in range(2)]
        assert len(set(sources)) == 2 and all(source.startswith("blob:") for source in sources)
        for number, question in enumerate(QUESTIONS.values()):
            page.wait_for_function("button => button.disabled", arg=following.element_handle())
            assert question in shown
            answers = study.locator(".widget-toggle-buttons").nth(number)
            answers.get_by_role("button", name=LEFT if left_over == 2 else "no difference", exact=True).click()
        page.wait_for_function("button => !button.disabled", arg=following.element_handle())
        following.click()
    study.get_by_text("That was all of them. Thank you.").wait_for()
    assert following.count() == 0
    answers = read_answers(tmp_path / "work/answers.csv")
    assert [a.question for a in answers] == 2 * list(QUESTIONS)
    assert {a.subject for a in answers} == set(SUBJECTS)
    first, second = answers[: len(QUESTIONS)], answers[len(QUESTIONS) :]
    assert all(a.winner == a.left for a in first) and all(a.winner is None for a in second)
    (pair, (one, two, junk, chance)) = next(iter(summary(answers, "motion").items()))
    assert pair == ("ours", "theirs") and {one, two} == {0, 1} and (junk, chance) == (1, 1.0)
    assert page.errors == []
