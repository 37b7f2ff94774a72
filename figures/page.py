"""A page of results: printed while it grows, then written with the numbers behind it; and the checks of its options."""

import json
from pathlib import Path
from typing import Any

from fourd_minimal.systems.weights import write_text


class Page:
    """Markdown, part by part.

    Args:
        name: of the files, `name.md` and `name.json`.
        out: their folder; None: nothing is written.
    """

    def __init__(self, name: str, out: Path | None):
        self.name, self.out, self.parts = name, out, []

    def say(self, *parts: str) -> None:
        """Print some paragraphs, and keep them."""
        self.parts += parts
        print(*parts, sep="\n\n", end="\n\n", flush=True)

    def write(self, numbers: Any) -> None:
        """Leave the page and its numbers in the folder, whole."""
        if self.out:
            write_text(self.out / f"{self.name}.md", "\n\n".join(self.parts) + "\n")
            write_text(self.out / f"{self.name}.json", json.dumps(numbers, indent=1))


def check_counts(program: Any, **least: int) -> None:
    """Refuse options of a program that are too small, and seeds that are not 1 to 10.

    Raises:
        ValueError: there is one; the sentence names the flag.
    """
    for name, lowest in least.items():
        value = getattr(program, name)
        if value < lowest:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; expected at least {lowest}.")
    for name in ("seeds", "train_seeds"):
        if isinstance(seeds := getattr(program, name, (0,)), tuple) and not 1 <= len(seeds) <= 10:
            raise ValueError(f"--{name.replace('_', '-')} is {seeds}; expected 1 to 10 of them.")


def check_choice(flag: str, value: str, choices: Any) -> None:
    """Refuse a value that is none of the choices."""
    if value not in choices:
        raise ValueError(f"{flag} is {value!r}; expected one of {', '.join(choices)}.")


def steps_label(n: int) -> str:
    """ "1 step", "8 steps"."""
    return f"{n} step{'s' * (n != 1)}"
