"""The four presets of the text-to-video model. Every value is assumed: the paper takes such models as given."""

from dataclasses import dataclass

from fourd_minimal.configs.checks import at_least, multiples
from fourd_minimal.systems.text_to_video import TextToVideoConfig
from fourd_minimal.video_dit import VideoDiTConfig

COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "colourful")
NOUNS = ("ball", "box", "animal", "objects")
VERBS = ("bouncing", "squashing", "sliding", "tilting", "walking")
WORDS = (*COLOURS, *NOUNS, *VERBS)
"""What the captions of `data.procedural` are made of."""


@dataclass(frozen=True)
class TextToVideoPreset:
    """Everything one training run depends on."""

    model: TextToVideoConfig
    sources: tuple[tuple[str, float], ...] = (("plain", 0.8), ("creature", 0.2))
    """Of captioned videos, with their shares; see `training/sources.py`."""
    steps: int = 3000
    batch: int = 24
    """Videos: half fixed-view, half freeze-time."""
    lr: float = 1.5e-3
    warmup: int = 100
    """Steps until the rate is at its peak; at most a fifth of all."""
    ema: float = 0.998
    """Decay of the averaged weights, which are the result."""
    share_pure_noise: float = 0.2
    """Share of samples at sigma = 1, where every sampler starts."""
    share_nothing_seen: float = 0.6
    """Share of videos of which no frame is known; of the others, any subset, as for the base model."""
    share_no_caption: float = 0.1
    """Share of videos whose caption is left out, for guidance."""
    share_no_word: float = 0.1
    """Share of the words that are left out of the other captions."""
    parts: int = 1
    """Every batch is the mean over so many, which several devices share."""
    seed: int = 0

    def __post_init__(self):
        at_least(self, parts=1, steps=1, batch=2, warmup=1)
        multiples(self, batch=2 * self.parts)


def _preset(
    size: tuple[int, int], dim: int, depth: int, heads: int, grid: int, text_dim: int, **training
) -> TextToVideoPreset:
    dit = VideoDiTConfig(size, patch=4, dim=dim, depth=depth, heads=heads, text_dim=text_dim)
    return TextToVideoPreset(TextToVideoConfig(dit, WORDS, views=grid, times=grid), **training)


TEXT_TO_VIDEO = {
    "smoke": _preset((16, 16), 24, 2, 2, 3, 8, steps=4, batch=4, warmup=2),
    "cpu": _preset((24, 24), 96, 6, 3, 4, 32),  # the shipped weights; starts from the base
    # not yet trained
    "gpu": _preset((32, 32), 384, 12, 6, 8, 64, steps=40_000, batch=128, lr=5e-4),
    "full": _preset(
        (72, 128), 1024, 24, 16, 8, 1024, steps=500_000, batch=192, lr=1e-4, warmup=1000, ema=0.9999, parts=24
    ),
}
