"""The four presets of 4DM. `full` has the paper's values, each with its source; what it trains on is the user's."""

from dataclasses import dataclass

from fourd_minimal.configs.checks import at_least, multiples
from fourd_minimal.multiview_unet import MultiviewUNetConfig
from fourd_minimal.systems.four_diffusion import FourDMConfig


@dataclass(frozen=True)
class FourDMPreset:
    """Everything one training run depends on."""

    model: FourDMConfig
    base_steps: int = 6000
    """Each with new objects."""
    base_batch: int = 8
    """Objects, each at one moment."""
    base_lr: float = 1e-3
    motion_steps: int = 1000
    motion_batch: int = 2
    """Videos."""
    motion_lr: float = 2e-3
    warmup: int = 100
    """Steps until the rate is at its peak; at most a fifth of all."""
    ema: float = 0.998
    """Of the averaged weights; the paper does not state any."""
    share_nothing_shown: float = 0.1
    """Share of objects whose reference is withheld, for guidance. The paper does not state it."""
    clips: tuple[tuple[int, str | None], ...] = ()
    """What motion is learned from: scene and way it is corrupted, of each clip; new ones at every step where empty."""
    parts: int = 1
    """Every batch is the mean over so many, which several devices share."""
    seed: int = 0
    sources: tuple[tuple[str, float], ...] = (("creature", 1.0),)
    """What both parts learn from, with shares; see `training/sources.py`."""
    shards: str = ""
    """A folder that `fourd render-shards` wrote, to be learned from in place of the sources."""
    caption: str = ""
    """Of all objects, where the model reads text."""

    def __post_init__(self):
        at_least(self, parts=1)
        batches = ("base_batch", "motion_batch") if self.base_steps else ("motion_batch",)
        multiples(self, **dict.fromkeys(batches, self.parts))
        if self.clips and self.shards:
            raise ValueError(f"clips and shards are both given, {len(self.clips)} and {self.shards!r}; expected one.")


def _toy(size: int, widths: tuple[int, ...], head_dim: int, dim: int, **training) -> FourDMPreset:
    network = dict(widths=widths, n_res_blocks=1, attention_levels=tuple(range(1, len(widths))), head_dim=head_dim)
    network |= dict(image_channels=3, patch=2, norm_groups=16, text_dim=None, concat=True, pooled=True)
    resampler = dict(token_dim=3 * 8 * 8, n_tokens=8, context_dim=dim, resampler_depth=1, resampler_heads=1)
    unet = MultiviewUNetConfig(**network, **resampler)
    model = FourDMConfig(unet, image_size=size, elevation_deg=20.0, n_heads=4, norm_groups=16)
    return FourDMPreset(model, **training)


FOUR_DM = {
    "smoke": _toy(16, (16, 32), 16, 32, base_steps=4, base_batch=2, motion_steps=2, motion_batch=1, warmup=1),
    "cpu": _toy(32, (48, 80, 80), 16, 96),
    "gpu": _toy(64, (64, 128, 256), 32, 192, base_steps=30_000, base_batch=64, motion_steps=6000, motion_batch=8),
    "full": FourDMPreset(
        FourDMConfig(predicts="eps", object_frame=True),  # ImageDream's
        base_steps=0,  # ImageDream's weights; 4Diffusion trains no base
        motion_steps=30_000,  # section 4
        motion_batch=32,  # section 4
        motion_lr=1e-4,  # section 4, AdamW
        warmup=0,  # assumed
        ema=0.0,  # assumed: none
        parts=16,  # section 4: 16 A100
    ),
}
"""Frames of 16, 32 and 64 pixels; `full` works on latents, 4x32x32 for 256 pixels, and reads CLIP's tokens and a
caption, all made by frozen encoders (`pretrained/encoders.py`)."""
