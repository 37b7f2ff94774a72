"""From grids to scenes a free camera can visit, and whether eq. 11 and the removal of floaters help.

A grid is fitted, and the scene is looked at from between its views, where the truth is known and no frame was given.
Five kinds of grids, each with the tracks through its freeze-time video:

    true                rendered; true tracks: how good can a fit be
    true, views bent    every view's picture plane is moved a little, and the tracks know how: a grid whose views
                        disagree, with tracks as good as tracks can be
    generated           by the model, from two true videos; true tracks
    generated, flow     the same, tracks by optical flow
    generated twice     its freeze-time video, too, is the base model's, from its first and last frame; optical flow

Depth is that of the true scene as an estimator might give it, half as large and so wrong over edges: that makes
floaters, and dp^v even of exact tracks is then not 0. (The last kind gets it too, though its pictures are the model's.)
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fourd_minimal.data.poses import Tracker, flow_tracks
from fourd_minimal.data.scene_record import SceneRecord
from fourd_minimal.data.tracks import TrackedPoints, track_points, true_depth, true_tracks
from fourd_minimal.pseudo_4d import maps_along, pseudo_grid, random_motions, transform
from fourd_minimal.systems.deformable_gaussians import (
    DeformableGaussians,
    between_views,
    fit,
    random_scene,
    remove_floaters,
)
from fourd_minimal.systems.four_real_video import FourRealVideo
from fourd_minimal.training.evaluation import moving_pixels, predict

Compensation = Literal["none", "tracked", "optimised"]


def reconstruct(
    grid: Float[Tensor, "v t 3 h w"],
    c2w: Float[Tensor, "v 4 4"],
    fov_deg: float,
    tracked: TrackedPoints | None = None,
    compensation: Compensation = "tracked",
    floaters: bool = False,
    n_steps: int = 200,
    seed: int = 0,
) -> DeformableGaussians:
    """A scene from a grid and the points tracked through its first column.

    Args:
        grid: in [0, 1].
        c2w, fov_deg: one camera per view.
        tracked: where to start; a random ball when left out.
        compensation: dp^v of eq. 11: none, from the tracks, or moved by the rendering loss from 0.
        floaters: leave them in; without, `remove_floaters` runs first.
        n_steps, seed: of `fit`.
    """
    if tracked is None:
        scene = random_scene(400, seed).to(grid.device)
    else:
        offsets = tracked.view_offsets if compensation == "tracked" else None
        scene = DeformableGaussians(tracked.points, tracked.colour, tracked.radius, offsets, seed=seed).to(grid.device)
        if not floaters:
            scene = remove_floaters(scene, grid[:, 0], c2w, fov_deg)
    return fit(grid, c2w, fov_deg, scene, n_steps=n_steps, seed=seed, optimise_views=compensation == "optimised")


@dataclass(frozen=True)
class Case:
    """One grid to reconstruct, and what is known of its first column."""

    grid: Float[Tensor, "v t 3 h w"]
    depth: Float[Tensor, "v h w"]
    tracker: Tracker = flow_tracks


def estimated(depth: Float[Tensor, "v h w"], maps: Float[Tensor, "v 1 3 3"] | None = None) -> Float[Tensor, "v h w"]:
    """Depth maps as an estimator gives them: half as large, and enlarged again. 0 where nothing is.

    Behind the object stands a wall; over the object's edge the map says what is neither. `maps` bend them first.
    """
    wall = depth.amax() + 0.5
    filled = torch.where(depth > 0, depth, wall)[:, None]
    if maps is not None:
        filled = pseudo_grid(filled[:, None].expand(-1, -1, 3, -1, -1), maps)[0][:, 0, 0, :1]
    large = F.interpolate(F.avg_pool2d(filled, 2), depth.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    return torch.where(large < wall - 0.01, large, 0.0)


def bent(record: SceneRecord, scene: int, strength: float = 0.3) -> Case:
    """The true grid, every view but the central one moved in its picture plane, and tracks that know it."""
    grid, views = record.rgb[scene], record.rgb.shape[1]
    motions = random_motions(views, torch.Generator().manual_seed(scene), strength)
    motions[views // 2] = 0
    maps = maps_along(motions, torch.ones(views, 1))
    frames, _ = pseudo_grid(grid, maps)  # each view is a video, each video one view
    h, w = grid.shape[-2:]
    half = torch.tensor([w / 2, h / 2])
    straight = true_tracks(record, scene)

    def track(video: Tensor, frame: int, xy: Tensor) -> tuple[Tensor, Tensor]:
        back = transform((xy - half) / (h / 2), torch.linalg.inv(maps[frame, 0])) * (h / 2) + half
        there, seen = straight(video, frame, back)
        return transform((there - half) / (h / 2), maps[:, 0]) * (h / 2) + half, seen

    return Case(frames[:, 0].clamp(0, 1), estimated(true_depth(record, scene), maps), track)


def cases(model: FourRealVideo, record: SceneRecord, n_steps: int) -> dict[str, list[Case]]:
    """Every kind of grid of every scene."""
    truth, depth = record.rgb, [estimated(true_depth(record, i)) for i in range(len(record.rgb))]
    known = [true_tracks(record, i) for i in range(len(truth))]
    seen = torch.zeros(truth.shape[1], dtype=torch.bool)
    seen[0] = seen[-1] = True
    *_, column = model.sample_video(truth[:, :, 0] * 2 - 1, seen, "freeze", n_steps)
    twice = truth.clone()
    twice[:, 1:-1, 0] = ((column[:, 1:-1] + 1) / 2).clamp(0, 1)
    once, twice = predict(model, truth, n_steps), predict(model, twice, n_steps)
    return {
        "true": [Case(*c) for c in zip(truth, depth, known, strict=True)],
        "true, views bent": [bent(record, i) for i in range(len(truth))],
        "generated": [Case(*c) for c in zip(once, depth, known, strict=True)],
        "generated, flow": [Case(*c) for c in zip(once, depth, strict=True)],
        "generated twice": [Case(*c) for c in zip(twice, depth, strict=True)],
    }


@dataclass(frozen=True)
class Line:
    """One line of the table: PSNR in dB between the views, pooled over scenes."""

    grids: str
    start: str
    compensation: str
    free_camera: str
    all_pixels: float
    moving_pixels: float
    errors: tuple[float, ...]
    """Per scene: summed squared error of moving pixels."""


ARMS = (
    ("random ball", "none"),
    ("tracks", "none"),
    ("tracks", "tracked"),
    ("tracks", "optimised"),
    ("no floaters", "none"),
    ("no floaters", "tracked"),
)
"""Where the fit starts, and dp^v."""


def even_views(record: SceneRecord) -> SceneRecord:
    """Every other view: those that a fit gets to see."""
    fields = ("rgb", "alpha", "depth", "c2w", "flow", "visible", "in_fixed_view")
    return replace(record, **{k: v[:, ::2] for k in fields if (v := getattr(record, k)) is not None})


def measure(
    model: FourRealVideo, record: SceneRecord, n_steps: int = 1, fit_steps: int = 150, seed: int = 0
) -> Iterator[Line]:
    """Every kind of grid with every arm, looked at from the odd views.

    Args:
        model: makes the generated grids, of as many views as the even ones of the record.
        record: the scenes.
        n_steps: of the sampler.
        fit_steps: of each fit.
        seed: of the fits.
    """
    given, cameras, truth = even_views(record), record.c2w[:, 1::2], record.rgb[:, 1::2]
    moving = moving_pixels(record.alpha)[:, 1::2].expand_as(truth)
    views, times, size = truth.shape[1], truth.shape[2], tuple(truth.shape[-2:])
    moments = torch.linspace(0, 1, times).expand(views, -1)
    for kind, grids in cases(model, given, n_steps).items():
        clouds = [
            track_points(case.grid[:, 0], c2w, record.fov_deg, case.tracker, case.depth, every=2)
            for case, c2w in zip(grids, given.c2w, strict=True)
        ]
        for start, compensation in ARMS:
            pictures: dict[str, list[Tensor]] = {}
            for case, c2w, cloud, camera in zip(grids, given.c2w, clouds, cameras, strict=True):
                cloud = None if start == "random ball" else cloud
                floaters = start != "no floaters"
                scene = reconstruct(case.grid, c2w, record.fov_deg, cloud, compensation, floaters, fit_steps, seed)
                camera = camera[:, None].expand(-1, times, -1, -1)
                between = {"canonical": None, "between": between_views(camera, c2w)}
                for name in between if compensation != "none" else ("canonical",):
                    seen = scene.render(camera, record.fov_deg, moments, size, between[name])
                    pictures.setdefault(name, []).append(seen.rgb.clamp(0, 1))
            for name, found in pictures.items():
                error = (torch.stack(found) - truth).square()
                per_scene = tuple(e[m].sum().item() for e, m in zip(error, moving, strict=True))
                db = (-10 * e.mean().log10().item() for e in (error, error[moving]))
                yield Line(kind, start, compensation, name, *db, per_scene)
