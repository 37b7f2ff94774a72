"""The four presets of the upsampler. Every value is assumed: the paper says only that there is one, to 288x512."""

from dataclasses import dataclass

from fourd_minimal.configs.checks import at_least, multiples
from fourd_minimal.systems.upsampler import UpsamplerConfig
from fourd_minimal.video_dit import VideoDiTConfig


@dataclass(frozen=True)
class UpsamplerPreset:
    """Everything one training run of the upsampler depends on."""

    model: UpsamplerConfig
    views: int = 4
    times: int = 4
    sources: tuple[tuple[str, float], ...] = (("simple", 0.4), ("hard", 0.4), ("creature", 0.2))
    """Families of `data.procedural` and their shares of every batch."""
    steps: int = 2500
    batch: int = 2
    """Whole grids; three batches of four have as many frames, of more and smaller grids."""
    lr: float = 2e-3
    warmup: int = 100
    """Steps until the rate is at its peak; at most a fifth of all."""
    ema: float = 0.998
    """Decay of the averaged weights, which are the result."""
    share_pure_noise: float = 0.5
    """Share of samples at sigma = 1, where every sampler starts."""
    parts: int = 1
    """Every batch is the mean over so many, which several devices share."""
    seed: int = 0

    def __post_init__(self):
        at_least(self, views=2, times=2, steps=1, batch=1, warmup=1, parts=1)
        multiples(self, batch=self.parts)


def _toy(size: int, patch: int, dim: int, depth: int, heads: int, factor: int = 2, **training) -> UpsamplerPreset:
    dit = VideoDiTConfig((size, size), patch=patch, dim=dim, depth=depth, heads=heads)
    return UpsamplerPreset(UpsamplerConfig(dit, factor), **training)


UPSAMPLERS = {
    "smoke": _toy(size=32, patch=4, dim=24, depth=2, heads=2, views=2, times=2, steps=4, batch=2, warmup=2),
    # the shipped weights, which were then trained on with steps=3000, lr=1.5e-3, seed=1
    "cpu": _toy(size=48, patch=6, dim=96, depth=4, heads=3),
    # not yet trained
    "gpu": _toy(
        size=64, patch=4, dim=384, depth=8, heads=6, views=8, times=8, steps=30_000, batch=8, lr=5e-4, warmup=1000
    ),
    "full": UpsamplerPreset(
        UpsamplerConfig(VideoDiTConfig((288, 512), patch=8, dim=1024, depth=24, heads=16), factor=4),
        views=8,
        times=8,
        sources=(("creature", 1.0),),  # stand where the paper has videos
        steps=500_000,
        batch=24,
        lr=1e-4,
        warmup=1000,
        ema=0.9999,
        parts=24,
        share_pure_noise=0.0,
    ),
}
