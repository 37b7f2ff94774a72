"""How good scenes are that were fitted to grids, seen from where no frame was given; and does eq. 11 help?"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from figures.page import Page, check_counts
from figures.reconstruction import Line, even_views, measure, reconstruct
from fourd_minimal.cli.main import program
from fourd_minimal.data.procedural import HELD_OUT, sample_scenes
from fourd_minimal.data.tracks import track_points, true_depth, true_tracks
from fourd_minimal.systems.deformable_gaussians import fit, random_scene
from fourd_minimal.systems.four_real_video import FourRealVideo
from fourd_minimal.training.evaluation import in_words, paired
from fourd_minimal.training.tables import made_by, table

TRACKED, NO_FLOATERS = ("tracks", "tracked", "canonical"), ("no floaters", "none", "canonical")
PLAIN = "tracks", "none", "canonical"
QUESTIONS = {
    "dp^v from tracks helps": (TRACKED, PLAIN),
    "... a free camera between two views taking theirs": (("tracks", "tracked", "between"), PLAIN),
    "... where floaters are gone": (("no floaters", "tracked", "canonical"), NO_FLOATERS),
    "dp^v from tracks beats dp^v by the rendering loss": (TRACKED, ("tracks", "optimised", "canonical")),
    "removing floaters helps": (NO_FLOATERS, PLAIN),
    "... with dp^v from tracks": (("no floaters", "tracked", "canonical"), TRACKED),
    "starting from tracks beats a random ball": (PLAIN, ("random ball", "none", "canonical")),
}
"""Question -> the arm that should be better, and the other: start, dp^v, what a free camera sees."""


@dataclass(frozen=True)
class Scenes:
    """Fit scenes to true and to generated grids, and look at them from between the views."""

    weights: str = "toy"
    """The model's weights are "toy", or a folder that `fourd train` wrote."""
    scenes: int = 8
    """The question of eq. 11 is asked of so many held-out scenes of family simple."""
    fits: int = 4
    """So many held-out scenes per family are fitted to large true grids; 0 for none."""
    fit_steps: int = 150
    """Each fit for the question of eq. 11 takes so many steps; large grids get 500."""
    seed: int = 0
    """The fits have this seed."""
    out: Path | None = None
    """`deformable_gaussians.md` and `.json` go into this folder; by default the tables are only printed."""

    def run(self) -> None:
        """Print the tables as they come, and write them where asked."""
        check_counts(self, scenes=2, fits=0, fit_steps=1)
        page = Page("deformable_gaussians", self.out)
        page.say(
            f"PSNR in dB at views between the given ones. Weights '{self.weights}', CPU, seed {self.seed}. "
            f"{made_by('python -m figures.deformable_gaussians')}"
        )
        large, rows = {}, []
        for family in ("simple", "hard", "creature") if self.fits else ():
            large[family] = found = fit_large(family, self.fits, self.seed)
            cells = (f"{found[start]['pooled']:.1f} ({found[start]['worst']:.1f})" for start in ("ball", "tracks"))
            rows.append([family, *cells, f"{max(f['seconds'] for f in found.values()):.0f}"])
        if rows:
            page.say(
                f"### Fits to true grids: 8 views x 8 times of 40 pixels, 800 Gaussians from a random ball or points "
                f"from true tracks, 500 steps; {self.fits} held-out scenes per family, worst in brackets",
                table(["family", "random ball", "true tracks", "seconds of a fit, at most"], rows),
            )
        model = FourRealVideo.from_pretrained(self.weights)
        record = sample_scenes(self.scenes, 2 * model.views - 1, model.times, model.image_size, HELD_OUT)
        lines = []
        for line in measure(model, record, fit_steps=self.fit_steps, seed=self.seed):
            lines.append(line)
            print(line.grids, line.start, line.compensation, line.free_camera, f"{line.moving_pixels:.2f}", flush=True)
        page.say(
            f"### Eq. 11 and floaters: {model.views}x{model.times} grids of {model.image_size[0]} pixels, "
            f"{self.scenes} held-out scenes of family simple, {self.fit_steps} steps per fit; all / moving pixels",
            arms_table(lines),
            "### Verdicts: moving pixels, gain with its 95% interval over scenes",
            verdict_table(lines),
        )
        page.write(dict(fits=large, lines=[asdict(line) for line in lines]))


def fit_large(family: str, n: int, seed: int = 0, size: int = 40, n_steps: int = 500) -> dict[str, dict[str, float]]:
    """Fits to 8x8 true grids, from a random ball and from true tracks: PSNR in dB between the views, and seconds."""
    record = sample_scenes(n, 15, 8, size, HELD_OUT, family)
    given, found = even_views(record), {}
    moments = torch.linspace(0, 1, 8)
    for start in ("ball", "tracks"):
        errors, seconds = [], []
        for i in range(n):
            began, grid, c2w = time.perf_counter(), given.rgb[i], given.c2w[i]
            if start == "ball":
                scene = fit(grid, c2w, record.fov_deg, random_scene(800, seed), n_steps=n_steps, seed=seed)
            else:
                exact = true_tracks(given, i), true_depth(given, i)
                cloud = track_points(grid[:, 0], c2w, record.fov_deg, *exact, every=2)
                scene = reconstruct(grid, c2w, record.fov_deg, cloud, "none", True, n_steps, seed)
            seconds.append(time.perf_counter() - began)
            cameras = record.c2w[i, 1::2, None].expand(-1, 8, -1, -1)
            seen = scene.render(cameras, record.fov_deg, moments.expand(7, -1), size).rgb.clamp(0, 1)
            errors.append((seen - record.rgb[i, 1::2]).square().mean())
        psnr = -10 * torch.stack(errors).log10()
        pooled = -10 * torch.stack(errors).mean().log10()
        found[start] = dict(pooled=pooled.item(), worst=psnr.min().item(), seconds=max(seconds))
    return found


def arms_table(lines: Sequence[Line]) -> str:
    """Arms down, kinds of grids across."""
    kinds = list(dict.fromkeys(line.grids for line in lines))
    arms = list(dict.fromkeys((line.start, line.compensation, line.free_camera) for line in lines))
    cells = {(line.start, line.compensation, line.free_camera, line.grids): line for line in lines}
    rows = []
    for start, compensation, free in arms:
        row = [start, compensation, free if compensation != "none" else ""]
        for kind in kinds:
            line = cells[start, compensation, free, kind]
            row.append(f"{line.all_pixels:.2f} / {line.moving_pixels:.2f}")
        rows.append(row)
    return table(["start", "dp^v", "a free camera sees", *kinds], rows)


def verdict_table(lines: Sequence[Line]) -> str:
    """Questions down, kinds of grids across."""
    kinds, rows = list(dict.fromkeys(line.grids for line in lines)), []
    errors_of = {(line.grids, line.start, line.compensation, line.free_camera): line.errors for line in lines}
    for question, (better, other) in QUESTIONS.items():
        row = [question]
        for kind in kinds:
            row.append(in_words(paired([[errors_of[(kind, *arm)]] for arm in (better, other)])))
        rows.append(row)
    return table(["", *kinds], rows)


if __name__ == "__main__":
    program(Scenes)
