"""Every notebook keeps its form: what a reader is told, exercises with checks, outputs of one clean run."""

import json
import re
from functools import cache
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pytest
from pages import NOTEBOOKS, programs, told

SOLUTION = re.compile(r"<summary>Solution</summary>.*?```python\n(.*?)```.*?</details>", re.DOTALL)
QUESTION = re.compile(
    r"^\*\*(\d)\.\*\* .*?\S.*?<details><summary>Answer</summary>\s+\S.*?</details>", re.DOTALL | re.MULTILINE
)
HINT = re.compile(r"<details>\s*<summary>Hint</summary>.*?\S.*?</details>", re.DOTALL)


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
    """(starter, hint, check, solution) of every exercise, each as text; what is not in its place is an empty string."""
    found = cells(notebook)
    starts, checks = tagged(notebook, "exercise"), tagged(notebook, "check")
    assert len(starts) == len(checks), f"{len(starts)} exercises, {len(checks)} checks"
    for start, check, end in zip(starts, checks, [*starts[1:], len(found)], strict=True):
        assert start < check < end, "every exercise is followed by its own check"
        hint = "".join(c.source for c in found[start:check] if c.cell_type == "markdown")
        after = next((c.source for c in found[check:end] if c.cell_type == "markdown"), "")
        solution = SOLUTION.search(after)
        yield found[start].source, hint, found[check].source, solution.group(1) if solution else ""


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


def test_there_are_notebooks():
    assert NOTEBOOKS


# Exercises


@each_notebook
def test_a_notebook_has_an_exercise_with_hint_and_solution(notebook):
    found = list(exercises(notebook))
    assert found, "no cell is tagged 'exercise'"
    for starter, hint, check, solution in found:
        assert HINT.search(hint), "a folded hint stands between the starter and its check"
        assert "passed" in check
        assert solution and solution.strip() != starter.strip()


@each_exercise
def test_the_check_fails_on_the_starter(notebook, number, run, capsys):
    starter, _, check, _ = list(exercises(notebook))[number]
    assert run(setup(notebook), starter, check)["passed"] is False
    assert "✗ not yet" in capsys.readouterr().out


@each_exercise
def test_the_check_passes_on_the_solution(notebook, number, run, capsys):
    _, _, check, solution = list(exercises(notebook))[number]
    assert run(setup(notebook), solution, check)["passed"] is True
    assert "✓" in capsys.readouterr().out


# Form


@each_notebook
def test_it_opens_with_title_goal_and_run_times(notebook):
    first, *_ = cells(notebook)
    assert first.cell_type == "markdown"
    assert first.source.startswith(f"# {notebook.stem[:2]} · ")
    assert "**Goal.**" in first.source
    assert re.search(r"^\|\s*\|\s*smoke\s*\|\s*CPU\s*\|\s*GPU\s*\|$", first.source, re.MULTILINE)
    assert re.search(r"^\| time, minutes \|(.+\|){3}$", first.source, re.MULTILINE)
    assert re.search(r"^\| memory \|(.+\|){3}$", first.source, re.MULTILINE)


@each_notebook
def test_it_sets_up_once_and_first_of_all(notebook):
    """But for the cell that fetches the package in Colab, of which tests/test_colab.py knows more."""
    first, second, *_ = (i for i, c in enumerate(cells(notebook)) if c.cell_type == "code")
    assert (tagged(notebook, "colab"), tagged(notebook, "setup")) == ([first], [second])
    assert re.search(r"= start\(", setup(notebook)), "fourd_minimal.lab.notebook.start says what a result depends on"


@each_notebook
def test_it_asks_for_predictions_and_says_what_the_reader_should_see(notebook):
    text = told(notebook)
    assert text.count("**Predict first.**") >= 2 and text.count("**You should see**") >= 2


@each_notebook
def test_it_closes_with_what_is_toy_and_three_questions(notebook):
    assert "## What is faithful, what is toy, what changes at scale" in told(notebook)
    asked = told(notebook).split("\n## Three questions\n")
    assert len(asked) == 2, "a section 'Three questions', once"
    assert QUESTION.findall(asked[1]) == ["1", "2", "3"], "three, each with a folded answer"


@each_notebook
def test_its_colours_are_those_that_all_readers_tell_apart(notebook):
    code = programs(notebook)
    assert (
        re.findall(r"#[0-9A-Fa-f]{6}\b|\btab:\w+|\b(?:jet|rainbow|hsv|RdYlGn|nipy_spectral|tab10|tab20)\b", code) == []
    )
    named = re.findall(r"""\b(?:color|edgecolors?|facecolors?|fc|ec)=["']([a-z]+)["']""", code)
    assert set(named) <= {"black", "white", "k", "w", "none", "whitesmoke"}, "lab.notebook has colours for the rest"


@each_notebook
def test_no_placeholder_is_left(notebook):
    assert not re.findall(r"\b(?:SMOKE_MIN|CPU_MIN|MEM)\b|<!-- range -->", told(notebook))


@each_notebook
def test_its_code_cells_are_short(notebook):
    lengths = {i: c.source.count("\n") + 1 for i, c in enumerate(cells(notebook)) if c.cell_type == "code"}
    assert {i: n for i, n in lengths.items() if n > 25} == {}


# Outputs


def outputs(notebook):
    return [output for cell in cells(notebook) if cell.cell_type == "code" for output in cell.outputs]


@each_notebook
def test_its_outputs_come_from_one_clean_run_in_the_preset_cpu(notebook):
    code = [cell for cell in cells(notebook) if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert [output.get("name", output.output_type) for output in outputs(notebook)].count("stderr") == 0
    assert [output for output in outputs(notebook) if output.output_type == "error"] == []
    shown = [output.data for output in outputs(notebook) if output.output_type == "execute_result"]
    left_over = [data["text/plain"] for data in shown if set(data) == {"text/plain"}]
    assert [text for text in left_over if re.match(r"Text\(|\[?<", text)] == [], "end the cell with plt.show()"
    printed = "".join(output.text for output in code[1].outputs if output.output_type == "stream")
    assert "device cpu, preset cpu" in printed


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
