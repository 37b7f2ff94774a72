"""Is the planner right? Its memory and seconds, said before, against the training loop's own, one thread of a CPU.

    OMP_NUM_THREADS=1 python tests/benchmarks/planner.py --out figures

Three sizes of 4Real-Video's synchronisation stage and one of 4DM's motion modules. Each is measured in a process of its
own: seconds are those the process was given, the median of its steps but the first; memory is its peak above what it
held before the model was there. What is predicted is calibrated right before, on products of matrices and on copies.

Twice, for the C library's two ways with freed memory. Handed back at once, the peak is what tensors hold, and all that
is new costs empty pages. Kept, as it does by default, pages are there, and the peak has gaps that the planner knows
nothing of.

What is left, seen operation by operation. About 45 MiB are the process's own, not its tensors'. Products of 4DM's 64 to
256 channels reach three quarters of the rate of 1024 x 1024 matrices, and attention over its 8 frames less than half:
its seconds are said too low. GELU takes several times as long as a copy. Others on the machine disturb both sides.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import torch
from timing import machine

from figures.cost import cost
from figures.hardware import Device, measured
from figures.memory import peak_mib
from figures.stages import find_stage
from fourd_minimal.configs.four_diffusion import FOUR_DM
from fourd_minimal.configs.four_real_video import FourRealVideoPreset
from fourd_minimal.systems.four_diffusion import FourDM
from fourd_minimal.systems.four_real_video import FourRealVideo, FourRealVideoConfig, known_cells
from fourd_minimal.systems.weights import write_text
from fourd_minimal.training import four_diffusion as multiview
from fourd_minimal.training import four_real_video as training
from fourd_minimal.training.loop import Recipe, fit
from fourd_minimal.training.tables import table
from fourd_minimal.video_dit import VideoDiTConfig


def grids(dim: int, depth: int, heads: int, size: tuple[int, int], side: int, batch: int) -> FourRealVideoPreset:
    config = FourRealVideoConfig(VideoDiTConfig(size, 4, dim, depth, heads), side, side)
    return FourRealVideoPreset(config, sync_batch=batch, sync_steps=100)


RUNS = {
    "sync, 256 x 6 blocks, 2 grids 4x4 of 32x32": ("four_real_video", "sync", grids(256, 6, 4, (32, 32), 4, 2)),
    "sync, 512 x 4 blocks, a grid 4x4 of 32x48": ("four_real_video", "sync", grids(512, 4, 8, (32, 48), 4, 1)),
    "sync, 1024 x 3 blocks, a grid 5x5 of 32x48": ("four_real_video", "sync", grids(1024, 3, 16, (32, 48), 5, 1)),
    "motion, preset gpu, one object": ("four_diffusion", "motion", replace(FOUR_DM["gpu"], motion_batch=1)),
}
ALLOCATORS = {"handed back": {"MALLOC_MMAP_THRESHOLD_": "65536"}, "kept": {}}

FORMS = (("mib", (".0f", ".2f")), ("seconds", (".2f", ".2f")))
"""How each is written, and how its ratio."""


def random_batch(system: str, preset):
    cfg = preset.model
    if system == "four_real_video":
        n = preset.sync_batch
        clean = torch.rand(n, cfg.views, cfg.times, 3, *cfg.dit.image_size) * 2 - 1
        seen = known_cells(cfg.views, cfg.times).expand(n, -1, -1)
        return [training.Batch(torch.randn_like(clean), torch.rand(n), seen, clean)]
    clean = torch.rand(preset.motion_batch, cfg.times, cfg.views, 3, cfg.image_size, cfg.image_size) * 2 - 1
    n, cameras = len(clean), torch.eye(4).expand(len(clean), cfg.views, 4, 4)
    t, shown = torch.randint(1000, (n,)), torch.ones(n, dtype=torch.bool)
    return multiview.Batch(clean, clean[:, :, 0], cameras, t, torch.randn_like(clean), shown)


def one(name: str, steps: int) -> dict[str, float]:
    """Run alone in a process of its own."""
    system, stage, preset = RUNS[name]
    ours, module = (FourRealVideo, training) if system == "four_real_video" else (FourDM, multiview)
    batch = random_batch(system, preset)
    torch.ones(64, 64) @ torch.ones(64, 64)  # libraries are loaded
    before, model = peak_mib(), ours(preset.model)
    part = (lambda m: m.part(stage)) if system == "four_real_video" else (lambda m: m.motion)
    about = dict(rate=lambda number: 1e-4, decay=0.99, config=preset, settings=asdict)
    recipe = Recipe(model, part=part, steps=steps, batch=lambda *_: batch, loss=module.batch_loss, **about)
    moments = [time.process_time(), *(time.process_time() for _ in fit(recipe))]
    return dict(seconds=statistics.median(b - a for a, b in pairwise(moments[1:])), mib=peak_mib() - before)


def alone(environment: dict[str, str], *arguments: str) -> dict:
    run = [sys.executable, __file__, *arguments]
    done = subprocess.run(run, check=True, capture_output=True, text=True, env=os.environ | environment)
    return json.loads(done.stdout.splitlines()[-1])


def compare(name: str, allocator: str, steps: int) -> dict:
    system, stage, preset = RUNS[name]
    device = Device(**alone(ALLOCATORS[allocator], "--device"))
    predicted = cost(find_stage(system, stage, preset), device)
    found = alone(ALLOCATORS[allocator], "--one", name, "--steps", str(steps))
    said = dict(seconds=predicted.seconds, mib=predicted.memory / 2**20)
    ratios = {key: said[key] / found[key] for key in said}
    print(f"{name}, freed memory is {allocator}: {ratios}", flush=True)
    return dict(run=name, memory=allocator, ratios=ratios, device=asdict(device), predicted=said, measured=found)


def page(numbers: list[dict], steps: int) -> str:
    parts = ("predicted", "measured", "ratios")
    head = ["stage", "freed memory is", "MiB, predicted", "measured", "ratio", "seconds a step, predicted", "measured"]
    rows = [
        [n["run"], n["memory"], *(f"{n[part][key]:{form[part == 'ratios']}}" for key, form in FORMS for part in parts)]
        for n in numbers
    ]
    made = f"Made by `OMP_NUM_THREADS=1 python tests/benchmarks/planner.py`, {datetime.now(UTC):%Y-%m-%d}, "
    made += f"{machine()}, shared CPU, median of {steps - 1} steps, fp32."
    about = __doc__.split("\n\n", 2)[2].strip().split("\n\n")
    return "\n\n".join([made, table([*head, "ratio"], rows), *(text.replace("\n", " ") for text in about)]) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--one")
    parser.add_argument("--device", action="store_true")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.device or given.one:
        print(json.dumps(asdict(measured()) if given.device else one(given.one, given.steps)))
    else:
        numbers = [compare(name, allocator, given.steps) for allocator in ALLOCATORS for name in RUNS]
        print(page(numbers, given.steps))
        if given.out:
            write_text(given.out / "plan_check.md", page(numbers, given.steps))
            write_text(given.out / "plan_check.json", json.dumps(numbers, indent=1))
