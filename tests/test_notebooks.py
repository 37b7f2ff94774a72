"""Every notebook: checks that fail on the starter and pass on the solution, outputs of one clean run, alt texts."""

import json
import re
from functools import cache
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pytest
from pages import NOTEBOOKS

SOLUTION = re.compile(r"<summary>Solution</summary>.*?```python\n(.*?)```.*?</details>", re.DOTALL)


@cache
def read(notebook):
    return nbformat.read(notebook, as_version=4)


def cells(notebook):
    return read(notebook).cells


def tagged(notebook, tag):
    """The positions of the code cells with this tag."""
    return [i for i, c in enumerate(cells(notebook)) if c.cell_type == "code" and tag in c.metadata.get("tags", ())]


def setup(notebook):
    (position,) = tagged(notebook, "setup")
    return cells(notebook)[position].source


def exercises(notebook):
    """(starter, check, solution) of every exercise."""
    found = cells(notebook)
    starts, checks = tagged(notebook, "exercise"), tagged(notebook, "check")
    for start, check, end in zip(starts, checks, [*starts[1:], len(found)], strict=True):
        assert start < check < end, "every exercise is followed by its own check"
        after = next(c.source for c in found[check:end] if c.cell_type == "markdown")
        yield found[start].source, found[check].source, SOLUTION.search(after)[1]


each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
each_exercise = pytest.mark.parametrize(
    ("notebook", "number"),
    [(notebook, i) for notebook in NOTEBOOKS for i in range(len(tagged(notebook, "exercise")))],
    ids=lambda value: value.stem if isinstance(value, Path) else f"exercise {value + 1}",
)


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs cells one after the other in one fresh namespace, away from the repository, without a screen."""
    monkeypatch.setenv("FOURD_PRESET", "smoke")
    monkeypatch.chdir(tmp_path)
    plt.switch_backend("agg")
    with plt.rc_context():

        def run(*sources):
            namespace = {"__name__": "__main__"}
            for source in sources:
                exec(compile(source, "<cell>", "exec"), namespace)
            return namespace

        yield run
        plt.close("all")


@each_exercise
def test_the_check_fails_on_the_starter_and_passes_on_the_solution(notebook, number, run):
    starter, check, solution = list(exercises(notebook))[number]
    assert run(setup(notebook), starter, check)["passed"] is False
    assert run(setup(notebook), solution, check)["passed"] is True


def outputs(notebook):
    return [output for cell in cells(notebook) if cell.cell_type == "code" for output in cell.outputs]


@each_notebook
def test_its_outputs_come_from_one_clean_run(notebook):
    code = [cell for cell in cells(notebook) if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert {output.get("name", output.output_type) for output in outputs(notebook)}.isdisjoint({"stderr", "error"})


@each_notebook
def test_it_is_small_and_knows_no_place_on_a_disk(notebook):
    assert notebook.stat().st_size < 1_500_000
    pictures = re.compile(r"[A-Za-z0-9+/=\\n]{400,}")  # base64
    text = pictures.sub("", json.dumps([cells(notebook)]))
    assert re.findall(r"(?<![\w.])/(?:home|root|tmp|usr|var|work|Users|mnt|content)/[\w./-]*|site-packages", text) == []


@each_notebook
def test_its_pictures_have_words_and_its_widgets_are_kept(notebook):
    kept = read(notebook).metadata.get("widgets", {})
    kept = kept.get("application/vnd.jupyter.widget-state+json", {}).get("state", {})
    for output in outputs(notebook):
        for kind, data in output.get("data", {}).items():
            if kind.startswith("image/"):
                assert output.metadata.get(kind, {}).get("alt"), "Image(..., alt=...), or a figure with titles"
            if kind == "application/vnd.jupyter.widget-view+json":
                assert data["model_id"] in kept, "run with widgets' state stored"
            if kind == "text/html":
                assert "<img" not in data or "alt=" in data
