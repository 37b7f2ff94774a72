"""Every figure is in the gallery, with what made it; every picture has words for those who cannot see it.

That the gallery's `fourd` commands are known to their program is in `test_readme.py`, which reads every page.
"""

import re
import shlex
from importlib.util import find_spec

import pytest
from pages import PAGES, ROOT, told

FIGURES = ROOT / "figures"
GALLERY = FIGURES / "README.md"
SECTIONS = [part for part in re.split(r"^##+ ", GALLERY.read_text(), flags=re.MULTILINE)[1:] if "\nmade by " in part]
FILES = [file for file in sorted(FIGURES.rglob("*")) if file.is_file()]
BY_HAND = GALLERY, FIGURES / "results.md"
TABLES = [file for file in sorted(FIGURES.glob("*.md")) if file not in BY_HAND]
PICTURE = re.compile(r"!\[(?P<alt>[^\]]*)\]\((?P<at>[^)\s]+)\)|<img\b(?P<tag>[^>]*)>")
MADE = re.compile(
    r"^made by (?P<by>`[^`]+`|hand) · preset (?P<preset>[^·]+) · seed (?P<seed>[^·]+) · device (?P<device>[^·]+)"
    r" · (?P<date>20\d\d-\d\d-\d\d)(?:; [^·]+)?$",
    re.MULTILINE,
)

each_section = pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.splitlines()[0])


def by_hand_or_twin(file):
    """Pages that nobody's command writes, and a table's numbers."""
    return file in BY_HAND or (file.suffix == ".json" and file.with_suffix(".md").is_file())


INTERVAL = re.compile(r"([+-]?\d+\.\d+)(?: dB)?(?: \(|, 95% interval over scenes )([+-]?\d+\.\d+) to ([+-]?\d+\.\d+)")


def intervals(page):
    """(value, low, high), as they are printed."""
    return INTERVAL.findall(" ".join(told(page).replace("−", "-").replace("**", "").split()))


@pytest.mark.parametrize("page", [p for p in PAGES if p not in TABLES and intervals(p)], ids=lambda p: p.name)
def test_a_number_with_an_interval_is_that_of_a_table(page):
    """Copied by hand, it may be rounded and no more."""
    measured = [tuple(map(float, found)) for table in TABLES for found in intervals(table)]
    for said in intervals(page):
        half = [0.5 * 10.0 ** -len(x.split(".")[1]) + 1e-9 for x in said]
        found = any(all(abs(float(x) - y) <= h for x, y, h in zip(said, m, half, strict=True)) for m in measured)
        assert found, f"{page.name} says {said[0]} ({said[1]} to {said[2]}), and no table of figures/ does"


def linked(text):
    return {(FIGURES / at).resolve() for at in re.findall(r"\]\((?!\w+:)([^)\s#]+)", text)}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(FIGURES)))
def test_every_figure_is_in_one_section_of_the_gallery(file):
    found = [section for section in SECTIONS if file in linked(section)]
    assert len(found) == (not by_hand_or_twin(file)), f"{file.name} is in {len(found)} sections"


@each_section
def test_a_section_shows_what_is_there(section):
    assert linked(section) or "`" in section
    assert [at for at in linked(section) if not at.is_file()] == []


@each_section
def test_a_section_says_command_preset_seed_device_and_date_once(section):
    assert section.count("\nmade by ") == len(MADE.findall(section)) == 1
    assert len(section.split("\n\n")) >= 3, "a heading, what is to be seen, what made it"


def test_nothing_in_the_gallery_is_without_its_maker():
    parts = re.split(r"^(?=##+ )", GALLERY.read_text(), flags=re.MULTILINE)
    inside = {at for section in SECTIONS for at in linked(section)}
    assert {at for part in parts for at in linked(part)} - inside <= {FIGURES / "results.md"}


@each_section
def test_what_made_it_is_there(section):
    by = MADE.search(section)["by"]
    if by == "hand":
        return
    words = [word for word in shlex.split(by.strip("`")) if not re.match(r"[A-Z_]+=", word)]
    if words[:2] == ["python", "-m"]:
        assert find_spec(words[2])
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file()
    else:
        assert words[0] == "fourd", f"{words[0]} is no program of ours"


@each_section
def test_a_table_says_the_same(section):
    """Seed, device and command of a table, where it says them itself."""
    made = MADE.search(section)
    for table in linked(section) & set(TABLES):
        text = table.read_text()
        named = re.search(r"Made by `([^`]+)`", text)[1]
        words = [word for word in named.split() if word != "OMP_NUM_THREADS=1"]
        assert set(words) <= set(made["by"].strip("`").split()), f"{table.name} says: made by {named}"
        seeds = re.search(r"seeds? ((?:\d+(?:, )?)+)", text.split("\n\n")[0])
        assert seeds is None or made["seed"].startswith(seeds[1].rstrip(", ")), f"{table.name}: seed {seeds[1]}"
        dated = re.search(r"`[^`]+`, (20\d\d-\d\d-\d\d)", text)
        assert dated is None or dated[1] == made["date"], f"{table.name} is of {dated[1]}"
        assert "CPU" not in text.split("\n\n")[0] or "CPU" in made["device"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pictures_have_words_and_lie_with_the_figures(page):
    for picture in PICTURE.finditer(told(page)):
        tag = dict(re.findall(r'(\w+)="([^"]*)"', picture["tag"] or ""))
        alt, at = (tag.get("alt", ""), tag.get("src", "")) if picture["tag"] else (picture["alt"], picture["at"])
        assert len(alt.split()) >= 3, f"{at}: a picture needs a few words for those who cannot see it"
        file = (page.parent / at).resolve()
        assert re.match(r"\w+:", at) or (file.is_file() and file.is_relative_to(FIGURES)), f"{at} is no figure of ours"
