"""The light half of `fourd`: it answers what needs no model before it imports one.

Help, the version, a mistyped command and a path that does not exist need only the table of `commands.py`. Then the one
command that was asked for is imported, and tyro reads its flags.
"""

import shlex
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from io import TextIOWrapper
from itertools import pairwise
from pathlib import Path
from shutil import get_terminal_size
from textwrap import fill
from typing import Any

from fourd_minimal import __version__
from fourd_minimal.cli.commands import COMMANDS, GROUPS, RENAMED

WORDS = {"toy", "None"}
"""What may stand in place of a file or folder: the shipped weights, or nothing."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the words after `fourd`, by default this process's; with none, the bundled example is completed."""
    name, *flags = list(sys.argv[1:] if arguments is None else arguments) or ["generate"]
    with sentences():
        if name in ("-h", "--help"):
            print(overview())
        elif name == "--version":
            print(f"fourd {__version__}")
        else:
            check_name(name, flags)
            check_paths(name, flags)
            parse([name, *flags]).run()


def program(kind: Any, presets: Mapping[str, Any] | None = None) -> None:
    """Run a dataclass with a method `run`, every field a flag, as the program of a file in `figures/`."""
    import tyro

    with sentences():
        options = dict(default=with_settings(kind, presets, sys.argv[1:])) if presets else {}
        tyro.cli(kind, **options).run()


@contextmanager
def sentences() -> Iterator[None]:
    """Bad input ends in one sentence and exit status 2, Ctrl-C in 130; warnings are a line each."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal that lacks our characters shows others
            stream.reconfigure(errors="replace")
    warnings.formatwarning = lambda message, *_: f"fourd: {message}\n"
    try:
        yield
    except (ValueError, OSError) as error:
        print(f"fourd: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print(
            "\nfourd: stopped. What was written is whole: the same line again goes on from there, or from the start.",
            file=sys.stderr,
        )
        raise SystemExit(130) from None


def overview() -> str:
    """What `fourd -h` prints: every command with its sentence, in groups."""
    width, indent = min(get_terminal_size().columns, 120), 2 + max(map(len, COMMANDS))
    lines = [
        "usage: fourd COMMAND [FLAGS]        `fourd COMMAND -h` explains the flags of a command.",
        "",
        "Without a command, `fourd` completes the bundled example, as `fourd generate` does.",
    ]
    for group, title in GROUPS.items():
        lines += ["", f"{title}:"]
        for name, command in COMMANDS.items():
            if command.group == group:
                start, rest = f"  {name:{indent}}", " " * (indent + 2)
                lines.append(fill(command.help, width, initial_indent=start, subsequent_indent=rest))
    return "\n".join(lines)


def check_name(name: str, flags: Sequence[str]) -> None:
    """Refuse an old name or an unknown one; the sentence says what to write instead."""
    if name in RENAMED:
        raise ValueError(f"{name} has a new name: {shlex.join([*RENAMED[name].split(), *flags])}")
    if name not in COMMANDS:
        near = [RENAMED.get(word, word) for word in get_close_matches(name, [*COMMANDS, *RENAMED], n=1)]
        hint = f"did you mean {near[0].removeprefix('fourd ')}? " if near else ""
        raise ValueError(f"{name} is no command; {hint}`fourd -h` lists all.")


def check_paths(name: str, flags: Sequence[str]) -> None:
    """Refuse flags that name files or folders which do not exist."""
    if "-h" in flags or "--help" in flags:
        return
    flag, reads = "", COMMANDS[name].reads.split()
    for word in flags:
        if word.startswith("--"):
            flag, _, word = word.partition("=")
            flag = flag[2:].replace("_", "-")
        if flag in reads and word and word not in WORDS:
            files = [word[:i] for i in range(1, len(word)) if word[i] == "#" and flag == "assets"]  # Fox.glb#Walk
            if not any(Path(path).exists() for path in (word, *files)):
                raise ValueError(f"--{flag} is {word}; expected a file or folder that exists.")


def parse(arguments: Sequence[str]) -> Any:
    """The command as an object with a method `run`; tyro ends the process where it does not have the flags."""
    import tyro

    name, *flags = arguments
    command = COMMANDS[name]
    kind = load(command.runs)
    options = dict(default=with_settings(kind, load(command.presets), flags)) if command.presets else {}
    return tyro.cli(kind, args=flags, prog=f"fourd {name}", **options)


def load(place: str) -> Any:
    """What the table calls `module:NAME`."""
    module, _, name = place.partition(":")
    return getattr(import_module(f"fourd_minimal.{module}"), name)


def with_settings(kind: Any, presets: Mapping[str, Any], flags: Sequence[str]) -> Any:
    """A command that has presets, with the settings of the one after `--preset`, or of the one in force.

    Where every system has presets of its own, those of the one after `--system`, by default the first.
    """
    from fourd_minimal.configs.presets import preset_name

    words = [word for flag in flags for word in flag.split("=", 1)]
    given = {word[2:]: after for word, after in pairwise(words) if word in ("--preset", "--system")}
    chosen = {}
    if "cpu" not in presets:
        system = given.get("system") if given.get("system") in presets else next(iter(presets))
        presets, chosen = presets[system], dict(system=system)
    name = given.get("preset") or preset_name()
    name = name if name in presets else "cpu"  # an unknown one is reported by the parser
    return kind(**chosen, preset=name, settings=presets[name])
