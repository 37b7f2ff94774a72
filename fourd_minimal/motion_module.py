"""The motion module: attention over time that turns a model of images into a model of videos.

4Diffusion, section 3.2: 4DM is a frozen multi-view model with one of these after every residual block of its encoder
and decoder and one in the middle, and they are all that is trained. Its structure is AnimateDiff's (Guo et al. 2024):

    x + W_out block(W_in GroupNorm(x)),    W_out = 0 at the start: the identity

where the block reads, at every place of the picture, the frames as a sequence:

    h <- h + Attention(LayerNorm(h) + position)       twice (`n_attention`)
    h <- h + GEGLU(LayerNorm(h))

Positions are sinusoidal and are added before each attention, which otherwise would not know the order of frames.

Departures: none in what is computed. Dropout, 0 there, is left out, and `norm_over_clip` is diffusers' reading of the
group norm, for its checkpoints.
"""

import math
import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn


def sinusoids(n: int, channels: int, device: torch.device | str | None = None) -> Float[Tensor, "n channels"]:
    """Position 0, 1, ... as sines (even channels) and cosines (odd channels) of falling frequency."""
    rate = torch.exp(torch.arange(0, channels, 2, device=device) * (-math.log(10_000.0) / channels))
    angle = torch.arange(n, device=device)[:, None] * rate
    return rearrange(torch.stack([angle.sin(), angle.cos()], -1), "n c two -> n (c two)")


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, fused; written out where that has no forward-mode derivative (`torch.func.jvp`).

    For a second backward pass choose `torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`.
    """
    try:
        return F.scaled_dot_product_attention(q, k, v)
    except NotImplementedError:
        return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v


class TemporalAttention(nn.Module):
    """Self-attention over the frames of each place; queries, keys and values without bias, the output with one."""

    def __init__(self, channels: int, n_heads: int):
        super().__init__()
        self.n_heads = n_heads
        self.to_qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.to_out = nn.Linear(channels, channels)

    def forward(self, h: Float[Tensor, "n t c"]) -> Float[Tensor, "n t c"]:
        q, k, v = rearrange(self.to_qkv(h), "n t (three heads c) -> three n heads t c", three=3, heads=self.n_heads)
        return self.to_out(rearrange(attend(q, k, v), "n heads t c -> n t (heads c)"))


class GEGLU(nn.Module):
    """A feed-forward layer, four times as wide inside, half of it gating the other."""

    def __init__(self, channels: int):
        super().__init__()
        self.wide, self.narrow = nn.Linear(channels, 8 * channels), nn.Linear(4 * channels, channels)

    def forward(self, h: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
        halves = zip(self.wide.weight.chunk(2), self.wide.bias.chunk(2), strict=True)  # cheaper than halving the output
        value, gate = (F.linear(h, weight, bias) for weight, bias in halves)
        return self.narrow(value * F.gelu(gate))


class MotionModule(nn.Module):
    """Attention over time with a zero-initialised output, for the features of a frozen image model.

    Args:
        channels: of the feature map; divisible by `n_heads` and `norm_groups`.
        n_heads: of each attention.
        n_attention: attentions in a row.
        max_frames: the longest clip that it has positions for.
        norm_groups: of the group norm.
        norm_over_clip: take the group norm's statistics over all frames at once, as diffusers' port does; AnimateDiff
            and 4Diffusion take them frame by frame.

    Raises:
        ValueError: channels that heads or groups do not divide, another shape of input, or a clip that is too long.

    >>> module = MotionModule(64)
    >>> x = torch.randn(1, 8, 64, 4, 4)
    >>> torch.equal(module(x), x)                                   # the identity, until it is trained
    True
    """

    def __init__(
        self,
        channels: int,
        n_heads: int = 8,
        n_attention: int = 2,
        max_frames: int = 32,
        norm_groups: int = 32,
        norm_over_clip: bool = False,
    ):
        super().__init__()
        if min(channels, n_heads, norm_groups) < 1 or channels % n_heads or channels % norm_groups or channels % 2:
            raise ValueError(
                f"channels is {channels}; expected a multiple of 2, {n_heads} heads and {norm_groups} groups."
            )
        self.norm_over_clip = norm_over_clip
        self.norm = nn.GroupNorm(norm_groups, channels, eps=1e-6)
        self.proj_in, self.proj_out = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(n_attention))
        self.attentions = nn.ModuleList(TemporalAttention(channels, n_heads) for _ in range(n_attention))
        self.ff_norm, self.ff = nn.LayerNorm(channels), GEGLU(channels)
        self.max_frames = max_frames
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, x: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t c h w"]:
        """Feature maps of the frames of b clips; places of the picture do not mix, except in the group norm."""
        if x.ndim != 5 or x.shape[2] != self.proj_in.in_features:
            raise ValueError(f"x has shape {tuple(x.shape)}; expected (b, t, {self.proj_in.in_features}, h, w).")
        b, t, _, height, _ = x.shape
        if t > self.max_frames:
            raise ValueError(f"x has {t} frames; this module knows positions for {self.max_frames}.")
        if self.norm_over_clip:
            h = rearrange(self.norm(rearrange(x, "b t c h w -> b c t h w")), "b c t h w -> (b h w) t c")
        else:
            h = rearrange(self.norm(x.flatten(0, 1)), "(b t) c h w -> (b h w) t c", b=b)
        h = self.proj_in(h)
        position = self.position[:t].to(h)
        for norm, attention in zip(self.norms, self.attentions, strict=True):
            h = h + attention(norm(h) + position)
        h = h + self.ff(self.ff_norm(h))
        return x + rearrange(self.proj_out(h), "(b h w) t c -> b t c h w", b=b, h=height)

    @property
    def position(self) -> Float[Tensor, "max_frames c"]:
        """Made anew: a buffer would be rounded by a cast of the module, and lost by `to_empty`."""
        return sinusoids(self.max_frames, self.proj_in.in_features, self.proj_in.weight.device)

    def load_animatediff(self, state: Mapping[str, Tensor]) -> None:
        """Weights of one AnimateDiff module, as its authors or as diffusers name them.

        Args:
            state: the module's own part of a checkpoint; a common beginning of all names is dropped.

        Raises:
            ValueError: names or shapes that do not fit; which ones.
        """
        found = translate(state)
        expected = self.state_dict()
        missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
        if missing or extra:
            raise ValueError(f"state lacks {missing} and has {extra} besides; expected a motion module of this kind.")
        for name, value in found.items():
            if value.shape != expected[name].shape:
                raise ValueError(f"state's {name} is {tuple(value.shape)}; expected {tuple(expected[name].shape)}.")
        self.load_state_dict(found)


NAMES = {
    r"(.*\.)?norm\.(weight|bias)": r"norm.\2",
    r"(.*\.)?(proj_in|proj_out)\.(weight|bias)": r"\2.\3",
    r".*attention_blocks\.(\d+)\.to_(q|k|v)\.weight": r"attentions.\1.to_\2.weight",
    r".*attention_blocks\.(\d+)\.to_out\.0\.(weight|bias)": r"attentions.\1.to_out.\2",
    r".*transformer_blocks\.0\.norms\.(\d+)\.(weight|bias)": r"norms.\1.\2",
    r".*transformer_blocks\.0\.attn(\d+)\.to_(q|k|v)\.weight": r"attentions.#\1.to_\2.weight",
    r".*transformer_blocks\.0\.attn(\d+)\.to_out\.0\.(weight|bias)": r"attentions.#\1.to_out.\2",
    r".*transformer_blocks\.0\.norm([12])\.(weight|bias)": r"norms.#\1.\2",
    r".*transformer_blocks\.0\.(?:ff_norm|norm3)\.(weight|bias)": r"ff_norm.\1",
    r".*ff\.net\.0\.proj\.(weight|bias)": r"ff.wide.\1",
    r".*ff\.net\.2\.(weight|bias)": r"ff.narrow.\1",
    r".*(pos_encoder|pos_embed)\.pe": None,  # sinusoids: ours are the same
}
"""Names of AnimateDiff's checkpoints and of diffusers' modules -> ours; #1 counts from one."""


def translate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict under our names, queries, keys and values joined; unknown names stay."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        match = next(((p, n) for p, n in NAMES.items() if re.fullmatch(p, name)), (None, name))
        if match[1] is None:
            continue
        ours = name if match[0] is None else re.sub(match[0], match[1], name)
        found[re.sub(r"#(\d+)", lambda m: str(int(m[1]) - 1), ours)] = value
    for name in sorted(n for n in found if n.endswith(".to_q.weight")):
        parts = [found.pop(name.replace("to_q", part), None) for part in ("to_q", "to_k", "to_v")]
        if all(p is not None for p in parts):
            found[name.replace("to_q", "to_qkv")] = torch.cat(parts)
    return found
