"""Which metric sees which corruption? Held-out grids, corrupted by known amounts, and every number of a table.

Each cell says how much worse a metric calls the corrupted grids than the clean ones, on the metric's own scale:

    with the truth         (m - m_clean) / (m_other - m_clean)     0: as the truth; 1: as a clean grid of another scene
    without the truth      +-(m - m_clean) / (deviation of m_clean over scenes)         negative: it calls them BETTER

A metric without the truth cannot tell a clean grid from that of another scene, so the deviation over clean scenes is
what a change must exceed before one grid gives it away. A Frechet distance is one number of a set of scenes: in the
place of scenes it has random halves of them, over which it deviates by about the standard error of the whole. So signs
and order are to be compared between rows, not sizes. Where 0 lies in the 95% interval of a cell over scenes, the
number stands in brackets: the metric does not see it.

Videos are rows of a grid, at a fixed view. What judges videos, one by one or as a set, knows nothing of cameras: grids
whose views have traded places hold the same videos.

Departures: toy features stand in for CLIP's and I3D's, and optical flow for the networks that match; names say so.
Matching confidence is the share of pixels surer than 0.5, at every fourth time, or view, and the perceptual distance is
of every fourth view at every fourth time, to spare the reader's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from figures.optical_flow import match
from figures.page import Page, check_choice, check_counts
from fourd_minimal.anchor_loss import ssim
from fourd_minimal.cli.main import program
from fourd_minimal.configs.presets import device
from fourd_minimal.data.corruptions import CORRUPTIONS
from fourd_minimal.data.procedural import FAMILIES, HELD_OUT, sample_scenes
from fourd_minimal.data.scene_record import SceneRecord
from fourd_minimal.metrics import frechet_distance
from fourd_minimal.pretrained.perceptual import Perceptual, lpips_vgg
from fourd_minimal.pretrained.toy_features import ToyFeatures
from fourd_minimal.systems.weights import whole_file
from fourd_minimal.training.evaluation import flicker, reprojection_error
from fourd_minimal.training.tables import made_by, table

Grids = Float[Tensor, "n v t 3 h w"]
Values = dict[str, Float[Tensor, " n"]]
"""Metric -> its value for each scene, or each half of the scenes."""
FRECHET, FRECHET_SAME = (f"Frechet distance to {which}, toy features" for which in ("other scenes", "the same scenes"))
PSNR, SECOND = "PSNR", "distance from the true second difference"
SIMILAR, ADJACENT, ALL = (
    f"{what}, toy features" for what in ("picture similarity", "adjacent similarity over time", "all-pairs similarity")
)
MATCHED_VIEWS, MATCHED_TIMES = (f"matching confidence over {axis}, classical" for axis in ("views", "time"))
BEND = "second difference over time"


class Metric(NamedTuple):
    """How to read one."""

    better: int
    """1 where more is better, -1 where less is."""
    truth: bool
    """Whether it compares with the true grid."""


METRICS = {
    PSNR: Metric(-1, True),  # its values are squared errors: decibels are for showing
    "SSIM": Metric(1, True),
    "perceptual": Metric(-1, True),
    SIMILAR: Metric(1, True),
    SECOND: Metric(-1, True),
    FRECHET_SAME: Metric(-1, True),
    "flicker": Metric(-1, False),
    "reprojection error": Metric(-1, False),
    ADJACENT: Metric(1, False),
    ALL: Metric(1, False),
    BEND: Metric(-1, False),
    MATCHED_VIEWS: Metric(1, False),
    MATCHED_TIMES: Metric(1, False),
    FRECHET: Metric(-1, False),
}


def scene(record: SceneRecord, i: int) -> SceneRecord:
    """One of a batch, as a batch of one."""
    tensors = {f.name: getattr(record, f.name) for f in fields(record)}
    return replace(record, captions=None, **{k: x[i : i + 1] for k, x in tensors.items() if isinstance(x, Tensor)})


def video(family: str, n: int, views: int, times: int, size: int, seed: int, geometry: bool = True) -> SceneRecord:
    """Grids of one family: creatures from all around, at an elevation of 20 degrees; the others on an arc."""
    around = {}
    if family == "creature":
        around = dict(elevation_deg=20.0, azimuths_deg=(torch.arange(views) * (360.0 / views)).expand(n, -1))
    return sample_scenes(n, views, times, size, seed, family, geometry=geometry, **around)


@torch.no_grad()
def per_scene(grids: Grids, record: SceneRecord, features: ToyFeatures, perceptual: Perceptual | None = None) -> Values:
    """Every metric but the Frechet distances, of every scene of grids in [0, 1]; `record` is the truth."""
    n, v, t = grids.shape[:3]
    pairs = list(zip(grids.flatten(1, 2), record.rgb.flatten(1, 2), strict=True))
    made, true = (
        F.normalize(torch.stack([features.pictures(x.flatten(0, 1)) for x in g]), dim=-1).unflatten(1, (v, t))
        for g in (grids, record.rgb)
    )
    cosine = made @ made.mT
    bend, true_bend = (x.diff(n=2, dim=2) for x in (grids, record.rgb))
    found = {
        PSNR: (grids - record.rgb).square().flatten(1).mean(1),
        "SSIM": torch.stack([ssim(a, b).mean() for a, b in pairs]),
        SIMILAR: (made * true).sum(-1).flatten(1).mean(1),
        SECOND: (bend - true_bend).square().flatten(1).mean(1).sqrt(),
        ADJACENT: cosine.diagonal(1, -2, -1).flatten(1).mean(1),
        ALL: cosine[..., torch.ones(t, t).triu(1) > 0].flatten(1).mean(1),
        BEND: bend.abs().flatten(1).mean(1),
    }
    for name, measure in {"flicker": flicker, "reprojection error": reprojection_error}.items():
        found[name] = torch.tensor([measure(grids[i : i + 1], scene(record, i)) for i in range(n)])
    neighbours = {
        MATCHED_VIEWS: (grids[:, :-1, ::4], grids[:, 1:, ::4]),
        MATCHED_TIMES: (grids[:, ::4, :-1], grids[:, ::4, 1:]),
    }
    for name, (here, there) in neighbours.items():
        sure = match(here.flatten(0, 2), there.flatten(0, 2))
        found[name] = (sure > 0.5).float().unflatten(0, (n, -1)).flatten(1).mean(1)
    if perceptual:
        few = zip(*(x[:, ::4, ::4].flatten(1, 2) * 2 - 1 for x in (grids, record.rgb)), strict=True)
        found["perceptual"] = torch.stack([perceptual.distance(a, b).mean() for a, b in few])
    return {name: found[name].cpu() for name in METRICS if name in found}


def frechet(made: Float[Tensor, "n v d"], reference: Float[Tensor, "m w d"]) -> float:
    """Between the videos of two sets of scenes."""
    return frechet_distance(made.flatten(0, 1), reference.flatten(0, 1))


def over_halves(
    made: Float[Tensor, "n v d"], reference: Float[Tensor, "m w d"], same: bool = False, halves: int = 20
) -> Float[Tensor, " halves"]:
    """Frechet distance of random halves of the scenes, the same ones at every call, to all of the reference.

    `same`: to the same half of the reference, scene by scene.
    """
    generator = torch.Generator().manual_seed(0)
    chosen = (torch.randperm(len(made), generator=generator)[: max(1, len(made) // 2)] for _ in range(halves))
    return torch.tensor([frechet(made[half], reference[half] if same else reference) for half in chosen])


@dataclass(frozen=True)
class Cell:
    """What one metric says of one corruption at one strength."""

    family: str
    metric: str
    corruption: str
    strength: float
    value: float
    """Mean over scenes, or of the whole set."""
    clean: float
    cell: float
    """How much worse, on the metric's own scale; above."""
    margin: float
    """Half of its 95% interval over scenes."""

    @property
    def seen(self) -> bool:
        return abs(self.cell) > max(self.margin, 1e-4)


def judged(
    name: str, corrupted: Float[Tensor, " n"], clean: Float[Tensor, " n"], other: Float[Tensor, " n"] | None
) -> tuple[float, float]:
    """The cell of a metric, and half of its 95% interval.

    Given its values for corrupted and for clean grids of the same scenes, and for clean grids of other scenes, which
    metrics with the truth need.
    """
    if METRICS[name].truth:
        change = (corrupted - clean) / (other.mean() - clean.mean())
    else:
        change = METRICS[name].better * (clean - corrupted) / clean.std().clamp(min=1e-9)
    independent = 1 if name in (FRECHET, FRECHET_SAME) else len(change)
    return change.mean().item(), 1.96 * change.std().item() / independent**0.5


def study(
    family: str,
    truth: SceneRecord,
    others: Grids,
    features: ToyFeatures,
    perceptual: Perceptual | None = None,
    halves: int = 20,
) -> list[Cell]:
    """Every corruption at every strength by every metric; `others` are clean grids of other scenes, for Frechet."""

    @torch.no_grad()
    def of_videos(grids: Grids) -> Float[Tensor, "n v d"]:
        return torch.stack([features.videos(grid) for grid in grids]).cpu()

    same, different = of_videos(truth.rgb), of_videos(others)

    def measure(grids: Grids) -> tuple[Values, dict[str, float]]:
        """By metric: values, and what is shown of them."""
        found, made = per_scene(grids, truth, features, perceptual), of_videos(grids)
        whole = {name: values.mean().item() for name, values in found.items()}
        found[FRECHET], whole[FRECHET] = over_halves(made, different, halves=halves), frechet(made, different)
        found[FRECHET_SAME], whole[FRECHET_SAME] = over_halves(made, same, True, halves), frechet(made, same)
        return {name: found[name] for name in METRICS if name in found}, whole

    other, _ = measure(truth.rgb.roll(1, 0))
    other[FRECHET_SAME] = over_halves(different, same, True, halves)
    clean, clean_whole = measure(truth.rgb)
    cells = []
    for corruption, (corrupt, strengths) in tqdm(CORRUPTIONS.items(), desc=family):
        for strength in strengths:
            corrupted, whole = measure(torch.stack([corrupt(grid, strength) for grid in truth.rgb]))
            for name, values in corrupted.items():
                judgement = judged(name, values, clean[name], other[name])
                cells.append(Cell(family, name, corruption, strength, whole[name], clean_whole[name], *judgement))
    return cells


def by_metric(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """Metric -> its cells, corruptions in their order, the faintest first."""
    return {name: [c for c in cells if c.metric == name] for name in dict.fromkeys(c.metric for c in cells)}


def order_table(cells: Sequence[Cell]) -> str:
    """Of both Frechet distances: do the clean grids and the three strengths come in this order, each worse?"""
    rows = []
    for metric in (FRECHET_SAME, FRECHET):
        row = [metric]
        for corruption in CORRUPTIONS:
            line = [c for c in cells if c.metric == metric and c.corruption == corruption]
            yes = all(a < b for a, b in pairwise([line[0].clean, *(c.value for c in line)]))
            row.append("blind" if all(abs(c.cell) < 1e-4 for c in line) else "yes" if yes else "no")
        rows.append(row)
    return table(["", *CORRUPTIONS], rows)


def shown(metric: str, value: float) -> str:
    """A value as tables have it."""
    return f"{-10 * torch.tensor(value).log10().item():.1f}" if metric == PSNR else f"{value:.3f}"


def cell_text(cell: Cell) -> str:
    """The number of a cell; in brackets where it is not seen, "0" where nothing changes at all."""
    if abs(cell.cell) < 1e-4:
        return "0"
    digits = 0 if abs(cell.cell) >= 10 else 1 if abs(cell.cell) >= 1 else 2
    text = f"{cell.cell:+.{digits}f}".replace("-", "−")
    return text if cell.seen else f"({text})"


def cell_table(cells: Sequence[Cell], values: bool = False) -> str:
    """Metrics down, corruptions across; three strengths in each cell. Values, or how much worse they are."""
    rows = []
    for name, line in by_metric(cells).items():
        texts = [shown(name, c.value) if values else cell_text(c) for c in line]
        clean = [shown(name, line[0].clean)] if values else []
        rows.append([name, *clean, *(" / ".join(texts[i : i + 3]) for i in range(0, len(texts), 3))])
    return table(["", *(["clean"] if values else []), *CORRUPTIONS], rows)


def misses(cells: Sequence[Cell]) -> str:
    """Of each metric: what it does not see at any strength, and what it calls better at some."""
    rows = []
    for name, line in by_metric(cells).items():
        by = {corruption: [c for c in line if c.corruption == corruption] for corruption in CORRUPTIONS}
        blind = [corruption for corruption, three in by.items() if not any(c.seen for c in three)]
        fooled = [corruption for corruption, three in by.items() if any(c.seen and c.cell < 0 for c in three)]
        rows.append([name, ", ".join(blind), ", ".join(fooled)])
    return table(["", "does not see", "calls better"], rows)


def draw(studies: Mapping[str, Sequence[Cell]], title: str, path: Path) -> None:
    """A heat map for each family; orange is worse, purple better, white not seen."""
    import matplotlib.pyplot as plt  # slow to import: only here

    count = max(len(by_metric(cells)) for cells in studies.values())
    size = (15.5, 0.8 + len(studies) * (1.1 + 0.34 * count))
    figure, axes = plt.subplots(len(studies), 1, figsize=size, layout="constrained", squeeze=False)
    for axis, (family, cells) in zip(axes[:, 0], studies.items(), strict=True):
        rows = sorted(by_metric(cells).items(), key=lambda row: not METRICS[row[0]].truth)  # with the truth first
        worth = torch.tensor([[c.cell for c in line] for _, line in rows])
        full = torch.tensor([1.0 if METRICS[name].truth else 4.0 for name, _ in rows])[:, None]
        colour = worth.sign() * (worth.abs() / full).sqrt().clamp(max=1)
        axis.imshow(-colour.numpy(), cmap="PuOr", norm=plt.Normalize(-1.6, 1.6), aspect="auto")  # pale: ink is read
        for y, (_, line) in enumerate(rows):
            for x, cell in enumerate(line):
                axis.text(x, y, cell_text(cell), ha="center", va="center", fontsize=8)
        axis.set_yticks(range(len(rows)), [name for name, _ in rows])
        axis.set_xticks(range(len(rows[0][1])), [f"{c.strength:g}" for c in rows[0][1]], fontsize=8)
        for x, corruption in enumerate(CORRUPTIONS):
            axis.text(3 * x + 1, -0.75, corruption, ha="center", va="bottom")
            axis.axvline(3 * x - 0.5, color="0.3", linewidth=1)
        axis.axhline(sum(METRICS[name].truth for name, _ in rows) - 0.5, color="0.3", linewidth=2)
        axis.tick_params(length=0)
        axis.set_title(f"{family}\n", loc="left", fontweight="bold")
    axes[-1, 0].set_xlabel(
        "strength of the corruption.   Above the thick line: share of the way from the truth (0) to another scene (1). "
        "Below: standard deviations.\nOrange, +: called worse; purple, −: called better; in brackets: not told from "
        f"clean. {title}",
        fontsize=9,
    )
    with whole_file(path) as draft:
        figure.savefig(draft, format="png", dpi=110)
    plt.close(figure)


@dataclass(frozen=True)
class MetricStudy:
    """Corrupt held-out grids in seven ways by three amounts each, and ask every metric what it sees."""

    features: str = "toy"
    """The features are "toy", or a folder that `python -m figures.train_features` wrote."""
    families: tuple[str, ...] = ("creature", "simple")
    """These families of procedural scenes are corrupted."""
    scenes: int = 48
    """So many scenes of each family are corrupted; as many others make the set of the Frechet distance."""
    views: int = 8
    times: int = 8
    size: int = 32
    """The frames have so many pixels along each side; at least 16."""
    seed: int = 0
    """The scenes begin at this one, counted from the first held-out one."""
    perceptual: bool = True
    """Whether to ask the perceptual distance too, where its packages are installed."""
    out: Path | None = None
    """`metric_study.md`, `.json` and `.png` go into this folder."""

    def run(self) -> None:
        """Measure, and print the tables."""
        for family in self.families:
            check_choice("--families", family, FAMILIES)
        check_counts(self, scenes=4, views=4, times=4, size=16, seed=0)
        features = ToyFeatures.from_pretrained(self.features).to(device())
        perceptual, about = None, "left out"
        if self.perceptual:
            try:
                perceptual = lpips_vgg(device())
                about = perceptual.label
            except ValueError as reason:
                about = f"left out ({reason})"
        shape = (self.scenes, self.views, self.times, self.size)
        studies = {}
        for family in self.families:
            truth, others = (video(family, *shape, HELD_OUT + self.seed + i, geometry=not i) for i in (0, 1))
            tensors = {f.name: getattr(truth, f.name) for f in fields(truth)}
            truth = replace(truth, **{k: x.to(device()) for k, x in tensors.items() if isinstance(x, Tensor)})
            studies[family] = study(family, truth, others.rgb.to(device()), features, perceptual)
        page = Page("metric_study", self.out)
        page.say(*self._report(studies, features, about))
        page.write([asdict(c) for cells in studies.values() for c in cells])
        if self.out:
            shape = f"{self.views} x {self.times}"
            made = f"{self.scenes} held-out scenes of {shape} frames; `python -m figures.metric_study`."
            draw(studies, made, self.out / "metric_study.png")

    def _report(self, studies: Mapping[str, Sequence[Cell]], features: ToyFeatures, about: str) -> list[str]:
        parts = [
            f"{self.scenes} held-out scenes per family, {self.views} views x {self.times} times of {self.size}x"
            f"{self.size} pixels, seed {self.seed}, {device().type.upper()}. "
            f"{made_by('python -m figures.metric_study')} Features: "
            f"'{self.features}', made by `{features.notes.get('made_by', 'nobody who said so')}`; they stand in for "
            "CLIP's and I3D's, and no number of theirs is CLIP-I, CLIP-C or FVD. "
            f"Perceptual distance: {about}. Frechet distances: {self.scenes * self.views} videos on either side. "
            "Three numbers are three strengths, the faintest first.",
            "How much worse a metric calls the corrupted grids: with the truth, 0 is the truth and 1 the clean grid of "
            "another scene; without, in standard deviations over clean scenes (of Frechet distances: over random "
            "halves of them), and a minus says BETTER. In brackets: 0 lies in the 95% interval over scenes.",
        ]
        for family, cells in studies.items():
            parts += [
                f"### Family {family}",
                cell_table(cells),
                "Do Frechet distances, toy features, put clean, faint, middle and gross in this order?",
                order_table(cells),
                "What each metric misses:",
                misses(cells),
                "The values themselves (PSNR in dB, pooled):",
                cell_table(cells, values=True),
            ]
        return parts


if __name__ == "__main__":
    program(MetricStudy)
