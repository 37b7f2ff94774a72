"""4Real-Video's sync layers for Wan 2.1, trained from a command.

    fourd train-wan --settings.videos videos --settings.shards runs/shards --scale.precision bf16 --scale.recompute
    torchrun --nproc_per_node 8 -m fourd_minimal train-wan ...                            the same, on eight devices

Section 3.3: the base stays frozen, and sync layers learn by velocity matching, first on pseudo-4D grids made of videos,
then on true grids. Frames become latents on the fly, by the frozen VAE.

Departures: the paper's numbers of steps are kept; its batch and learning rate are not stated. All grids share one
prompt, since nothing here captions them. By default the command trains on our procedural scenes: enough to see that it
runs, not to learn what the world looks like.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from fourd_minimal.configs.checks import at_least, multiples
from fourd_minimal.configs.presets import device
from fourd_minimal.pretrained.wan import TwoStreamWan
from fourd_minimal.pretrained.wan_text import Contexts, contexts, embed_texts
from fourd_minimal.pseudo_4d import maps_along, pseudo_grid, random_motions
from fourd_minimal.rectified_flow import sample_sigma
from fourd_minimal.systems.weights import fingerprint
from fourd_minimal.training.devices import PLAIN, Devices, Scale
from fourd_minimal.training.loop import Recipe, Step, fit, seeded, warm_cosine
from fourd_minimal.training.run import how_made, watched, written
from fourd_minimal.training.sources import Place, Sources

MODEL = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
"""The smallest of its family: 30 blocks of 1536 channels."""
Frames = Callable[[int, int, int], Tensor]
"""`(n, number, part)` -> `n` grids `(n, views, times, 3, h, w)` in [-1, 1] of a part of step `number`."""


@dataclass(frozen=True)
class WanPreset:
    """One training run of sync layers."""

    views: int = 5  # assumed: 25 cells of 1560 tokens, each in two streams
    times: int = 5  # assumed
    image_size: tuple[int, int] = (480, 832)  # what the 1.3B model was trained for
    sync: Literal["soft", "hard", "hard_wide"] = "soft"
    videos: str | None = None
    """A folder of videos for the pseudo-4D steps; by default fixed-view videos of the true grids are used."""
    shards: str | None = None
    """A folder of true grids that `fourd render-shards` wrote; by default scenes of `sources` are rendered."""
    sources: tuple[tuple[str, float], ...] = (("creature", 0.5), ("ground", 0.5))
    prompt: str = ""
    """The caption of all grids."""
    steps: int = 23_000  # section 4.1: 20k on pseudo-4D, then 3k on animated Objaverse
    pseudo_steps: int = 20_000
    batch: int = 24  # assumed
    """Grids."""
    parts: int = 24
    """A batch is the mean over so many smaller ones, which at most so many devices share; see `training/loop.py`."""
    lr: float = 1e-4  # as in the follow-up (arXiv 2506.18839)
    warmup: int = 1000  # assumed
    ema: float = 0.999  # assumed
    drop_text: float = 0.1  # assumed
    """Share of grids with an empty prompt, for classifier-free guidance."""
    seed: int = 0

    def __post_init__(self):
        at_least(self, views=2, times=2, steps=0, pseudo_steps=0, batch=1, parts=1, warmup=1)
        multiples(self, batch=self.parts)


class Batch(NamedTuple):
    """What one evaluation of the loss needs."""

    frames: Float[Tensor, "n v t 3 h w"]
    eps: Float[Tensor, "n v t c i j"]
    sigma: Float[Tensor, " n"]
    silent: Tensor
    """`(n,)`, true where the prompt is left out."""


def sources_of(preset: WanPreset) -> tuple[Sources, Sources]:
    """Where true grids come from, and where the fixed-view videos of pseudo-4D grids."""
    true = Sources(((f"shards:{preset.shards}", 1.0),) if preset.shards else preset.sources)
    return true, Sources(((f"videos:{preset.videos}", 1.0),)) if preset.videos else true


def make_frames(preset: WanPreset, n: int, number: int, part: int) -> Float[Tensor, "n v t 3 h w"]:
    """Pseudo-4D in the first steps, then true grids, as `Frames`.

    Raises:
        ValueError: a folder without videos or shards, or a video shorter than a row.
    """
    true, rows = sources_of(preset)
    draw, place = seeded(preset.seed, number, part, of="frames"), Place(number, part, preset.parts, preset.seed)
    if number >= preset.pseudo_steps:
        return true.frames(n, preset.views, preset.times, preset.image_size, draw, place)
    motions = random_motions(n, seeded(preset.seed, number, part, of="motions"))
    video = rows.frames(n, 1, preset.times, preset.image_size, draw, place)[:, 0]
    return pseudo_grid(video, maps_along(motions, torch.linspace(0, 1, preset.views)))[0]


def make_batch(preset: WanPreset, frames: Frames, latent: tuple[int, int, int], shift: float, number: int, part: int):
    """Grids, noise for their latents, noise levels, and which have no prompt: the `Batch` of a step's part."""
    n, generator = preset.batch // preset.parts, seeded(preset.seed, number, part)
    sigma = sample_sigma(n, shift, generator=generator)
    silent = torch.rand(n, generator=generator) < preset.drop_text
    eps = torch.randn(n, preset.views, preset.times, *latent, generator=generator)
    return Batch(frames(n, number, part), eps, sigma, silent)


def batch_loss(model: TwoStreamWan, batch: Batch, texts: Float[Tensor, "3 l d"]) -> Float[Tensor, ""]:
    """Velocity matching on latents; `texts` are the two contexts and the empty prompt."""
    frames, eps, sigma, silent = (a.to(texts.device) for a in batch)
    freeze, dynamic, empty = texts[:, None]
    text = Contexts(*(torch.where(silent[:, None, None], empty, prompt) for prompt in (freeze, dynamic)))
    return model.loss(model.encode(frames), eps, sigma, text)


def train_wan(
    model: TwoStreamWan,
    preset: WanPreset,
    texts: Float[Tensor, "3 l d"],
    folder: str | Path | None = None,
    frames: Frames | None = None,
    checkpoint_every: int = 100,
    scale: Scale = PLAIN,
) -> Iterator[Step[TwoStreamWan]]:
    """Train the sync layers, yielding after every step; the last step's `averaged()` is the result.

    Args:
        model: on the device where it is to be trained.
        preset: everything else that the result depends on.
        texts: `embed_texts` of the two `contexts` and of "".
        folder: where `checkpoint.safetensors` is kept; if it is there, training goes on from it.
        frames: where grids come from; by default `make_frames`.
        checkpoint_every: steps between checkpoints; one is also written at the end.
        scale: how steps are computed.

    Raises:
        ValueError: a checkpoint of another preset or base; frames in sizes that the model cannot take; a `scale` that
            `check_scale` refuses.
    """
    check_scale(preset, scale)
    latent = model.latent_shape(preset.image_size)
    recipe = Recipe(
        model,
        part=TwoStreamWan.trained,
        steps=preset.steps,
        batch=partial(make_batch, preset, frames or partial(make_frames, preset), latent, model.config.shift),
        loss=partial(batch_loss, texts=texts.to(next(model.parameters()).device)),
        rate=partial(learning_rate, preset),
        decay=preset.ema,
        config=preset,
        settings=lambda preset: {k: v for k, v in asdict(preset).items() if k not in ("shards", "videos")},
        origin=f"{model.base_fingerprint()} {fingerprint(model.trained())}",
        data=" ".join(source.fingerprint for source in sources_of(preset)),
        parts=preset.parts,
    )
    yield from fit(recipe, None if folder is None else Path(folder) / "checkpoint.safetensors", checkpoint_every, scale)


def check_scale(preset: WanPreset, scale: Scale) -> None:
    """Refuse what cannot run, before anything is loaded.

    Raises:
        ValueError: `scale.compile`, which does not see the sync layers between the blocks; sharding without several
            processes; or processes that cannot share the parts.
    """
    if scale.compile:
        raise ValueError("compile is on; it does not go with Wan, whose sync layers are hooks on its blocks.")
    Devices(scale).mine(preset.parts)


def learning_rate(preset: WanPreset, number: int) -> float:
    """Warm-up and decay: once on pseudo-4D, and again on true grids."""
    return warm_cosine(preset.lr, number, preset.steps, preset.warmup, preset.pseudo_steps)


@dataclass(frozen=True)
class TrainWan:
    """Train sync layers between the frozen blocks of Wan 2.1. Stop it at any time: run again, and it goes on."""

    model: str = MODEL
    """The model: a repository or a folder in diffusers' layout, with transformer, vae, scheduler, tokenizer and
    text_encoder."""
    out: Path = Path("runs/wan")
    """The checkpoint and `sync.safetensors` go into this folder."""
    settings: WanPreset = field(default_factory=WanPreset)
    """The values of the run, each of which can be changed."""
    scale: Scale = PLAIN
    """The devices, precision and memory of a run, whose result they change by rounding only. In bf16 the base's weights
    are rounded, too."""
    checkpoint_every: int = 500
    """Steps between checkpoints; one of the 1.3B model's soft sync layers has 9 GB."""

    def run(self) -> None:
        """Train, and leave `sync.safetensors` in `out`."""
        check_scale(self.settings, self.scale)
        _ = [source.fingerprint for source in sources_of(self.settings)]  # data that is missing is found before loading
        where, dtype = device(), torch.bfloat16 if self.scale.precision == "bf16" else torch.float32
        texts = embed_texts(self.model, [*contexts(self.settings.prompt), ""], where, dtype)
        model = TwoStreamWan.from_pretrained(self.model, self.settings.sync, dtype).to(where)
        run = train_wan(model, self.settings, texts, self.out, checkpoint_every=self.checkpoint_every, scale=self.scale)
        step = watched(run, self.settings.steps, "wan")
        notes = how_made(f"fourd train-wan --model {self.model}", self.settings, WanPreset(), step.seconds)
        notes |= {name: getattr(self.settings, name) for name in ("views", "times", "image_size")}
        written(step, lambda trained: trained.save_sync(self.out / "sync.safetensors", **notes))
