"""The frame between two frames, by optical flow: a video interpolator without weights.

Consistent4D asks RIFE (Huang et al. 2022), a network, what lies between two renders. Here is what networks of its kind
learn, in its classical form. Flow both ways, f_ab and f_ba (DIS, Kroeger et al. 2016), says where things go; half of it
leads from the middle back to each end, and both ends, fetched from there, are blended:

    m = 1/2 a(x - 1/2 f_ab(x)) + 1/2 b(x - 1/2 f_ba(x))

Departures: the flow at x is taken for the flow of what will be at x halfway, which is right where it changes slowly;
nothing is known of what hides what, and what is thinner than its way is lost. RIFE estimates the flow from the middle
itself, and learns how to blend.
"""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fourd_minimal.systems.pixels import check_pixels

SIDE = 256
"""Small frames are enlarged to about so many pixels first: DIS matches patches of 8."""


@torch.no_grad()
def interpolate(a: Float[Tensor, "n 3 h w"], b: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """What lies halfway from `a` to `b`, frame by frame, on the same device; without gradient.

    Raises:
        ValueError: pixels outside [0, 1].

    >>> wave = (torch.arange(64) * torch.pi / 8).sin().expand(1, 3, 32, 64) / 2 + 0.5
    >>> moved, halfway = wave.roll(4, 3), wave.roll(2, 3)
    >>> [round(float((made - halfway).abs().mean()), 2) for made in ((wave + moved) / 2, interpolate(wave, moved))]
    [0.09, 0.03]
    """
    check_pixels("a", a)
    check_pixels("b", b)
    there = flow(a, b)
    back = flow(b, a)
    return (moved(a, there / 2) + moved(b, back / 2)) / 2


def flow(a: Float[Tensor, "n 3 h w"], b: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 2 h w"]:
    """Where each pixel of `a` is in `b`: (right, down), in pixels."""
    import cv2  # slow to import

    size = a.shape[-2:]
    scale = max(1, SIDE // min(size))
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)

    def grey(frames: Tensor) -> np.ndarray:
        large = F.interpolate(frames.mean(1, keepdim=True).cpu(), scale_factor=scale, mode="bicubic").clamp(0, 1)
        return (large[:, 0] * 255).round().byte().numpy()

    found = np.stack([dis.calc(x, y, None) for x, y in zip(grey(a), grey(b), strict=True)])
    large = torch.from_numpy(found).permute(0, 3, 1, 2).to(a)
    return F.interpolate(large, size, mode="area") / scale


def moved(frames: Float[Tensor, "n 3 h w"], by: Float[Tensor, "n 2 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Frames with each pixel fetched from where it came from: frame(x - by(x)); beyond the rim is the rim."""
    h, w = frames.shape[-2:]
    y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    place = (torch.stack([x, y]).to(by) - by).movedim(1, -1)
    where = 2 * place / place.new_tensor([w, h]) - 1
    return F.grid_sample(frames, where, padding_mode="border", align_corners=False)
