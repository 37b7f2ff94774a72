"""The anchor: renders should look like the videos that the diffusion model has sampled.

4Diffusion, section 3.3. Score distillation seeks modes and loses details; the sampled videos have them. At each step
one frame of one sampled view is compared with the render from the same camera at the same time:

    L = 200 perceptual(render, frame) + 100 (1 - SSIM(render, frame))

No pixel is compared with a pixel: sampled views do not quite agree with each other, and such a loss would blur.
SSIM (Wang et al. 2004) has a Gaussian window of 11 pixels, sigma 1.5, around every pixel; pictures are mirrored at
their borders.

Departures: the paper's code gives pictures in [0, 1] to a perceptual distance that expects [-1, 1]; here it gets
[-1, 1].
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

WINDOW, SIGMA = 11, 1.5


def ssim(a: Float[Tensor, "b c h w"], b: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Structural similarity of pictures in [0, 1]; 1 for the same.

    Raises:
        ValueError: pictures smaller than a window, or values outside of [0, 1].

    >>> ssim(torch.full((1, 3, 16, 16), 0.2), torch.full((1, 3, 16, 16), 0.8))             # flat: only means differ
    tensor([0.4707])
    """
    if min(a.shape[-2:]) < WINDOW:
        raise ValueError(f"pictures are {a.shape[-2]} x {a.shape[-1]} pixels; expected at least {WINDOW} x {WINDOW}.")
    for name, picture in () if torch.compiler.is_compiling() else (("a", a), ("b", b)):
        if not picture.is_floating_point() or not (picture.min() >= -0.5 and picture.max() <= 1.5):
            low, high = picture.min().item(), picture.max().item()
            raise ValueError(f"{name} has type {picture.dtype} and lies in [{low:.4g}, {high:.4g}]; expected [0, 1].")
    with torch.autocast(
        a.device.type, enabled=False
    ):  # spreads are differences of squares: half precision has none left
        return _ssim(a.to(wide := torch.promote_types(a.dtype, torch.float32)), b.to(wide)).to(a.dtype)


def _ssim(a: Tensor, b: Tensor) -> Tensor:
    offset = torch.arange(WINDOW, dtype=a.dtype, device=a.device) - WINDOW // 2
    bell = (-offset.square() / (2 * SIGMA**2)).exp()
    window = (bell / bell.sum()).expand(a.shape[1] * 5, 1, 1, WINDOW)
    a, b = (F.pad(picture, (WINDOW // 2,) * 4, mode="reflect") for picture in (a, b))
    stacked = torch.cat([a, b, a * a, b * b, a * b], 1)
    blurred = F.conv2d(F.conv2d(stacked, window, groups=len(window)), window.mT, groups=len(window))
    mean_a, mean_b, aa, bb, ab = blurred.chunk(5, 1)
    means = (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
    spreads = (2 * (ab - mean_a * mean_b) + 0.03**2) / (aa - mean_a**2 + bb - mean_b**2 + 0.03**2)
    return (means * spreads).mean((1, 2, 3))


class AnchorLoss(nn.Module):
    """The weighted sum of a perceptual distance and of 1 - SSIM.

    Args:
        perceptual: a distance of pictures in [-1, 1], such as `lpips.LPIPS`; its mean is taken.
        w_perceptual, w_ssim: weights of the two terms.

    >>> loss = AnchorLoss(lambda a, b: (a - b).square())
    >>> frame = torch.rand(1, 3, 32, 32)
    >>> loss(frame, frame), loss(1 - frame, frame) > 100
    (tensor(0.), tensor(True))
    """

    def __init__(self, perceptual: Callable[[Tensor, Tensor], Tensor], w_perceptual: float = 200, w_ssim: float = 100):
        super().__init__()
        self.perceptual, self.w_perceptual, self.w_ssim = perceptual, w_perceptual, w_ssim

    def forward(self, rendered: Float[Tensor, "b 3 h w"], sampled: Float[Tensor, "b 3 h w"]) -> Float[Tensor, ""]:
        """The loss of renders against sampled frames, both in [0, 1]."""
        distance = self.perceptual(rendered * 2 - 1, sampled * 2 - 1).mean()
        return self.w_perceptual * distance + self.w_ssim * (1 - ssim(rendered, sampled).mean())
