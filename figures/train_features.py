"""How the toy features are trained: a small video network learns to say what videos of the procedural world show.

    shape       ball, box, animal, several                  of a picture and of a video
    colour      the eight names, where a scene has one      of a picture and of a video
    motion      bouncing, ..., still, the camera moves      of a video

The answers are the scenes' captions. A scene without one (a colourful ball has no colour, several objects have no one
motion) does not count. Half of all videos are mirrored; nothing else is done to them. Training sees
no corruption of `data.corruptions`, so that features are not trained to name one; but for a still video, which has a
name here: `frozen motion` at its full strength makes the like.

At the end the features of a video are turned and scaled to mean 0 and covariance 1 over training videos, and what reads
them is turned back. A Frechet distance of 1 is then a shift by one standard deviation.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from fourd_minimal.cli.main import program
from fourd_minimal.configs.presets import device
from fourd_minimal.data.procedural import COLOURS, HELD_OUT, sample_scenes
from fourd_minimal.pretrained.toy_features import ToyFeatures, ToyFeaturesConfig
from fourd_minimal.training.loop import Recipe, Step, fit, warm_cosine
from fourd_minimal.training.run import how_made, watched
from fourd_minimal.training.tables import table

STILL, CAMERA = "still", "the camera moves"
LABELS = (
    ("shape", ("ball", "box", "animal", "several")),
    ("colour", tuple(COLOURS)),
    (
        "motion",
        ("bouncing", "squashing", "bouncing and squashing", "sliding and tilting", "walking", STILL, CAMERA),
    ),
)


@dataclass(frozen=True)
class FeaturePreset:
    """Everything one training run depends on. Every value is assumed."""

    model: ToyFeaturesConfig = field(default_factory=lambda: ToyFeaturesConfig(LABELS))
    families: tuple[tuple[str, float], ...] = tuple(
        dict(plain=0.3, simple=0.15, hard=0.2, creature=0.3, ground=0.05).items()
    )
    """Families of `data.procedural` and their shares."""
    share_still: float = 0.12
    """Share of groups in which nothing moves."""
    share_camera: float = 0.12
    """Share of groups in which only the camera moves."""
    steps: int = 1600
    groups: int = 6
    """Of every batch; one family and one kind of motion each."""
    group: int = 6
    """Videos of each."""
    lr: float = 2e-3
    """At its peak, of AdamW."""
    warmup: int = 50
    """Steps until the rate is at its peak; at most a fifth of all."""
    ema: float = 0.99
    """Decay of the averaged weights, which are the result."""
    seed: int = 0


_SMALL = ToyFeaturesConfig(LABELS, image_size=16, frames=4, widths=(8, 16), picture_dim=8, time_width=8, video_dim=4)
FEATURES = {
    "smoke": FeaturePreset(_SMALL, steps=4, groups=2, group=2, warmup=1),
    "cpu": FeaturePreset(),  # the shipped weights
    # not yet trained
    "gpu": FeaturePreset(steps=10_000, groups=16, group=16),
    "full": FeaturePreset(steps=10_000, groups=16, group=16),  # no paper has such a network; theirs is I3D
}


class Batch(NamedTuple):
    """Videos in [0, 1], and for each question the number of its answer; -1 where it has none."""

    videos: Tensor
    answers: dict[str, Tensor]


def answers(caption: str, kind: str) -> dict[str, str | None]:
    """What a scene's caption says to each question; `kind` is "moves", or what overrules the caption's motion.

    >>> answers("a red ball bouncing and sliding and tilting", "moves")
    {'shape': 'ball', 'colour': 'red', 'motion': 'sliding and tilting'}
    >>> answers("colourful objects on the ground", "still")
    {'shape': 'several', 'colour': None, 'motion': 'still'}
    """
    shapes, colours, motions = (names for _, names in LABELS)
    shape = next((word for word in caption.split() if word in shapes), "several")
    colour = next((word for word in caption.split() if word in colours), None)
    if kind != "moves":
        return dict(shape=shape, colour=colour, motion=kind)
    last_first = sorted((m for m in motions if m in caption), key=lambda m: (m == motions[3], len(m)))
    return dict(shape=shape, colour=colour, motion=last_first[-1] if last_first else None)


def video(
    config: ToyFeaturesConfig, n: int, family: str, kind: str, seed: int
) -> tuple[Float[Tensor, "n t 3 h w"], dict[str, Int[Tensor, " n"]]]:
    """Videos of one family from one camera each, or around one moment, and the answers.

    Creatures are recorded as `multiview.orbits` does it: from an elevation of 20 degrees, from anywhere around.
    """
    views, times = (config.frames, 1) if kind == CAMERA else (1, config.frames)
    options = dict(elevation_deg=20.0 if family == "creature" else None, corrupted="static" if kind == STILL else None)
    record = sample_scenes(n, views, times, config.image_size, seed, family, geometry=False, **options)
    each, numbered = [answers(caption, kind) for caption in record.captions], {}
    for name, names in LABELS:
        numbered[name] = torch.tensor([names.index(one[name]) if one[name] else -1 for one in each])
    return record.rgb.flatten(1, 2), numbered


def make_batch(preset: FeaturePreset, number: int, held_out: bool = False) -> Batch:
    """The videos of step `number`; held-out ones are of seeds that no training uses, and none is mirrored."""
    generator = torch.Generator().manual_seed((preset.seed + 5_000) * 10_000_000 + number)
    names, shares = zip(*preset.families, strict=True)
    families = torch.multinomial(torch.tensor(shares), preset.groups, replacement=True, generator=generator)
    moves = 1 - preset.share_still - preset.share_camera
    kinds = torch.tensor([moves, preset.share_still, preset.share_camera])
    kinds = torch.multinomial(kinds, preset.groups, replacement=True, generator=generator)
    seeds = torch.randint(HELD_OUT, (preset.groups,), generator=generator) + HELD_OUT * held_out
    groups = [
        video(preset.model, preset.group, names[family], ("moves", STILL, CAMERA)[kind], seed)
        for family, kind, seed in zip(families.tolist(), kinds.tolist(), seeds.tolist(), strict=True)
    ]
    videos = torch.cat([videos for videos, _ in groups])
    mirrored = (torch.rand(len(videos), generator=generator) < 0.5) & (not held_out)
    videos = torch.where(mirrored[:, None, None, None, None], videos.flip(-1), videos)
    return Batch(videos, {name: torch.cat([found[name] for _, found in groups]) for name, _ in LABELS})


def batch_loss(model: ToyFeatures, batch: Batch, device: str | torch.device = "cpu") -> Tensor:
    """Cross-entropy of the answers to every question, of whole videos and of every frame."""
    of_frames, of_videos = model(batch.videos.to(device))
    losses = []
    for scores in (of_videos, {name: s.flatten(0, 1) for name, s in of_frames.items()}):
        for name, found in scores.items():
            expected = batch.answers[name].to(device).repeat_interleave(len(found) // len(batch.videos))
            total = F.cross_entropy(found, expected, ignore_index=-1, reduction="sum")
            losses.append(total / (expected >= 0).sum().clamp(min=1))
    return torch.stack(losses).mean()


def train_features(
    preset: FeaturePreset,
    folder: str | Path | None = None,
    checkpoint_every: int = 100,
    device: str | torch.device = "cpu",
) -> Iterator[Step[ToyFeatures]]:
    """Train them, yielding after every step; see `loop.fit`. The checkpoint is `features_checkpoint.safetensors`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(preset.seed)
        model = ToyFeatures(preset.model).to(device)
    recipe = Recipe(
        model,
        part=lambda whole: whole,
        steps=preset.steps,
        batch=lambda number, part: make_batch(preset, number),
        loss=partial(batch_loss, device=device),
        rate=lambda number: warm_cosine(preset.lr, number, preset.steps, preset.warmup),
        decay=preset.ema,
        config=preset,
        settings=asdict,
    )
    path = None if folder is None else Path(folder) / "features_checkpoint.safetensors"
    yield from fit(recipe, path, checkpoint_every)


@torch.no_grad()
def whitened(model: ToyFeatures, videos: Float[Tensor, "n t 3 h w"]) -> ToyFeatures:
    """Bring the features of these videos to mean 0 and covariance 1, in place, and leave all scores as they are.

    With mean m and covariance C = U L U^T, f' = L^-1/2 U^T (f - m): another matrix and bias in the last layer.
    """
    device = next(model.parameters()).device
    found = torch.cat([model.videos(some.to(device)) for some in videos.split(64)]).double()
    values, vectors = torch.linalg.eigh(found.T.cov())
    deviations = values.clamp(min=1e-8).sqrt()
    mean, forth, back = found.mean(0), (vectors / deviations).T, vectors * deviations
    layer = model.to_video
    layer.bias.copy_(forth @ (layer.bias.double() - mean))
    layer.weight.copy_(forth @ layer.weight.double())
    for head in model.of_video.values():
        head.bias.add_(head.weight.double() @ mean)
        head.weight.copy_(head.weight.double() @ back)
    return model


class Accuracy(NamedTuple):
    """Of one question, over the held-out videos that have an answer to it."""

    right: float
    chance: float
    """Of saying the commonest answer always."""
    asked: int


@torch.no_grad()
def accuracies(model: ToyFeatures, preset: FeaturePreset, batches: int = 20) -> dict[str, Accuracy]:
    """How often held-out videos are named rightly: question, and "shape, one frame" for pictures."""
    where, hits, truths = next(model.parameters()).device, {}, {}
    for number in range(batches):
        batch = make_batch(preset, number, held_out=True)
        of_frames, of_videos = model(batch.videos.to(where))
        found = of_videos | {f"{name}, one frame": scores[:, 0] for name, scores in of_frames.items()}
        for name, scores in found.items():
            expected = batch.answers[name.partition(",")[0]]
            asked = expected >= 0
            hits.setdefault(name, []).append((scores.argmax(1).cpu() == expected)[asked])
            truths.setdefault(name, []).append(expected[asked])
    results = {}
    for name in hits:
        right, truth = torch.cat(hits[name]), torch.cat(truths[name])
        if len(truth):
            commonest = truth.bincount().max().item() / len(truth)
            results[name] = Accuracy(right.float().mean().item(), commonest, len(truth))
    return results


@dataclass(frozen=True)
class TrainFeatures:
    """Train the toy features. Stop it at any time: run again, and it goes on."""

    preset: Literal["smoke", "cpu", "gpu", "full"] = "cpu"
    """The settings below come from this preset."""
    out: Path = Path("runs/toy_features")
    """The checkpoint and the weights go into this folder."""
    settings: FeaturePreset = field(default_factory=lambda: FEATURES["cpu"])
    """The values of the preset, each of which can be changed."""

    def run(self) -> None:
        """Train, leave `features.safetensors` in `out`, and print how often held-out videos are named rightly."""
        run = train_features(self.settings, self.out, device=device())
        step = watched(run, self.settings.steps, "toy features")
        more = [make_batch(self.settings, self.settings.steps + i).videos for i in range(40)]
        model = whitened(step.averaged(), torch.cat(more))
        measured = accuracies(model, self.settings)
        command = f"python -m figures.train_features --preset {self.preset}"
        notes = how_made(command, self.settings, FEATURES[self.preset], step.seconds)
        shown = {name: f"{a.right:.3f} (chance {a.chance:.3f}, {a.asked} asked)" for name, a in measured.items()}
        rows = [[name, f"{a.right:.1%}", f"{a.chance:.1%}", str(a.asked)] for name, a in measured.items()]
        print(table(["held-out videos", "named rightly", "commonest answer", "asked"], rows))
        print(f"Weights: {model.save_pretrained(self.out, accuracy=shown, **notes)}")


if __name__ == "__main__":
    program(TrainFeatures, presets=FEATURES)
