"""A video of one object becomes what 4DM reads: square frames, the object on white, as large as in training.

4Diffusion takes "a monocular video" whose background is gone (section 3). What says where the object is, in order:
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

from fourd_minimal.data.video import Video, count_frames, read_video

Matte = Literal["people", "rembg"]
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
        matte: a library that finds the object: "people" (MediaPipe, in an environment of its own) or "rembg"
            (`pip install "rembg[cpu]"`; fetches its network when first used).
        fill: longest side of the box that holds the object in all frames, in parts of the picture, more than 0 and at
            most 1. Training has 0.76 on average, 0.6 to 0.9.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no way to tell the object from the rest, or two; a frame that is empty; masks of other counts or
            sizes; another fill.
    """
    if not 0 < fill <= 1:
        raise ValueError(f"fill is {fill}; expected more than 0 and at most 1.")
    if masks is not None and matte is not None:
        raise ValueError("masks and matte were both given; expected one of them.")
    video = read_video(path, frames=frames)
    alpha = _alpha(video, path, frames, masks, matte)
    for i, covered in enumerate((alpha > 0.5).float().mean((1, 2, 3)).tolist()):
        if covered < LEAST:
            raise ValueError(f"{path}: frame {i} shows no object; expected one in every frame.")
    return _centred(torch.lerp(torch.ones(()), video.rgb, alpha), alpha, size, fill)


def _alpha(
    video: Video,
    path: str | Path,
    frames: int | slice | Sequence[int] | None,
    masks: str | Path | None,
    matte: Matte | None,
) -> Float[Tensor, "t 1 h w"]:
    if masks is not None:
        drawn, recorded = count_frames(masks), count_frames(path)
        if drawn != recorded:
            raise ValueError(f"masks: {masks} has {drawn} frames and {path} {recorded}; expected as many.")
        alpha = read_video(masks, frames=frames).rgb.mean(1, keepdim=True)
        if alpha.shape[-2:] != video.rgb.shape[-2:]:
            drawn, recorded = ("x".join(map(str, a.shape[-2:])) for a in (alpha, video.rgb))
            raise ValueError(f"masks: {masks} has pictures of {drawn} and {path} of {recorded}; expected the same.")
        return alpha
    if matte == "people":
        from fourd_minimal.data.people import people_alpha

        return people_alpha(video.rgb)
    if matte == "rembg":
        return _rembg(video.rgb)
    if video.alpha is not None and (video.alpha < 0.5).any():
        return torch.where(video.alpha < FAINT, 0.0, video.alpha)
    dark = video.rgb.amin(1, keepdim=True) < WHITE
    rim = torch.cat([dark[..., 0, :], dark[..., -1, :], dark[..., 0], dark[..., -1]], -1).float().mean()
    if rim > 0.1:
        raise ValueError(
            f"{path} has neither alpha nor a white background ({100 * rim:.0f}% of its rim is not white); "
            "a folder of masks or a matting library is wanted."
        )
    return dark.float()


def _rembg(rgb: Float[Tensor, "t 3 h w"]) -> Float[Tensor, "t 1 h w"]:
    try:
        from rembg import new_session, remove
    except ImportError:
        raise ValueError('matte is "rembg", which is not installed; `pip install "rembg[cpu]"` brings it.') from None
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
