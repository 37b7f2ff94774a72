"""How 4DM is trained: first the base, on single moments of objects from all around, then its motion modules.

Section 3.2 of 4Diffusion: four orthogonal videos, and a video from a random viewpoint as the reference; frames at a
fixed stride; the reference withheld from some objects, for classifier-free guidance.

The paper's configuration works on latents and on CLIP's tokens: frozen encoders make them on the device that trains, so
that a batch stays pixels. Its base is ImageDream's (`fourd train --system four-diffusion --base-weights`).

Departures: procedural creatures for Objaverse, where no shards are given; the orthogonal views begin at a random angle
from the video, so that a model can be asked for any; the paper withholds image and camera together, here the cameras
stay; the error of the clean frames, not of the noise, is the loss, unless the model predicts noise; 15% of all noise
levels are drawn from the last 50 of 1000, the others from all.
"""

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fourd_minimal.configs.four_diffusion import FourDMPreset
from fourd_minimal.data.procedural import sample_scenes
from fourd_minimal.data.scene_record import SceneRecord
from fourd_minimal.systems.four_diffusion import FourDM, FourDMConfig, Part
from fourd_minimal.systems.weights import fingerprint
from fourd_minimal.training import shard_frames
from fourd_minimal.training.devices import PLAIN, Scale
from fourd_minimal.training.loop import Recipe, Step, fit, fresh, seeded, warm_cosine
from fourd_minimal.training.sources import Sources, stored


class Batch(NamedTuple):
    """What one evaluation of the loss needs; frames in [-1, 1]."""

    clean: Tensor
    reference: Tensor
    cameras: Tensor
    t: Tensor
    eps: Tensor
    shown: Tensor
    draws: Tensor = torch.empty(0)
    """Noise of the latents, where there are any: of all views, then of the reference."""


def orbits(
    config: FourDMConfig,
    n: int,
    times: int,
    seed: int,
    corrupted: str | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Walking creatures, recorded by one camera, the reference's, and by others evenly around from another angle on.

    Args:
        config: size, views and elevation.
        n, times: how many, and frames of each.
        seed: of the creatures, and of the cameras unless these have a `generator`.
        corrupted: one of `procedural.CORRUPTED`.

    Returns:
        Clean views `(n, t, v, 3, h, w)` and the video `(n, t, 3, h, w)` in [-1, 1]; the poses of the views, as
        `FourDMConfig.camera_conditioning`, `(n, v, 4, 4)`.
    """
    generator = generator or torch.Generator().manual_seed(seed)
    azimuths, elevation = around(config, n, generator), config.elevation_deg
    shape = n, 1 + config.views, times, config.image_size, seed, "creature"
    cameras = dict(elevation_deg=elevation, azimuths_deg=azimuths)
    return of_records(config, [sample_scenes(*shape, geometry=False, **cameras, corrupted=corrupted)])


def around(config: FourDMConfig, n: int, generator: torch.Generator) -> Float[Tensor, "n v"]:
    """Azimuths in degrees: the reference camera's, anywhere, and the views', evenly spread from another angle on."""
    first, offset = 360 * torch.rand(2, n, 1, generator=generator)
    return torch.cat([first, first + offset + torch.arange(config.views) * (360 / config.views)], 1)


def of_records(config: FourDMConfig, records: list[SceneRecord]) -> tuple[Tensor, Tensor, Tensor]:
    """Records whose first view is the reference, as `orbits` gives them."""
    reference, *views = (torch.cat([record.rgb for record in records]) * 2 - 1).unbind(1)
    return torch.stack(views, 2), reference, config.camera_conditioning(torch.cat([record.c2w for record in records]))


def make_batch(stage: Part, preset: FourDMPreset, number: int, part: int = 0, shrink: int | None = None) -> Batch:
    """Objects, cameras, noise levels and noise of one part of a step; a latent is `shrink` times smaller."""
    run = preset.seed + (7 if stage == "base" else 8)
    generator = seeded(run, number, part)
    n, cfg = (preset.base_batch if stage == "base" else preset.motion_batch) // preset.parts, preset.model
    times = 1 if stage == "base" else cfg.times
    if preset.shards:
        place = number, part, preset.parts, run
        clean, reference, cameras = shard_frames.orbits(stored(preset.shards), cfg, n, times, *place)
    elif stage == "motion" and preset.clips:
        chosen = torch.randint(len(preset.clips), (n,), generator=generator).tolist()
        clips = [orbits(cfg, 1, times, *preset.clips[i], generator) for i in chosen]
        clean, reference, cameras = map(torch.cat, zip(*clips, strict=True))
    else:
        seen_from = dict(azimuths_deg=around(cfg, n, generator), elevation_deg=cfg.elevation_deg)
        shape = n, 1 + cfg.views, times, (cfg.image_size,) * 2, generator
        clean, reference, cameras = of_records(cfg, Sources(preset.sources).records(*shape, **seen_from))
    t = torch.randint(1000, (n,), generator=generator)
    pure = torch.rand(n, generator=generator) < 0.15
    t = torch.where(pure, 999 - torch.randint(50, (n,), generator=generator), t)
    side = cfg.image_size // (shrink or 1)
    shape = n, times, cfg.views, cfg.unet.image_channels, side, side
    eps = torch.randn(shape, generator=generator)
    shown = torch.rand(n, generator=generator) >= preset.share_nothing_shown
    if shrink is None:
        return Batch(clean, reference, cameras, t, eps, shown)
    draws = torch.randn(n, times, cfg.views + 1, *shape[3:], generator=generator)
    return Batch(clean, reference, cameras, t, eps, shown, draws)


def batch_loss(
    model: FourDM, batch: Batch, device: str | torch.device = "cpu", encoders: nn.Module | None = None
) -> Tensor:
    """Squared error of what the model predicts: noise, as in the paper, or clean frames; of latents with encoders.

    An error of clean frames is (1 - abar) / abar times that of the noise: noisy levels count more.
    """
    clean, reference, cameras, t, eps, shown, draws = (a.to(device) for a in batch)
    conditions = {}
    if encoders is not None:
        conditions["tokens"] = encoders.tokens(reference)
        conditions["text"] = None if encoders.text is None else encoders.text.expand(len(t), -1, -1)
        *views, reference = encoders.latents(torch.cat([clean, reference[:, :, None]], 2), draws).unbind(2)
        clean = torch.stack(views, 2)
    z = model.schedule.add_noise(clean, eps, t)
    predicted = model.denoise(z, t, cameras, reference, shown, **conditions)
    if model.config.predicts == "eps":
        return (model.schedule.eps_from_x0(z, predicted, t) - eps).square().mean()
    return (predicted - clean).square().mean()


def train_four_dm(
    part: Part,
    preset: FourDMPreset,
    folder: str | Path | None = None,
    base: FourDM | None = None,
    checkpoint_every: int = 100,
    device: str | torch.device = "cpu",
    scale: Scale = PLAIN,
    encoders: nn.Module | None = None,
) -> Iterator[Step[FourDM]]:
    """Train one part, yielding after every step; see `loop.fit`.

    Args:
        part: "base", or "motion": the motion modules alone.
        preset, checkpoint_every, device, scale: see `loop.fit`.
        folder: of the checkpoint; by default none is written.
        base: the first weights; motion needs them, and goes on from motion modules where there are some.
        encoders: frozen `pretrained.encoders.Encoders`, which a model of latents needs; moved to the device.

    Raises:
        ValueError: motion without a base, a base of another configuration, latents without encoders or encoders that do
            not fit; shards that cannot be read, or a checkpoint that went on other ones, or other encoders.
    """
    if part == "motion" and base is None:
        raise ValueError("base is None; motion modules are trained inside a trained base.")
    if base is not None and base.config != preset.model:
        raise ValueError("base has another configuration than the preset's model; expected the same.")
    if preset.shards and stored(preset.shards).times < preset.model.times:
        has, wants = stored(preset.shards).times, preset.model.times
        raise ValueError(f"shards hold {has} times; expected at least {wants}: render-shards --times {wants}.")
    cfg, origin = preset.model.unet, [stored(preset.shards).fingerprint] if preset.shards else []
    if encoders is not None:
        encoders.refuse_others(cfg.image_channels, cfg.token_dim, cfg.text_dim, preset.model.image_size)
        origin.append(fingerprint(encoders.to(device)))
    elif cfg.image_channels != 3:
        raise ValueError(f"preset works on {cfg.image_channels} latent channels; expected encoders to make them.")
    model = fresh(lambda: FourDM(preset.model, motion=part == "motion"), preset.seed).to(device)
    if base is not None:
        model.load_state_dict(base.state_dict(), strict=False)
    steps, lr = (preset.base_steps, preset.base_lr) if part == "base" else (preset.motion_steps, preset.motion_lr)
    recipe = Recipe(
        model,
        part=lambda whole: whole.unet if part == "base" else whole.motion,
        steps=steps,
        batch=partial(make_batch, part, preset, shrink=None if encoders is None else encoders.shrink),
        loss=partial(batch_loss, device=device, encoders=encoders),
        rate=lambda number: warm_cosine(lr, number, steps, preset.warmup),
        decay=preset.ema,
        config=preset,
        settings=lambda whole: {name: value for name, value in asdict(whole).items() if name != "shards"},
        data=" ".join(origin),
        parts=preset.parts,
    )
    path = None if folder is None else Path(folder) / f"{part}_checkpoint.safetensors"
    yield from fit(recipe, path, checkpoint_every, scale)
