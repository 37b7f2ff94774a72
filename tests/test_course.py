"""The pages beside the notebooks hold: equations are where they say, links lead somewhere, words are spelt right.

Code that moves takes its line numbers along, notebooks their minutes: `python tests/test_course.py` writes both anew.
"""

import ast
import io
import re
import subprocess
import sys
import tokenize
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
from pages import BESIDE, NOTEBOOKS, PAGES, ROOT, programs, told

COURSE = ROOT / "notebooks"
SEEDS = ROOT.parent / "shared/seeds"
SOURCES = sorted((ROOT / "fourd_minimal").rglob("*.py"))


def numbered(kind, last):
    return {f"{kind} {number}" for number in range(1, last + 1)}


WANTED = {
    "4Real-Video": {
        *numbered("eq.", 13),
        *numbered("Fig.", 9),
        *numbered("Table", 2),
        *(
            "section 3",
            "section 3.1",
            "section 3.2.1",
            "section 3.2.2",
            "section 3.2.3",
            "section 3.2.4",
            "section 3.3",
        ),
        *("section 4.1", "section 4.2", "section 4.3", "section 4.4"),
        *("section 5", "section 6", "section 7", "section 8"),
    },
    "4Diffusion": {
        *numbered("eq.", 12),
        *numbered("Fig.", 13),
        *numbered("Table", 3),
        *("section 3.1", "section 3.2", "section 3.3", "section 4", "section 4.1", "section 4.2", "section 4.3"),
        *("section A.1", "section A.2", "section A.3"),
    },
}
"""What the papers number, and their sections that hold an idea. 4Diffusion's are those of arXiv 2405.20674v2; the text
of it beside the checkout is a page about it, with its figures and tables and without its equations."""

PLACE = re.compile(r"\[`(?P<shown>[\w./]+):(?P<line>\d+)`\]\((?P<link>[\w./]+)#L(?P<anchor>\d+)\) `(?P<symbol>[\w.]+)`")
HEADING = re.compile(r"\[\d\d\]\((?P<notebook>\w+\.ipynb)\) \*(?P<heading>[^*]+)\*")


def without_fences(text):
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)


def without_code(text):
    return re.sub(r"`[^`\n]*`", "``", without_fences(text))


@cache
def headings(file):
    return re.findall(r"^#+ +(.+?) *$", without_fences(told(file)), re.MULTILINE)


@cache
def definitions(file):
    """Line of every class, function, method, field and variable, by its dotted name."""
    lines = {}

    def walk(body, inside):
        for node in body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                lines[f"{inside}{node.name}"] = node.lineno
                if isinstance(node, ast.ClassDef):
                    walk(node.body, f"{inside}{node.name}.")
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    names = [n.id for n in ast.walk(target) if isinstance(n, ast.Name)]
                    lines.update({f"{inside}{name}": node.lineno for name in names})

    walk(ast.parse(file.read_text()).body, "")
    return lines


def line_of(place, page):
    file = page.parent / place["link"]
    return definitions(file).get(place["symbol"]) if file.is_file() and file.suffix == ".py" else None


def written_anew(page):
    """The page with the line numbers that its symbols have now."""

    def now(place):
        line = line_of(place, page)
        if line is None:
            return place[0]
        return f"[`{place['shown']}:{line}`]({place['link']}#L{line}) `{place['symbol']}`"

    return PLACE.sub(now, page.read_text())


def table(page, heading=None):
    """Rows of the tables below a heading, as lists of cells, without their heads."""
    text = page.read_text()
    if heading is not None:
        (text,) = (part for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:] if part.startswith(heading))
    rows = re.findall(r"^\| (.*) \|$", re.sub(r"^\|.*\|\n\|[-|: ]+\|$", "", text, flags=re.MULTILINE), re.MULTILINE)
    return [re.split(r" +\| +", row) for row in rows]


each_page = pytest.mark.parametrize("page", BESIDE, ids=lambda page: page.stem)
each_paper = pytest.mark.parametrize("paper", WANTED)


# The map


@each_paper
def test_the_map_has_a_row_for_everything_that_the_paper_numbers(paper):
    labels = [row[0] for row in table(COURSE / "equations.md", paper)]
    assert set(labels) == WANTED[paper] and len(labels) == len(set(labels))


@pytest.mark.skipif(not SEEDS.is_dir(), reason="the papers' texts lie outside the repository, in ../shared/seeds")
def test_what_the_papers_number_is_what_their_texts_hold():
    real = next(text for text in map(Path.read_text, SEEDS.glob("*.txt")) if text.startswith("Title: 4Real-Video"))
    found = {f"eq. {n}" for n in re.findall(r"[^\s\d]\((\d+)\)$", real, re.MULTILINE)}
    found |= {f"Fig. {n}" for n in re.findall(r"^Figure (\d+):", real, re.MULTILINE)}
    found |= {f"Table {n}" for n in re.findall(r"^Table (\d+):", real, re.MULTILINE)}
    sections = re.findall(r"^(?:#{3,4} )?(\d(?:\.\d)*) [A-Z].*", real.split("###### Abstract")[1], re.MULTILINE)
    introduce = {"1", "2", "3.2", "4"}  # they hold no idea of their own
    assert found | {f"section {n}" for n in sections if n not in introduce} == WANTED["4Real-Video"]

    about = next(text for text in map(Path.read_text, SEEDS.glob("*.txt")) if 'title: "4Diffusion' in text)
    pictures = {kind: len(set(re.findall(rf"/{kind}_(\d+_\d+)\.jpg", about))) for kind in ("figures", "tables")}
    wanted = {kind: sum(label.startswith(kind) for label in WANTED["4Diffusion"]) for kind in ("Fig.", "Table")}
    assert list(pictures.values()) == list(wanted.values())


@each_paper
def test_a_row_says_where_or_that_we_do_not_have_it(paper):
    for label, says, code, proof, notebook in table(COURSE / "equations.md", paper):
        assert says and (PLACE.search(code) or "not here" in code), f"{label}: its code, or 'not here' and why"
        assert not PLACE.search(code) or PLACE.search(proof), f"{label}: the test that proves it"
        assert HEADING.search(notebook) or notebook == "none", f"{label}: a notebook and its heading, or none"


@each_page
def test_code_is_where_the_page_says(page):
    wrong = []
    for place in PLACE.finditer(page.read_text()):
        line, said = line_of(place, page), {int(place["line"]), int(place["anchor"])}
        if line is None or not place["link"].endswith(place["shown"]):
            wrong.append(f"{place['link']} defines no `{place['symbol']}`: say in {page.name} where it went")
        elif said != {line}:
            wrong.append(f"`{place['symbol']}` is at {place['shown']}:{line}: run `python tests/test_course.py`")
    assert not wrong, "\n".join(wrong)
    assert page.read_text().count("#L") == len(PLACE.findall(page.read_text())), "a line without its symbol"


@each_page
def test_notebooks_have_the_headings_that_a_page_names(page):
    named = HEADING.findall(page.read_text())
    assert [(n, h) for n, h in named if not (COURSE / n).is_file() or h not in headings(COURSE / n)] == []


# The README's table of the course

MINUTES = re.compile(r"^(\| \[\d\d\]\((notebooks/\w+\.ipynb)\) \| .*? \| )([\d.]+)( \|)$", re.MULTILINE)


def minutes(notebook):
    """What a notebook's own table says of its run on a CPU."""
    return re.search(r"^\| time, minutes \| [\d.]+ \| ([\d.]+) \|", told(notebook), re.MULTILINE)[1]


def with_minutes(readme):
    return MINUTES.sub(lambda row: f"{row[1]}{minutes(ROOT / row[2])}{row[4]}", readme.read_text())


def test_the_readme_names_every_notebook_and_its_minutes():
    readme = ROOT / "README.md"
    assert [ROOT / row[1] for row in MINUTES.findall(readme.read_text())] == NOTEBOOKS
    assert with_minutes(readme) == readme.read_text(), "run `python tests/test_course.py`"


# The other pages


def test_a_term_is_in_the_notebook_that_explains_it_first():
    rows = table(COURSE / "glossary.md")
    terms = [row[0] for row in rows]
    assert terms == sorted(set(terms), key=str.lower)
    for term, _, symbols, _, notebook in rows:
        file = COURSE / re.search(r"\((\w+\.ipynb)\)", notebook)[1]
        text = re.sub(r"\(http[^)]*\)", "", told(file)) + programs(file)
        for symbol in re.findall(r"`([^`]+)`", symbols):
            found = re.search(rf"(?<!\w){re.escape(symbol)}(?!\w)", text)
            assert found, f"{term}: {file.name} has no `{symbol}`"
        where = [f for f in NOTEBOOKS if f < file and re.search(rf"\*\*{re.escape(term)}\b", told(f), re.IGNORECASE)]
        assert not where, f"{term} is in bold, which is to say explained, before {file.name}: in {where[0].name}"


def test_every_file_that_departs_from_its_paper_is_listed():
    departing = {file for file in SOURCES if "Departures" in (ast.get_docstring(ast.parse(file.read_text())) or "")}
    listed = {
        (COURSE / link).resolve() for link in re.findall(r"\((\.\./[\w/]+\.py)\)", told(COURSE / "departures.md"))
    }
    assert departing - listed == set()


# Links and words, of all that is read


READ = sorted({*ROOT.glob("*.md"), *PAGES})


def anchors(file):
    """As code-hosting pages make them of a page's headings, and Jupyter of a notebook's."""
    if file.suffix == ".ipynb":
        return {re.sub(r"\s", "-", heading) for heading in headings(file)}
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings(file)}


def leads(file, link):
    """Whether a relative link of a file has an end: a file in the repository, and a heading or line of it."""
    path, _, anchor = link.partition("#")
    target = (file.parent / path).resolve() if path else file
    if not target.exists() or not target.is_relative_to(ROOT):
        return False
    if target.suffix in (".md", ".ipynb"):
        return not anchor or anchor in anchors(target)
    return not re.fullmatch(r"L\d+", anchor) or int(anchor[1:]) <= target.read_text().count("\n")


@pytest.mark.parametrize("file", READ, ids=lambda file: str(file.relative_to(ROOT)))
def test_relative_links_lead_somewhere(file):
    text = without_code(told(file))
    links = re.findall(r"\]\((?!\w+:)<?([^)\s>]+)", text) + re.findall(r"(?:src|href)=\"(?!\w+:)([^\"]+)", text)
    assert [link for link in links if not leads(file, link)] == []


def remarks(file):
    """Docstrings and comments of a program, each on its own line."""
    text = file.read_text()
    lines, kept = text.split("\n"), [""] * (text.count("\n") + 1)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            kept[node.lineno - 1 : node.end_lineno] = lines[node.lineno - 1 : node.end_lineno]
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            kept[token.start[0] - 1] += token.string
    return "\n".join(kept)


@pytest.mark.skipif(find_spec("codespell_lib") is None, reason="codespell is not installed")
def test_words_are_spelt_right(tmp_path):
    sources = [*SOURCES, *sorted((ROOT / "tests").rglob("*.py"))]
    for file in [*READ, *sources]:
        copy = tmp_path / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        code = programs(file) if file.suffix == ".ipynb" else ""  # titles of pictures, checks that speak
        copy.write_text(remarks(file) if file in sources else told(file) + code)
    run = subprocess.run([sys.executable, "-m", "codespell_lib", "."], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr


if __name__ == "__main__":
    for page in BESIDE:
        page.write_text(written_anew(page))
    (ROOT / "README.md").write_text(with_minutes(ROOT / "README.md"))
