"""A video diffusion transformer: the base model whose frozen blocks both streams of 4Real-Video share.

Section 3.1: a pixel-space DiT that denoises a video. Two things make it usable for a 4D grid. It is trained with random
masks, to predict unseen frames from any subset of seen ones; and it knows two contexts, "dynamic" (the camera rests,
the scene moves) and "freeze" (the scene rests, the camera moves). Each block adds an update to the tokens, eq. 1:

    x <- x + phi_l(x; c)

The block is Wan 2.1's (arXiv 2503.20314): AdaLN-Zero around self-attention with QK-norm and rotary positions over
frame, row and column; optional cross-attention to text; a feed-forward. It is tested against diffusers'
`WanTransformerBlock` with the same weights.

Departures. The paper conditions on seen frames in a way it does not describe. Here a seen frame has sigma = 0 (as in
Open-Sora) and every frame gets a mask channel (as in Wan) and the nearest seen frame (ours) as extra inputs.
The paper's 600M model has text; here it is optional (`text_dim`). What the output means (velocity, clean frames) is
the caller's choice.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn

CONTEXTS = ("dynamic", "freeze")
Context = Literal["dynamic", "freeze"]
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries, keys and values `(b, h, n, d)` -> what the queries get, of the same shape."""


@dataclass(frozen=True)
class VideoDiTConfig:
    """The shape of a `VideoDiT`. From the paper: 24 blocks of 1024 channels, 36x64 pixels; the rest is assumed."""

    image_size: tuple[int, int] = (36, 64)
    patch: int = 2
    dim: int = 1024
    depth: int = 24
    heads: int = 16
    mlp_ratio: float = 4.0
    channels: int = 3
    text_dim: int = 0
    """Width of the text tokens; 0 leaves the cross-attention out."""
    refine: int = 0
    """Channels of two convolutions after the patches, at half the resolution; 0 leaves them out. They read the inputs
    beside the tokens' output: they carry detail past large patches, and smooth the seams between these."""

    def __post_init__(self):
        for name in ("patch", "dim", "depth", "heads", "channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1.")
        if any(side % self.patch for side in self.image_size):
            raise ValueError(
                f"patch is {self.patch}; expected a divisor of the sides of image_size, {self.image_size}."
            )
        if self.refine and (self.patch % 2 or self.refine < 4 * self.channels):
            raise ValueError(
                f"refine is {self.refine} with a patch of {self.patch}; expected {4 * self.channels} channels or more, "
                "and an even patch."
            )
        if self.dim % self.heads or (self.dim // self.heads) % 2:
            raise ValueError(f"heads is {self.heads}; expected a divisor of dim, {self.dim}, into parts of even width.")


def nearest_seen(clean: Float[Tensor, "b t c h w"], seen: Bool[Tensor, "b t"]) -> Float[Tensor, "b t c h w"]:
    """For every frame, the seen frame closest in index (the earlier one on a tie); zeros where nothing is seen.

    >>> clean = torch.arange(4.0).reshape(1, 4, 1, 1, 1)
    >>> nearest_seen(clean, torch.tensor([[True, False, False, True]])).flatten()
    tensor([0., 0., 3., 3.])
    """
    t = torch.arange(clean.shape[1], device=clean.device)
    distance = (t[:, None] - t).abs().masked_fill(~seen[:, None], clean.shape[1])
    index = distance.argmin(-1)
    fill = clean[torch.arange(len(clean), device=clean.device)[:, None], index]
    return torch.where(seen.any(1)[:, None, None, None, None], fill, 0.0)


def sigma_embedding(sigma: Float[Tensor, "..."], dim: int) -> Float[Tensor, "... dim"]:
    """Sines and cosines of 1000 sigma at `dim / 2` frequencies from 1 down to 1/10000; float32 or wider."""
    sigma = sigma.to(torch.promote_types(sigma.dtype, torch.float32))  # half of 1000 sigma is no angle
    frequencies = torch.exp(torch.arange(dim // 2, device=sigma.device) * (-math.log(1e4) / (dim // 2)))
    angles = 1000 * sigma[..., None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1)


def rotary_angles(frames: int, rows: int, columns: int, head_dim: int) -> Float[Tensor, "n half"]:
    """The angle by which each pair of channels turns at each token, tokens ordered frame, row, column.

    The channels of a head are shared out as in Wan: a third each for row and column (rounded down to even), the rest
    for the frame. Angles are position / 10000^(2i / channels of that axis).
    """
    third = 2 * (head_dim // 6)
    angles = []
    for length, channels in ((frames, head_dim - 2 * third), (rows, third), (columns, third)):
        frequencies = 1e4 ** (-torch.arange(0, channels, 2).float() / max(channels, 1))
        angles.append(torch.arange(length).float()[:, None] * frequencies)
    f, r, c = angles
    return torch.cat([
        repeat(f, "f a -> (f r c) a", r=rows, c=columns),
        repeat(r, "r a -> (f r c) a", f=frames, c=columns),
        repeat(c, "c a -> (f r c) a", f=frames, r=rows),
    ], -1)  # fmt: skip


def rotate(x: Float[Tensor, "b h n d"], angles: Float[Tensor, "*one n half"]) -> Float[Tensor, "b h n d"]:
    """Turn each pair of neighbouring channels (2i, 2i + 1) by its angle."""
    pairs = x.unflatten(-1, (-1, 2))
    cos, sin = angles.cos().to(x), angles.sin().to(x)
    even, odd = pairs[..., 0], pairs[..., 1]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, fused; written out where that has no forward-mode derivative (`torch.func.jvp`).

    For a second backward pass choose `torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`.
    """
    try:
        return F.scaled_dot_product_attention(q, k, v)
    except NotImplementedError:
        return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v


class Attention(nn.Module):
    """Multi-head attention with RMS-normalised queries and keys (over all heads at once, as in Wan)."""

    def __init__(self, dim: int, heads: int, context_dim: int | None = None):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim)
        self.to_kv = nn.Linear(context_dim or dim, 2 * dim)
        self.norm_q = nn.RMSNorm(dim, eps=1e-6)
        self.norm_k = nn.RMSNorm(dim, eps=1e-6)
        self.to_out = nn.Linear(dim, dim)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        context: Tensor | None = None,
        angles: Tensor | None = None,
        attend: Attend = attention,
    ):
        q = self.norm_q(self.to_q(x))
        k, v = self.to_kv(x if context is None else context).chunk(2, -1)
        k = self.norm_k(k)
        q, k, v = (rearrange(a, "b n (h d) -> b h n d", h=self.heads) for a in (q, k, v))
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        return self.to_out(rearrange(attend(q, k, v), "b h n d -> b n (h d)"))


class Block(nn.Module):
    """One layer, eq. 1: x + phi_l(x; c). With AdaLN-Zero, phi_l is 0 at the start."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float = 4.0, text_dim: int = 0):
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.modulation = nn.Linear(dim, 6 * dim)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.attention = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, dim))
        self.text_attention = Attention(dim, heads, text_dim) if text_dim else None
        self.text_norm = nn.LayerNorm(dim, eps=1e-6) if text_dim else None

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        c: Float[Tensor, "b f d"],
        text: Float[Tensor, "b m k"] | None = None,
        angles: Float[Tensor, "*one n half"] | None = None,
        attend: Attend = attention,
    ) -> Float[Tensor, "b n d"]:
        """`c` conditions each of the `f` frames; tokens are ordered frame first, so frame i has n / f tokens.

        `attend` computes self-attention from the heads' queries, keys and values; a mask can go there.
        """
        if len(c) != len(x) or x.shape[1] % c.shape[1]:
            raise ValueError(
                f"c has shape {tuple(c.shape)}; expected one row per frame of each video of x, {tuple(x.shape)}."
            )
        if text is not None and self.text_attention is None:
            raise ValueError("text is given; only a model built with text_dim takes text.")
        shape = x.shape

        def modulated(norm: nn.Module, shift: Tensor, scale: Tensor) -> Tensor:
            return ((1 + scale) * norm(x).view(b, f, -1, d) + shift).view(shape)

        b, f, d = c.shape
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(F.silu(c))[:, :, None].chunk(6, -1)
        update = self.attention(modulated(self.norm1, shift1, scale1), angles=angles, attend=attend)
        x = x + (gate1 * update.view(b, f, -1, d)).view(shape)
        if text is not None:
            x = x + self.text_attention(self.text_norm(x), text)
        update = self.mlp(modulated(self.norm2, shift2, scale2))
        return x + (gate2 * update.view(b, f, -1, d)).view(shape)


class VideoDiT(nn.Module):
    """`(b, t, c, h, w)` -> the same. `embed`, `.blocks` and `unembed` are apart, so that `two_stream` can step in.

    >>> config = VideoDiTConfig(image_size=(8, 8), patch=4, dim=24, depth=2, heads=2)
    >>> model = VideoDiT(config)
    >>> video, sigma = torch.randn(1, 3, 3, 8, 8), torch.tensor([[0.0, 0.7, 0.7]])
    >>> seen = torch.tensor([[True, False, False]])
    >>> model(video, sigma, seen=seen, clean=video, context="freeze").shape
    torch.Size([1, 3, 3, 8, 8])
    """

    def __init__(self, config: VideoDiTConfig):
        super().__init__()
        self.config = config
        dim, patch = config.dim, config.patch
        inputs, width = 2 * config.channels + 1, config.refine
        self.patch_in = nn.Linear(inputs * patch**2, dim)
        self.sigma_in = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.context_in = nn.Embedding(len(CONTEXTS), dim)
        self.blocks = nn.ModuleList(
            Block(dim, config.heads, config.mlp_ratio, config.text_dim) for _ in range(config.depth)
        )
        self.norm_out = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.modulation_out = nn.Linear(dim, 2 * dim)
        self.patch_out = nn.Linear(dim, width * (patch // 2) ** 2 if width else config.channels * patch**2)
        self.refine = None
        if width:
            first = nn.Conv2d(width + 4 * inputs, width, 3, padding=1)
            self.refine = nn.Sequential(first, nn.SiLU(), nn.Conv2d(width, 4 * config.channels, 3, padding=1))
        for layer in (self.modulation_out, self.patch_out, *([self.refine[-1]] if width else [])):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def embed(
        self,
        x: Float[Tensor, "b t c h w"],
        sigma: Float[Tensor, "b t"],
        seen: Bool[Tensor, "b t"] | None = None,
        clean: Float[Tensor, "b t c h w"] | None = None,
        context: Context = "dynamic",
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b t d"], Float[Tensor, "1 n half"], Tensor | None]:
        """Frames -> tokens, one condition per frame, the rotary angles that all share, and the inputs that `unembed`
        refines with (None without refinement). Arguments as in `forward`."""
        b, t, channels, h, w = x.shape
        p, expected = self.config.patch, self.config.channels
        if channels != expected or h % p or w % p:
            expected = f"{expected} channels and sides that {p} divides"
            raise ValueError(f"x has frames of shape {(channels, h, w)}; expected {expected}.")
        if context not in CONTEXTS:
            raise ValueError(f"context is {context!r}; expected one of {CONTEXTS}.")
        if (seen is None) != (clean is None):
            raise ValueError("seen and clean belong together: give both or neither.")
        if seen is None:
            seen, clean = torch.zeros(b, t, dtype=torch.bool, device=x.device), torch.zeros_like(x)
        mask = seen.to(x)[:, :, None, None, None].expand(b, t, 1, h, w)
        frames = torch.cat([x, mask, nearest_seen(clean, seen)], 2)
        tokens = self.patch_in(rearrange(frames, "b t c (r p) (k q) -> b (t r k) (c p q)", p=p, q=p))
        c = self.sigma_in(sigma_embedding(sigma, self.config.dim).to(x))
        c = c + self.context_in.weight[CONTEXTS.index(context)]
        angles = rotary_angles(t, h // p, w // p, self.config.dim // self.config.heads).to(x.device)
        return tokens, c, angles[None], frames if self.refine else None

    def unembed(
        self,
        tokens: Float[Tensor, "b n d"],
        c: Float[Tensor, "b t d"],
        size: tuple[int, int] | None = None,
        detail: Tensor | None = None,
    ) -> Float[Tensor, "b t c h w"]:
        """Tokens -> frames, of the configuration's size unless another is given; `detail` is from `embed`."""
        p, (h, w) = self.config.patch, size or self.config.image_size
        shift, scale = self.modulation_out(F.silu(c))[:, :, None].chunk(2, -1)
        tokens = (1 + scale) * rearrange(self.norm_out(tokens), "b (t s) d -> b t s d", t=c.shape[1]) + shift
        r, k, p = h // p, w // p, p // 2 if self.refine else p
        frames = rearrange(self.patch_out(tokens), "b t (r k) (c p q) -> b t c (r p) (k q)", r=r, k=k, p=p, q=p)
        if self.refine is None:
            return frames
        frames = frames.flatten(0, 1)
        correction = self.refine(torch.cat([frames, F.pixel_unshuffle(detail.flatten(0, 1), 2)], 1))
        pixels = frames[:, : 4 * self.config.channels] + correction
        return F.pixel_shuffle(pixels, 2).unflatten(0, c.shape[:2])

    def forward(
        self,
        x: Float[Tensor, "b t c h w"],
        sigma: Float[Tensor, "b t"],
        seen: Bool[Tensor, "b t"] | None = None,
        clean: Float[Tensor, "b t c h w"] | None = None,
        context: Context = "dynamic",
        text: Float[Tensor, "b m k"] | None = None,
    ) -> Float[Tensor, "b t c h w"]:
        """Predict (velocity or clean frames: what it was trained for) from a noisy video.

        Args:
            x: noisy frames; seen ones are clean. Of any size in patches, though trained on one.
            sigma: noise level of each frame in [0, 1]; 0 where a frame is seen.
            seen: which frames condition the others; None for none.
            clean: these frames, in [-1, 1]; ignored where `seen` is False.
            context: "dynamic" for a fixed-view video, "freeze" for a freeze-time video.
            text: tokens of width `text_dim`, when the model was built with text; None skips its layers.

        Raises:
            ValueError: frames of another shape, an unknown context, `seen` without `clean`, text for a model without.
        """
        tokens, c, angles, detail = self.embed(x, sigma, seen, clean, context)
        for block in self.blocks:
            tokens = block(tokens, c, text, angles)
        return self.unembed(tokens, c, (x.shape[-2], x.shape[-1]), detail)
