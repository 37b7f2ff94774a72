"""Grids longer and wider than the training size: how good, how far, how fast, in how much memory.

how good      PSNR by distance from the given cells, beside completions that need no model
how far       a full orbit: the last row and the first are one viewpoint. Do they show the same?
how much      seconds and peak memory of one denoising pass over n x n frames: window by window, in one pass of two
              streams, and with joint attention, the base model reading all V T frames as one video
"""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from statistics import median

import torch
from einops import rearrange
from jaxtyping import Int
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from figures.memory import peak_mib
from figures.page import Page, check_counts, steps_label
from fourd_minimal.cli.main import program
from fourd_minimal.data.procedural import HELD_OUT, sample_scenes
from fourd_minimal.data.scene_record import SceneRecord
from fourd_minimal.systems.four_real_video import FourRealVideo
from fourd_minimal.systems.weights import whole_file
from fourd_minimal.training.evaluation import TRIVIAL, Grids, moving_pixels, psnr
from fourd_minimal.training.tables import made_by, table

VIEW_STEP_DEG = 15.0
"""Between neighbouring views of a large grid: within the 13 to 20 degrees of a 4x4 training grid."""
WAYS = {
    "windows": "window by window",
    "one pass": "two streams in one pass",
    "joint": "joint attention over all frames",
    "joint, scores": "joint attention, scores kept",
}


COLOURS = "0.7", "0.5", "0.3", "#E69F00", "#0072B2", "#009E73", "#D55E00", "#CC79A7"
"""Greys for the completions without a model, then Okabe and Ito's."""


def large_scenes(model: FourRealVideo, n: int, views: int, times: int, family: str = "simple") -> SceneRecord:
    """Held-out scenes in which neighbouring cells lie as far apart as in a training grid."""
    sweep, duration = VIEW_STEP_DEG * (views - 1), (times - 1) / (model.times - 1)
    return sample_scenes(
        n, views, times, model.image_size, HELD_OUT, family, sweep_deg=sweep, duration=duration, geometry=False
    )


def complete(model: FourRealVideo, grids: Grids, n_steps: int, seed: int = 0) -> Grids:
    """Large grids from their first rows and columns; pixels in [0, 1] in and out."""
    device = next(model.parameters()).device
    *_, sample = model.sample_by_windows(grids.to(device) * 2 - 1, n_steps, seed)
    return ((sample + 1) / 2).clamp(0, 1).to(grids)


def distance(views: int, times: int) -> Int[Tensor, "v t"]:
    """Cells from each cell to the nearest given one; 0 is given.

    >>> distance(3, 4)
    tensor([[0, 0, 0, 0],
            [0, 1, 1, 1],
            [0, 1, 2, 2]])
    """
    return torch.minimum(torch.arange(views)[:, None], torch.arange(times))


def psnr_by_distance(grids: Grids, record: SceneRecord) -> list[float]:
    """Pooled PSNR in dB of moving pixels at distance 1, 2, ... from the given cells."""
    moving, away = moving_pixels(record.alpha), distance(*record.rgb.shape[1:3])
    return [psnr(grids, record.rgb, moving & (away == d)[..., None, None, None]) for d in range(1, int(away.max()) + 1)]


def closure(grids: Grids, record: SceneRecord) -> float:
    """PSNR in dB, over moving pixels, of the last row against the first: after a full orbit they are one viewpoint.

    The first row is given, so this is also the last row's error against the truth. Capped at 99, where they are equal.
    """
    moving = moving_pixels(record.alpha)[:, :1, 1:].flatten(1, 2).expand_as(grids[:, 0, 1:])
    return min(99.0, -10 * (grids[:, -1, 1:] - grids[:, 0, 1:]).square()[moving].mean().log10().item())


def cost(way: str, n: int, weights: str = "toy") -> dict[str, float]:
    """Seconds (the middle of three) and peak memory (MiB, beyond what was held before) of one denoising pass over an
    n x n grid, on a CPU, in a process of its own, so that the peak is this pass's.
    """
    call = f"_cost_here({way!r}, {n}, {weights!r})"
    program = f"import json; from figures import sliding_window; print(json.dumps(sliding_window.{call}))"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        said = done.stderr.strip() or f"it ended with {done.returncode}, perhaps for want of memory."
        raise ValueError(f"The pass over {n}x{n} frames {WAYS[way]} failed: {said.splitlines()[-1]}")
    return json.loads(done.stdout)


def _cost_here(way: str, n: int, weights: str) -> dict[str, float]:
    model = FourRealVideo.from_pretrained(weights)
    h, w = model.image_size
    grid, sigma = torch.zeros(1, n, n, 3, h, w), torch.ones(1)
    runs = {
        "windows": lambda: [None for _ in model.sample_by_windows(grid, 1)],
        "one pass": lambda: model.denoise_grid(grid, sigma, grid),
        "joint": lambda: _joint(model, grid),
        "joint, scores": lambda: _joint(model, grid, SDPBackend.MATH),
    }
    small = torch.zeros(1, 2, 2, 3, h, w)
    with torch.no_grad():
        model.denoise_grid(small, sigma, small)  # what the first call of a process costs is not counted
        before, seconds = peak_mib(), []
        for _ in range(3):
            began = time.perf_counter()
            runs[way]()
            seconds.append(time.perf_counter() - began)
    return dict(seconds=median(seconds), mib=max(0.0, peak_mib() - before))  # Linux's count is off by some pages


def _joint(model: FourRealVideo, grid: Tensor, kernel: SDPBackend = SDPBackend.FLASH_ATTENTION) -> Tensor:
    """The base model on all frames of the grid as one video: (V T)^2 pairs of frames."""
    video = rearrange(grid, "b v t c h w -> b (v t) c h w")
    with sdpa_kernel(kernel):
        return model.base(video, torch.ones(video.shape[:2]))


@dataclass(frozen=True)
class Windows:
    """Measure grids that are longer and wider than what the model was trained for."""

    weights: str = "toy"
    """The weights are "toy", or a folder that `fourd train` wrote."""
    views: int = 25
    """The large grid has so many views; a step is 15 degrees, so 25 views are a full orbit."""
    times: int = 16
    """The large grid has so many times; a step is as long as in training."""
    scenes: int = 16
    """So many held-out scenes of family simple are the test."""
    steps: tuple[int, ...] = (1, 8)
    """Grids are completed with each of these numbers of Euler steps."""
    sizes: tuple[int, ...] = (4, 7, 10, 13, 16)
    """The cost is measured of n x n grids of these n; windows of 4 fit evenly into these."""
    out: Path | None = None
    """`sliding_window.md`, `.json` and `.png` go into this folder; by default the tables are only printed."""

    def run(self) -> None:
        """Print the tables, and write them where asked."""
        check_counts(self, scenes=1)
        if min(self.sizes, default=0) < 2:
            raise ValueError(f"--sizes is {self.sizes}; expected one or more numbers from 2 on.")
        model = FourRealVideo.from_pretrained(self.weights)
        record = large_scenes(model, self.scenes, self.views, self.times)
        found = {name: trivial(record.rgb) for name, trivial in TRIVIAL.items()}
        for n in self.steps:
            found[f"windows, {steps_label(n)}"] = complete(model, record.rgb, n)
        quality = {name: psnr_by_distance(grids, record) for name, grids in found.items()}
        whole_turns = VIEW_STEP_DEG * (self.views - 1) % 360 == 0
        closed = {name: closure(grids, record) for name, grids in found.items()} if whole_turns else {}
        print(f"Grids are made; now each cost, in a process of its own: {', '.join(WAYS.values())}", flush=True)
        costs = {way: {n: cost(way, n, self.weights) for n in self.sizes} for way in WAYS}
        flat = costs["windows"][max(self.sizes)]["mib"], cost("windows", 8, self.weights)["mib"]
        page = Page("sliding_window", self.out)
        page.say(*self.report(model, quality, closed, costs, flat))
        page.write(dict(quality=quality, closure=closed, costs=costs, windows_mib_largest_and_8x8=flat))
        if self.out:
            plot(quality, costs, self.out / "sliding_window.png")

    def report(self, model: FourRealVideo, quality: dict, closed: dict, costs: dict, flat: tuple[float, float]) -> list:
        """The tables; `flat` is the peak memory of windows over the largest grid and over 8x8 frames."""
        size = f"{model.views}x{model.times}"
        shown = [d for d in (1, 2, 3, 4, 6, 9, 12, 15) if d <= len(next(iter(quality.values())))]
        rows = []
        for name, psnrs in quality.items():
            rows.append([name, *(f"{psnrs[d - 1]:.2f}" for d in shown), *([f"{closed[name]:.2f}"] if closed else [])])
        lines = [
            f"Grids of {self.views}x{self.times} frames from windows of {size}, {self.scenes} held-out scenes of "
            f"family simple, weights '{self.weights}', CPU, seed 0. {made_by('python -m figures.sliding_window')}",
            "### PSNR in dB of moving pixels, by distance (cells) from the nearest given cell",
            table(["", *map(str, shown), *["orbit closes"] * bool(closed)], rows),
            *["Orbit closes: PSNR of the last row against the first, the same viewpoint (99: equal)."] * bool(closed),
            "### One denoising pass over n x n frames: seconds (middle of three) / MiB beyond what was held before",
            table(
                ["", *(f"n = {n}" for n in costs["windows"])],
                [
                    [label, *(f"{c['seconds']:.2f} / {c['mib']:.0f}" for c in costs[way].values())]
                    for way, label in WAYS.items()
                ],
            ),
        ]
        if (most := max(self.sizes)) > 8:
            lines.append(
                f"Windows over {most}x{most} frames hold {flat[0] / flat[1]:.2f} times the memory of windows over 8x8: "
                f"{flat[0]:.1f} against {flat[1]:.1f} MiB."
            )
        return lines


def plot(quality: dict[str, list[float]], costs: dict, path: Path) -> None:
    """Quality by distance, and time and memory by the number of frames."""
    import matplotlib.pyplot as plt  # slow to import: only here

    figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    for (name, values), colour in zip(quality.items(), cycle(COLOURS)):
        axes[0].plot(range(1, len(values) + 1), values, "o-", color=colour, label=name, markersize=3)
    axes[0].set(xlabel="cells to the nearest given cell", ylabel="PSNR of moving pixels, dB", title="How good")
    styles = dict(zip(WAYS, zip(COLOURS[4:], ("o-", "s-", "^-", "v--"), strict=False), strict=True))
    for axis, key in zip(axes[1:], ("seconds", "mib"), strict=True):
        for way, (colour, style) in styles.items():
            frames = [int(n) ** 2 for n in costs[way]]
            axis.loglog(frames, [c[key] for c in costs[way].values()], style, color=colour, label=WAYS[way])
        axis.set(xlabel="frames, V T")
        axis.set_xticks(frames, map(str, frames))
        axis.set_xticks([], minor=True)
    span, first = [frames[0], frames[-1]], next(iter(costs["windows"].values()))["seconds"]
    for power in (1, 2) if len(frames) > 1 else ():
        guide = [first, first * (span[1] / span[0]) ** power]
        axes[1].plot(span, guide, ":", color="0.6", zorder=0, label=f"as (V T)$^{power}$" if power > 1 else "as V T")
    axes[1].set(ylabel="seconds", title="Time of one denoising pass")
    axes[2].set(ylabel="MiB", title="Peak memory")
    for axis in axes:
        axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
        axis.grid(alpha=0.2)
    with whole_file(path) as draft:
        figure.savefig(draft, format="png", dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    program(Windows)
