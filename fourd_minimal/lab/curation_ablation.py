"""Curated or whole: 4Diffusion's Table 2 in small. Does a model learn motion better from the clips that curation keeps?

A collection of clips, most of them spoilt on purpose in four ways, is scored by `data/curation.py`. Motion modules are
trained twice over the same frozen base, for as many steps, at the same rate, from the same start: on all clips, and on
those that were kept. Both are asked about held-out walking creatures.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm

from fourd_minimal.configs.four_diffusion import FOUR_DM, FourDMPreset
from fourd_minimal.data.curation import measure, verdict
from fourd_minimal.data.procedural import HELD_OUT, SPOILT, sample_scenes
from fourd_minimal.lab.multiview import orbits, train_four_dm
from fourd_minimal.lab.multiview_evaluation import FROZEN, OURS, OWN, PASTE, Score, compare, gain, score_table
from fourd_minimal.lab.presets import device
from fourd_minimal.lab.train import watched
from fourd_minimal.lab.verdicts import verdict as judge
from fourd_minimal.lab.windows import table
from fourd_minimal.systems.four_diffusion import FourDM
from fourd_minimal.systems.weights import write_text

CURATED, WHOLE = "4DM, curated clips", "4DM, all clips"
Clips = tuple[tuple[int, str | None], ...]


def collection(n: int, seed: int = 0) -> Clips:
    """Clips to learn from, a fifth of them good and a fifth spoilt in each of four ways: scene, and way.

    >>> collection(5)[:2]
    ((500000, None), (500001, 'static'))
    """
    ways = (None, *SPOILT)
    return tuple((500_000 + seed * n + i, ways[i % len(ways)]) for i in range(n))


def judged(clips: Clips, preset: FourDMPreset) -> list[tuple[str, ...]]:
    """Why curation refuses each clip; it sees the clip's render, not how it was spoilt."""
    around, found = torch.arange(4.0)[None] * 90, []
    for seed, spoilt in tqdm(clips, desc="curation", unit="clip"):
        record = sample_scenes(
            1,
            4,
            preset.model.times,
            32,
            seed,
            "creature",
            elevation_deg=preset.model.elevation_deg,
            azimuths_deg=around,
            spoilt=spoilt,
        )
        found.append(verdict(measure(record)))
    return found


@dataclass(frozen=True)
class AblateCuration:
    """Train motion modules on a collection with bad clips in it, and on what curation keeps of it."""

    preset: str = "cpu"
    """Whose sizes and rates are taken."""
    weights: str = "toy"
    """Whose base both begin with."""
    clips: int = 200
    """In the collection; four fifths are bad."""
    train_steps: int = 400
    """Of each training."""
    batch: int = 1
    """Clips of a training step."""
    train_seeds: tuple[int, ...] = (0,)
    """Trainings of each kind."""
    scenes: int = 16
    """Held-out creatures."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of sampling."""
    steps: int = 10
    """Of sampling."""
    runs: Path = Path("runs/curation")
    """Where trainings are kept: the same line again goes on."""
    out: Path | None = None
    """Where `curation_ablation.md` and `.json` go."""

    def run(self) -> None:
        """Curate, train, compare, and print the tables.

        Raises:
            ValueError: an unknown preset, or counts that make no sense.
        """
        if self.preset not in FOUR_DM:
            raise ValueError(f"--preset is {self.preset!r}; it must be one of {', '.join(FOUR_DM)}.")
        for name, least in dict(clips=5, train_steps=1, batch=1, scenes=2).items():
            if getattr(self, name) < least:
                raise ValueError(f"--{name.replace('_', '-')} is {getattr(self, name)}; at least {least} is wanted.")
        preset = replace(FOUR_DM[self.preset], motion_steps=self.train_steps, motion_batch=self.batch)
        clips = collection(self.clips)
        reasons = judged(clips, preset)
        kept = tuple(clip for clip, why in zip(clips, reasons, strict=True) if not why)
        if not kept:
            raise ValueError(f"--clips is {self.clips}; curation kept none of them, and more are wanted.")
        base = FourDM.from_pretrained(self.weights, motion=False)
        held_out = orbits(preset.model, self.scenes, preset.model.times, HELD_OUT + preset.model.times)
        scores: list[Score] = []
        for name, chosen in {CURATED: kept, WHOLE: clips}.items():
            for seed in self.train_seeds:
                arm = replace(preset, clips=chosen, seed=seed)
                folder = self.runs / f"{'curated' if name == CURATED else 'whole'}_{seed}"
                step = watched(
                    train_four_dm("motion", arm, folder, base, device=device()), arm.motion_steps, folder.name
                )
                model, only = step.averaged().cpu(), {OURS} if scores else {PASTE, FROZEN, OWN, OURS}
                found = compare(model, base, *held_out, self.steps, seeds=self.seeds, only=only)
                for one, _ in found:
                    ours = dict(method=name, seed=100 * seed + one.seed)
                    scores.append(replace(one, **ours) if one.method == OURS else one)
        text = self._report(clips, reasons, scores)
        print(text)
        if self.out:
            write_text(self.out / "curation_ablation.md", text + "\n")
            write_text(self.out / "curation_ablation.json", json.dumps([asdict(s) for s in scores]))

    def _report(self, clips: Clips, reasons: Sequence[tuple[str, ...]], scores: Sequence[Score]) -> str:
        rows = []
        for way in (None, *SPOILT):
            of = [why for (_, spoilt), why in zip(clips, reasons, strict=True) if spoilt == way]
            why = Counter(reason for reasons in of for reason in reasons)
            said = ", ".join(f"{reason} {n}" for reason, n in why.most_common())
            rows.append([way or "good", str(len(of)), str(sum(not w for w in of)), said])
        untrained = [s for s in scores if s.method == OWN] * (len(self.train_seeds) - 1)  # as many runs as the others
        questions = []
        for better, other in ((CURATED, WHOLE), (CURATED, OWN), (WHOLE, OWN)):
            row = [f"{better} against {other}"]
            for what in ("error", "first", "second"):
                middle, low, high = gain([*scores, *untrained], better, other, what)
                row.append(f"{judge(low, high)}: {middle:+.2f} ({low:+.2f} to {high:+.2f})")
            questions.append(row)
        return "\n\n".join(
            [
                f"Motion modules trained for {self.train_steps} steps of {self.batch} on what curation keeps of "
                f"{len(clips)} clips, and on all of them; weights '{self.weights}', {self.scenes} held-out creatures, {self.steps} "
                f"sampling steps; seeds: {len(self.seeds)} of sampling, {len(self.train_seeds)} of training; CPU. "
                "Made by `fourd ablate-curation`.",
                "### The collection",
                table(["clips", "in all", "kept", "refused because"], rows),
                "### Scores",
                score_table(scores),
                "### Gains, dB, with their 95% interval over scenes and seeds",
                table(["", "PSNR, object", "first difference", "second difference"], questions),
            ]
        )
