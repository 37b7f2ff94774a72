"""The four presets of 4Real-Video: `smoke` and `cpu` and `gpu` at toy scale, and `full`, the paper's.

A value of `full` cites the paper; what the paper leaves open is marked assumed. Departures of `full`: no text is fed,
though the layers for it are there; and where no `shards` are named it trains on our procedural worlds, where the paper
has videos, pseudo-4D made of them, and animated Objaverse.
"""

from dataclasses import dataclass

from fourd_minimal.configs.checks import at_least, multiples
from fourd_minimal.systems.four_real_video import FourRealVideoConfig
from fourd_minimal.video_dit import VideoDiTConfig


@dataclass(frozen=True)
class FourRealVideoPreset:
    """Everything one training run of the base model and of its synchronisation layers depends on."""

    model: FourRealVideoConfig
    sources: tuple[tuple[str, float], ...] = (("simple", 0.5), ("hard", 0.4), ("creature", 0.1))
    """Where frames come from, with shares; see `training/sources.py`."""
    shards: str = ""
    """A folder of shards that `fourd render-shards` wrote, to be learned from in place of the sources."""
    base_steps: int = 1000
    base_batch: int = 24
    """Videos: half fixed-view, half freeze-time."""
    base_sizes: tuple[tuple[int, tuple[int, int]], ...] = ()
    """From which step on the base's videos have how many pixels; as many as the model's where it is empty."""
    base_frames: tuple[tuple[int, int, int], ...] = ()
    """From which step on the base's videos have how many frames, and how many videos a step has. Empty: as many as the
    model's rows and columns, `base_batch` of them."""
    base_lr: float = 2e-3
    sync_steps: int = 500
    sync_batch: int = 4
    """Grids; small batches win at toy scale."""
    sync_pseudo_steps: int = 0
    """The first of `sync_steps`, on pseudo-4D; the others on the sources' true grids (section 3.3). Each of the two
    phases has a warm-up and a decay of its own."""
    grid_windows: tuple[tuple[float, int, int], ...] = ()
    """From which share of a stage's steps on its grids have how many views and times, and how many grids a step has.
    Small ones first teach most of it at a fraction of the work. Empty: the model's, `sync_batch`."""
    share_any_cells: float = 0.0
    """Share of grids whose known cells are not the first row and column: any row, column, both, or scattered ones."""
    sync_lr: float = 2e-3
    joint_steps: int = 500
    """Steps with everything unfrozen: not in the paper, which trains the synchronisation layers only."""
    joint_lr: float = 1.5e-3
    warmup: int = 100
    """Steps until the rate is at its peak; at most a fifth of a phase."""
    ema: float = 0.999
    """Decay of the averaged weights, which are the result; (1 + n) / (10 + n) at step n where that is less."""
    grid_ema: float = 0.995
    """Of the two shorter stages that train on grids."""
    share_pure_noise: float = 0.3
    """Share of samples at sigma = 1, where every sampler starts."""
    parts: int = 1
    """Every batch is the mean over so many, which several devices share."""
    seed: int = 0

    def __post_init__(self):
        parts = self.parts
        at_least(self, parts=1, warmup=1, base_steps=0, sync_steps=0, sync_pseudo_steps=0, joint_steps=0)
        at_least(self, base_batch=2 * parts, sync_batch=parts)
        multiples(self, base_batch=2 * parts, sync_batch=parts)
        if self.base_sizes and (self.base_sizes[0][0] or self.base_sizes[-1][1] != tuple(self.model.dit.image_size)):
            raise ValueError(f"base_sizes is {self.base_sizes}; expected from step 0 to {self.model.dit.image_size}.")
        for name, unit in dict(base_frames=2 * parts, grid_windows=parts).items():
            for begin, cells, count in getattr(self, name):
                if cells < 3 or count < 1 or count % unit:
                    raise ValueError(f"{name} has {(begin, cells, count)}; expected 3 cells and a batch for all parts.")
            if getattr(self, name) and getattr(self, name)[0][0] != 0:
                raise ValueError(f"{name} begins at {getattr(self, name)[0][0]}; expected 0.")
        if self.sync_pseudo_steps > self.sync_steps:
            raise ValueError(f"sync_pseudo_steps is {self.sync_pseudo_steps}; expected at most {self.sync_steps}.")
        if min(self.model.views, self.model.times) < 3:
            raise ValueError(f"model has {self.model.views}x{self.model.times} cells; training needs at least 3x3.")


def _toy(size: int, dim: int, depth: int, heads: int, views: int, times: int, **training) -> FourRealVideoPreset:
    dit = VideoDiTConfig((size, size), patch=4, dim=dim, depth=depth, heads=heads)
    return FourRealVideoPreset(FourRealVideoConfig(dit, views, times), **training)


PRESETS = {
    # seconds: shapes and wiring only
    "smoke": _toy(16, 24, 2, 2, 3, 3, base_steps=4, base_batch=4, sync_steps=4, joint_steps=4, sync_batch=2, warmup=2),
    # the shipped weights went on from its result, see README.md
    "cpu": _toy(24, 96, 6, 3, 4, 4, base_steps=5000, sync_steps=800, joint_steps=1500),
    # the recipe of the shipped weights: animated characters at 64 pixels
    "gpu": FourRealVideoPreset(
        FourRealVideoConfig(
            VideoDiTConfig((64, 64), patch=8, dim=192, depth=6, heads=6, refine=32), views=8, times=8, spread=0.4
        ),
        sources=(("characters", 0.7), ("simple", 0.1), ("hard", 0.1), ("creature", 0.1)),
        base_steps=2000,
        base_frames=((0, 4, 24), (1600, 8, 16)),
        base_lr=1.5e-3,
        grid_windows=((0.0, 4, 4), (0.6, 6, 3), (0.85, 8, 2)),
        share_any_cells=0.3,
        sync_steps=2300,
        sync_pseudo_steps=2000,
        joint_steps=8000,
        joint_lr=1.2e-3,
        ema=0.999,
        grid_ema=0.998,
    ),
    "full": FourRealVideoPreset(
        # section 4.1: a pixel-space DiT of 600M parameters, 24 blocks of 1024 channels, 36x64 then 72x128; 8x8 grids
        FourRealVideoConfig(
            VideoDiTConfig(
                image_size=(72, 128),
                patch=4,  # assumed
                dim=1024,
                depth=24,
                heads=16,  # assumed
                text_dim=2048,  # assumed: T5-XL's tokens, with which the count is the paper's within 2%
            ),
            views=8,
            times=8,
            shift=1.0,  # assumed: low-resolution pixels
        ),
        sources=(("creature", 1.0),),  # stands where the paper has ~15,000 videos of animated Objaverse assets
        base_steps=500_000,  # assumed: the paper says 12 days on 24 A100
        base_batch=192,  # assumed
        base_sizes=((0, (36, 64)), (300_000, (72, 128))),  # section 4.1; when is assumed
        base_lr=1e-4,  # assumed, as in the follow-up (arXiv 2506.18839)
        joint_steps=0,  # section 4.1: the base stays frozen
        sync_steps=23_000,  # section 4.1: 20k on pseudo-4D, then 3k on animated Objaverse
        sync_pseudo_steps=20_000,
        sync_batch=24,  # assumed
        sync_lr=1e-4,  # assumed, as in the follow-up
        warmup=1000,  # assumed
        ema=0.9999,  # assumed
        grid_ema=0.999,  # assumed
        share_pure_noise=0.0,  # assumed
        parts=24,  # section 4.1: 24 A100
    ),
}
