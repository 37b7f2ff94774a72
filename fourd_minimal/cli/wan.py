"""4Real-Video's sync layers for Wan 2.1, from a command: train them, and complete grids with them.

    fourd train-wan --settings.videos videos --settings.shards runs/shards --scale.precision bf16 --scale.recompute
    torchrun --nproc_per_node 8 -m fourd_minimal train-wan ...                            the same, on eight devices
    fourd generate-wan --sync runs/wan/sync.safetensors --fixed-view a.mp4 --freeze-time b.mp4 --prompt "A fox."

Section 3.3: the base stays frozen, and sync layers learn by velocity matching, first on pseudo-4D grids made of videos,
then on true grids. Frames become latents on the fly, by the frozen VAE.

Departures: the paper's numbers of steps are kept, its batch and learning rate are not stated. One prompt serves all
grids, since nothing here captions them. Left to itself, the command trains on our procedural scenes: enough to see that
it runs, not to learn what the world looks like.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from fourd_minimal.cli.training_run import how_made, watched, written
from fourd_minimal.configs.presets import device
from fourd_minimal.data.video import count_frames, opaque
from fourd_minimal.pretrained.wan import TwoStreamWan
from fourd_minimal.pretrained.wan_text import Contexts, contexts, embed_texts
from fourd_minimal.pseudo_4d import maps_along, pseudo_grid, random_motions
from fourd_minimal.rectified_flow import sample_sigma
from fourd_minimal.systems.weights import fingerprint
from fourd_minimal.training.devices import PLAIN, Devices, Scale
from fourd_minimal.training.loop import Recipe, Step, fit, seeded, warm_cosine
from fourd_minimal.training.shard_frames import grids
from fourd_minimal.training.sources import Sources, stored, video_clips
from fourd_minimal.training.sources import videos_in as videos_in
from fourd_minimal.viewers.results_folder import GRID_FILES, whole_folder, write_grids

MODEL = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
"""The smallest of its family: 30 blocks of 1536 channels."""
Frames = Callable[[int, int, int, tuple[int, int], int, int], Tensor]
"""`(n, views, times, size, number, part)` -> `(n, views, times, 3, h, w)` in [-1, 1]: the grids of a step's part, a
function of these numbers alone."""


@dataclass(frozen=True)
class WanPreset:
    """One training run of sync layers."""

    views: int = 5  # assumed: 25 cells of 1560 tokens, each in two streams
    times: int = 5  # assumed
    image_size: tuple[int, int] = (480, 832)  # what the 1.3B model was trained for
    sync: Literal["soft", "hard", "hard_wide"] = "soft"
    videos: str | None = None
    """A folder of videos, for the pseudo-4D steps; left out, fixed-view videos of the true grids."""
    shards: str | None = None
    """A folder that `fourd render-shards` wrote, for true grids; left out, scenes of `sources`."""
    sources: tuple[tuple[str, float], ...] = (("creature", 0.5), ("ground", 0.5))
    prompt: str = ""
    """Of all grids."""
    steps: int = 23_000  # section 4.1: 20k on pseudo-4D, then 3k on animated Objaverse
    pseudo_steps: int = 20_000
    batch: int = 24  # assumed
    """Grids."""
    parts: int = 24
    """Smaller batches that make up one, see `training/loop.py`: so many devices share it at most."""
    lr: float = 1e-4  # as in the follow-up (arXiv 2506.18839)
    warmup: int = 1000  # assumed
    ema: float = 0.999  # assumed
    drop_text: float = 0.1  # assumed
    """Share of grids with an empty prompt, so that guidance has something to move away from."""
    time_stride: int = 4
    """At most so many frames of a video from one moment to the next; Wan's latents lie 4 apart."""
    seed: int = 0

    def __post_init__(self):
        least = dict(views=2, times=2, steps=0, pseudo_steps=0, batch=1, parts=1, warmup=1, time_stride=1)
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {value}.")
        if self.batch % self.parts:
            raise ValueError(f"batch is {self.batch}; it must be a multiple of parts, {self.parts}.")


class Batch(NamedTuple):
    """What one evaluation of the loss needs."""

    frames: Float[Tensor, "n v t 3 h w"]
    eps: Float[Tensor, "n v t c i j"]
    sigma: Float[Tensor, " n"]
    silent: Tensor
    """`(n,)`, true where the prompt is left out."""


def generator_of(seed: int, number: int, part: int, of: int = 0) -> torch.Generator:
    """The source of what is random in a step's part: the noise (0), scenes (1), videos (2), motions (3)."""
    return seeded(seed * 4 + of, number, part)


def scenes(preset: WanPreset, n: int, views: int, times: int, size: tuple[int, int], number: int, part: int) -> Tensor:
    """Fresh procedural scenes, as `Frames`."""
    return Sources(preset.sources).frames(n, views, times, size, generator_of(preset.seed, number, part, 1))


def videos(
    preset: WanPreset,
    paths: Sequence[Path],
    n: int,
    views: int,
    times: int,
    size: tuple[int, int],
    number: int,
    part: int,
) -> Tensor:
    """Clips of videos, anywhere in them and at any stride up to the preset's, as `Frames` of one view.

    Raises:
        ValueError: a video shorter than a row.
    """
    return video_clips(paths, n, times, size, generator_of(preset.seed, number, part, 2), preset.time_stride)


def frames_of(preset: WanPreset) -> Frames:
    """Pseudo-4D in the first steps, then true grids; from the places that the preset names.

    Raises:
        ValueError: a place without videos, or without shards.
    """
    true = partial(scenes, preset)
    if preset.shards is not None:
        true = partial(grids, stored(preset.shards), parts=preset.parts, seed=preset.seed)
    rows = true if preset.videos is None else partial(videos, preset, videos_in(preset.videos))

    def frames(n: int, views: int, times: int, size: tuple[int, int], number: int, part: int) -> Tensor:
        if number >= preset.pseudo_steps:
            return true(n, views, times, size, number, part)
        motions = random_motions(n, generator_of(preset.seed, number, part, 3))
        video = rows(n, 1, times, size, number, part)[:, 0]
        return pseudo_grid(video, maps_along(motions, torch.linspace(0, 1, views)))[0]

    return frames


def make_batch(preset: WanPreset, frames: Frames, latent: tuple[int, int, int], shift: float, number: int, part: int):
    """Grids, noise for their latents, noise levels, and which have no prompt: the `Batch` of a step's part."""
    n, generator = preset.batch // preset.parts, generator_of(preset.seed, number, part)
    sigma = sample_sigma(n, shift, generator=generator)
    silent = torch.rand(n, generator=generator) < preset.drop_text
    eps = torch.randn(n, preset.views, preset.times, *latent, generator=generator)
    return Batch(frames(n, preset.views, preset.times, preset.image_size, number, part), eps, sigma, silent)


def batch_loss(model: TwoStreamWan, batch: Batch, texts: Float[Tensor, "3 l d"]) -> Float[Tensor, ""]:
    """Velocity matching on latents; `texts` are the two contexts and the empty prompt."""
    frames, eps, sigma, silent = (a.to(texts.device) for a in batch)
    freeze, dynamic, empty = texts[:, None]
    text = Contexts(*(torch.where(silent[:, None, None], empty, told) for told in (freeze, dynamic)))
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
        model: where it is to be trained, and on which device.
        preset: everything else.
        texts: `embed_texts` of the two `contexts` and of "".
        folder: where `checkpoint.safetensors` is kept; if it is there, training goes on from it.
        frames: where grids come from; left out, `frames_of(preset)`.
        checkpoint_every: steps between checkpoints; one is also written at the end.
        scale: how steps are computed.

    Raises:
        ValueError: a checkpoint of another preset or base; frames in sizes that the model cannot take; `scale.compile`,
            which does not see the sync layers between the blocks.
    """
    recipe = Recipe(
        model,
        part=TwoStreamWan.trained,
        steps=preset.steps,
        batch=partial(
            make_batch, preset, frames or frames_of(preset), model.latent_shape(preset.image_size), model.config.shift
        ),
        loss=partial(batch_loss, texts=texts.to(next(model.parameters()).device)),
        rate=partial(learning_rate, preset),
        decay=preset.ema,
        config=preset,
        settings=lambda preset: {k: v for k, v in asdict(preset).items() if k != "shards"},
        origin=f"{model.base_fingerprint()} {fingerprint(model.trained())}",
        data=stored(preset.shards).fingerprint if preset.shards else "",
        parts=preset.parts,
    )
    refuse(preset, scale)
    path = None if folder is None else Path(folder) / "checkpoint.safetensors"
    yield from fit(recipe, path, checkpoint_every, scale)


def refuse(preset: WanPreset, scale: Scale) -> None:
    """What does not go, said before anything is loaded.

    Raises:
        ValueError: `scale.compile`, processes that cannot share the parts, or nothing to share weights out over.
    """
    if scale.compile:
        raise ValueError("compile is on; it does not go with Wan, whose sync layers are hooks on its blocks.")
    Devices(scale).mine(preset.parts)


def learning_rate(preset: WanPreset, number: int) -> float:
    """Linear warm-up, then a half cosine down to 0: once on pseudo-4D, and again on true grids."""
    steps, cut = preset.steps, min(preset.pseudo_steps, preset.steps)
    number, steps = (number, cut) if number < cut else (number - cut, steps - cut)
    return warm_cosine(preset.lr, number, steps, preset.warmup)


def dtype_of(precision: Literal["fp32", "bf16"]) -> torch.dtype:
    """Of the base's weights."""
    return torch.bfloat16 if precision == "bf16" else torch.float32


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
        refuse(self.settings, self.scale)  # before some ten gigabytes are read
        where, dtype, frames = device(), dtype_of(self.scale.precision), frames_of(self.settings)
        texts = embed_texts(self.model, [*contexts(self.settings.prompt), ""], where, dtype)
        model = TwoStreamWan.from_pretrained(self.model, self.settings.sync, dtype).to(where)
        run = train_wan(model, self.settings, texts, self.out, frames, self.checkpoint_every, self.scale)
        step = watched(run, self.settings.steps, "wan")
        notes = how_made(f"fourd train-wan --model {self.model}", self.settings, WanPreset(), step.seconds)
        notes |= {name: getattr(self.settings, name) for name in ("views", "times", "image_size")}
        written(step, lambda trained: trained.save_sync(self.out / "sync.safetensors", **notes))


@dataclass(frozen=True)
class GenerateWan:
    """Complete a 4D grid with Wan 2.1, and write what `fourd generate` writes."""

    fixed_view: Path
    """A video in which the scene moves and the camera rests: mp4, webm, gif or a folder of PNG."""
    freeze_time: Path
    """A video in which the camera moves and the scene rests; it starts with the same picture."""
    sync: Path | None = None
    """The sync layers are `sync.safetensors` of `fourd train-wan`; by default the streams meet by eq. 13, without
    training."""
    model: str = MODEL
    """The model: a repository or a folder in diffusers' layout, the one that the sync layers were trained on."""
    prompt: str = ""
    """The caption of what is to be seen."""
    negative: str = ""
    """The caption to keep away from, where there is guidance."""
    guidance: float = 1.0
    """The scale of classifier-free guidance away from the negative caption; 1 is without, in half the time."""
    size: tuple[int, int] | None = None
    """The frames' height and width in pixels; by default what the sync layers were trained for."""
    precision: Literal["fp32", "bf16"] | None = None
    """The precision of the base's weights, of products and attention; by default bf16 on a GPU and fp32 on a CPU."""
    steps: int = 40
    """Sampling takes this many Euler steps."""
    seed: int = 0
    """The noise that sampling starts from has this seed."""
    out: Path = Path("fourd_out")
    """The results go into this folder."""

    def run(self) -> None:
        """Do it, and say where the result is."""
        self._check()
        where = device()
        dtype = dtype_of(self.precision or ("fp32" if where.type == "cpu" else "bf16"))
        with whole_folder(self.out, GRID_FILES) as folder:
            texts = embed_texts(self.model, [*contexts(self.prompt), self.negative], where, dtype)[:, None]
            model = TwoStreamWan.from_pretrained(self.model, "weighted", dtype).to(where)
            trained = asdict(WanPreset()) if self.sync is None else model.load_sync(self.sync)
            size = self.size or tuple(trained["image_size"])
            fixed_view = opaque(self.fixed_view, size, trained["times"])
            freeze_time = opaque(self.freeze_time, size, trained["views"])
            text, negative = Contexts(texts[0], texts[1]), Contexts(texts[2], texts[2])
            with torch.autocast(where.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
                grid = model.generate(fixed_view, freeze_time, text, self.steps, self.seed, self.guidance, negative)
            write_grids({"": grid}, folder)
        print(f"Look around: {(self.out / 'grid.html').resolve()}\nStill:       {(self.out / 'grid.png').resolve()}")

    def _check(self) -> None:
        """What can be said before large files are read."""
        if self.steps < 1:
            raise ValueError(f"--steps is {self.steps}; it must be at least 1.")
        if self.sync is not None and not self.sync.is_file():
            raise ValueError(f"--sync is {self.sync}, which is no file; `fourd train-wan` writes one.")
        for flag, path in {"--fixed-view": self.fixed_view, "--freeze-time": self.freeze_time}.items():
            try:
                count_frames(path)
            except (ValueError, FileNotFoundError) as error:
                raise ValueError(f"{flag}: {str(error).removeprefix('path: ')}") from None
