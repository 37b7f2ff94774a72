"""4Real-Video, end to end: one fixed-view video and one freeze-time video become a grid of frames.

    grid[b, v, t, c, h, w]      row v: a fixed-view video      column t: a freeze-time video
    known cells: grid[:, 0] and grid[:, :, 0]                  (where the paper differs from itself: two_stream.py)

The base model denoises single videos. `denoise_grid` runs its frozen blocks as two streams and synchronises them;
`generate` starts from noise and follows a rectified flow, with the known cells held at sigma = 0.

Departures from the paper, which leaves these open: the network predicts the clean frames, from which the velocity
follows, v = (x_sigma - x) / sigma; the output is the mean of both streams; one noise level for all unknown cells; soft
layers start at eq. 13, not at the identity. Beside the paper's recipe, a frozen base, we also train both together.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Literal, get_args

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fourd_minimal.fused_attention import Fused4D
from fourd_minimal.rectified_flow import euler
from fourd_minimal.sliding_window import slide
from fourd_minimal.systems.conditioning import (
    assemble,
    check_first_frames,
    check_known,
    check_video,
    known_cells,
    linear_guess,
)
from fourd_minimal.systems.designs import UNTRAINED, Design, build, trained_layers
from fourd_minimal.systems.weights import Pretrained, fingerprint, load_into, load_weights, save_weights
from fourd_minimal.two_stream import Sequential4D, columns, from_columns, from_rows, rows
from fourd_minimal.video_dit import Context, VideoDiT, VideoDiTConfig, nearest_seen, sigma_embedding

Part = Literal["base", "sync", "joint"]


@dataclass(frozen=True)
class FourRealVideoConfig:
    """A base model, the grid it was trained for, and how its rows and columns meet."""

    dit: VideoDiTConfig = field(default_factory=VideoDiTConfig)
    views: int = 8
    times: int = 8
    sync: Design = "soft"
    """One of `systems.designs`: "soft" eqs. 9-10, "hard" eq. 8, "average" eq. 12, "weighted" eq. 13, ..."""
    spread: float = 0.0
    """Root mean square difference of frames to the nearest known one, in [-1, 1], assumed: the network predicts the
    error of `linear_guess`, in units of its deviation. 0: it predicts the frames themselves."""
    shift: float = 3.0
    """Of noise levels towards 1, in training and in sampling; `rectified_flow.shift_sigma`."""

    def __post_init__(self):
        for name, least in dict(views=2, times=2, shift=1e-4).items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least {least}.")
        if self.sync not in get_args(Design):
            raise ValueError(f"sync is {self.sync!r}; expected one of {', '.join(get_args(Design))}.")


class FourRealVideo(Pretrained):
    """The base model and its synchronisation layers."""

    config_class, shipped, file = FourRealVideoConfig, "four_real_video_toy", "base.safetensors"

    def __init__(self, config: FourRealVideoConfig):
        super().__init__()
        self.config = config
        self.base = VideoDiT(config.dit)
        self.streams = build(config.sync, self.base.blocks, config.dit.dim)

    @property
    def views(self) -> int:
        """The most views, as in training."""
        return self.config.views

    @property
    def times(self) -> int:
        """The most times, as in training."""
        return self.config.times

    @property
    def image_size(self) -> tuple[int, int]:
        """(h, w) of its frames."""
        return self.config.dit.image_size

    @classmethod
    def from_pretrained(
        cls, name: str | Path = "toy", sync: Design | None = None, base_frozen: bool = False
    ) -> "FourRealVideo":
        """Load the parts a training run left in a folder.

            base.safetensors           the video model on its own
            soft_sync.safetensors      synchronisation layers trained on that base, frozen: the paper's recipe
            soft_joint.safetensors     base and layers trained together, from base and eq. 13 on: ours

        Args:
            name: "toy" for the weights shipped with the package, or a folder.
            sync: of `systems.designs`; by default the one that the base's file names.
            base_frozen: take the paper's recipe even where the jointly trained weights are there.

        Raises:
            ValueError: a file is missing, cut short, of another kind or of another configuration.

        >>> FourRealVideo.from_pretrained("toy").image_size
        (24, 24)
        """
        folder = cls.folder(name)
        base, config, notes = load_weights(folder / cls.file, FourRealVideoConfig)
        sync = sync or config.sync
        model = cls(replace(config, sync=sync)).requires_grad_(False)
        load_into(model.base, base, folder / cls.file)
        part: Part = "joint" if cls.has_joint(name, sync) and not base_frozen else "sync"
        if part == "joint" or sync not in UNTRAINED:
            path = folder / f"{sync}_{part}.safetensors"
            tensors, trained_as, notes = load_weights(path, FourRealVideoConfig)
            if trained_as != model.config:
                raise ValueError(f"{path} was trained for {trained_as}; the base beside it wants {model.config}.")
            if part == "sync" and notes.get("base") != fingerprint(model.base):
                raise ValueError(f"{path} was trained on another base than the one beside it.")
            load_into(model.part(part), tensors, path)
        model.notes = notes
        return model

    @classmethod
    def has_joint(cls, name: str | Path, sync: Design = "soft") -> bool:
        """Whether a folder holds jointly trained weights."""
        return (cls.folder(name) / f"{sync}_joint.safetensors").exists()

    def part(self, name: Part) -> nn.Module:
        """What is trained, saved and loaded together."""
        if name == "joint":
            return nn.ModuleDict({part: self.part(part) for part in ("base", "sync")})
        return self.base if name == "base" else trained_layers(self.streams)

    def save_pretrained(
        self, folder: str | Path, part: Part | None = None, dtype: torch.dtype = torch.float16, **notes
    ) -> Path:
        """Write one part into a file that `from_pretrained` reads, or, by default, "base" and "joint", which are all.

        `notes` go inside.
        """
        if part is None:
            self.save_pretrained(folder, "base", dtype, **notes)
            part = "joint"
        name = "base" if part == "base" else f"{self.config.sync}_{part}"
        if part == "sync":
            notes["base"] = fingerprint(self.base)
        state = self.part(part).state_dict()
        return save_weights(Path(folder) / f"{name}.safetensors", state, self.config, dtype, **notes)

    def generate(
        self,
        fixed_view: Tensor,
        freeze_time: Tensor,
        n_steps: int = 8,
        seed: int = 0,
        windows: bool = False,
    ) -> Float[Tensor, "v t 3 h w"]:
        """Two videos in, a grid out; everything in [0, 1].

        Args:
            fixed_view: `(t, 3, h, w)`. The scene moves, the camera rests: the grid's first row. 2 to `times` frames.
            freeze_time: `(v, 3, h, w)`. The camera moves, the scene rests: the first column. 2 to `views` frames.
            n_steps: Euler steps. One gives a blurred mean, more give one sample.
            seed: of the noise.
            windows: take videos of any length, and complete the grid window by window; errors add up.

        Raises:
            ValueError: frames of another size than `image_size`, too few or too many, NaN or outside [0, 1], or first
                frames that are not the same picture.
        """
        for name, video, most in (("fixed_view", fixed_view, self.times), ("freeze_time", freeze_time, self.views)):
            check_video(name, video, None if windows else most, self.image_size)
        check_first_frames(fixed_view[0], freeze_time[0])
        cells = assemble(fixed_view, freeze_time)[0]
        if not windows:
            return self.complete(cells, known_cells(*cells.shape[:2]), n_steps, seed)
        *_, sample = self.sample_by_windows(self._model_pixels(cells), n_steps, seed)
        grid = ((sample[0] + 1) / 2).clamp(0, 1).to(fixed_view)
        grid[:, 0], grid[0] = freeze_time, fixed_view  # exactly as given
        return grid

    def complete(self, cells: Tensor, known: Tensor, n_steps: int = 8, seed: int = 0) -> Float[Tensor, "v t 3 h w"]:
        """A grid from any of its cells: a row, a column, both, or scattered frames; everything in [0, 1].

        Args:
            cells: `(v, t, 3, h, w)`; ignored where `known` is False.
            known: `(v, t)`, true where a cell is given.
            n_steps, seed: see `generate`.

        Raises:
            ValueError: a mask of another shape, of no cell or all; too many cells; frames that do not fit or hold NaN.
        """
        if cells.ndim != 5:
            raise ValueError(f"cells has shape {tuple(cells.shape)}; expected (views, times, 3, height, width).")
        v, t = cells.shape[:2]
        if v > self.views or t > self.times:
            raise ValueError(f"cells has {v}x{t}; expected at most {self.views}x{self.times}, as in training.")
        known = check_known(known, v, t)
        check_video("cells", cells[known], None, self.image_size)
        clean = torch.where(known.to(cells.device)[..., None, None, None], cells, 0.5)
        *_, sample = self.sample_grid(self._model_pixels(clean), n_steps, seed, known)
        grid = ((sample[0] + 1) / 2).clamp(0, 1).to(cells)
        grid[known] = cells[known]  # exactly as given
        return grid

    def _model_pixels(self, cells: Tensor) -> Tensor:
        return (cells[None] * 2 - 1).to(next(self.parameters()))

    def denoise_video(
        self,
        x: Float[Tensor, "b f c h w"],
        sigma: Float[Tensor, " b"],
        seen: Bool[Tensor, "b f"],
        clean: Float[Tensor, "b f c h w"],
        context: Context,
    ) -> Float[Tensor, "b f c h w"]:
        """The base alone: clean frames from a noisy video whose `seen` frames are known.

        Args:
            x: noisy frames; ignored where `seen`.
            sigma: one noise level in [0, 1] per video, for its unknown frames.
            seen: which frames are known.
            clean: the known frames, in [-1, 1]; ignored elsewhere.
            context: "dynamic" for a fixed-view video, "freeze" for a freeze-time video.
        """
        x = torch.where(seen[:, :, None, None, None], clean, x)
        levels = sigma[:, None] * ~seen
        return self._clean(self.base(x, levels, seen, clean, context), x, levels, nearest_seen(clean, seen))

    def _clean(self, predicted: Tensor, x: Tensor, levels: Tensor, guess: Tensor) -> Tensor:
        """Clean frames from the network's prediction."""
        if not self.config.spread:
            return predicted
        estimate, deviation = linear_guess(x, levels[..., None, None, None], guess, self.config.spread)
        return estimate + deviation * predicted

    def denoise_grid(
        self,
        x: Float[Tensor, "b v t c h w"],
        sigma: Float[Tensor, " b"],
        clean: Float[Tensor, "b v t c h w"],
        observe: Callable | None = None,
        known: Bool[Tensor, "#b v t"] | None = None,
    ) -> Float[Tensor, "b v t c h w"]:
        """Eq. 4: clean frames from a noisy grid some of whose cells are known.

        Args:
            x: noisy frames; ignored at known cells.
            sigma: one noise level in [0, 1] per grid, for its unknown cells.
            clean: the known cells, in [-1, 1]; ignored elsewhere.
            observe: see `TwoStream.forward` and `Sequential4D.forward`.
            known: which cells are known; the first row and column when left out.
        """
        b, v, t = x.shape[:3]
        seen = (known_cells(v, t)[None] if known is None else known).to(x.device).expand(b, v, t)
        x = torch.where(seen[..., None, None, None], clean, x)
        levels = sigma[:, None, None] * ~seen

        # Columns and rows as videos: noisy frames, noise levels, masks and known frames of each.
        as_columns = tuple(rearrange(a, "b v t ... -> (b t) v ...") for a in (x, levels, seen, clean))
        as_rows = tuple(rearrange(a, "b v t ... -> (b v) t ...") for a in (x, levels, seen, clean))
        tokens_view, c_view, angles_view, detail_view = self.base.embed(*as_columns, "freeze")
        tokens_time, c_time, angles_time, detail_time = self.base.embed(*as_rows, "dynamic")
        angles_time = angles_view if v == t else angles_time  # one tensor: the streams go through a block as one batch
        x_view, x_time = from_columns(tokens_view, v, t), from_rows(tokens_time, v, t)

        # The blocks, synchronised.
        conditions = (
            (c_view, None, angles_view),
            (c_time, None, angles_time),
            self.base.sigma_in(sigma_embedding(levels, self.config.dit.dim).to(x)),
            observe,
        )
        if isinstance(self.streams, Sequential4D | Fused4D):  # one stream, which starts as the mean of the two
            y_view = y_time = self.streams((x_view + x_time) / 2, *conditions)
        else:
            y_view, y_time = self.streams(x_view, x_time, *conditions)

        # Back to frames: the mean of both streams.
        def frames(sequences: Tensor, c: Tensor, detail: Tensor | None, given: tuple, back: str) -> Tensor:
            noisy, level, known, clean = given
            predicted = self.base.unembed(sequences, c, x.shape[-2:], detail)
            return rearrange(self._clean(predicted, noisy, level, nearest_seen(clean, known)), back, b=b)

        view = frames(columns(y_view), c_view, detail_view, as_columns, "(b t) v ... -> b v t ...")
        time = frames(rows(y_time), c_time, detail_time, as_rows, "(b v) t ... -> b v t ...")
        return (view + time) / 2

    def sample_grid(
        self,
        clean: Float[Tensor, "b v t c h w"],
        n_steps: int = 8,
        seed: int = 0,
        known: Bool[Tensor, "v t"] | None = None,
    ) -> Iterator[Float[Tensor, "b v t c h w"]]:
        """Noise to grids in [-1, 1], yielding every state; known cells, the first row and column when left out, come
        from `clean` and stay. The last state is the sample."""
        known = (known_cells(*clean.shape[1:3]) if known is None else known).to(clean.device)[None]
        return self._sample(partial(self.denoise_grid, clean=clean, known=known), clean, known, n_steps, seed)

    def sample_by_windows(
        self, clean: Float[Tensor, "b v t c h w"], n_steps: int = 8, seed: int = 0
    ) -> Iterator[Float[Tensor, "b v t c h w"]]:
        """As `sample_grid`, for grids of any size: windows of at most `views` x `times` cells, each with noise of its
        own; yields the grid so far after each."""
        b, v, t = clean.shape[:3]
        seeds = count(seed)

        def complete(cells: Tensor, known: Tensor) -> Tensor:
            grids = rearrange(cells, "v t (b c) h w -> b v t c h w", b=b)
            *_, sample = self.sample_grid(grids, n_steps, next(seeds))
            return rearrange(sample, "b v t c h w -> v t (b c) h w")

        cells = rearrange(clean, "b v t c h w -> v t (b c) h w")
        for _, grid in slide(cells, complete, (min(v, self.views), min(t, self.times))):
            yield rearrange(grid, "v t (b c) h w -> b v t c h w", b=b)

    def sample_video(
        self,
        clean: Float[Tensor, "b f c h w"],
        seen: Bool[Tensor, " f"],
        context: Context,
        n_steps: int = 8,
        seed: int = 0,
    ) -> Iterator[Float[Tensor, "b f c h w"]]:
        """The base alone: complete videos from their `seen` frames. As `sample_grid` otherwise."""
        known = seen.to(clean.device).expand(len(clean), -1)
        denoise = partial(self.denoise_video, seen=known, clean=clean, context=context)
        return self._sample(denoise, clean, known, n_steps, seed)

    @torch.no_grad()  # as a decorator: the caller's own gradients are on again between two states
    def _sample(self, denoise: Callable, clean: Tensor, known: Tensor, n_steps: int, seed: int) -> Iterator[Tensor]:
        """Euler from noise drawn on the CPU, so that a seed means the same on every device; known cells stay."""
        known = known[..., None, None, None]

        def velocity(x: Tensor, sigma: float) -> Tensor:
            predicted = denoise(x, torch.full((len(x),), sigma, device=x.device))
            return torch.where(known, 0.0, (x - predicted) / sigma)

        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed)).to(clean)
        yield from euler(velocity, torch.where(known, clean, noise), n_steps, self.config.shift)
