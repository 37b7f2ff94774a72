"""How the text-to-video model is trained, and whether its videos show what their captions say."""

import colorsys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fourd_minimal.configs.text_to_video import TextToVideoPreset
from fourd_minimal.data.procedural import COLOURS, colour_name
from fourd_minimal.rectified_flow import add_noise
from fourd_minimal.systems.text_to_video import TextToVideo
from fourd_minimal.training.devices import PLAIN, Scale
from fourd_minimal.training.four_real_video import noise_levels, random_masks, velocity_loss
from fourd_minimal.training.loop import Recipe, Step, fit, fresh, seeded, warm_cosine
from fourd_minimal.training.sources import Sources
from fourd_minimal.video_dit import Context, VideoDiT


class Batch(NamedTuple):
    """What one evaluation of the loss needs; frames in [-1, 1]."""

    noisy: Tensor
    sigma: Tensor
    seen: Tensor
    clean: Tensor
    words: Tensor
    context: Context


def make_batch(preset: TextToVideoPreset, encode, number: int, part: int = 0) -> list[Batch]:
    """Captioned videos: one half fixed-view, the other freeze-time."""
    generator = seeded(preset.seed + 2_000, number, part)
    cfg, n, batches = preset.model, preset.batch // preset.parts // 2, []

    def happens(share: float, *shape: int) -> Tensor:
        return torch.rand(n, *shape, generator=generator) < share

    for context, views, times in (("dynamic", 1, cfg.times), ("freeze", cfg.views, 1)):
        records = Sources(preset.sources).records(n, views, times, cfg.dit.image_size, generator)
        clean = torch.cat([record.rgb.flatten(1, 2) for record in records]) * 2 - 1
        captions = [caption for record in records for caption in record.captions]
        seen = random_masks(n, clean.shape[1], generator) & ~happens(preset.share_nothing_seen, 1)
        sigma = noise_levels(preset, n, generator)
        words = encode(captions)
        words[happens(preset.share_no_word, words.shape[1]) | happens(preset.share_no_caption, 1)] = 0
        noise = torch.randn(clean.shape, generator=generator)
        batches.append(Batch(add_noise(clean, noise, sigma), sigma, seen, clean, words, context))
    return batches


def batch_loss(model: TextToVideo, batches: list[Batch], device: str | torch.device = "cpu") -> Tensor:
    """Velocity matching over unknown frames."""
    losses = []
    for batch in batches:
        noisy, sigma, seen, clean, words = (a.to(device) for a in batch[:5])
        predicted = model.denoise(noisy, sigma, seen, clean, batch.context, words)
        losses.append(velocity_loss(predicted, clean, sigma, ~seen))
    return sum(losses) / len(losses)


def start(preset: TextToVideoPreset, base: VideoDiT | None = None) -> TextToVideo:
    """The model before training. With `base`, its weights, and attention to words that adds nothing yet.

    Raises:
        ValueError: a base of another shape.
    """
    model = fresh(lambda: TextToVideo(preset.model), preset.seed)
    if base is not None:
        if replace(base.config, text_dim=model.dit.config.text_dim) != model.dit.config:
            raise ValueError(f"base is {base.config}; expected the preset's {preset.model.dit}.")
        model.dit.load_state_dict(base.state_dict(), strict=False)
    for block in model.dit.blocks:
        torch.nn.init.zeros_(block.text_attention.to_out.weight)
        torch.nn.init.zeros_(block.text_attention.to_out.bias)
    return model


def train_text_to_video(
    preset: TextToVideoPreset,
    folder: str | Path | None = None,
    base: VideoDiT | None = None,
    checkpoint_every: int = 100,
    device: str | torch.device = "cpu",
    scale: Scale = PLAIN,
) -> Iterator[Step[TextToVideo]]:
    """Train it, yielding after every step; see `loop.fit`. The checkpoint is `text_to_video_checkpoint.safetensors`."""
    model = start(preset, base).to(device)
    recipe = Recipe(
        model,
        part=lambda whole: whole,
        steps=preset.steps,
        batch=partial(make_batch, preset, model.encode),
        loss=partial(batch_loss, device=device),
        rate=lambda number: warm_cosine(preset.lr, number, preset.steps, preset.warmup),
        decay=preset.ema,
        config=preset,
        settings=asdict,
        parts=preset.parts,
    )
    path = None if folder is None else Path(folder) / "text_to_video_checkpoint.safetensors"
    yield from fit(recipe, path, checkpoint_every, scale)


def object_mask(video: Float[Tensor, "f 3 h w"]) -> Bool[Tensor, "f h w"]:
    """Where a plain scene's object is: its colours are strong, those behind it are pale."""
    return (video.amax(1) - video.amin(1)) > 0.5 * video.amax(1).clamp(min=0.2)


def colour_seen(video: Float[Tensor, "f 3 h w"]) -> str:
    """The name of the object's mean colour, or "nothing"."""
    mask = object_mask(video)
    if mask.sum() < 4:
        return "nothing"
    r, g, b = video.movedim(1, -1)[mask].mean(0).tolist()
    return colour_name(colorsys.rgb_to_hsv(r, g, b)[0])


def motion_seen(video: Float[Tensor, "f 3 h w"]) -> str:
    """Whether the object's middle moves up and down more than its height changes, in pixels."""
    mask = object_mask(video).float()
    rows = torch.arange(video.shape[2], device=video.device) + 0.5
    share = mask.sum(2) / mask.sum((1, 2)).clamp(min=1)[:, None]
    middle = (share * rows).sum(1)
    height = 12**0.5 * (share * (rows - middle[:, None]).square()).sum(1).sqrt()  # of a bar with that spread
    travel, change = (a.amax() - a.amin() for a in (middle, height))
    return "bouncing" if travel > change else "squashing"


def agreement(captions: Sequence[str], videos: Float[Tensor, "n f 3 h w"]) -> dict[str, float]:
    """How often the videos show the colour and the motion that their captions name; pixels in [0, 1].

    Only captions with a colour of `COLOURS` and with one motion count. The truth's own share is the measure's ceiling.

    >>> from fourd_minimal.data.procedural import sample_scenes
    >>> record = sample_scenes(2, 1, 4, 24, 3, "plain")
    >>> agreement(record.captions, record.rgb[:, 0])["colour"]
    1.0
    """
    hits: dict[str, list[bool]] = dict(colour=[], motion=[])
    for caption, video in zip(captions, videos, strict=True):
        words = caption.split()
        hits["colour"] += [colour_seen(video) == word for word in words if word in COLOURS]
        verbs = [word for word in words if word in ("bouncing", "squashing")]
        hits["motion"] += [motion_seen(video) == verbs[0]] * (len(verbs) == 1)
    return {name: sum(found) / max(1, len(found)) for name, found in hits.items()}
