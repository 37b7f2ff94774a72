"""How results are written down: as tables of Markdown, with the command and the day that made them."""

import re
from collections.abc import Sequence
from datetime import date

BREAKING = re.compile(r"[\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""What breaks a line of text: control characters, line breaks of any kind, halves of characters; and the backslash."""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    r"""Markdown; whatever a cell holds, it stays in its place.

    >>> print(table(["", "PSNR, dB"], [["4DM", "21.4"], ["a|b", "1"]]))
    |  | PSNR, dB |
    | --- | --- |
    | 4DM | 21.4 |
    | a\|b | 1 |
    """
    lines = ([spelled(cell).replace("|", r"\|") for cell in row] for row in (head, *rows))
    lines = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([lines[0], "| " + " | ".join(["---"] * len(head)) + " |", *lines[1:]])


def spelled(text: str) -> str:
    r"""A text on one line: what would break it is spelled as in Python's strings.

    >>> print(spelled("a\tname\nof two lines"), "b\\c")
    a\tname\nof two lines b\c
    """
    return BREAKING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def unspelled(text: str) -> str:
    r"""What was spelled.

    Raises:
        ValueError: a backslash that begins nothing.

    >>> unspelled(spelled("a\tname\nof two lines")) == "a\tname\nof two lines"
    True
    """
    return text.encode("latin-1", "backslashreplace").decode("unicode_escape")


def made_by(command: str) -> str:
    """The sentence that every result bears, so that anyone can make it again.

    >>> made_by("python -m figures.baselines")  # doctest: +ELLIPSIS
    'Made by `python -m figures.baselines`, 20...-...-....'
    """
    return f"Made by `{command}`, {date.today()}."
