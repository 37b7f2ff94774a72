"""How results are written down: as tables of Markdown, with the command and the day that made them."""

from collections.abc import Sequence
from datetime import date


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown.

    >>> print(table(["", "PSNR, dB"], [["4DM", "21.4"]]))
    |  | PSNR, dB |
    | --- | --- |
    | 4DM | 21.4 |
    """
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def made_by(command: str) -> str:
    """The sentence that every result bears, so that anyone can make it again.

    >>> made_by("fourd rivals")  # doctest: +ELLIPSIS
    'Made by `fourd rivals`, 20...-...-....'
    """
    return f"Made by `{command}`, {date.today()}."
