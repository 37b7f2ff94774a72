"""The baselines in one table: quality with intervals, seconds, and whether the papers' order holds.

Errors are pooled over scenes; an interval is of 95%, over scenes drawn again, and that of a gain over seeds too, where
there are several. A Frechet distance has no value per scene: its interval is a jackknife's, a scene left out in turn.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from figures.baselines_runs import (
    FOUR_DIFFUSION,
    FOUR_REAL_VIDEO,
    METHODS,
    ONE_STEP,
    REAL,
    Comparison,
    Priors,
    Result,
    Scene,
    Task,
    chosen_methods,
)
from figures.page import Page, check_choice, check_counts
from fourd_minimal.anchor_loss import ssim
from fourd_minimal.cli.main import program
from fourd_minimal.configs.presets import device
from fourd_minimal.configs.scene_distillation import SCENES
from fourd_minimal.metrics import frechet_distance
from fourd_minimal.pretrained.perceptual import lpips_vgg
from fourd_minimal.pretrained.toy_features import ToyFeatures
from fourd_minimal.training.evaluation import TRIVIAL, in_words, paired
from fourd_minimal.training.multiview_evaluation import PASTE
from fourd_minimal.training.tables import made_by, table
from fourd_minimal.viewers.contact_sheet import picture_rows

PAPER_DB = {
    "4D-fy": 14.24,
    "Consistent4D": 16.70,
    "DreamGaussian4D": 15.97,
    "ImageDream, frame by frame": 13.92,
    f"{FOUR_DIFFUSION}, without the anchor": 17.20,
    FOUR_DIFFUSION: 19.07,
}
"""PSNR of 4Diffusion's Table 1. 4Real-Video compares by metrics without a truth."""
OWN = {"video": FOUR_DIFFUSION, "grid": FOUR_REAL_VIDEO}
TITLES = {"video": "A video becomes a scene: views between the sampled ones", "grid": "Two videos become a grid"}


class Scored(NamedTuple):
    """One method on one scene."""

    result: Result
    group: str
    sums: dict[str, tuple[float, float]]
    """Of an error, and of what it is over. all, object: squared error; ssim, perceptual, unlike (1 - cosine of toy
    features): per picture; change: squared distance from the truth's second difference over time, over the object."""
    made: Tensor
    truth: Tensor
    """Toy features of each view's video `(v, d)`."""


def scored(result: Result, scene: Scene, features: ToyFeatures, distance) -> Scored:
    """Against the truth, where it was asked for."""
    made, truth, asked = result.views, scene.truth, scene.asked
    error = (made - truth).square()
    second = (made.diff(n=2, dim=1) - truth.diff(n=2, dim=1)).square()
    moving, counted = scene.counted[:, 2:].expand_as(second), scene.counted.expand_as(error)
    pictures = made[asked], truth[asked]
    n = float(len(pictures[0]))
    alike = F.cosine_similarity(*(features.pictures(x.to(device())) for x in pictures)).cpu()
    sums = dict(
        all=(error[asked].sum().item(), error[asked].numel()),
        object=(error[counted].sum().item(), float(counted.sum())),
        ssim=((1 - ssim(*pictures)).sum().item(), n),
        unlike=((1 - alike).sum().item(), n),
        change=(second[moving].sum().item(), float(moving.sum())),
    )
    if distance:
        with torch.no_grad():
            sums["perceptual"] = distance(*(x.to(device()) * 2 - 1 for x in pictures)).sum().item(), n
    videos = (features.videos(x[asked.any(1)].to(device())).cpu() for x in (made, truth))
    return Scored(result, scene.group, sums, *videos)


def errors_of(found: Sequence[Scored], name: str) -> list[list[float]]:
    """Per seed, per scene."""
    seeds = sorted({s.result.made.seed for s in found})
    return [[s.sums[name][0] for s in found if s.result.made.seed == seed] for seed in seeds]


def pooled(found: Sequence[Scored], name: str) -> float:
    """Mean error."""
    return sum(s.sums[name][0] for s in found) / max(1.0, sum(s.sums[name][1] for s in found))


def interval(found: Sequence[Scored], name: str, draws: int = 4000) -> tuple[float, float]:
    """Of the pooled mean, over scenes drawn again; seeds are averaged."""
    sums = torch.tensor(errors_of(found, name)).mean(0)
    seeds = max(1, len(found) // len(sums))
    counts = torch.tensor([s.sums[name][1] for s in found[::seeds]])
    pick = torch.randint(len(sums), (draws, len(sums)), generator=torch.Generator().manual_seed(0))
    return tuple((sums[pick].sum(1) / counts[pick].sum(1)).quantile(torch.tensor([0.025, 0.975])).tolist())


def decibels(found: Sequence[Scored], name: str) -> str:
    """PSNR, and its interval where there are several scenes."""
    middle = -10 * math.log10(max(1e-12, pooled(found, name)))
    if len({s.result.made.scene for s in found}) < 2:
        return f"{middle:.1f}"
    high, low = (-10 * math.log10(max(1e-12, end)) for end in interval(found, name))
    return f"{middle:.1f} ({low:.1f} to {high:.1f})"


def frechet(found: Sequence[Scored]) -> str:
    """Of toy features of all views' videos: value, and half of its interval by leaving scenes out."""

    def distance(some: Sequence[Scored]) -> float:
        return frechet_distance(torch.cat([s.made for s in some]), torch.cat([s.truth for s in some]))

    scenes = list(dict.fromkeys(s.result.made.scene for s in found))
    if (n := len(scenes)) < 3:
        return ""
    without = [distance([s for s in found if s.result.made.scene != scene]) for scene in scenes]
    error = math.sqrt((n - 1) / n * sum((value - mean(without)) ** 2 for value in without))
    return f"{distance(found):.2f} ± {1.96 * error:.2f}"


def result_table(task: Task, found: Sequence[Scored]) -> str:
    """Methods down."""
    has_distance, rows = "perceptual" in found[0].sums, []
    for name in METHODS[task]:
        own = [s for s in found if s.result.made.method == name]
        if own:
            cells = [decibels(own, "object"), decibels(own, "all"), f"{1 - pooled(own, 'ssim'):.3f}"]
            cells += [f"{pooled(own, 'perceptual'):.4f}"] if has_distance else []
            cells += [f"{1 - pooled(own, 'unlike'):.3f}", frechet(own), f"{pooled(own, 'change') ** 0.5:.3f}"]
            cells += [str(own[0].result.made.steps), f"{mean(s.result.seconds for s in own):.1f}"]
            cells += [f"{PAPER_DB[name]:.1f}" if name in PAPER_DB else ""] if task == "video" else []
            rows.append([name, *cells])
    head = ["", "PSNR of the object, dB", "PSNR, dB", "SSIM", *(["perceptual"] if has_distance else [])]
    head += ["picture similarity, toy features", "Frechet distance, toy features", "change over time", "steps"]
    return table([*head, "seconds", *(["the paper's PSNR"] if task == "video" else [])], rows)


def order_table(task: Task, found: Sequence[Scored], judged: bool = True) -> str:
    """Does the paper's own system beat each other? Gains on the object's error, SSIM's, and the change's.

    A sampler's single step meets the own system's single step.
    """
    rows = []
    for name in METHODS[task]:
        ours = OWN[task] + ONE_STEP * name.endswith(ONE_STEP)
        own, other = ([s for s in found if s.result.made.method == method] for method in (ours, name))
        if own and other and name != ours:
            gains = (paired([errors_of(arm, what) for arm in (own, other)]) for what in ("object", "ssim", "change"))
            rows.append([name, *(in_words(gain, judged) for gain in gains)])
    return table([f"{OWN[task]} against", "object", "1 - SSIM", "change over time"], rows) if rows else ""


@dataclass(frozen=True)
class Baselines:
    """Every baseline and both papers' systems on the same held-out scenes, with the same seconds each."""

    preset: str = "cpu"
    """The settings of a video that becomes a scene come from this preset."""
    scenes: int = 8
    """So many held-out creatures; and as many scenes of each family of grids."""
    seeds: tuple[int, ...] = (0,)
    """Each method runs with each of these seeds."""
    video_seconds: float = 45.0
    """A video's scene may take so long; 0 leaves this task out."""
    grid_seconds: float = 10.0
    """A grid may take so long; 0 leaves this task out."""
    assets: tuple[str, ...] = ()
    """Animated assets, `Fox.glb#Walk`, are in both tasks."""
    methods: tuple[str, ...] = ()
    """Only methods whose name has one of these in it run; several processes may share the work so."""
    runs: Path = Path("runs/baselines")
    """Finished scenes are kept here: the same line again goes on."""
    out: Path | None = None
    """`baselines.md`, `baselines.json`, `baselines_video.png` and `baselines_grid.png` go into this folder."""

    def run(self) -> None:
        """Make what is missing, and print the tables.

        Raises:
            ValueError: counts or seconds that make no sense, or results of other settings in `runs`.
        """
        check_counts(self, scenes=2, video_seconds=0, grid_seconds=0)
        check_choice("--preset", self.preset, SCENES)
        budgets: Mapping[Task, float] = {"video": self.video_seconds, "grid": self.grid_seconds}
        seconds = {t: value for t, value in budgets.items() if value and chosen_methods(t, self.methods)}
        unknown = [part for part in self.methods if not any(chosen_methods(t, [part]) for t in seconds)]
        if unknown or not seconds:
            names = ", ".join(name for t, value in budgets.items() if value for name in METHODS[t])
            given = f"--methods has {' '.join(unknown)}" if unknown else "--video-seconds and --grid-seconds are 0"
            raise ValueError(f"{given}; expected parts of {names or 'some method, and seconds for it'}.")
        options = tuple(seconds.items()), self.assets, self.methods
        runs = Comparison(Priors(self.preset), self.runs, self.scenes, self.seeds, *options)
        features = ToyFeatures.from_pretrained("toy").to(device())
        try:
            distance, label = lpips_vgg(device(), seed=1)
        except ValueError:
            distance, label = None, "left out, for lpips is not installed"
        scenes = {(task, scene.name): scene for task in seconds for scene in runs.held_out(task)}
        found = [scored(r, scenes[r.made.task, r.made.scene], features, distance) for r in runs.run()]
        page = Page("baselines", self.out)
        page.say(
            f"Preset '{self.preset}', weights 'toy', {self.scenes} held-out scenes, seeds "
            f"{', '.join(map(str, self.seeds))}, {device().type.upper()} with {torch.get_num_threads()} thread(s). "
            f"{made_by('python -m figures.baselines')} In brackets: 95% over scenes. 'perceptual': "
            f"{label}. Toy features: a small network that names what moves how in our toy worlds; neither CLIP's nor "
            "I3D's. 'change over time': distance from the truth's second difference."
        )
        for task, budget in seconds.items():
            own = [s for s in found if s.result.made.task == task]
            synthetic = [s for s in own if s.group != REAL]
            names = ", ".join(dict.fromkeys(s.group for s in synthetic))
            page.say(f"### {TITLES[task]}, {budget:g} s each ({names})", result_table(task, synthetic))
            if order := order_table(task, synthetic, judged=len({s.result.made.scene for s in synthetic}) > 1):
                page.say("How much smaller its errors are, in dB (3 dB: half), with a 95% interval over scenes", order)
            for name in dict.fromkeys(s.result.made.scene for s in own if s.group == REAL):
                page.say(f"#### {name}", result_table(task, [s for s in own if s.result.made.scene == name]))
        page.write([s.result.made.__dict__ | dict(seconds=round(s.result.seconds, 2), errors=s.sums) for s in found])
        if self.out:
            draw(found, scenes, self.out / "baselines.png")


def draw(found: Sequence[Scored], scenes: Mapping[tuple[Task, str], Scene], path: Path) -> None:
    """For each task one held-out scene and one real asset: what was given, the truth, and what each method makes."""
    for task in dict.fromkeys(s.result.made.task for s in found):
        own = [s for s in found if s.result.made.task == task and s.result.made.seed == found[0].result.made.seed]
        names = list(dict.fromkeys(s.result.made.scene for s in own))
        shown = [names[0], *[name for name in names if scenes[task, name].group == REAL][:1]]
        first = scenes[task, names[0]].truth
        gap, times = torch.ones_like(first[:1, 0]), (len(first[0]) // 2, len(first[0]) - 1)

        def line(views: Tensor, gap: Tensor = gap, times: Sequence[int] = times) -> Tensor:
            return torch.cat([torch.cat([views[:, t], gap]) for t in times])

        rows = []
        for name in shown:
            rows.append((f"{name}: truth", line(scenes[task, name].truth)))
            for s in own:
                trivial = s.result.made.method in (*TRIVIAL, PASTE) and s.result.made.method != "sum of differences"
                if s.result.made.scene == name and not trivial:
                    rows.append((s.result.made.method, line(s.result.views)))
        headings = {0: "all cameras, halfway", len(first) + 1: "and at the end"}
        picture_rows(rows, path.with_name(f"{path.stem}_{task}.png"), headings=headings)


if __name__ == "__main__":
    program(Baselines)
