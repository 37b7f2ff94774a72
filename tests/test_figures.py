"""The gallery shows every figure, and numbers that pages copy from tables are those of the tables."""

import re

import pytest
from pages import PAGES, ROOT, text_of

FIGURES = ROOT / "figures"
BY_HAND = [FIGURES / "README.md", FIGURES / "results.md"]
TABLES = [file for file in sorted(FIGURES.glob("*.md")) if file not in BY_HAND]
INTERVAL = re.compile(r"([+-]?\d+\.\d+)(?: dB)?(?: \(|, 95% interval over scenes )([+-]?\d+\.\d+) to ([+-]?\d+\.\d+)")


def intervals(page):
    """(value, low, high), as they are printed."""
    return INTERVAL.findall(" ".join(text_of(page).replace("−", "-").replace("**", "").split()))


@pytest.mark.parametrize("page", [p for p in PAGES if p not in TABLES and intervals(p)], ids=lambda p: p.name)
def test_a_number_with_an_interval_is_that_of_a_table(page):
    """Copied by hand, it may be rounded and no more."""
    measured = [tuple(map(float, found)) for table in TABLES for found in intervals(table)]
    for said in intervals(page):
        half = [0.5 * 10.0 ** -len(x.split(".")[1]) + 1e-9 for x in said]
        assert any(all(abs(float(x) - y) <= h for x, y, h in zip(said, m, half, strict=True)) for m in measured), said


def test_every_figure_is_in_the_gallery():
    shown = {(FIGURES / at).resolve() for at in re.findall(r"\]\((?!\w+:)([^)\s#]+)", text_of(BY_HAND[0]))}
    files = {file for file in FIGURES.rglob("*") if file.suffix in (".md", ".png", ".gif", ".html", ".svg")}
    assert files - shown <= {*BY_HAND}
