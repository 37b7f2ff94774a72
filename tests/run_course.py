"""Runs notebooks top to bottom in clean kernels, and writes what they show and what they take into them.

    python tests/run_course.py                 # all of them: half an hour and more
    python tests/run_course.py 03 11

A copy runs in the preset smoke, then the notebook itself in the preset cpu, one thread each: outputs, the state of the
widgets, minutes and memory are those of these runs; the README's table of the course gets the minutes, too.
"""

import argparse
import copy
import os
import re
import threading
import time
from datetime import date
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from pages import NOTEBOOKS, ROOT


def run(book: nbformat.NotebookNode, preset: str) -> tuple[float, float]:
    """Fills in the outputs; returns minutes, and the most GiB that the kernel and its children held."""
    os.environ |= {"FOURD_PRESET": preset, "OMP_NUM_THREADS": "1"}
    client = NotebookClient(
        book, timeout=3600, store_widget_state=True, resources={"metadata": {"path": str(ROOT / "notebooks")}}
    )
    held, done = [0.0], threading.Event()

    def watch():
        while not done.wait(0.5):
            if client.km is not None and (process := getattr(client.km.provisioner, "process", None)) is not None:
                held.append(sum(map(gib, family(process.pid))))

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.monotonic()
    try:
        client.execute()
    finally:
        done.set()
        watcher.join()
    return (time.monotonic() - began) / 60, max(held)


def family(pid: int) -> list[int]:
    """A process and all that it started, on Linux."""
    try:
        children = [file.read_text().split() for file in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:  # it has just ended
        return []
    return [pid, *(one for line in children for child in line for one in family(int(child)))]


def gib(pid: int) -> float:
    """What a process holds now."""
    try:
        return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 2**20
    except (OSError, TypeError):  # it has just ended
        return 0.0


def with_table(text: str, measured: list[tuple[float, float]]) -> str:
    """The first cell with a new run-time table."""
    rows = {"time, minutes": [f"{minutes:.1f}" for minutes, _ in measured]}
    rows |= {"memory": [f"{most:.1f} GiB" for _, most in measured]}
    for name, values in rows.items():
        gpu = re.search(rf"^\| {name} \|.*\| (.*) \|$", text, re.MULTILINE)[1]
        text = re.sub(rf"^\| {name} \|.*$", f"| {name} | {' | '.join(values)} | {gpu} |", text, flags=re.MULTILINE)
    return re.sub(r"^\*One CPU thread, .*\*$", f"*One CPU thread, {date.today()}.*", text, flags=re.MULTILINE)


def bring_into_the_readme(notebook: str, minutes: str) -> None:
    """The notebook's row of the README's table ends with its minutes on a CPU."""
    readme = ROOT / "README.md"
    row = re.compile(rf"^(\| \[\d\d\]\(notebooks/{re.escape(notebook)}\) \|.*\| )[\d.]+( \|)$", re.MULTILINE)
    readme.write_text(row.sub(rf"\g<1>{minutes}\2", readme.read_text(encoding="utf-8")), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", default=[""], help="beginnings of their names; all by default")
    asked = tuple(parser.parse_args().notebooks)
    for file in NOTEBOOKS:
        if not file.name.startswith(asked):
            continue
        book = nbformat.read(file, as_version=4)
        measured = [run(copy.deepcopy(book), "smoke"), run(book, "cpu")]
        for cell in book.cells:
            cell.metadata.pop("execution", None)  # the times of every cell
        book.cells[0].source = with_table(book.cells[0].source, measured)
        nbformat.write(book, file)
        bring_into_the_readme(file.name, f"{measured[1][0]:.1f}")
        print(f"{file.stem}: smoke {measured[0][0]:.1f} min, cpu {measured[1][0]:.1f} min", flush=True)


if __name__ == "__main__":
    main()
