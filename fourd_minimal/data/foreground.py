"""A video of one object becomes what 4DM reads: square frames, the object on white, as large as in training.

4Diffusion takes "a monocular video" without its background (section 3). The object is found by, in this order:
a folder of masks; a matting library; the file's own alpha; a white background.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from fourd_minimal.data.video import count_frames, read_video

Matte = Literal["rembg"]
WHITE = 0.94
"""A pixel is white where all its colours reach this."""
FAINT = 0.05
"""Alpha below it is compression, not the object."""
LEAST = 5e-4
"""Share of a frame below which it counts as empty."""


def read_object(
    path: str | Path,
    size: int,
    frames: int | slice | Sequence[int] | None = None,
    masks: str | Path | None = None,
    matte: Matte | None = None,
    fill: float = 0.75,
) -> Float[Tensor, "t 3 h w"]:
    """A video of an object, cut out, centred over the whole video, on white; in [0, 1].

    Args:
        path: a video or a folder of pictures, see `read_video`.
        size: of the square frames, in pixels.
        frames: which of the video, see `read_video`.
        masks: a video or folder of pictures with as many frames, white where the object is.
        matte: a library that finds the object: "rembg" (`pip install "rembg[cpu]"`; downloads its network when first
            used).
        fill: longest side of the box that holds the object in all frames, in parts of the picture, more than 0 and at
            most 1. Training has 0.76 on average, 0.6 to 0.9.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no way to separate the object from its background, or two; a frame that is empty; masks of other
            counts or sizes; a fill out of range.
    """
    if not 0 < fill <= 1:
        raise ValueError(f"fill is {fill}; expected more than 0 and at most 1.")
    if masks is not None and matte is not None:
        raise ValueError("masks and matte were both given; expected one of them.")
    video = read_video(path, frames=frames)
    if masks is not None:
        alpha = read_video(masks, frames=frames).rgb.mean(1, keepdim=True)
        shapes = [(count_frames(where), *found.shape[-2:]) for where, found in ((masks, alpha), (path, video.rgb))]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"masks: {masks} has frames, h, w = {shapes[0]} and {path} {shapes[1]}; expected the same."
            )
    elif matte is not None:
        alpha = _rembg(video.rgb)
    elif video.alpha is not None and (video.alpha < 0.5).any():
        alpha = torch.where(video.alpha < FAINT, 0.0, video.alpha)
    else:
        alpha = _not_white(video.rgb, path)
    for i, covered in enumerate((alpha > 0.5).float().mean((1, 2, 3)).tolist()):
        if covered < LEAST:
            raise ValueError(f"{path}: frame {i} shows no object; expected one in every frame.")
    return _centred(torch.lerp(torch.ones(()), video.rgb, alpha), alpha, size, fill)


def _not_white(rgb: Float[Tensor, "t 3 h w"], path: str | Path) -> Float[Tensor, "t 1 h w"]:
    dark = rgb.amin(1, keepdim=True) < WHITE
    rim = torch.cat([dark[..., 0, :], dark[..., -1, :], dark[..., 0], dark[..., -1]], -1).float().mean()
    if rim > 0.1:
        raise ValueError(
            f"{path} has neither alpha nor a white background ({100 * rim:.0f}% of its rim is not white); "
            "expected a folder of masks or a matting library."
        )
    return dark.float()


def _rembg(rgb: Float[Tensor, "t 3 h w"]) -> Float[Tensor, "t 1 h w"]:
    try:
        from rembg import new_session, remove
    except ImportError:
        raise ValueError('matte is "rembg", which is not installed; `pip install "rembg[cpu]"` installs it.') from None
    session = new_session()
    pictures = (Image.fromarray(a) for a in (rgb * 255).round().byte().movedim(1, -1).numpy())
    found = [np.asarray(remove(picture, session=session, only_mask=True)) for picture in pictures]
    return torch.from_numpy(np.stack(found))[:, None].float() / 255


def _centred(
    rgb: Float[Tensor, "t 3 h w"], alpha: Float[Tensor, "t 1 h w"], size: int, fill: float
) -> Float[Tensor, "t 3 size size"]:
    """Around the box that holds the object at all times: the video does not shake, and nothing is cut off."""
    on = (alpha > 0.5).any(0)[0]
    rows, columns = (on.any(i).nonzero()[:, 0] for i in (1, 0))
    (top, bottom), (left, right) = ((int(a[0]), int(a[-1]) + 1) for a in (rows, columns))
    side = round(max(bottom - top, right - left) / fill)
    x, y = left - (side - (right - left)) // 2, top - (side - (bottom - top)) // 2
    h, w = on.shape
    square = F.pad(rgb, (-x, x + side - w, -y, y + side - h), value=1.0)
    return F.interpolate(square, (size, size), mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)
