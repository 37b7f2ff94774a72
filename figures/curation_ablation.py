"""Curated or whole: 4Diffusion's Table 2 in small. Does a model learn motion better from the clips that curation keeps?

A collection of clips, most of them corrupted on purpose in four ways, is scored by `data/curation.py`. Motion modules
are trained twice over the same frozen base, for as many steps, at the same rate, from the same start: on all clips, and
on those that were kept. Both are asked about held-out walking creatures.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm

from figures.four_diffusion import gain_table
from figures.page import Page, check_choice, check_counts
from fourd_minimal.cli.main import program
from fourd_minimal.configs.four_diffusion import FOUR_DM, FourDMPreset
from fourd_minimal.configs.presets import device
from fourd_minimal.data.curation import measure, verdict
from fourd_minimal.data.procedural import CORRUPTED, HELD_OUT, sample_scenes
from fourd_minimal.systems.four_diffusion import FourDM
from fourd_minimal.training.four_diffusion import orbits, train_four_dm
from fourd_minimal.training.multiview_evaluation import FROZEN, OURS, OWN, PASTE, Score, compare, score_table
from fourd_minimal.training.run import watched
from fourd_minimal.training.tables import made_by, table

CURATED, WHOLE = "4DM, curated clips", "4DM, all clips"
Clips = tuple[tuple[int, str | None], ...]


def collection(n: int, seed: int = 0) -> Clips:
    """Clips to learn from, a fifth of them good and a fifth corrupted in each of four ways: scene, and way.

    >>> collection(5)[:2]
    ((500000, None), (500001, 'static'))
    """
    ways = (None, *CORRUPTED)
    return tuple((500_000 + seed * n + i, ways[i % len(ways)]) for i in range(n))


def judged(clips: Clips, preset: FourDMPreset) -> list[tuple[str, ...]]:
    """Why curation refuses each clip; it sees the clip's render, not how it was corrupted."""
    around, found = torch.arange(4.0)[None] * 90, []
    for seed, corrupted in tqdm(clips, desc="curation", unit="clip"):
        options = dict(elevation_deg=preset.model.elevation_deg, azimuths_deg=around, corrupted=corrupted)
        found.append(verdict(measure(sample_scenes(1, 4, preset.model.times, 32, seed, "creature", **options))))
    return found


def over_samplings(scores: Sequence[Score]) -> Score:
    """One score for several samplings of one model: errors are averaged, for these are no independent runs."""
    sums = {name: zip(*(getattr(s, name) for s in scores), strict=True) for name in ("error", "first", "second")}
    means = {name: tuple(sum(values) / len(scores) for values in scenes) for name, scenes in sums.items()}
    error = sum(10 ** (-s.psnr / 10) for s in scores) / len(scores)
    return replace(scores[0], psnr=-10 * math.log10(error), **means)


@dataclass(frozen=True)
class AblateCuration:
    """Train motion modules on a collection with bad clips in it, and on what curation keeps of it."""

    preset: str = "cpu"
    """Sizes and rates come from this preset."""
    weights: str = "toy"
    """Both trainings begin with this base."""
    clips: int = 200
    """The collection has so many clips; four fifths are bad."""
    train_steps: int = 400
    """Each training takes so many steps."""
    batch: int = 1
    """A training step takes so many clips."""
    train_seeds: tuple[int, ...] = (0,)
    """Each kind is trained with each of these seeds."""
    scenes: int = 16
    """So many held-out creatures are the test."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Videos are sampled with each of these seeds."""
    steps: int = 10
    """Sampling takes so many steps."""
    runs: Path = Path("runs/curation")
    """Trainings are kept here: the same line again goes on."""
    out: Path | None = None
    """`curation_ablation.md` and `.json` go into this folder."""

    def run(self) -> None:
        """Curate, train, compare, and print the tables.

        Raises:
            ValueError: an unknown preset, or counts that make no sense.
        """
        check_choice("--preset", self.preset, FOUR_DM)
        check_counts(self, clips=5, train_steps=1, batch=1, scenes=2, steps=1)
        preset = replace(FOUR_DM[self.preset], motion_steps=self.train_steps, motion_batch=self.batch)
        clips = collection(self.clips)
        reasons = judged(clips, preset)
        kept = tuple(clip for clip, why in zip(clips, reasons, strict=True) if not why)
        if not kept:
            raise ValueError(f"--clips is {self.clips}; curation kept none of them; expected more.")
        scores = self._scores(preset, {CURATED: kept, WHOLE: clips})
        page = Page("curation_ablation", self.out)
        page.say(*self._report(clips, reasons, scores))
        page.write([asdict(s) for s in scores])

    def _scores(self, preset: FourDMPreset, arms: dict[str, Clips]) -> list[Score]:
        """Train every arm with every seed; a score for each, and for what needs no training."""
        base = FourDM.from_pretrained(self.weights, motion=False)
        held_out = orbits(preset.model, self.scenes, preset.model.times, HELD_OUT + preset.model.times)
        scores: list[Score] = []
        for name, clips in arms.items():
            for seed in self.train_seeds:
                arm = replace(preset, clips=clips, seed=seed)
                folder = self.runs / f"{'curated' if name == CURATED else 'whole'}_{seed}"
                run = train_four_dm("motion", arm, folder, base, device=device())
                model = watched(run, arm.motion_steps, folder.name).averaged().cpu()
                only = {OURS} if scores else {PASTE, FROZEN, OWN, OURS}
                found = [one for one, _ in compare(model, base, *held_out, self.steps, seeds=self.seeds, only=only)]
                for method in dict.fromkeys(one.method for one in found):
                    one = over_samplings([s for s in found if s.method == method])
                    scores.append(replace(one, method=name, seed=seed) if method == OURS else one)
        return scores

    def _report(self, clips: Clips, reasons: Sequence[tuple[str, ...]], scores: Sequence[Score]) -> list[str]:
        rows = []
        for way in (None, *CORRUPTED):
            of = [why for (_, corrupted), why in zip(clips, reasons, strict=True) if corrupted == way]
            why = Counter(reason for reasons in of for reason in reasons)
            refused = ", ".join(f"{reason} {n}" for reason, n in why.most_common())
            rows.append([way or "good", str(len(of)), str(sum(not w for w in of)), refused])
        several = len(self.train_seeds) > 1
        pairs = ((CURATED, WHOLE), (CURATED, OWN), (WHOLE, OWN))
        questions = {f"{better} against {other}": (better, other) for better, other in pairs}
        over = "scenes and trainings" if several else "scenes; one training of each, so no verdict"
        return [
            f"Motion modules trained for {self.train_steps} steps of {self.batch} on what curation keeps of "
            f"{len(clips)} clips, and on all of them; weights '{self.weights}', {self.scenes} held-out creatures, "
            f"{self.steps} sampling steps, mean over {len(self.seeds)} sampling seeds, {len(self.train_seeds)} "
            f"training(s) of each; {device().type.upper()}. {made_by('python -m figures.curation_ablation')}",
            "### The collection",
            table(["clips", "in all", "kept", "refused because"], rows),
            "### Scores",
            score_table(scores),
            f"### Gains, dB, with their 95% interval over {over}",
            gain_table(scores, questions, judge=several),
        ]


if __name__ == "__main__":
    program(AblateCuration)
