"""How the upsampler is trained."""

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from fourd_minimal.configs.upsampler import UpsamplerPreset
from fourd_minimal.rectified_flow import add_noise
from fourd_minimal.systems.upsampler import Upsampler, shrink
from fourd_minimal.training.devices import PLAIN, Scale
from fourd_minimal.training.four_real_video import noise_levels, velocity_loss
from fourd_minimal.training.loop import Recipe, Step, fit, fresh, seeded, warm_cosine
from fourd_minimal.training.sources import Sources


class Batch(NamedTuple):
    """What one evaluation of the loss needs; frames in [-1, 1]."""

    noisy: Tensor
    sigma: Tensor
    small: Tensor
    tau: Tensor
    clean: Tensor


def make_batch(preset: UpsamplerPreset, number: int, part: int = 0) -> Batch:
    """Large frames, their small ones, and noise for both.

    Every fourth batch holds whole grids; the others as many frames, of more scenes: the four corners of theirs, so
    that what is learned there is the single frame. tau is uniform, and 0 for half of the scenes.
    """
    generator = seeded(preset.seed + 1_000, number, part)
    cfg, (views, times) = preset.model, (preset.views, preset.times) if number % 4 == 0 else (2, 2)
    n = preset.batch // preset.parts * preset.views * preset.times // (views * times)
    clean = Sources(preset.sources).frames(n, views, times, cfg.dit.image_size, generator)
    small = shrink(clean, cfg.factor)
    tau = cfg.most_augmentation * (torch.rand(n, generator=generator) * 2 - 1).clamp(min=0)
    sigma = noise_levels(preset, n, generator)
    eps, eps_small = (torch.randn(a.shape, generator=generator) for a in (clean, small))
    return Batch(add_noise(clean, eps, sigma), sigma, add_noise(small, eps_small, tau), tau, clean)


def batch_loss(model: Upsampler, batch: Batch, device: str | torch.device = "cpu") -> Tensor:
    """Velocity matching over all frames."""
    noisy, sigma, small, tau, clean = (a.to(device) for a in batch)
    predicted = model.denoise(noisy, sigma, small, tau)
    return velocity_loss(predicted, clean, sigma, torch.ones(clean.shape[:3], dtype=torch.bool, device=device))


def train_upsampler(
    preset: UpsamplerPreset,
    folder: str | Path | None = None,
    start: Upsampler | None = None,
    checkpoint_every: int = 100,
    device: str | torch.device = "cpu",
    scale: Scale = PLAIN,
) -> Iterator[Step[Upsampler]]:
    """Train it, from the weights of `start` on where it is given; yields after every step, see `loop.fit`.

    The checkpoint in `folder` is `upsampler_checkpoint.safetensors`.

    Raises:
        ValueError: a start of another configuration.
    """
    model = fresh(lambda: Upsampler(preset.model), preset.seed).to(device)
    if start is not None:
        if start.config != preset.model:
            raise ValueError(f"start is {start.config}; expected the preset's {preset.model}.")
        model.load_state_dict(start.state_dict())
    recipe = Recipe(
        model,
        part=lambda whole: whole,
        steps=preset.steps,
        batch=partial(make_batch, preset),
        loss=partial(batch_loss, device=device),
        rate=lambda number: warm_cosine(preset.lr, number, preset.steps, preset.warmup),
        decay=preset.ema,
        config=preset,
        settings=asdict,
        parts=preset.parts,
    )
    path = None if folder is None else Path(folder) / "upsampler_checkpoint.safetensors"
    yield from fit(recipe, path, checkpoint_every, scale)
