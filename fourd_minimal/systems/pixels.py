"""Frames as callers hand them over: floating point, in [0, 1]. What is wrong with others, in one sentence."""

from torch import Tensor


def check_pixels(name: str, frames: Tensor) -> None:
    """Refuse what no model here can read.

    Raises:
        ValueError: no tensor, integers, nothing at all, NaN, or values outside [0, 1].
    """
    if not isinstance(frames, Tensor) or not frames.is_floating_point():
        kind = frames.dtype if isinstance(frames, Tensor) else type(frames).__name__
        raise ValueError(f"{name} is {kind}; expected a floating-point tensor with pixels in [0, 1].")
    if not frames.numel():
        raise ValueError(f"{name} has shape {tuple(frames.shape)}, so no pixels; expected pixels in [0, 1].")
    if not frames.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinite values; expected pixels in [0, 1].")
    if frames.min() < 0 or frames.max() > 1:
        raise ValueError(f"{name} reaches from {frames.min():.3g} to {frames.max():.3g}; expected pixels in [0, 1].")
