"""ImageDream: a U-Net that denoises several views of one object at once, conditioned on one picture of it.

The base of 4Diffusion (section 3.1; Wang and Shi 2023). A Stable Diffusion U-Net with four changes:

    joint attention     self-attention reads the places of all views of an object as one sequence
    camera              a view's pose, 16 numbers through an MLP, is added to the embedding of the noise level
    pixel control       the clean reference is one more slot among the views; its camera is zero, its output dropped
    local control       tokens of the reference, resampled to a few, have own keys and values in cross-attention

Slots `n` are views and, with pixel control, the reference. For a video, frames ride on the batch axis; `temporal` has a
module for every residual block but the last of the middle, `(b, t, c, h, w)` -> same, that 4Diffusion fills.

Departures: text is optional. A camera in the reference's own place has no direction: its translation stays zero. At toy
scale the reference as a slot alone gives silhouettes and wrong colours; `concat` and `pooled` condition every view on
the reference by channels and by one vector, which learns in minutes.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclass(frozen=True)
class MultiviewUNetConfig:
    """`full` sizes are the defaults: Stable Diffusion 2.1 with ImageDream's controls."""

    image_channels: int = 4
    patch: int = 1
    """Pixels per side that become channels (pixel-unshuffle)."""
    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    """Channels of each level; every level halves the picture."""
    n_res_blocks: int = 2
    attention_levels: tuple[int, ...] = (0, 1, 2)
    head_dim: int = 64
    norm_groups: int = 32
    text_dim: int | None = 1024
    """Of text tokens; None for a model without text."""
    token_dim: int = 1280
    """Of image tokens, before they are resampled."""
    n_tokens: int = 16
    """Image tokens after resampling."""
    context_dim: int = 1024
    """Of image tokens, after they are resampled."""
    resampler_depth: int = 4
    resampler_heads: int = 12
    reference_slot: bool = True
    """Pixel control: the reference is one more slot."""
    concat: bool = False
    """Whether every view gets the reference as channels."""
    pooled: bool = False
    """Whether the mean of the image tokens, through an MLP, is added to the embedding."""
    n_heads: int | None = None
    """The number of heads at every width, in place of `head_dim`: 8 in Stable Diffusion 1."""

    def __post_init__(self):
        unit = self.n_heads or self.head_dim
        bad = [w for w in self.widths if w % self.norm_groups or w % unit]
        if bad:
            kind = f"{unit} heads" if self.n_heads else f"head_dim {unit}"
            raise ValueError(f"widths has {bad}; expected multiples of {kind} and {self.norm_groups} groups.")


def embed_steps(t: Int[Tensor, " b"], channels: int) -> Float[Tensor, "b channels"]:
    """Cosines and sines of falling frequency, as in Stable Diffusion."""
    rates = torch.exp(torch.arange(channels // 2, device=t.device) * (-math.log(10_000.0) / (channels // 2)))
    angle = t[:, None] * rates
    return torch.cat([angle.cos(), angle.sin()], -1)


class ResBlock(nn.Module):
    """Two convolutions; the embedding is added between them."""

    def __init__(self, c_in: int, c_out: int, c_embedding: int, groups: int):
        super().__init__()
        self.before = nn.Sequential(nn.GroupNorm(groups, c_in), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1))
        self.embedding = nn.Sequential(nn.SiLU(), nn.Linear(c_embedding, c_out))
        self.after = nn.Sequential(nn.GroupNorm(groups, c_out), nn.SiLU(), nn.Conv2d(c_out, c_out, 3, padding=1))
        self.skip = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)
        nn.init.zeros_(self.after[-1].weight)
        nn.init.zeros_(self.after[-1].bias)

    def forward(self, x: Float[Tensor, "m c_in h w"], embedding: Float[Tensor, "m e"]) -> Float[Tensor, "m c_out h w"]:
        return self.skip(x) + self.after(self.before(x) + self.embedding(embedding)[..., None, None])


class Attention(nn.Module):
    """Queries from one sequence, keys and values from another; the results of several contexts are summed."""

    def __init__(self, dim: int, context_dims: tuple[int, ...], head_dim: int):
        super().__init__()
        self.head_dim = head_dim
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_kv = nn.ModuleList(nn.Linear(c, 2 * dim, bias=False) for c in context_dims)
        self.to_out = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "m l d"], *contexts: Tensor) -> Float[Tensor, "m l d"]:
        def heads(a: Tensor) -> Tensor:
            return rearrange(a, "m l (heads d) -> m heads l d", d=self.head_dim)

        q, found = heads(self.to_q(x)), 0.0
        for to_kv, context in zip(self.to_kv, contexts, strict=True):
            k, v = map(heads, to_kv(context).chunk(2, -1))
            found = found + F.scaled_dot_product_attention(q, k, v)
        return self.to_out(rearrange(found, "m heads l d -> m l (heads d)"))


class FeedForward(nn.Module):
    """GEGLU, four times as wide inside."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm, self.wide, self.narrow = nn.LayerNorm(dim), nn.Linear(dim, 8 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Float[Tensor, "*m d"]) -> Float[Tensor, "*m d"]:
        value, gate = self.wide(self.norm(x)).chunk(2, -1)
        return self.narrow(value * F.gelu(gate))


class JointTransformer(nn.Module):
    """Self-attention over all places of all slots; cross-attention to text and image tokens; feed-forward."""

    def __init__(self, dim: int, context_dims: tuple[int, ...], head_dim: int, groups: int):
        super().__init__()
        self.norm, self.proj_in = nn.GroupNorm(groups, dim, eps=1e-6), nn.Linear(dim, dim)
        self.self_norm, self.self_attention = nn.LayerNorm(dim), Attention(dim, (dim,), head_dim)
        self.cross_norm, self.cross_attention = nn.LayerNorm(dim), Attention(dim, context_dims, head_dim)
        self.feed_forward, self.proj_out = FeedForward(dim), nn.Linear(dim, dim)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, x: Float[Tensor, "bn d h w"], n: int, *contexts: Tensor) -> Float[Tensor, "bn d h w"]:
        """`n` slots belong together; contexts are per object, `(b, tokens, dim)`."""
        height = x.shape[2]
        y = self.proj_in(rearrange(self.norm(x), "(b n) d h w -> b (n h w) d", n=n))
        joint = self.self_norm(y)
        y = y + self.self_attention(joint, joint)
        y = y + self.cross_attention(self.cross_norm(y), *contexts)
        y = self.proj_out(y + self.feed_forward(y))
        return x + rearrange(y, "b (n h w) d -> (b n) d h w", n=n, h=height)


class Resampler(nn.Module):
    """Many image tokens become a few: learned queries read them, `depth` times."""

    def __init__(self, config: MultiviewUNetConfig):
        super().__init__()
        dim, heads = config.context_dim, config.resampler_heads
        inner = heads * 64
        self.queries = nn.Parameter(torch.randn(config.n_tokens, dim) / dim**0.5)
        self.proj_in, self.proj_out, self.norm_out = (
            nn.Linear(config.token_dim, dim),
            nn.Linear(dim, dim),
            nn.LayerNorm(dim),
        )
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                dict(
                    norm_tokens=nn.LayerNorm(dim),
                    norm_queries=nn.LayerNorm(dim),
                    to_q=nn.Linear(dim, inner, bias=False),
                    to_kv=nn.Linear(dim, 2 * inner, bias=False),
                    to_out=nn.Linear(inner, dim, bias=False),
                    feed_forward=nn.Sequential(
                        nn.LayerNorm(dim),
                        nn.Linear(dim, 4 * dim, bias=False),
                        nn.GELU(),
                        nn.Linear(4 * dim, dim, bias=False),
                    ),
                )
            )
            for _ in range(config.resampler_depth)
        )

    def forward(self, tokens: Float[Tensor, "b k d"]) -> Float[Tensor, "b m e"]:
        tokens, queries = self.proj_in(tokens), self.queries.expand(len(tokens), -1, -1)
        for layer in self.layers:
            normed = layer["norm_queries"](queries)
            q = layer["to_q"](normed)
            k, v = layer["to_kv"](torch.cat([layer["norm_tokens"](tokens), normed], 1)).chunk(2, -1)
            q, k, v = (rearrange(a, "b l (heads d) -> b heads l d", d=64) for a in (q, k, v))
            read = rearrange(F.scaled_dot_product_attention(q, k, v), "b heads l d -> b l (heads d)")
            queries = queries + layer["to_out"](read)
            queries = queries + layer["feed_forward"](queries)
        return self.norm_out(self.proj_out(queries))


class MultiviewUNet(nn.Module):
    """Noisy views, cameras and a reference -> what the model predicts for every view.

    Args:
        config: sizes and controls.

    >>> config = MultiviewUNetConfig(
    ...     image_channels=3, patch=2, widths=(16, 32), n_res_blocks=1, attention_levels=(1,), head_dim=16,
    ...     norm_groups=8, text_dim=None, token_dim=12, n_tokens=4, context_dim=24, resampler_depth=1,
    ...     resampler_heads=1)
    >>> model, views = MultiviewUNet(config), torch.randn(2, 4, 3, 16, 16)
    >>> cameras, tokens = torch.eye(4).expand(2, 4, 4, 4), torch.randn(2, 9, 12)
    >>> model(views, torch.tensor([10, 500]), cameras, views[:, 0], tokens).shape
    torch.Size([2, 4, 3, 16, 16])
    """

    def __init__(self, config: MultiviewUNetConfig):
        super().__init__()
        self.config, c = config, config
        first, embedding, pixels = c.widths[0], 4 * c.widths[0], c.image_channels * c.patch**2
        contexts = ((c.text_dim,) if c.text_dim else ()) + (c.context_dim,)
        self.of_step = nn.Sequential(nn.Linear(first, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.of_camera = nn.Sequential(nn.Linear(16, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.of_tokens = (
            nn.Sequential(nn.Linear(c.context_dim, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
            if c.pooled
            else None
        )
        self.resampler = Resampler(c)
        self.places: list[int] = []
        """Channels after each residual block, in order: where motion modules go."""

        def block(c_in: int, c_out: int, level: int | None) -> nn.ModuleList:
            self.places.append(c_out)
            head_dim = c_out // c.n_heads if c.n_heads else c.head_dim
            attends = level is None or level in c.attention_levels
            transformer = JointTransformer(c_out, contexts, head_dim, c.norm_groups) if attends else None
            return nn.ModuleList([ResBlock(c_in, c_out, embedding, c.norm_groups), transformer or nn.Identity()])

        self.conv_in = nn.Conv2d(pixels * (1 + c.concat), first, 3, padding=1)
        self.down, self.shrink, skips, now = nn.ModuleList(), nn.ModuleDict(), [first], first
        for level, width in enumerate(c.widths):
            for _ in range(c.n_res_blocks):
                self.down.append(block(now, width, level))
                skips.append(now := width)
            if level + 1 < len(c.widths):
                self.shrink[str(len(self.down))] = nn.Conv2d(width, width, 3, stride=2, padding=1)
                skips.append(width)
        self.middle, self.middle_out = block(now, now, None), ResBlock(now, now, embedding, c.norm_groups)
        self.up, self.grow = nn.ModuleList(), nn.ModuleDict()
        for level, width in reversed(list(enumerate(c.widths))):
            for _ in range(c.n_res_blocks + 1):
                self.up.append(block(now + skips.pop(), width, level))
                now = width
            if level:
                self.grow[str(len(self.up))] = nn.Conv2d(width, width, 3, padding=1)
        self.out = nn.Sequential(nn.GroupNorm(c.norm_groups, now), nn.SiLU(), nn.Conv2d(now, pixels, 3, padding=1))
        self.temporal = nn.ModuleList(nn.Identity() for _ in self.places)

    def forward(
        self,
        x: Float[Tensor, "b v c h w"],
        t: Int[Tensor, " b"],
        c2w: Float[Tensor, "b v 4 4"],
        reference: Float[Tensor, "b c h w"],
        tokens: Float[Tensor, "b k d"],
        text: Float[Tensor, "b l e"] | None = None,
        frames: int = 1,
    ) -> Float[Tensor, "b v c h w"]:
        """What the model predicts for every view.

        Args:
            x: noisy views.
            t: step of the schedule, per object.
            c2w: of the views; relative to the reference's camera, or in the object's own frame, as in training.
            reference: clean; zeros for the unconditional branch.
            tokens: of the reference; zeros for the unconditional branch.
            text: tokens of a caption, where the model has text.
            frames: how many neighbours on the batch axis are frames of one video.
        """
        c, v = self.config, x.shape[1]
        camera = c2w.clone()
        camera[..., :3, 3] = F.normalize(camera[..., :3, 3], dim=-1, eps=1e-3)
        camera = camera.flatten(2)
        if c.reference_slot:
            x = torch.cat([x, reference[:, None]], 1)
            camera = torch.cat([camera, torch.zeros_like(camera[:, :1])], 1)
        n = x.shape[1]
        if c.concat:
            x = torch.cat([x, reference[:, None].expand(-1, n, -1, -1, -1)], 2)
        tokens = self.resampler(tokens)
        contexts = (tokens,) if text is None else (text, tokens)
        embedding = self.of_step(embed_steps(t, c.widths[0]).to(x.dtype))[:, None] + self.of_camera(camera)
        if self.of_tokens is not None:
            embedding = embedding + self.of_tokens(tokens.mean(1))[:, None]
        embedding, temporal = embedding.flatten(0, 1), iter(self.temporal)

        def run(block: nn.ModuleList, h: Tensor) -> Tensor:
            h = block[0](h, embedding)
            if isinstance(block[1], JointTransformer):
                h = block[1](h, n, *contexts)
            over_time = next(temporal)
            if isinstance(over_time, nn.Identity):
                return h
            h = over_time(rearrange(h, "(b f n) c h w -> (b n) f c h w", f=frames, n=n))
            return rearrange(h, "(b n) f c h w -> (b f n) c h w", n=n)

        h = self.conv_in(F.pixel_unshuffle(x.flatten(0, 1), c.patch))
        skips = [h]
        for i, block in enumerate(self.down, 1):
            skips.append(h := run(block, h))
            if str(i) in self.shrink:
                skips.append(h := self.shrink[str(i)](h))
        h = self.middle_out(run(self.middle, h), embedding)
        for i, block in enumerate(self.up, 1):
            h = run(block, torch.cat([h, skips.pop()], 1))
            if str(i) in self.grow:
                h = self.grow[str(i)](F.interpolate(h, scale_factor=2.0, mode="nearest"))
        h = F.pixel_shuffle(self.out(h), c.patch)
        return rearrange(h, "(b n) c h w -> b n c h w", n=n)[:, :v]
