"""4Real-Video's two streams on an open video model: Wan 2.1's blocks, frozen, with a sync layer after each.

    model = TwoStreamWan.from_pretrained("Wan-AI/Wan2.1-T2V-1.3B-Diffusers")
    model.load_sync("runs/wan/sync.safetensors")
    grid = model.generate(fixed_view, freeze_time, text)

Wan's forward pass is repeated here in its parts, patches, conditions, blocks, output, with `two_stream.TwoStream` where
the library loops over its blocks. Wan predicts eps - x at timestep 1000 sigma: our velocity. (To save memory wrap each
`block.forward` in a checkpoint; the library's own switch does nothing here.)

Departures from the paper, whose base model is not public, and what they cost:
- The base works on latents, and Wan's VAE makes one of four frames. Rows and columns would not share them. So every
  frame is encoded and decoded on its own: one latent for every cell. Wan has seen such latents only as first frames,
  and neighbours four frames apart: give it every fourth frame of a video.
- Known cells are clean latents at timestep 0, so every token has its timestep. Wan 2.1 never saw two noise levels in
  one video; the sync layers, all that is trained, must learn to handle them. (Wan 2.2's TI2V-5B was trained that way
  and has the same classes; not tried.) A modulation for every token is 1.4 GB in bf16 for 5x5 cells of 480x832 pixels.
- The two contexts are two endings of the prompt (`wan_text.py`), not learned embeddings.
- Sync layers are modulated by the base's own embedding of each cell's timestep. A soft one has 8 d^2 weights: 0.57
  billion in all for the 1.3B model.
- As in the toy: the output is the mean of both streams, soft layers start at eq. 13, all unknown cells have one noise
  level. Unlike the toy, the base stays frozen: the paper's recipe.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from fourd_minimal.pretrained.published import library, load, load_model
from fourd_minimal.pretrained.wan_text import Contexts
from fourd_minimal.rectified_flow import add_noise, euler, velocity
from fourd_minimal.systems.conditioning import assemble, check_first_frames, known_cells
from fourd_minimal.systems.designs import TwoStreams, build
from fourd_minimal.systems.pixels import check_pixels
from fourd_minimal.systems.weights import fingerprint, load_into, load_weights, save_weights
from fourd_minimal.two_stream import TwoStream, columns, rows

TIMESTEPS = 1000
"""Wan's timestep of pure noise."""


@dataclass(frozen=True)
class TwoStreamWanConfig:
    """The base and the design of trained sync layers."""

    base: str
    """Name or folder of the video model."""
    dim: int
    depth: int
    sync: TwoStreams = "soft"
    shift: float = 3.0
    """Of noise levels towards 1, as the base's scheduler has it; `rectified_flow.shift_sigma`."""


class InOwnPrecision(nn.Module):
    """A sync layer in the precision of its weights, between blocks in another."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, y_view: Tensor, y_time: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        own = next(self.layer.parameters()).dtype
        x_view, x_time = self.layer(y_view.to(own), y_time.to(own), cond.to(own))
        return x_view.to(y_view), x_time.to(y_time)


class TwoStreamWan(nn.Module):
    """A frozen `WanTransformer3DModel`, its VAE, and sync layers of ours.

    Args:
        base: the video model.
        vae: its `AutoencoderKLWan`.
        sync: how the streams meet.
        shift: of noise levels, in training and in sampling.
        name: of the base, for the file of sync layers.

    Raises:
        ValueError: a base that takes more than latents and text, a VAE of other latents, a design without two streams.
    """

    def __init__(self, base: nn.Module, vae: nn.Module, sync: TwoStreams = "soft", shift: float = 3.0, name: str = ""):
        super().__init__()
        channels, latents = base.config.in_channels, vae.config.z_dim
        if channels != latents or base.config.patch_size[0] != 1:
            raise ValueError(
                f"{name or 'base'} takes {channels} channels in patches of {base.config.patch_size[0]} frames, its VAE "
                f"makes {latents}; expected a text-to-video model with the VAE's channels and patches of one frame."
            )
        if sync not in get_args(TwoStreams):
            raise ValueError(f"sync is {sync!r}; expected one of {', '.join(get_args(TwoStreams))}.")
        self.base, self.vae = base.eval().requires_grad_(False), vae.eval().requires_grad_(False)
        dim = base.config.num_attention_heads * base.config.attention_head_dim
        self.config = TwoStreamWanConfig(str(name), dim, len(base.blocks), sync, shift)
        with torch.random.fork_rng(devices=[]):  # "hard_wide" draws: always the same
            torch.manual_seed(0)
            layers = build(sync, base.blocks, dim).sync
        trained = isinstance(layers, nn.Module)
        self.sync = nn.ModuleList(InOwnPrecision(layer) for layer in layers) if trained else layers

    @classmethod
    def from_pretrained(
        cls, name: str | Path, sync: TwoStreams = "soft", dtype: torch.dtype = torch.bfloat16
    ) -> "TwoStreamWan":
        """Load `transformer`, `vae` and the shift of `scheduler` from a repository or folder in diffusers' layout.

        Args:
            name: "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", or a folder that `save_pretrained` wrote.
            sync: see `TwoStreamWan`.
            dtype: of the base; the VAE and the sync layers are in fp32.

        Raises:
            ValueError: no such model, no safetensors, or tensors that are not there.
        """
        diffusers = library("diffusers")
        base = load_model(diffusers.WanTransformer3DModel, name, "transformer", torch_dtype=dtype)
        vae = load_model(diffusers.AutoencoderKLWan, name, "vae")
        scheduler = load(diffusers.UniPCMultistepScheduler.load_config, name, "scheduler")
        vae.enable_slicing()  # one frame after another: memory does not grow with the grid
        return cls(base, vae, sync, scheduler.get("flow_shift") or scheduler.get("shift") or 3.0, str(name))

    @property
    def unit(self) -> int:
        """Height and width of a frame are multiples of this many pixels."""
        return self.vae.config.scale_factor_spatial * self.base.config.patch_size[1]

    def latent_shape(self, image_size: tuple[int, int]) -> tuple[int, int, int]:
        """(c, h, w) of one cell's latent.

        Raises:
            ValueError: a size that is not in multiples of `unit`.
        """
        if any(length < self.unit or length % self.unit for length in image_size):
            raise ValueError(f"image_size is {tuple(image_size)}; expected multiples of {self.unit} pixels.")
        h, w = (length // self.vae.config.scale_factor_spatial for length in image_size)
        return self.vae.config.z_dim, h, w

    def trained(self) -> nn.Module:
        """What training changes: the sync layers, where they have weights."""
        return self.sync if isinstance(self.sync, nn.Module) else nn.ModuleList()

    def base_fingerprint(self) -> str:
        """Which base this is, in whatever precision it was loaded."""
        return fingerprint({name: weight.to(torch.bfloat16) for name, weight in self.base.state_dict().items()})

    def save_sync(self, path: str | Path, dtype: torch.dtype = torch.float16, **notes: Any) -> Path:
        """Write the sync layers alone, with the configuration, which base they belong to, and `notes` inside."""
        tensors = {name: weight.to(dtype) for name, weight in self.trained().state_dict().items()}
        return save_weights(path, tensors, self.config, base=self.base_fingerprint(), **notes)

    def load_sync(self, path: str | Path) -> dict[str, Any]:
        """Take over the sync layers that `save_sync` wrote, of any design, and return the notes.

        Raises:
            ValueError: no such file, or one that belongs to another base.
        """
        path = Path(path)
        tensors, config, notes = load_weights(path, TwoStreamWanConfig)
        if notes.pop("base", None) != self.base_fingerprint():
            raise ValueError(f"{path} was trained on {config.base}, whose blocks differ from {self.config.base}'s.")
        ours = TwoStreamWan(self.base, self.vae, config.sync, config.shift, self.config.base)
        load_into(ours.trained(), tensors, path)
        self.config, self.sync = ours.config, ours.sync
        self.trained().to(next(self.base.parameters()).device).requires_grad_(False)
        return notes

    @torch.no_grad()
    def encode(self, frames: Float[Tensor, "*cells 3 h w"]) -> Float[Tensor, "*cells c i j"]:
        """Latents of single frames in [-1, 1], normalised as Wan expects them."""
        pictures = frames.reshape(-1, 3, 1, *frames.shape[-2:]).to(self.vae.dtype)
        with torch.autocast(frames.device.type, enabled=False):
            latents = self.vae.encode(pictures).latent_dist.mode()[:, :, 0]
        mean, std = self._statistics(latents)
        return ((latents - mean) / std).unflatten(0, frames.shape[:-3])

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "*cells c i j"]) -> Float[Tensor, "*cells 3 h w"]:
        """Frames in [-1, 1], each from its own latent; the inverse of `encode`."""
        flat = latents.flatten(0, -4).to(self.vae.dtype)
        mean, std = self._statistics(flat)
        with torch.autocast(latents.device.type, enabled=False):
            frames = self.vae.decode((flat * std + mean)[:, :, None]).sample[:, :, 0]
        return frames.unflatten(0, latents.shape[:-3])

    def _statistics(self, like: Tensor) -> Iterator[Tensor]:
        """Mean and standard deviation of latents."""
        config = self.vae.config
        return (torch.tensor(value).to(like)[:, None, None] for value in (config.latents_mean, config.latents_std))

    def velocity_grid(
        self,
        x: Float[Tensor, "b v t c h w"],
        sigma: Float[Tensor, " b"],
        clean: Float[Tensor, "b v t c h w"],
        text: Contexts,
        observe: Callable | None = None,
    ) -> Float[Tensor, "b v t c h w"]:
        """Eq. 4: the velocity eps - x of a noisy grid of latents whose first row and column are given.

        Args:
            x: noisy latents; known cells are replaced.
            sigma: one noise level in [0, 1] per grid, for its unknown cells.
            clean: the known cells; ignored elsewhere.
            text: embedded prompts.
            observe: see `TwoStream.forward`.
        """
        b, v, t = x.shape[:3]
        seen = known_cells(v, t).to(x.device)
        x = torch.where(seen[..., None, None, None], clean, x)
        levels = TIMESTEPS * sigma[:, None, None] * ~seen

        # Embed columns and rows; every token has its cell's timestep.
        columns_in = rearrange(x, "b v t ... -> (b t) v ..."), rearrange(levels, "b v t -> (b t) v")
        rows_in = rearrange(x, "b v t ... -> (b v) t ..."), rearrange(levels, "b v t -> (b v) t")
        view, temb_view, cond_view = self._embed(*columns_in, text.freeze)
        time, temb_time, cond_time = self._embed(*rows_in, text.dynamic)

        # The base's blocks as two streams, with a sync layer after each, which gets every cell's embedded timestep.
        embedder = self.base.condition_embedder
        waves = embedder.timesteps_proj(levels.flatten()).to(embedder.time_embedder.linear_1.weight.dtype)
        cond = embedder.time_embedder(waves).unflatten(0, levels.shape)
        streams = TwoStream([partial(_block, block) for block in self.base.blocks], self.sync)
        view, time = streams(
            rearrange(view, "(b t) (v n) d -> b v t n d", v=v, t=t),
            rearrange(time, "(b v) (t n) d -> b v t n d", v=v, t=t),
            cond_view,
            cond_time,
            cond,
            observe,
        )

        # Back to latents; the output is the mean of both streams.
        view = self._unembed(columns(view), temb_view, x.shape[-2:])
        time = self._unembed(rows(time), temb_time, x.shape[-2:])
        view = rearrange(view, "(b t) c v h w -> b v t c h w", b=b)
        time = rearrange(time, "(b v) c t h w -> b v t c h w", b=b)
        return ((view + time) / 2).to(x)

    def _embed(self, videos: Tensor, levels: Tensor, text: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Tokens of videos `(s, f, c, h, w)`, their timesteps' embedding, and the conditions of the blocks."""
        patch, own = self.base.config.patch_size[1], self.base.patch_embedding.weight.dtype
        videos = rearrange(videos, "s f c h w -> s c f h w").to(own)
        timesteps = repeat(levels, "s f -> s (f n)", n=videos.shape[-1] * videos.shape[-2] // patch**2)
        text = repeat(text, "b l d -> (b r) l d", r=len(videos) // len(text)).to(own)
        temb, modulation, text, _ = self.base.condition_embedder(
            timesteps.flatten(), text, timestep_seq_len=timesteps.shape[1]
        )
        tokens = rearrange(self.base.patch_embedding(videos), "s d f h w -> s (f h w) d").contiguous()
        return tokens, temb, (text, modulation.unflatten(2, (6, -1)), *self.base.rope(videos))

    def _unembed(self, tokens: Tensor, temb: Tensor, size: tuple[int, int]) -> Tensor:
        """Tokens back to videos, `(s, c, f, h, w)`."""
        shift, scale = (self.base.scale_shift_table[:, None] + temb[:, :, None]).unbind(2)
        tokens = self.base.proj_out((self.base.norm_out(tokens.float()) * (1 + scale) + shift).type_as(tokens))
        _, p, q = self.base.config.patch_size
        h, w = size[0] // p, size[1] // q
        return rearrange(tokens, "s (f h w) (p q c) -> s c f (h p) (w q)", h=h, w=w, p=p, q=q)

    def loss(
        self,
        clean: Float[Tensor, "b v t c h w"],
        eps: Float[Tensor, "b v t c h w"],
        sigma: Float[Tensor, " b"],
        text: Contexts,
    ) -> Float[Tensor, ""]:
        """Velocity matching over unknown cells."""
        predicted = self.velocity_grid(add_noise(clean, eps, sigma), sigma, clean, text)
        unknown = ~known_cells(*clean.shape[1:3]).to(clean.device)
        error = (predicted - velocity(clean, eps)).square().mean((3, 4, 5))
        return (error * unknown).sum() / unknown.sum() / len(clean)

    @torch.no_grad()  # as a decorator: the caller's own gradients are on again between two states
    def sample_grid(
        self,
        clean: Float[Tensor, "b v t c h w"],
        text: Contexts,
        n_steps: int = 40,
        seed: int = 0,
        guidance: float = 1.0,
        negative: Contexts | None = None,
    ) -> Iterator[Float[Tensor, "b v t c h w"]]:
        """Noise to grids of latents, yielding every state; known cells come from `clean` and hold still throughout.

        Args:
            clean, text: known cells and embedded prompts.
            n_steps, seed: Euler steps, and of the noise, drawn on the CPU.
            guidance: v = v_negative + guidance (v_text - v_negative); 1, the default, needs no `negative`.
            negative: embedded prompts to move away from, "" as a rule.

        Raises:
            ValueError: guidance without `negative`.
        """
        if guidance != 1 and negative is None:
            raise ValueError(f"guidance is {guidance} and negative is None; expected embedded negative prompts.")
        seen = known_cells(*clean.shape[1:3]).to(clean.device)[None, ..., None, None, None]

        def towards_noise(x: Tensor, sigma: float) -> Tensor:
            levels = torch.full((len(x),), sigma, device=x.device)
            found = self.velocity_grid(x, levels, clean, text)
            if guidance != 1:
                found = torch.lerp(self.velocity_grid(x, levels, clean, negative), found, guidance)
            return torch.where(seen, 0.0, found)

        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed)).to(clean)
        yield from euler(towards_noise, torch.where(seen, clean, noise), n_steps, self.config.shift)

    def generate(
        self,
        fixed_view: Tensor,
        freeze_time: Tensor,
        text: Contexts,
        n_steps: int = 40,
        seed: int = 0,
        guidance: float = 1.0,
        negative: Contexts | None = None,
    ) -> Float[Tensor, "v t 3 h w"]:
        """Two videos in, a grid out; everything in [0, 1]. Other arguments as in `sample_grid`.

        Args:
            fixed_view: `(t, 3, h, w)`, the grid's first row.
            freeze_time: `(v, 3, h, w)`, the first column.

        Raises:
            ValueError: sizes that differ or are not in multiples of `unit`, fewer than 2 frames, NaN or values outside
                [0, 1], or first frames that are not the same picture.
        """
        for name, video in (("fixed_view", fixed_view), ("freeze_time", freeze_time)):
            check_pixels(name, video)
            if video.ndim != 4 or len(video) < 2 or video.shape[1:] != (3, *fixed_view.shape[2:]):
                size = "x".join(map(str, fixed_view.shape[2:]))
                raise ValueError(f"{name} has shape {tuple(video.shape)}; expected (2 or more, 3, h, w), as {size}.")
        self.latent_shape(tuple(fixed_view.shape[2:]))
        check_first_frames(fixed_view[0], freeze_time[0])
        where = next(self.base.parameters()).device
        latents = [self.encode(video.to(where).float() * 2 - 1) for video in (fixed_view, freeze_time)]
        *_, sample = self.sample_grid(assemble(*latents), text, n_steps, seed, guidance, negative)
        grid = ((self.decode(sample[0]) + 1) / 2).clamp(0, 1).to(fixed_view)
        grid[:, 0], grid[0] = freeze_time, fixed_view  # exactly as given
        return grid


def _block(block: nn.Module, tokens: Tensor, text: Tensor, modulation: Tensor, *rope: Tensor) -> Tensor:
    return block(tokens, text, modulation, rope)
