"""The rows of `four_real_video.md`: every method on grids whose truth is known, and the base alone on videos."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fourd_minimal.data.characters import join, sample_characters
from fourd_minimal.data.procedural import HELD_OUT
from fourd_minimal.data.scene_record import SceneRecord
from fourd_minimal.systems.designs import Design
from fourd_minimal.systems.four_real_video import FourRealVideo
from fourd_minimal.training.evaluation import TRIVIAL, Grids, moving_pixels, predict, psnr
from fourd_minimal.training.tables import table

TRAINING_FREE: dict[str, Design] = {"average sync, eq. 12": "average", "weighted sync, eq. 13": "weighted"}


@dataclass(frozen=True)
class Row:
    """One line of a table: PSNR in dB of unseen cells."""

    method: str
    all_pixels: float
    moving_pixels: float


def evaluate_grids(
    weights: str, record: SceneRecord, steps: Sequence[int] = (1, 2, 8)
) -> tuple[list[Row], dict[str, Grids]]:
    """Trivial completions, training-free syncs, and the trained soft sync on scenes whose truth is known.

    Returns:
        the table, and the grid each line was computed from.
    """
    truth = record.rgb
    grids = {name: complete(truth) for name, complete in TRIVIAL.items()}
    for name, sync in TRAINING_FREE.items():
        grids[f"{name}, 8 steps"] = predict(FourRealVideo.from_pretrained(weights, sync), truth, 8)
    trained = {"soft sync, base frozen": True}
    if FourRealVideo.has_joint(weights):
        trained["soft sync, base trained too"] = False
    for name, base_frozen in trained.items():
        model = FourRealVideo.from_pretrained(weights, base_frozen=base_frozen)
        for n in steps:
            grids[f"{name}, {n} step{'s' * (n > 1)}"] = predict(model, truth, n)
    moving = moving_pixels(record.alpha)
    return [Row(name, psnr(g, truth), psnr(g, truth, moving)) for name, g in grids.items()], grids


def held_out_characters(model: FourRealVideo, split: str = "validation", scenes: int = 48) -> SceneRecord:
    """Clips of animated characters whose rig families no training run has seen, at the model's size."""
    shape = model.views, model.times, model.image_size[0]
    some = [sample_characters(1, *shape, HELD_OUT + i, split, geometry=False) for i in range(scenes)]
    return join(some)


def linear_blend(videos: Float[Tensor, "n f 3 h w"]) -> Float[Tensor, "n f 3 h w"]:
    """Fade from the first frame to the last."""
    share = torch.linspace(0, 1, videos.shape[1])[None, :, None, None, None]
    return torch.lerp(videos[:, :1], videos[:, -1:], share)


def copy_nearest(videos: Float[Tensor, "n f 3 h w"]) -> Float[Tensor, "n f 3 h w"]:
    """Repeat the first frame for the first half, the last for the second."""
    late = (torch.arange(videos.shape[1]) * 2 >= videos.shape[1])[None, :, None, None, None]
    return torch.where(late, videos[:, -1:], videos[:, :1])


def evaluate_base(model: FourRealVideo, record: SceneRecord, steps: Sequence[int] = (1, 8)) -> dict[str, list[Row]]:
    """The base alone: the scenes' first rows and first columns completed from their first and last frames.

    Against copying and blending. Moving pixels: covered by an object now, or in the video's first frame.

    Raises:
        ValueError: videos of fewer than 3 frames, which leave nothing to complete.
    """
    tables, device = {}, next(model.parameters()).device
    cuts = {
        "fixed-view video": (record.rgb[:, 0], record.alpha[:, 0], "dynamic"),
        "freeze-time video": (record.rgb[:, :, 0], record.alpha[:, :, 0], "freeze"),
    }
    for name, (videos, alpha, context) in cuts.items():
        if videos.shape[1] < 3:
            raise ValueError(f"record has a {name} of {videos.shape[1]} frames; expected at least 3.")
        seen = torch.zeros(videos.shape[1], dtype=torch.bool)
        seen[0] = seen[-1] = True
        found = {"copy nearest": copy_nearest(videos), "linear blend": linear_blend(videos)}
        for n in steps:
            *_, sample = model.sample_video((videos * 2 - 1).to(device), seen, context, n)
            found[f"base, {n} step{'s' * (n > 1)}"] = ((sample + 1) / 2).clamp(0, 1).to(videos.device)
        moving = torch.maximum(alpha, alpha[:, :1]) > 0.5

        def db(video: Tensor, chosen: Tensor, truth: Tensor = videos, seen: Tensor = seen) -> float:
            error = (video - truth).square().mean(2, keepdim=True)[:, ~seen]
            return -10 * error[chosen[:, ~seen]].mean().log10().item()

        tables[name] = [Row(k, db(g, torch.ones_like(moving)), db(g, moving)) for k, g in found.items()]
    return tables


def markdown(rows: Sequence[Row]) -> str:
    """A table for a page."""
    cells = [[r.method, f"{r.all_pixels:.2f}", f"{r.moving_pixels:.2f}"] for r in rows]
    return table(["method", "all pixels, dB", "moving pixels, dB"], cells)


def best_trivial(rows: Sequence[Row]) -> Row:
    """The strongest completion that needs no model, on moving pixels."""
    return max((r for r in rows if r.method in TRIVIAL), key=lambda r: r.moving_pixels)
