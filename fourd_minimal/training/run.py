"""A training run as a program: its progress, its result on disk, and notes on how the weights were made."""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fourd_minimal.configs.presets import device
from fourd_minimal.systems.weights import whole_file
from fourd_minimal.training.devices import wait, world
from fourd_minimal.training.loop import Step


def watched(run: Iterator[Step], steps: int, name: str) -> Step:
    """Run to the end with a progress bar; the last step."""
    with tqdm(total=steps, desc=name, unit="step", disable=world()[0] > 0) as progress:
        for step in run:
            progress.update(step.number - progress.n)
            if not math.isnan(step.loss):  # a run that was finished before has none
                progress.set_postfix(loss=f"{step.loss:.4f}", refresh=False)
    return step


def written(step: Step, save: Callable[[Any], Path]) -> None:
    """The result on disk, by the first of all processes; the others wait for it."""
    model = step.averaged()
    if world()[0] == 0:
        print(f"Weights: {save(model)}")
    wait()


def how_made(command: str, settings: Any, preset: Any, seconds: float) -> dict[str, Any]:
    """The notes that weights carry: the command, what it changed of the preset, on what, how long."""
    changed = {k: v for k, v in asdict(settings).items() if v != asdict(preset)[k]}
    on = device().type if world()[1] == 1 else f"{world()[1]} x {device().type}"
    return dict(made_by=command, settings=changed, device=on, minutes=round(seconds / 60, 1))


def copied(path: Path, folder: Path) -> None:
    """A file, whole, in another folder."""
    with whole_file(folder / path.name) as draft:
        draft.write_bytes(path.read_bytes())
