"""How 4Real-Video is trained: three stages, each a recipe for the one loop.

    for step in train("base", preset, folder):  print(step.number, step.loss)
    for step in train("sync", preset, folder, base):  ...

Stage "base" trains the video model on single videos with random masks (section 3.1). Stage "sync" freezes it and trains
the synchronisation layers on grids, first flat ones made of single videos, then true ones (section 3.3). Stage "joint"
trains both on true grids, which the paper does not do and a base as small as ours gains from. All minimise the
velocity-matching loss.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fourd_minimal.configs.four_real_video import FourRealVideoPreset
from fourd_minimal.pseudo_4d import maps_along, pseudo_grid, random_motions
from fourd_minimal.rectified_flow import add_noise, sample_sigma
from fourd_minimal.systems.conditioning import known_cells
from fourd_minimal.systems.four_real_video import FourRealVideo, Part
from fourd_minimal.training.devices import PLAIN, Scale
from fourd_minimal.training.loop import Recipe, Step, fit, fresh, seeded, warm_cosine
from fourd_minimal.training.sources import Place, Sources
from fourd_minimal.video_dit import Context

STAGES: tuple[Part, ...] = get_args(Part)
"""A stage is named after the part of the model that it trains."""


class Batch(NamedTuple):
    """What one evaluation of the loss needs; frames in [-1, 1]."""

    noisy: Tensor
    sigma: Tensor
    seen: Tensor
    clean: Tensor
    context: Context | None = None


def step_generator(preset: FourRealVideoPreset, stage: Part, number: int, part: int = 0) -> torch.Generator:
    """The source of all that is random in one part of a step."""
    return seeded(preset.seed * len(STAGES) + STAGES.index(stage), number, part)


def sources_of(preset: FourRealVideoPreset) -> Sources:
    """Where a preset's frames come from."""
    return Sources(((f"shards:{preset.shards}", 1.0),) if preset.shards else preset.sources)


class Source(NamedTuple):
    """Where the frames of one batch come from; with shards, its number and part say which grids these are."""

    preset: FourRealVideoPreset
    generator: torch.Generator
    number: int
    part: int

    def frames(self, n: int, views: int, times: int, size: tuple[int, int] | None = None) -> Tensor:
        """Fresh scenes, or windows of stored ones, `(n, views, times, 3, h, w)` in [-1, 1]; of the model's size."""
        preset, size = self.preset, size or self.preset.model.dit.image_size
        place = Place(self.number, self.part, preset.parts, preset.seed)
        return sources_of(preset).frames(n, views, times, size, self.generator, place)

    def pseudo_4d(self, n: int, views: int, times: int) -> Tensor:
        """Fixed-view videos as flat grids; motions have a generator of their own: the noise is as after true grids."""
        motions = random_motions(n, torch.Generator().manual_seed(self.generator.initial_seed() + 5_000_000))
        return pseudo_grid(self.frames(n, 1, times)[:, 0], maps_along(motions, torch.linspace(0, 1, views)))[0]


def random_masks(n: int, frames: int, generator: torch.Generator) -> Bool[Tensor, "n frames"]:
    """Which frames are known: only the first (35%), the first and the last (25%), the first k, or any subset."""
    kind = torch.rand(n, 1, generator=generator)
    index = torch.arange(frames)
    first, last = index == 0, index == frames - 1
    leading = index <= torch.randint(0, frames - 1, (n, 1), generator=generator)
    subset = torch.rand(n, frames, generator=generator) < torch.rand(n, 1, generator=generator)
    subset[:, -1] &= ~subset.all(1)  # something is left to predict
    masks = torch.where(kind < 0.35, first, torch.where(kind < 0.6, first | last, leading))
    return torch.where(kind < 0.8, masks, subset)


def noise_levels(preset: Any, n: int, generator: torch.Generator) -> Float[Tensor, " n"]:
    """Logit-normal and shifted, a share of them at 1, as any preset with `model.shift` and `share_pure_noise` says."""
    sigma = sample_sigma(n, preset.model.shift, generator=generator)
    return torch.where(torch.rand(n, generator=generator) < preset.share_pure_noise, 1.0, sigma)


def velocity_loss(predicted: Tensor, clean: Tensor, sigma: Float[Tensor, " b"], unseen: Tensor) -> Tensor:
    """Velocity matching for a network that predicts clean frames, over unknown frames.

    v - v* = (x* - x) / sigma, so the squared error of the velocity is that of the frames over sigma^2; sigma is kept
    above 0.3 there, or nearly clean samples would dominate.
    """
    error = (predicted - clean).square().flatten(-3).mean(-1).flatten(1)
    weight = unseen.flatten(1) / sigma.clamp(min=0.3)[:, None] ** 2
    return (error * weight).sum() / unseen.sum()


def base_batch(preset: FourRealVideoPreset, number: int, part: int = 0) -> list[Batch]:
    """Single videos: one half fixed-view, the other freeze-time."""
    generator, cfg = step_generator(preset, "base", number, part), preset.model
    frames, videos = begun(preset.base_frames, number) or (None, preset.base_batch)
    half, (size,) = videos // preset.parts // 2, begun(preset.base_sizes, number) or (None,)
    batches = []
    for turn, (context, views, times) in enumerate(
        (("dynamic", 1, frames or cfg.times), ("freeze", frames or cfg.views, 1))
    ):
        source = Source(preset, generator, 2 * number + turn, part)
        clean = source.frames(half, views, times, size).flatten(1, 2)
        seen = random_masks(half, clean.shape[1], generator)
        sigma = noise_levels(preset, half, generator)
        noise = torch.randn(clean.shape, generator=generator)
        batches.append(Batch(add_noise(clean, noise, sigma), sigma, seen, clean, context))
    return batches


def begun(changes: Sequence[tuple], number: float) -> list | None:
    """The rest of the last entry that begins at this step or before; None where there are no entries."""
    return next((rest for begin, *rest in reversed(changes) if begin <= number), None)


def grid_batch(preset: FourRealVideoPreset, stage: Part, number: int, part: int = 0) -> list[Batch]:
    """Grids whose first row and column are known, or, in a share of them, other cells."""
    generator, cfg = step_generator(preset, stage, number, part), preset.model
    side, n = begun(preset.grid_windows, number / getattr(preset, f"{stage}_steps")) or (None, preset.sync_batch)
    n, views, times = n // preset.parts, side or cfg.views, side or cfg.times
    source, flat = Source(preset, generator, number, part), stage == "sync" and number < preset.sync_pseudo_steps
    clean = (source.pseudo_4d if flat else source.frames)(n, views, times)
    sigma = noise_levels(preset, n, generator)
    noise = torch.randn(clean.shape, generator=generator)
    known = known_cells(views, times).expand(n, -1, -1)
    if preset.share_any_cells:
        other = torch.rand(n, 1, 1, generator=generator) < preset.share_any_cells
        known = torch.where(other, any_cells(n, views, times, generator), known)
    return [Batch(add_noise(clean, noise, sigma), sigma, known, clean)]


def any_cells(n: int, views: int, times: int, generator: torch.Generator) -> Bool[Tensor, "n v t"]:
    """Which cells are known: a row and a column (40%), a row (10%), a column (10%), or scattered ones, 1 to half."""
    kind = torch.rand(n, 1, 1, generator=generator)
    row = (torch.arange(views) == torch.randint(views, (n, 1), generator=generator))[:, :, None]
    column = (torch.arange(times) == torch.randint(times, (n, 1), generator=generator))[:, None]
    order = torch.rand(n, views * times, generator=generator).argsort(1).argsort(1)
    scattered = order < torch.randint(1, views * times // 2 + 1, (n, 1), generator=generator)
    lines = ((kind < 0.5) & row) | (((kind < 0.4) | (kind >= 0.5)) & column)
    return torch.where(kind < 0.6, lines, scattered.view(n, views, times))


def batch_loss(model: FourRealVideo, batches: list[Batch], device: str | torch.device = "cpu") -> Tensor:
    """The loss of either stage: grids have no context, single videos have one."""
    losses = []
    for batch in batches:
        noisy, sigma, seen, clean = (a.to(device) for a in batch[:4])
        if batch.context is None:
            predicted = model.denoise_grid(noisy, sigma, clean, known=seen)
        else:
            predicted = model.denoise_video(noisy, sigma, seen, clean, batch.context)
        losses.append(velocity_loss(predicted, clean, sigma, ~seen))
    return sum(losses) / len(losses)


def learning_rate(preset: FourRealVideoPreset, stage: Part, number: int) -> float:
    """Warm-up and decay; stage "sync" has them on pseudo-4D, and again on true grids."""
    peak, steps = getattr(preset, f"{stage}_lr"), getattr(preset, f"{stage}_steps")
    return warm_cosine(peak, number, steps, preset.warmup, preset.sync_pseudo_steps if stage == "sync" else 0)


def settings_of(preset: FourRealVideoPreset, stage: Part) -> dict:
    """What a stage's result depends on; the settings of other stages may change while its checkpoint stays valid."""
    others = {
        "base": ("sync_", "joint_", "grid_", "share_any_cells"),
        "sync": ("base_", "joint_", "ema"),
        "joint": ("base_", "sync_steps", "sync_pseudo_steps", "sync_lr", "ema"),
    }
    return {k: v for k, v in asdict(preset).items() if not k.startswith((*others[stage], "shards"))}


def train(
    stage: Part,
    preset: FourRealVideoPreset,
    folder: str | Path | None = None,
    base: FourRealVideo | None = None,
    checkpoint_every: int = 100,
    device: str | torch.device = "cpu",
    scale: Scale = PLAIN,
) -> Iterator[Step[FourRealVideo]]:
    """Train one stage, yielding after every step; the last step's `averaged()` is the result.

    Args:
        stage: "base"; "sync", which keeps the base frozen; or "joint".
        preset: everything else.
        folder: where `<stage>_checkpoint.safetensors` is kept; if it is there, training goes on from it.
        base: for "sync" and "joint": the model whose base is used; "joint" also takes over its sync, where it has one.
        checkpoint_every: steps between checkpoints; one is also written at the end.
        device: where to train.
        scale: how steps are computed.

    Raises:
        ValueError: stage "sync" or "joint" without `base`, or a checkpoint of another preset.
    """
    if stage != "base" and base is None:
        raise ValueError(f"base is None; stage {stage!r} needs the model whose base it starts from.")
    model = fresh(lambda: FourRealVideo(preset.model), preset.seed).to(device)
    if base is not None:
        known: Part = "joint" if stage == "joint" and base.config == preset.model else "base"
        model.part(known).load_state_dict(base.part(known).state_dict())
    recipe = Recipe(
        model,
        part=lambda whole: whole.part(stage),
        steps=getattr(preset, f"{stage}_steps"),
        batch=partial(base_batch, preset) if stage == "base" else partial(grid_batch, preset, stage),
        loss=partial(batch_loss, device=device),
        rate=partial(learning_rate, preset, stage),
        decay=preset.ema if stage == "base" else preset.grid_ema,
        config=preset,
        settings=partial(settings_of, stage=stage),
        data=sources_of(preset).fingerprint,
        parts=preset.parts,
    )
    path = None if folder is None else Path(folder) / f"{stage}_checkpoint.safetensors"
    yield from fit(recipe, path, checkpoint_every, scale)
