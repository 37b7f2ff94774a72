"""A grid of frames becomes a moving scene for a free camera: deformable Gaussians.

Supplement of 4Real-Video, section 6. A cloud of isotropic Gaussians (`gaussians.py`) is canonical; for the frame of
view i at time j its points are

    p_ij = p + dp^v_i + dp^t_j                                                                         (eq. 11)

dp^t is an MLP of position and time. dp^v lets the frames of one view differ a little from those of another, as
generated frames do. It comes from tracks through the freeze-time video, not from the rendering loss. A free camera has
dp^v = 0, or an interpolation of its two neighbours' (`between_views`).

    1. points, colours and dp^v from tracks          given by the caller; `random_scene` without tracks
    2. `remove_floaters`                             opacities alone, over the freeze-time video
    3. `fit`                                         everything but dp^v, over the grid

Departures: the paper gives neither counts nor learning rates; ours are for small pictures. The background is a small
picture, the same in every frame, as in our toy worlds; the paper's is made of Gaussians. Our cameras are known, so dp^v
is only what they do not explain; the paper's holds the camera's motion as well.
"""

import copy
import math
from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float, Real
from torch import Tensor, nn

from fourd_minimal.cameras import check_poses
from fourd_minimal.gaussians import BLUR, NEAR, Picture, TemporalDeformation, render
from fourd_minimal.systems.pixels import check_pixels

RATES = dict(points=2e-3, log_radius=1e-2, colour_logit=2e-2, opacity_logit=3e-2, background=2e-2, motion=3e-3)
RATES |= dict(view_offsets=1e-3)
"""Learning rates of Adam, per scene unit, logarithm or logit. Assumed; for clouds of about the unit ball."""


class DeformableGaussians(nn.Module):
    """A cloud that moves.

    Args:
        points: canonical positions.
        colour: in [0, 1].
        radius: standard deviations in scene units.
        view_offsets: dp^v of eq. 11, per training view; none when left out.
        opacity: of all, at the start.
        seed: of the MLP.

    Raises:
        ValueError: no points, or counts that differ.
    """

    fitted_height: int | None = None
    """Of the frames it was fitted to, in pixels: larger pictures are blurred as much as those were."""

    def __init__(
        self,
        points: Float[Tensor, "n 3"],
        colour: Float[Tensor, "colours 3"],
        radius: Float[Tensor, " radii"],
        view_offsets: Float[Tensor, "v offsets 3"] | None = None,
        opacity: float = 0.9,
        seed: int = 0,
    ):
        super().__init__()
        counts = {len(points), len(colour), len(radius), len(points) if view_offsets is None else view_offsets.shape[1]}
        if counts != {len(points)} or not len(points):
            given = "points, colour, radius and view_offsets"
            raise ValueError(f"{given} are for {sorted(counts)} Gaussians; expected one count.")
        self.points = nn.Parameter(points.clone())
        self.log_radius = nn.Parameter(radius.log())
        self.colour_logit = nn.Parameter(colour.clamp(0.02, 0.98).logit())
        self.opacity_logit = nn.Parameter(torch.full_like(radius, opacity).logit())
        self.background = nn.Parameter(torch.full((3, 4, 4), 0.5))
        self.view_offsets = None if view_offsets is None else nn.Parameter(view_offsets.clone())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.motion = TemporalDeformation()

    def positions(self, time: Float[Tensor, " b"], view: Real[Tensor, " b"] | None = None) -> Float[Tensor, "b n 3"]:
        """p_ij of eq. 11; without a view, dp^v is 0; at view 1.5 it is the mean of those of views 1 and 2."""
        moved = self.points + self.motion(self.points, time)
        if view is None or self.view_offsets is None:
            return moved
        low = view.long()
        high = (low + 1).clamp(max=len(self.view_offsets) - 1)
        share = (view - low)[:, None, None].to(moved)
        return moved + torch.lerp(self.view_offsets[low], self.view_offsets[high], share)

    def render(
        self,
        c2w: Float[Tensor, "*b 4 4"],
        fov_deg: float,
        time: float | Float[Tensor, "*#b"],
        size: int | tuple[int, int],
        view: Real[Tensor, "*b"] | None = None,
    ) -> Picture:
        """Pictures from any number of cameras.

        Args:
            c2w, fov_deg: camera-to-world, and vertical field of view.
            time: in [0, 1], one for each camera or one for all.
            size: (h, w), or one number for square pictures.
            view: whose dp^v to use, for each camera, a fraction for one between two; none, for a free camera, when
                left out.
        """
        size = (size, size) if isinstance(size, int) else tuple(size)
        batch, cameras = c2w.shape[:-2], c2w.reshape(-1, 4, 4)
        time = torch.as_tensor(time, dtype=cameras.dtype, device=cameras.device).expand(batch).reshape(-1)
        points = self.positions(time, None if view is None else view.reshape(-1))
        cloud = points, self.log_radius.exp(), self.colour_logit.sigmoid(), self.opacity_logit.sigmoid()
        finer = 1.0 if self.fitted_height is None else max(1.0, size[0] / self.fitted_height)
        seen = render(*cloud, cameras, fov_deg, size, blur=BLUR * finer**2)
        background = F.interpolate(self.background[None], size, mode="bilinear", align_corners=True)
        rgb = seen.rgb + (1 - seen.alpha) * background
        return Picture(*(a.reshape(*batch, *a.shape[1:]) for a in (rgb, seen.alpha, seen.depth)))


def between_views(c2w: Float[Tensor, "*b 4 4"], cameras: Float[Tensor, "v 4 4"]) -> Float[Tensor, "*b"]:
    """Where cameras stand along the line through the training cameras: 1.5 is halfway from 1 to 2.

    The foot of the perpendicular on the nearest segment; the ends when beyond them.

    >>> cameras = torch.eye(4).repeat(3, 1, 1)
    >>> cameras[:, 0, 3] = torch.tensor([0.0, 1.0, 3.0])
    >>> other = torch.eye(4)
    >>> other[:3, 3] = torch.tensor([2.0, 0.5, 0.0])
    >>> between_views(other, cameras)
    tensor(1.5000)
    """
    here, knots = c2w[..., None, :3, 3], cameras[:, :3, 3]
    if len(knots) == 1:
        return here.new_zeros(c2w.shape[:-2])
    segment = knots.diff(dim=0)
    share = (((here - knots[:-1]) * segment).sum(-1) / segment.square().sum(-1).clamp(min=1e-12)).clamp(0, 1)
    distance = (knots[:-1] + share[..., None] * segment - here).norm(dim=-1)
    nearest = distance.argmin(-1, keepdim=True)
    return (nearest + share.gather(-1, nearest))[..., 0]


def _optimiser(scene: DeformableGaussians, names: Iterable[str], faster: float = 1.0) -> torch.optim.Adam:
    """Adam over the named parts, with `RATES`; the others are frozen."""
    scene.requires_grad_(False)
    parts = {name: getattr(scene, name).requires_grad_(True) for name in names}
    parts = {name: list(part.parameters()) if isinstance(part, nn.Module) else [part] for name, part in parts.items()}
    groups = [dict(params=own, lr=RATES[name], start=faster * RATES[name]) for name, own in parts.items()]
    return torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15)


def _set_rate(optimiser: torch.optim.Optimizer, done: float) -> None:
    """A cosine from 1 to 0.05, after a short rise."""
    for group in optimiser.param_groups:
        group["lr"] = group["start"] * min(1.0, 20 * done + 0.05) * (0.05 + 0.475 * (1 + math.cos(math.pi * done)))


def remove_floaters(
    scene: DeformableGaussians,
    freeze_time: Float[Tensor, "v 3 h w"],
    c2w: Float[Tensor, "cameras 4 4"],
    fov_deg: float,
    n_steps: int = 80,
    keep: float = 0.3,
) -> DeformableGaussians:
    """Drop floaters, and keep the other points as they were.

    Every frame of the freeze-time video is rendered from the points *in that frame's own coordinates* (dp^v added), and
    the error moves the opacities alone (and the background). A point that occludes, in some frame, what that frame
    shows, fades.

    Args:
        scene: with the points as the tracks gave them.
        freeze_time, c2w, fov_deg: its frames in [0, 1] and their cameras.
        n_steps: of Adam, each on all frames.
        keep: what fades below this opacity is dropped.

    Raises:
        ValueError: nothing stays above `keep`; counts that differ, values out of range, a camera inside the cloud.
    """
    _check_fit(scene, freeze_time[:, None], c2w, fov_deg)
    trial = copy.deepcopy(scene)
    optimiser = _optimiser(trial, ("opacity_logit", "background"), faster=4.0)
    views = torch.arange(len(c2w), device=c2w.device)
    for step in range(n_steps):
        _set_rate(optimiser, step / n_steps)
        rendered = trial.render(c2w, fov_deg, 0.0, freeze_time.shape[-2:], views)
        optimiser.zero_grad()
        (rendered.rgb - freeze_time).square().mean().backward()
        optimiser.step()
    kept = trial.opacity_logit.detach().sigmoid() > keep
    if not kept.any():
        raise ValueError(f"keep is {keep}, and no point's opacity stays above it; expected a smaller one.")
    fewer = copy.deepcopy(scene)
    for name in ("points", "log_radius", "colour_logit", "opacity_logit"):
        setattr(fewer, name, nn.Parameter(getattr(scene, name).detach()[kept]))
    if scene.view_offsets is not None:
        fewer.view_offsets = nn.Parameter(scene.view_offsets.detach()[:, kept])
    return fewer


def random_scene(n_points: int, seed: int = 0, size: float = 1.0) -> DeformableGaussians:
    """Grey Gaussians, evenly spread in a ball of radius `size`: the start without tracks."""
    if n_points < 1:
        raise ValueError(f"n_points is {n_points}; expected at least 1.")
    generator = torch.Generator().manual_seed(seed)
    direction = F.normalize(torch.randn(n_points, 3, generator=generator), dim=1)
    points = size * direction * torch.rand(n_points, 1, generator=generator) ** (1 / 3)
    radius = torch.full((n_points,), 0.7 * size / n_points ** (1 / 3))
    return DeformableGaussians(points, torch.full((n_points, 3), 0.5), radius, opacity=0.3, seed=seed)


def fit_steps(
    scene: DeformableGaussians,
    grid: Float[Tensor, "v t 3 h w"],
    c2w: Float[Tensor, "cameras 4 4"],
    fov_deg: float,
    n_steps: int = 600,
    batch: int = 8,
    optimise_views: bool = False,
    seed: int = 0,
) -> Iterator[float]:
    """Fit a scene, in place, to a grid of frames; yields the loss of every step.

    Args:
        scene: the start.
        grid, c2w, fov_deg: frames in [0, 1], of times spread evenly over [0, 1], and one camera per view.
        n_steps: of Adam, each on `batch` frames.
        optimise_views: let the rendering loss move dp^v too; the paper takes it from tracks, as more robust.
        seed: of the order of the frames.

    Raises:
        ValueError: counts that differ, values out of range, a camera inside the cloud, poses without a rotation.
    """
    _check_fit(scene, grid, c2w, fov_deg)
    if optimise_views and scene.view_offsets is None:
        scene.view_offsets = nn.Parameter(scene.points.new_zeros(len(c2w), *scene.points.shape))
    scene.fitted_height = grid.shape[-2]
    names = [name for name in RATES if name != "view_offsets" or optimise_views]
    optimiser, generator = _optimiser(scene, names), torch.Generator().manual_seed(seed)
    views, times = grid.shape[:2]
    moments, queue = torch.linspace(0, 1, times, device=grid.device), torch.empty(0, dtype=torch.long)
    for step in range(n_steps):
        _set_rate(optimiser, step / n_steps)
        while len(queue) < batch:
            queue = torch.cat([queue, torch.randperm(views * times, generator=generator)])
        cells, queue = queue[:batch].to(grid.device), queue[batch:]
        view, time = cells // times, cells % times
        error = scene.render(c2w[view], fov_deg, moments[time], grid.shape[-2:], view).rgb - grid[view, time]
        loss = error.square().mean() + 0.1 * error.abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        yield loss.item()


def fit(
    grid: Float[Tensor, "v t 3 h w"],
    c2w: Float[Tensor, "cameras 4 4"],
    fov_deg: float,
    scene: DeformableGaussians | None = None,
    n_points: int = 1000,
    n_steps: int = 600,
    seed: int = 0,
    **options,
) -> DeformableGaussians:
    """The scene at the end of `fit_steps`, from `n_points` random ones in the unit ball where `scene` is left out."""
    scene = random_scene(n_points, seed).to(grid.device) if scene is None else scene
    for _ in fit_steps(scene, grid, c2w, fov_deg, n_steps, seed=seed, **options):
        pass
    return scene.requires_grad_(False)


def _check_fit(scene: DeformableGaussians, grid: Tensor, c2w: Tensor, fov_deg: float) -> None:
    views = len(grid)
    if len(c2w) != views:
        raise ValueError(f"c2w is for {len(c2w)} views and grid has {views}; expected one camera per view.")
    if scene.view_offsets is not None and len(scene.view_offsets) != views:
        raise ValueError(f"scene has offsets for {len(scene.view_offsets)} views and grid has {views}.")
    check_pixels("grid", grid)
    check_poses(c2w, fov_deg)
    behind = ((scene.points.detach() - c2w[:, None, :3, 3]) * c2w[:, None, :3, 2]).sum(-1) > -NEAR
    if behind.any():
        worst = int(behind.sum(1).argmax())
        count = int(behind[worst].sum())
        raise ValueError(f"c2w[{worst}] stands inside the cloud: {count} of {behind.shape[1]} points lie behind it.")
