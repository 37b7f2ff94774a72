"""DreamGaussian4D: Gaussians of the first frame, then planes in space and time that deform them.

Ren et al. 2023, "DreamGaussian4D: Generative 4D Gaussian Splatting" (arXiv 2312.17142). Two stages of equal length:

    still    a cloud, until it looks like frame 0 from in front and like what a multi-view model says from elsewhere
    moving   the cloud is held; HexPlane and two heads move and swell it,
             p(t) = p + dp(p, t),    log r(t) = log r + ds(p, t)

Both have one loss, with r = step / steps of the stage and x the renders of random views:

    L = r (|x_front - video|^2 + 0.1 |alpha_front - mask|^2) + w |x - sg[x0(x)]|^2,    noise step t = 1000 (1 - r)

t is not drawn but falls, so that every step of the noise is seen once, the coarse first. The heads end in zeros: at its
start the second stage shows the first's result at all times.

HexPlane (Cao and Johnson 2023): six planes, in pairs that leave no axis out; a pair's features are multiplied, and the
three products stand side by side:

    h(x, y, z, t) = [P_xy P_zt, P_xz P_yt, P_yz P_xt]

Departures: balls have no rotation, so none is deformed. Planes have 8 channels, not 32, at one resolution; the cloud is
not densified. Our prior sees four views of a frame at a time, as ImageDream does, and each frame on its own; the
paper's (Zero123) sees one. One look of it serves a few steps, and a step takes the gradient at the renders of a few
frames, not of all: that is what a CPU can afford. Renders are as large as the video from the start. The third stage, a
video model's refinement of textures on meshes, is left out. Rates and the length of the stages are for small
pictures (the paper: 500 steps each); w = 1 is near the weight of its code.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from fourd_minimal.cameras import circular_trajectory
from fourd_minimal.gaussians import BLUR, Picture, render
from fourd_minimal.sds import score_distillation
from fourd_minimal.systems.deformable_gaussians import RATES, DeformableGaussians, random_scene
from fourd_minimal.systems.four_diffusion import FourDM
from fourd_minimal.systems.guidance import noise_predictor
from fourd_minimal.systems.pixels import check_pixels
from fourd_minimal.systems.scene_distillation import off_white

PLANES, TIME_PLANES = ((0, 1), (0, 2), (1, 2)), (2, 1, 0)
"""Axes of the three planes in space, and the axis that each pair's other plane holds beside time."""
STILL = ("points", "log_radius", "colour_logit", "opacity_logit")
"""What the first stage moves."""


class HexPlane(nn.Module):
    """Features of places and times, from six planes.

    Args:
        side: cells along each axis of space.
        times: cells along time.
        channels: of each plane.
        generator: of the planes in space; those in time begin at 1, so that nothing depends on time.
    """

    def __init__(self, side: int = 32, times: int = 12, channels: int = 8, generator: torch.Generator | None = None):
        super().__init__()
        self.out_dim = 3 * channels
        self.space = nn.Parameter(0.1 + 0.4 * torch.rand(3, channels, side, side, generator=generator))
        self.space_time = nn.Parameter(torch.ones(3, channels, times, side))

    def forward(self, points: Float[Tensor, "n 3"], time: Float[Tensor, " b"]) -> Float[Tensor, "b n d"]:
        """h of the header, d = 3 channels; points in [-1, 1]^3 (beyond, the nearest cell), time in [0, 1]."""
        across = torch.stack([points[:, axes] for axes in PLANES])[:, :, None]
        along = points[:, TIME_PLANES].T[:, None].expand(-1, len(time), -1)
        when = (2 * time - 1)[None, :, None].expand_as(along)
        options = dict(padding_mode="border", align_corners=True)
        still = F.grid_sample(self.space, across, **options)
        moving = F.grid_sample(self.space_time, torch.stack([along, when], -1), **options)
        return rearrange(still.mT * moving, "pair c b n -> b n (pair c)")


class HexPlaneDeformation(nn.Module):
    """dp and ds of the header: HexPlane, one hidden layer, two heads; nothing at the start.

    Args:
        width: of the hidden layer.
        seed: of planes and layer.
        planes: options of `HexPlane`.
    """

    def __init__(self, width: int = 64, seed: int = 0, **planes):
        super().__init__()
        self.planes = HexPlane(generator=torch.Generator().manual_seed(seed), **planes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.hidden = nn.Sequential(nn.Linear(self.planes.out_dim, width), nn.ReLU())
            self.heads = nn.Linear(width, 4)
        nn.init.zeros_(self.heads.weight)
        nn.init.zeros_(self.heads.bias)

    def forward(
        self, points: Float[Tensor, "n 3"], time: Float[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b n 3"], Float[Tensor, "b n"]]:
        """Offsets in scene units, and what is added to the logarithm of radii; time in [0, 1]."""
        out = self.heads(self.hidden(self.planes(points, time)))
        return out[..., :3], out[..., 3]


class DreamGaussians(DeformableGaussians):
    """A cloud over white that HexPlane moves.

    Args:
        cloud: where its Gaussians are taken from.
        motion: what moves and swells them.
    """

    def __init__(self, cloud: DeformableGaussians, motion: HexPlaneDeformation):
        opacity = cloud.opacity_logit.detach()
        super().__init__(cloud.points.detach(), cloud.colour_logit.detach().sigmoid(), cloud.log_radius.detach().exp())
        self.opacity_logit = nn.Parameter(opacity.clone())
        self.motion = motion
        del self.background
        self.register_buffer("background", torch.ones(3, 1, 1), persistent=False)

    def positions(self, time: Float[Tensor, " b"], view: None = None) -> Float[Tensor, "b n 3"]:
        """p(t) of the header."""
        return self.points + self.motion(self.points, time)[0]

    def render(
        self,
        c2w: Float[Tensor, "*b 4 4"],
        fov_deg: float,
        time: float | Float[Tensor, "*#b"],
        size: int | tuple[int, int],
    ) -> Picture:
        """What cameras see; arguments as in `DeformableGaussians.render`.

        One moment after the other, since the renderer has one radius per Gaussian for all of its cameras.
        """
        size = (size, size) if isinstance(size, int) else tuple(size)
        batch, cameras = c2w.shape[:-2], c2w.reshape(-1, 4, 4)
        time = torch.as_tensor(time, dtype=cameras.dtype, device=cameras.device).expand(batch).reshape(-1)
        moments, which = time.unique(return_inverse=True)
        offset, swelling = self.motion(self.points, moments)
        points, radius = self.points + offset, (self.log_radius + swelling).exp()
        colour, opacity = self.colour_logit.sigmoid(), self.opacity_logit.sigmoid()
        finer = 1.0 if self.fitted_height is None else max(1.0, size[0] / self.fitted_height)
        seen = [
            render(
                points[i, None], radius[i], colour, opacity, cameras[which == i], fov_deg, size, blur=BLUR * finer**2
            )
            for i in range(len(moments))
        ]
        back = which.argsort(stable=True).argsort()
        rgb, alpha, depth = (torch.cat([getattr(s, k) for s in seen])[back] for k in ("rgb", "alpha", "depth"))
        rgb = rgb + (1 - alpha) * self.background
        return Picture(*(a.reshape(*batch, *a.shape[1:]) for a in (rgb, alpha, depth)))


def noise_step(done: float, n_steps: int = 1000) -> int:
    """t = 1000 (1 - r), kept off both ends of the schedule by 2% of it, as in the paper's code.

    >>> [noise_step(done) for done in (0.0, 0.5, 1.0)]
    [980, 500, 20]
    """
    return min(max(round(n_steps * (1 - done)), n_steps // 50), n_steps - n_steps // 50)


def optimise_steps(
    video: Float[Tensor, "t 3 h w"],
    base: FourDM,
    n_steps: int,
    seed: int = 0,
    n_points: int = 500,
    fov_deg: float = 36.0,
    sds: float = 1.0,
    guidance: float = 2.0,
    mask: float = 0.1,
    looks_every: int = 4,
    frames: int = 2,
    rate: float = 4.0,
    rate_motion: float = 2e-2,
) -> Iterator[DreamGaussians]:
    """Optimise a scene, yielding it after every step.

    Args:
        video: of an object over white, in [0, 1], as large as the model's frames.
        base: the multi-view model without motion.
        n_steps: of both stages together, half each.
        seed: of everything random.
        n_points: Gaussians.
        fov_deg: of all cameras.
        sds: w of the header.
        guidance: 1 is none.
        mask: weight of the opacity's error beside that of colour.
        looks_every: steps that one look of the model serves.
        frames: of a step in the second stage.
        rate: of the first stage, times those of `DeformableGaussians`.
        rate_motion: of the second.

    Raises:
        ValueError: a video of another size or range, fewer steps than stages, or counts below 1.
    """
    check_pixels("video", video)
    size = base.config.image_size
    if base.config.unet.image_channels != 3:
        raise ValueError(f"base works on {base.config.unet.image_channels} latent channels; expected 3 colours.")
    if video.ndim != 4 or tuple(video.shape[1:]) != (3, size, size):
        raise ValueError(f"video has shape {tuple(video.shape)}; expected (t, 3, {size}, {size}).")
    for name, value, least in (("n_steps", n_steps, 2), ("looks_every", looks_every, 1), ("frames", frames, 1)):
        if value < least:
            raise ValueError(f"{name} is {value}; expected at least {least}.")
    cloud = random_scene(n_points, seed, size=0.8)
    scene = DreamGaussians(cloud, HexPlaneDeformation(seed=seed)).to(video.device)
    scene.fitted_height = size
    still = [dict(params=[getattr(scene, name)], start=rate * RATES[name]) for name in STILL]
    motion = [dict(params=list(scene.motion.parameters()), start=rate_motion)]
    options = dict(fov_deg=fov_deg, sds=sds, guidance=guidance, mask=mask, looks_every=looks_every, frames=frames)
    generator = torch.Generator().manual_seed(seed)
    yield from _stage(scene, video[:1], base, n_steps // 2, still, generator, **options)
    yield from _stage(scene, video, base, n_steps - n_steps // 2, motion, generator, **options)


def _stage(
    scene: DreamGaussians,
    video: Float[Tensor, "t 3 h w"],
    base: FourDM,
    n_steps: int,
    groups: list[dict],
    generator: torch.Generator,
    fov_deg: float,
    sds: float,
    guidance: float,
    mask: float,
    looks_every: int,
    frames: int,
) -> Iterator[DreamGaussians]:
    """The header's L, over some of the parameters and the frames of the video."""
    scene.requires_grad_(False)
    optimiser = torch.optim.Adam([g | dict(params=[p.requires_grad_(True) for p in g["params"]]) for g in groups])
    views, size, abar = base.config.views, video.shape[-1], base.schedule.abar
    times, opaque = torch.linspace(0, 1, len(video), device=video.device), off_white(video)

    def cameras(azimuth: Tensor) -> Tensor:
        return circular_trajectory(azimuth, base.config.elevation_deg, base.config.radius).to(video)

    def seen(c2w: Tensor, time: Tensor) -> Picture:
        return scene.render(c2w.expand(len(time), -1, 4, 4), fov_deg, time[:, None].expand(-1, len(c2w)), size)

    front = cameras(torch.zeros(1))
    for step in range(n_steps):
        done = step / n_steps
        for group in optimiser.param_groups:
            group["lr"] = group["start"] * (1 - 0.9 * done)
        if step % looks_every == 0:
            azimuth = (torch.rand((), generator=generator) + torch.arange(views)) * (360 / views)
            around = cameras(azimuth)
            with torch.no_grad():
                x = seen(around, times).rgb * 2 - 1
            t = torch.tensor(noise_step(done, len(abar)), device=video.device)
            guess = noise_predictor(base, video, azimuth)
            expected = score_distillation(x, guess, abar, t, guidance, generator=generator).target
            expected = (expected.clamp(-1, 1) + 1) / 2
        some = torch.randperm(len(video), generator=generator)[:frames].to(video.device)
        found = seen(torch.cat([front, around]), times[some])
        known = F.mse_loss(found.rgb[:, 0], video[some]) + mask * F.mse_loss(found.alpha[:, 0], opaque[some])
        loss = done * known + sds * F.mse_loss(found.rgb[:, 1:], expected[some])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        yield scene
