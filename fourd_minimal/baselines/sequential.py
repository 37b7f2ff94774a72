"""One stream: every block attends over the views, then over the times. 4Real-Video argues against this design.

SV4D (Xie et al. 2024, arXiv 2407.17470) has the same task: a video of an object, and views of its first frame, become
the video from these views. Each block of its UNet attends within a frame, over the views of one time, and over the
times of one view. In the terms of 4Real-Video that is eq. 5, with blocks that were trained on single videos:

    y = x + phi_l(x; c^v),    x' = y + phi_l'(y; c^t)

phi' is phi with its attention fine-tuned on grids: the paper's supplement, our design "sequential_attention". The
paper's argument: each pass works on what the other has just changed, which no frozen block was trained for; two streams
keep each to its own. `python -m figures.ablation` and `python -m figures.baselines` measure whether that shows.

Departures from SV4D: a small transformer in pixel space, trained like the soft layers; any scene, not one object on
white; no camera poses, no anchor frames for longer videos, no dynamic NeRF at the end.
"""

from jaxtyping import Float
from torch import Tensor

from fourd_minimal.systems.four_real_video import FourRealVideo


def complete(
    fixed_view: Tensor, freeze_time: Tensor, model: FourRealVideo, n_steps: int = 8, seed: int = 0
) -> Float[Tensor, "v t 3 h w"]:
    """As `FourRealVideo.generate`, whose arguments it has, of a model of `sync="sequential_attention"`."""
    if model.config.sync != "sequential_attention":
        raise ValueError(f"model is of design {model.config.sync!r}; expected a 'sequential_attention' one.")
    return model.generate(fixed_view, freeze_time, n_steps, seed)
