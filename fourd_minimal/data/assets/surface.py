"""What is drawn, as tensors that stay the same over time: triangles, their materials and textures.

Textures are read by their nearest texel. Colours are linear light, as the rasterizer mixes them; bytes of textures and
pictures are sRGB (IEC 61966-2-1).
"""

from dataclasses import dataclass, fields
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

OPAQUE, MASK, BLEND = 0, 1, 2
REPEAT, CLAMP, MIRROR = 10497, 33071, 33648


@dataclass(frozen=True)
class Surface:
    """n vertices, f triangles, and their materials."""

    faces: Int[Tensor, "f 3"]
    """Counterclockwise from the front."""
    uv: Float[Tensor, "n 2"]
    colours: Float[Tensor, "n 4"]
    """Linear colour and alpha that the texture is multiplied with."""
    glow: Float[Tensor, "n 3"]
    """Light of its own, linear."""
    lit: Bool[Tensor, " n"]
    """Whether light falls on it; otherwise it shows its colour."""
    texture: Int[Tensor, " f"]
    """Rows of `sheets`."""
    glow_texture: Int[Tensor, " f"]
    mode: Int[Tensor, " f"]
    """OPAQUE, MASK (a hole where alpha is below the cutoff) or BLEND."""
    cutoff: Float[Tensor, " f"]
    both_sides: Bool[Tensor, " f"]
    """Whether the back is seen, too."""
    texels: UInt8[Tensor, "m 4"]
    """Bytes of all textures, one after the other; the first texture is one white texel."""
    sheets: Int[Tensor, "s 5"]
    """Of each texture: where its texels begin, height, width, and how u and v go on beyond it."""

    # computed once, not for every sample
    @cached_property
    def opaque(self) -> bool:
        return bool((self.mode == OPAQUE).all())

    @cached_property
    def flat(self) -> bool:
        """Whether every triangle has one colour."""
        return all(bool((v[self.faces] == v[self.faces[:, :1]]).all()) for v in (self.colours, self.glow))

    @cached_property
    def glows(self) -> bool:
        return bool(self.glow.any())

    @cached_property
    def all_lit(self) -> bool:
        return bool(self.lit.all())

    @cached_property
    def linear(self) -> Float[Tensor, "256"]:
        """Linear light of each byte."""
        x = torch.arange(256, device=self.uv.device) / 255
        return torch.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)

    def texel(self, sheet: Int[Tensor, " m"], u: Float[Tensor, " m"], v: Float[Tensor, " m"]) -> Float[Tensor, "m 4"]:
        """The nearest texel of a texture; v runs down, as in glTF."""
        start, h, w, wrap_u, wrap_v = self.sheets.T.contiguous().index_select(1, sheet)
        x, y = _wrapped(u, w, wrap_u), _wrapped(v, h, wrap_v)
        texel = self.texels.index_select(0, start + y * w + x).int()
        rgb = self.linear.index_select(0, texel[:, :3].flatten()).view(-1, 3)
        return torch.cat([rgb, texel[:, 3:] / 255], 1)

    def to(self, device: torch.device | str) -> "Surface":
        if self.uv.device == torch.device(device):
            return self
        return Surface(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def _wrapped(u: Tensor, n: Tensor, wrap: Tensor) -> Tensor:
    """The texel along one side of n."""
    i = (u * n).floor().long()
    at = i.remainder(n)
    if (wrap == REPEAT).all():
        return at
    back = i.remainder(2 * n)
    at = torch.where(wrap == CLAMP, i.clamp(min=0).minimum(n - 1), at)
    return torch.where(wrap == MIRROR, torch.minimum(back, 2 * n - 1 - back), at)


def soft(linear: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Bright light rolls off towards white instead of being cut off: x below 0.4, 1 at 1.6."""
    over = (linear - 0.4).clamp(0, 1.2)
    return torch.addcmul(linear, over, over, value=-1 / 2.4)


def srgb(linear: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Linear light to the numbers of a picture (IEC 61966-2-1), in [0, 1]."""
    linear = linear.clamp(0, 1)
    return torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clamp(min=1e-8) ** (1 / 2.4) - 0.055)
