"""What the anchor and 4D-aware score distillation bring: 4Diffusion's ablation in small, against the truth.

A walking creature is recorded; 4DM samples videos around it; scenes are made of them in several ways, and rendered from
eight cameras between the sampled ones. Every way begins with the same noise and, but for those of 8 views, with the
same videos. A direct fit is best where it stops early, so what follows it is compared twice: with the fit, and with one
that goes on for as many steps without the new term. Questions and their rule stood before the numbers did, but for
those that name the fit that goes on. Steps and rays were tried on two creatures outside the test set.

Errors, each against the true videos of those cameras, pooled over creatures:

    all, object    squared error of all pixels, and of those that the object covers in any frame of the view
    SSIM           1 - structural similarity
    perceptual     LPIPS, or its form on random features, which are then other ones than the anchor's
    flicker        squared distance from the truth's second difference over time, over the object

Departures: the paper judges five objects by CLIP scores, FVD, LPIPS and PSNR, and has no strong plain baseline.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from figures.ablation_runs import slug
from figures.page import Page, check_choice, check_counts
from fourd_minimal.anchor_loss import ssim
from fourd_minimal.cameras import circular_trajectory
from fourd_minimal.cli.main import program
from fourd_minimal.configs.presets import device
from fourd_minimal.configs.scene_distillation import SCENES
from fourd_minimal.data.procedural import HELD_OUT, sample_scenes
from fourd_minimal.pretrained.perceptual import Perceptual, lpips_vgg
from fourd_minimal.systems.dynamic_nerf import DynamicNeRF
from fourd_minimal.systems.four_diffusion import FourDM
from fourd_minimal.systems.scene_distillation import SceneConfig, multiview_videos, optimise_scene
from fourd_minimal.systems.weights import fingerprint, load_weights, save_weights
from fourd_minimal.training.evaluation import in_words, paired
from fourd_minimal.training.multiview_evaluation import PASTE, score
from fourd_minimal.training.tables import made_by, table
from fourd_minimal.viewers.contact_sheet import picture_rows

Views = Float[Tensor, "v t 3 h w"]
CAMERAS = 8
"""Around the object; as many stand between them."""
AROUND = torch.arange(CAMERAS) * (360 / CAMERAS)
BETWEEN = AROUND + 180 / CAMERAS
"""Azimuths of the cameras whose videos may be sampled, the video's first, and of those that test."""


class Arm(NamedTuple):
    """One way to make a scene."""

    sds: bool = False
    anchor: bool = False
    frame_by_frame: bool = False
    mask: bool = True
    views: int = 4
    """Sampled."""
    on: bool = False
    """Go on with the direct fit, for as many steps as SDS takes."""
    video: bool = False
    """The video in place of the sampled video of its own camera."""
    true_videos: bool = False
    """In place of sampled ones."""


FIT4, FIT8, UNMASKED = "fit of 4 sampled views", "fit of 8 sampled views", "fit of 4, no mask loss"
ON, VIDEO = "fit of 4, going on", "fit of 4, the video itself one of them"
ANCHORED, EACH, AWARE = "fit of 4 + anchor", "fit of 4 + SDS, frame by frame", "fit of 4 + 4D-aware SDS"
BOTH, BOTH_UNMASKED = "fit of 4 + 4D-aware SDS + anchor", "... the same, no mask loss"
TRUE = "fit of the 8 true views"
ARMS = {
    UNMASKED: Arm(mask=False),
    FIT4: Arm(),
    ON: Arm(on=True),
    VIDEO: Arm(video=True),
    FIT8: Arm(views=8),
    ANCHORED: Arm(anchor=True),
    EACH: Arm(sds=True, frame_by_frame=True),
    AWARE: Arm(sds=True),
    BOTH: Arm(sds=True, anchor=True),
    BOTH_UNMASKED: Arm(sds=True, anchor=True, mask=False),
    TRUE: Arm(views=8, true_videos=True),
}
QUESTIONS = {
    "4D-aware SDS helps the fit of 4": (AWARE, FIT4),
    "4D-aware SDS helps the fit of 4, going on": (AWARE, ON),
    "4D-aware SDS beats a plain fit of 8": (AWARE, FIT8),
    "SDS frame by frame helps the fit of 4": (EACH, FIT4),
    "4D-aware beats frame by frame": (AWARE, EACH),
    "the anchor helps the fit of 4": (ANCHORED, FIT4),
    "the anchor helps the fit of 4, going on": (ANCHORED, ON),
    "the anchor helps 4D-aware SDS": (BOTH, AWARE),
    "the mask loss helps the fit of 4": (FIT4, UNMASKED),
    "the mask loss helps both together": (BOTH, BOTH_UNMASKED),
    "all of it beats pasting the video": (BOTH, PASTE),
}
"""Claim -> the way that should be better, and the other."""


@dataclass(frozen=True)
class Result:
    """One way, one seed; errors are sums, one per creature."""

    arm: str
    seed: int
    seconds: float
    """Of one scene, mean, after sampling; this machine's."""
    errors: dict[str, tuple[float, ...]]
    counts: dict[str, tuple[float, ...]]

    def error(self, name: str) -> float:
        """Pooled mean."""
        return sum(self.errors[name]) / max(1.0, sum(self.counts[name]))

    def psnr(self, name: str) -> float:
        """In dB."""
        return -10 * torch.tensor(self.error(name)).log10().item()


def recorded(model: FourDM, seed: int) -> tuple[Views, Views]:
    """A creature seen by a camera somewhere and seven around; and by eight between. The first video is the video."""
    begin = 360 * torch.rand(1, generator=torch.Generator().manual_seed(seed))
    azimuths, cfg = (begin + torch.cat([AROUND, BETWEEN]))[None], model.config
    options = dict(geometry=False, elevation_deg=cfg.elevation_deg, azimuths_deg=azimuths)
    rgb = sample_scenes(1, 2 * CAMERAS, cfg.times, cfg.image_size, seed, "creature", **options).rgb[0]
    return rgb[:CAMERAS], rgb[CAMERAS:]


@torch.no_grad()
def seen_between(scene: DynamicNeRF, model: FourDM, fov_deg: float, frames: int) -> Views:
    """What cameras between the sampled ones see, as large as the video."""
    c2w = circular_trajectory(BETWEEN, model.config.elevation_deg, model.config.radius)
    c2w = c2w[:, None].expand(-1, frames, 4, 4).to(device())
    times = torch.linspace(0, 1, frames, device=c2w.device).expand(CAMERAS, -1)
    return scene.render(c2w, fov_deg, times, model.config.image_size).rgb.clamp(0, 1).cpu()


def settings(arm: Arm, config: SceneConfig, anchor: float) -> SceneConfig:
    """A preset with an arm's terms, and no other. Without the mask loss, opacity is unknown to the fit, too."""
    config = replace(config, sampled_views=arm.views, anchor=anchor if arm.anchor else 0.0)
    config = config if arm.sds else replace(config, sds=0.0)
    config = config if arm.mask else replace(config, mask=0.0)
    return config if arm.sds or arm.anchor or arm.on else replace(config, n_steps=0)


def judged(arm: str, made: Float[Tensor, "n v t 3 h w"], truth: Tensor, seed: int, seconds: float, distance) -> Result:
    """The errors of what was made of several creatures."""
    found = score(arm, made.transpose(1, 2), truth.transpose(1, 2), seed)
    frames = [*zip(made.flatten(1, 2), truth.flatten(1, 2), strict=True)]
    errors = dict(all=tuple((made - truth).square().flatten(1).sum(1).tolist()), object=found.error)
    errors["ssim"] = tuple((1 - ssim(a, b)).sum().item() for a, b in frames)
    with torch.no_grad():
        errors["perceptual"] = tuple(distance(a * 2 - 1, b * 2 - 1).sum().item() for a, b in frames)
    errors["flicker"] = found.second
    pixels, _, moving = zip(*found.count, strict=True)
    each, n = (float(len(frames[0][0])),) * len(made), (made[0].numel(),) * len(made)
    return Result(arm, seed, seconds, errors, dict(all=n, object=pixels, ssim=each, perceptual=each, flicker=moving))


@dataclass(frozen=True)
class AblateDistil:
    """Make scenes of the same sampled videos in eleven ways, and compare them with true videos from between."""

    preset: str = "cpu"
    """The settings come from this preset."""
    weights: str = "toy"
    """4DM's weights are "toy", or a folder that `fourd train --system four-diffusion` wrote."""
    scenes: int = 8
    """So many held-out creatures."""
    seeds: tuple[int, ...] = (0, 1)
    """Sampling and optimisation run with each of these seeds, at most ten."""
    anchor: float = 0.01
    """The anchor's weight, where it is on; with the preset's SDS it keeps the paper's proportion."""
    runs: Path = Path("runs/distil")
    """Finished scenes are kept here: the same line again goes on, and several processes may share the seeds."""
    out: Path | None = None
    """`distil_ablation.md`, `.json` and `.png` go into this folder."""

    def run(self) -> None:
        """Make every scene that is not there yet, and print the tables."""
        check_choice("--preset", self.preset, SCENES)
        check_counts(self, scenes=2)
        anchor, judge = lpips_vgg(device()), lpips_vgg(seed=1)
        models = [FourDM.from_pretrained(self.weights, motion).to(device()) for motion in (True, False)]
        creatures = [recorded(models[0], HELD_OUT + i) for i in range(self.scenes)]
        truth = torch.stack([between for _, between in creatures])
        pasted = torch.stack([around[:1].expand_as(around) for around, _ in creatures])
        results, shown = [judged(PASTE, pasted, truth, seed, 0.0, judge.distance) for seed in self.seeds], {}
        with tqdm(total=len(self.seeds) * len(ARMS) * self.scenes, desc="ablation", unit="scene") as progress:
            for seed in self.seeds:
                made: dict[str, list[tuple[Views, float]]] = {}
                for i, (around, _) in enumerate(creatures):
                    for arm, found in self._scenes(i, seed, around, *models, anchor).items():
                        made.setdefault(arm, []).append(found)
                        progress.update()
                for arm, found in made.items():
                    views = torch.stack([v for v, _ in found])
                    shown.setdefault(arm, views)
                    results.append(judged(arm, views, truth, seed, mean(s for _, s in found), judge.distance))
        page = Page("distil_ablation", self.out)
        page.say(
            f"Scenes from one video, preset '{self.preset}', weights '{self.weights}', {self.scenes} held-out "
            f"creatures, seeds {', '.join(map(str, self.seeds))}, {device().type.upper()}; {CAMERAS} cameras "
            "between the sampled ones, against their true videos; what counts first is the object's PSNR. "
            f"{made_by('python -m figures.distil_ablation')} "
            f"The anchor's perceptual distance, and the column 'perceptual': {anchor.label}. Seconds: of one scene, "
            "after sampling (twice as long for 8 views), on a machine that did other things too.",
            result_table(results),
            "### Gains: how much smaller an error is, in dB (3 dB: half), with its 95% interval over scenes and seeds",
            question_table(results, QUESTIONS, judge=len(self.seeds) > 1),
        )
        page.write([asdict(r) for r in results])
        if self.out:
            self._draw(creatures, shown)

    def _scenes(
        self, number: int, seed: int, around: Views, model: FourDM, base: FourDM, anchor: Perceptual
    ) -> dict[str, tuple[Views, float]]:
        """Every arm's views of one creature, from disk where they are there, and what they cost."""
        found, videos = {}, {}
        for name, arm in ARMS.items():
            config = settings(arm, SCENES[self.preset], self.anchor)
            path = self.runs / f"{number}_{seed}_{slug(name)}.safetensors"
            about = dict(guidance_model=fingerprint(base if arm.frame_by_frame else model), anchor=anchor.label)
            if path.exists():
                tensors, saved, notes = load_weights(path, SceneConfig)
                if saved != config or any(notes[key] != value for key, value in about.items()):
                    raise ValueError(f"--runs has {path} of other settings; expected another folder.")
                found[name] = tensors["views"], notes["seconds"]
                continue
            video = around[0].to(device())
            if not arm.true_videos and arm.views not in videos:
                videos[arm.views] = multiview_videos(video, model, config, seed)
            given = around.to(device()) if arm.true_videos else videos[arm.views]
            given = torch.cat([video[None], given[1:]]) if arm.video else given
            guidance_model, began = base if arm.frame_by_frame else model, time.perf_counter()
            options = dict(perceptual=anchor.distance, videos=given, seed=seed, guidance_model=guidance_model)
            scene = optimise_scene(video, model, config, **options)
            seconds = time.perf_counter() - began
            views = seen_between(scene, model, config.fov_deg, len(video))
            save_weights(path, {"views": views}, config, seconds=seconds, **about)
            found[name] = views, seconds
        return found

    def _draw(self, creatures: Sequence[tuple[Views, Views]], shown: Mapping[str, Tensor]) -> None:
        """The second view between, at every moment, of two creatures; first seed."""
        lines: list[tuple[str, Any]] = []
        for i in range(2):
            around, between = creatures[i]
            lines += [("video", around[0]), ("truth, from between", between[2])]
            lines += [(name, views[i, 2]) for name, views in shown.items()]
        picture_rows(lines, self.out / "distil_ablation.png")


def result_table(results: Sequence[Result]) -> str:
    """Ways down; means over seeds."""
    rows = []
    for arm in dict.fromkeys(r.arm for r in results):
        runs = [r for r in results if r.arm == arm]
        cells = [mean(r.psnr("all") for r in runs), mean(r.psnr("object") for r in runs)]
        cells += [1 - mean(r.error("ssim") for r in runs), mean(r.error("perceptual") for r in runs)]
        cells += [mean(r.error("flicker") ** 0.5 for r in runs), mean(r.seconds for r in runs)]
        rows.append([arm, *(f"{c:.{d}f}" for c, d in zip(cells, (2, 2, 3, 4, 3, 0), strict=True))])
    head = ["", "PSNR, dB", "object, dB", "SSIM", "perceptual", "flicker", "seconds"]
    return table(head, rows)


def question_table(results: Sequence[Result], questions: Mapping[str, tuple[str, str]], judge: bool = True) -> str:
    """Claims down, errors across: verdict, gain, and its interval."""
    rows = []
    for claim, arms in questions.items():
        runs = [[r for r in results if r.arm == arm] for arm in arms]
        errors = ([[r.errors[name] for r in of] for of in runs] for name in ("object", "ssim", "perceptual", "flicker"))
        rows.append([claim, *(in_words(paired(pair), judge) for pair in errors)])
    return table(["", "object", "1 - SSIM", "perceptual", "flicker"], rows)


if __name__ == "__main__":
    program(AblateDistil)
