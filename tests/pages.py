"""Which pages readers read, and what these say, for the tests that look at words."""

import json
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
BESIDE = sorted((ROOT / "notebooks").glob("*.md"))
"""The pages beside the notebooks."""
PAGES = [ROOT / "README.md", *sorted((ROOT / "figures").rglob("*.md")), *BESIDE, *NOTEBOOKS]


@cache
def cells(notebook: Path) -> tuple[tuple[str, str], ...]:
    """Kind and source of every cell."""
    found = json.loads(notebook.read_text())["cells"]
    return tuple((cell["cell_type"], "".join(cell["source"])) for cell in found)


def told(page: Path) -> str:
    """A page's text; of a notebook, its Markdown."""
    if page.suffix != ".ipynb":
        return page.read_text()
    return "\n\n".join(source for kind, source in cells(page) if kind == "markdown")


def programs(notebook: Path) -> str:
    """A notebook's code, but for the cell that fetches the package in Colab."""
    return "\n\n".join(source for kind, source in cells(notebook) if kind == "code" and "google.colab" not in source)
