"""Which pages readers read, and what these say."""

import json
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "figures").rglob("*.md"))]
PAGES += [*sorted((ROOT / "notebooks").glob("*.md")), *NOTEBOOKS]


@cache
def cells(notebook: Path) -> tuple[tuple[str, str], ...]:
    """Kind and source of every cell."""
    found = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return tuple((cell["cell_type"], "".join(cell["source"])) for cell in found)


def text_of(page: Path, kind: str = "markdown") -> str:
    """A page's text; of a notebook, its Markdown or its code."""
    if page.suffix != ".ipynb":
        return page.read_text(encoding="utf-8")
    return "\n\n".join(source for of, source in cells(page) if of == kind)
