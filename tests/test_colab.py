"""Every notebook opens in Colab: a badge under its title, and a first cell that fetches what the notebook needs.

Where the repository lives is said once, in pyproject.toml. After a change, `python tests/test_colab.py` writes badges
and first cells anew.
"""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest
import torch
from pages import NOTEBOOKS, ROOT

ADDRESS = re.search(r'^Repository = "(.+?)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
BADGE = re.compile(r"^\[!\[Open in Colab\].*\n\n?", re.MULTILINE)

CELL = """\
import sys
from importlib.util import find_spec

# In Colab: this repository, installed beside Colab's own torch. Elsewhere this cell does nothing.
if "google.colab" in sys.modules and find_spec("fourd_minimal") is None:
    from google.colab import output

    !git clone --quiet --depth 1 {address} fourd_minimal
    !pip install --quiet --editable fourd_minimal torch==$(python -c "import torch; print(torch.__version__)")
    sys.path.insert(0, "../../fourd_minimal")
    %cd -q fourd_minimal/notebooks
    output.enable_custom_widget_manager()"""


def badge(notebook: Path, pictures: str) -> str:
    host, at = "https://colab.research.google.com/github", ADDRESS.removeprefix("https://github.com")
    link = f"{host}{at}/blob/main/notebooks/{notebook.name}"
    return f"[![Open in Colab]({pictures}/open_in_colab.svg)]({link})"


def first_cell() -> str:
    return CELL.format(address=ADDRESS)


def is_first_cell(cell: nbformat.NotebookNode) -> bool:
    return cell.cell_type == "code" and "colab" in cell.metadata.get("tags", ())


def write(notebook: Path) -> None:
    """Puts badge and first cell in their places, new or again."""
    book = nbformat.read(notebook, as_version=4)
    title, rest = BADGE.sub("", book.cells[0].source).split("\n", 1)
    book.cells[0].source = f"{title}\n\n{badge(notebook, '../figures')}\n\n{rest.lstrip()}"
    if not any(map(is_first_cell, book.cells)):
        place = next(i for i, cell in enumerate(book.cells) if cell.cell_type == "code")
        book.cells.insert(place, nbformat.v4.new_code_cell(metadata={"tags": ["colab"]}))
    next(filter(is_first_cell, book.cells)).source = first_cell()
    nbformat.write(book, notebook)


each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)


@each_notebook
def test_badge_and_first_cell_know_where_the_repository_lives(notebook):
    cells = nbformat.read(notebook, as_version=4).cells
    first = next(cell for cell in cells if cell.cell_type == "code")
    anew = "run `python tests/test_colab.py`"
    assert badge(notebook, "../figures") in cells[0].source and first.source == first_cell(), anew


@pytest.mark.skipif(find_spec("IPython") is None, reason="needs IPython: pip install -e '.[notebooks]'")
@pytest.mark.parametrize("colab", [True, False])
def test_the_first_cell_fetches_and_keeps_torch_in_colab_and_does_nothing_elsewhere(colab, tmp_path):
    """Colab is a module here, git and pip are scripts that write down how they are called."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool, does in (("git", 'mkdir -p "${@: -1}/notebooks" "${@: -1}/fourd_minimal"'), ("pip", ":")):
        (tools / tool).write_text(f'#!/bin/bash\necho "{tool} $@" >> {tmp_path}/called\n{does}\n')
        (tools / tool).chmod(0o755)
    colab_is = """
import pathlib, sys, types
sys.path = [place for place in sys.path if not pathlib.Path(place, "fourd_minimal/training").is_dir()]  # not installed
output = types.SimpleNamespace(enable_custom_widget_manager=lambda: print("widgets"))
sys.modules["google"] = types.ModuleType("google")
sys.modules["google.colab"] = types.SimpleNamespace(output=output)
"""
    then = """
import os
print(os.getcwd())
import fourd_minimal
print(fourd_minimal.__path__)
"""
    script = tmp_path / "cell.ipy"
    script.write_text((colab_is if colab else "") + first_cell() + (then if colab else ""))
    paths = {
        "PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "IPYTHONDIR": str(tmp_path / "ipython"),
    }
    command = [sys.executable, "-m", "IPython", "--no-banner", "--quick", str(script)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=os.environ | paths)
    assert run.returncode == 0, run.stderr
    if not colab:
        assert not (tmp_path / "called").exists() and run.stdout.strip() == ""
        return
    cloned, installed = (tmp_path / "called").read_text().splitlines()
    assert cloned == f"git clone --quiet --depth 1 {ADDRESS} fourd_minimal"
    assert installed == f"pip install --quiet --editable fourd_minimal torch=={torch.__version__}"
    assert "widgets" in run.stdout and f"{tmp_path}/fourd_minimal/notebooks" in run.stdout


if __name__ == "__main__":
    for notebook in NOTEBOOKS:
        write(notebook)
