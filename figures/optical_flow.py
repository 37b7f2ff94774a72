"""Optical flow without weights (DIS, Kroeger et al. 2016): a frame between two, and how surely pixels are found again.

Consistent4D asks RIFE (Huang et al. 2022), a network, what lies between two renders. Here is what networks of its kind
learn, in its classical form. Half of the flow, both ways, leads from the middle back to each end:

    m = 1/2 a(x - 1/2 f_ab(x)) + 1/2 b(x - 1/2 f_ba(x))

4Real-Video's matching confidence asks GIM and DUSt3R, networks too. Here a pixel is found if the flow comes back:

    sure(x) = exp(-|f_ab(x) + f_ba(x + f_ab(x))|)          0 where x + f_ab(x) is outside

Departures: the flow at x is taken for the flow of what will be at x halfway; nothing is known of what hides what. Where
nothing has texture, the flow is 0 there and back, so two blank walls match surely; a change of light is motion; motion
beyond a quarter of the picture is lost. Numbers of different matchers do not compare.
"""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fourd_minimal.cameras import look_up, pixel_grid
from fourd_minimal.systems.pixels import check_pixels

Frames = Float[Tensor, "n 3 h w"]
SIDE = 256
"""Small frames are enlarged to about so many pixels before they are interpolated: DIS matches patches of 8."""
GREY = 0.299, 0.587, 0.114


def flow(a: Float[Tensor, "n 1 h w"], b: Float[Tensor, "n 1 h w"], fine: bool = False) -> Float[Tensor, "n 2 h w"]:
    """Where each pixel of grey `a` is in `b`: (right, down), in pixels; `fine`: at full resolution, slower."""
    import cv2  # slow to import, and it changes the environment: only here

    preset = cv2.DISOPTICAL_FLOW_PRESET_MEDIUM if fine else cv2.DISOPTICAL_FLOW_PRESET_FAST
    dis = cv2.DISOpticalFlow_create(preset)
    if fine:
        dis.setFinestScale(0)
    pairs = (x[:, 0].clamp(0, 1).mul(255).round().byte().cpu().numpy() for x in (a, b))
    found = np.stack([dis.calc(*pair, None) for pair in zip(*pairs, strict=True)])
    return torch.from_numpy(found).permute(0, 3, 1, 2).to(a)


@torch.no_grad()
def interpolate(a: Frames, b: Frames) -> Frames:
    """What lies halfway from `a` to `b`, frame by frame, on the same device; pixels in [0, 1].

    >>> wave = (torch.arange(64) * torch.pi / 8).sin().expand(1, 3, 32, 64) / 2 + 0.5
    >>> shifted, halfway = wave.roll(4, 3), wave.roll(2, 3)
    >>> [round(float((m - halfway).abs().mean()), 2) for m in ((wave + shifted) / 2, interpolate(wave, shifted))]
    [0.09, 0.03]
    """
    check_pixels("a", a)
    check_pixels("b", b)
    size, scale = a.shape[-2:], max(1, SIDE // min(a.shape[-2:]))
    one, two = (F.interpolate(x.mean(1, keepdim=True), scale_factor=scale, mode="bicubic") for x in (a, b))
    there, back = (F.interpolate(f, size, mode="area") / scale for f in (flow(one, two), flow(two, one)))
    return (moved(a, there / 2) + moved(b, back / 2)) / 2


def moved(frames: Frames, by: Float[Tensor, "n 2 h w"]) -> Frames:
    """Frames with each pixel fetched from where it came from: frame(x - by(x)); beyond the rim is the rim."""
    h, w = frames.shape[-2:]
    y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    place = (torch.stack([x, y]).to(by) - by).movedim(1, -1)
    place = 2 * place / place.new_tensor([w, h]) - 1
    return F.grid_sample(frames, place, padding_mode="border", align_corners=False)


@torch.no_grad()
def match(a: Frames, b: Frames) -> Float[Tensor, "n h w"]:
    """How surely each pixel of `a` is found in `b`, in [0, 1]; `metrics.confidence` takes it. Pixels in [0, 1]."""
    check_pixels("a", a)
    check_pixels("b", b)
    one, two = (torch.einsum("nchw,c->nhw", x, x.new_tensor(GREY))[:, None] for x in (a, b))
    there, back = flow(one, two, fine=True), flow(two, one, fine=True)
    (h, w), at = a.shape[-2:], pixel_grid(a.shape[-2:])[:, :, 0].to(a)
    target = at + there.movedim(1, -1)
    miss = (there + look_up(back, target)).norm(dim=1)
    return torch.exp(-miss) * ((target >= 0) & (target <= target.new_tensor([w, h]))).all(-1)
