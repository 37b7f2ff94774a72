"""What is read holds: links lead somewhere, the code that a page names is there, words are spelt right."""

import ast
import re
import subprocess
import sys

import pytest
from pages import PAGES, ROOT, text_of

PLACE = re.compile(r"\]\((?P<link>[\w./]+\.py)\) `(?P<symbol>[\w.]+)`")
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def without_fences(text):
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)


def defines(file, symbol):
    """Whether a class, function, method, field or variable has this dotted name."""
    body = ast.parse(file.read_text(encoding="utf-8")).body
    for name in symbol.split("."):
        for node in body:
            targets = getattr(node, "targets", [getattr(node, "target", None)])
            names = {n.id for target in targets if target for n in ast.walk(target) if isinstance(n, ast.Name)}
            if name in names | {getattr(node, "name", None)}:
                body = getattr(node, "body", [])
                break
        else:
            return False
    return True


@pytest.mark.parametrize("page", ["equations", "conventions"])
def test_the_code_that_a_page_names_is_there(page):
    page = ROOT / f"notebooks/{page}.md"
    places = [(page.parent / place["link"], place["symbol"]) for place in PLACE.finditer(text_of(page))]
    assert places
    assert [f"{file.name}: {symbol}" for file, symbol in places if not defines(file, symbol)] == []


def anchors(page):
    """As code-hosting pages make them of a page's headings, and Jupyter of a notebook's."""
    headings = re.findall(r"^#+ +(.+?) *$", without_fences(text_of(page)), re.MULTILINE)
    if page.suffix == ".ipynb":
        return {re.sub(r"\s", "-", heading) for heading in headings}
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def leads(page, link):
    """Whether a relative link has an end: a file of the repository, and a heading of it."""
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.exists() or not target.is_relative_to(ROOT):
        return False
    return not anchor or target.suffix not in (".md", ".ipynb") or anchor in anchors(target)


@each_page
def test_relative_links_lead_somewhere(page):
    text = re.sub(r"`[^`\n]*`", "``", without_fences(text_of(page)))
    links = re.findall(r"\]\((?!\w+:)<?([^)\s>]+)", text) + re.findall(r"(?:src|href)=\"(?!\w+:)([^\"]+)", text)
    assert [link for link in links if not leads(page, link)] == []


@each_page
def test_pictures_have_words_for_those_who_cannot_see_them(page):
    found = re.findall(r"!\[([^\]]*)\]\(", text_of(page))
    found += [(re.findall(r'alt="([^"]*)"', tag) or [""])[0] for tag in re.findall(r"<img\b[^>]*>", text_of(page))]
    assert all(words.strip() for words in found)


def test_words_are_spelt_right(tmp_path):
    pytest.importorskip("codespell_lib", reason="codespell is not installed")
    sources = [*(ROOT / "fourd_minimal").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    for file in [*PAGES, *sources]:
        copy = tmp_path / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(text_of(file) + (text_of(file, "code") if file.suffix == ".ipynb" else ""), encoding="utf-8")
    run = subprocess.run([sys.executable, "-m", "codespell_lib", "."], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
