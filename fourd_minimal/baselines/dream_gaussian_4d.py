"""DreamGaussian4D: Gaussians of the first frame, then planes in space and time that deform them.

Ren et al. 2023, "DreamGaussian4D: Generative 4D Gaussian Splatting" (arXiv 2312.17142). Two stages of equal length:

    still    a cloud, until it looks like frame 0 from in front and like the multi-view model's prediction elsewhere
    moving   the cloud is held; HexPlane and two heads, which end in zeros, move and swell it,
             p(t) = p + dp(p, t),    log r(t) = log r + ds(p, t)

Both have one loss, with r = step / steps of the stage and x the renders of random views:

    L = r (|x_front - video|^2 + 0.1 |alpha_front - mask|^2) + w |x - sg[x0(x)]|^2,    noise step t = 1000 (1 - r)

t is not drawn but falls, the coarse noise first. HexPlane (Cao and Johnson 2023): six planes, in pairs that leave no
axis out; a pair's features are multiplied, and the three products stand side by side:

    h(x, y, z, t) = [P_xy P_zt, P_xz P_yt, P_yz P_xt]

Departures. Balls have no rotation, so none is deformed. Planes have 8 channels, not 32, at one resolution; the cloud is
not densified. Our prior sees four views of a frame at a time, the paper's (Zero123) one. One guidance step serves a few
steps, and a step takes the gradient at the renders of a few frames. Renders are as large as the video from the start.
The third stage, a video model's refinement of textures on meshes, is left out. Rates are for small pictures.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from fourd_minimal.baselines.optimisation import check_inputs, descend, guided, orbit, random_turn
from fourd_minimal.gaussians import BLUR, Picture, render
from fourd_minimal.systems.deformable_gaussians import RATES, DeformableGaussians, random_scene
from fourd_minimal.systems.four_diffusion import FourDM
from fourd_minimal.systems.scene_distillation import off_white

PLANES, TIME_PLANES = ((0, 1), (0, 2), (1, 2)), (2, 1, 0)
"""Axes of the three planes in space, and the axis that each pair's other plane holds beside time."""
STILL = ("points", "log_radius", "colour_logit", "opacity_logit")
"""What the first stage moves."""
RATE_STILL, RATE_MOVING = 4.0, 2e-2
"""Of the first stage, times those of `DeformableGaussians`; of the second."""
FRAMES = 2
"""Of a step."""


class HexPlane(nn.Module):
    """Features of places and times, from six planes of `side` cells along space, `times` along time.

    The generator is of the planes in space; those in time begin at 1, so that nothing depends on time.
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
    """dp and ds of the header: HexPlane (`planes`: its options), one hidden layer, two heads; nothing at the start."""

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
    """A cloud over white that `motion` moves and swells."""

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
        """As `DeformableGaussians.render`, moment by moment: a Gaussian has one radius in all cameras of a call."""
        size = (size, size) if isinstance(size, int) else tuple(size)
        batch, cameras = c2w.shape[:-2], c2w.reshape(-1, 4, 4)
        time = torch.as_tensor(time, dtype=cameras.dtype, device=cameras.device).expand(batch).reshape(-1)
        moments, which = time.unique(return_inverse=True)
        offset, swelling = self.motion(self.points, moments)
        points, radius = self.points + offset, (self.log_radius + swelling).exp()
        colour, opacity = self.colour_logit.sigmoid(), self.opacity_logit.sigmoid()
        finer = 1.0 if self.fitted_height is None else max(1.0, size[0] / self.fitted_height)
        seen, options = [], dict(fov_deg=fov_deg, size=size, blur=BLUR * finer**2)
        for i in range(len(moments)):
            seen.append(render(points[i, None], radius[i], colour, opacity, cameras[which == i], **options))
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
    guidance_every: int = 4,
) -> Iterator[DreamGaussians]:
    """Optimise a scene, yielding it after every step.

    Args: as in `optimisation.py`, and
        n_points: Gaussians.
        sds: w of the header.
    """
    check_inputs(video, base, n_steps, least=2)
    scene = DreamGaussians(random_scene(n_points, seed, size=0.8), HexPlaneDeformation(seed=seed)).to(video.device)
    scene.fitted_height = base.config.image_size
    generator = torch.Generator().manual_seed(seed)
    still = [dict(params=[getattr(scene, name)], lr=RATE_STILL * RATES[name]) for name in STILL]
    motion = [dict(params=list(scene.motion.parameters()), lr=RATE_MOVING)]
    front = orbit(base, torch.zeros(1), video)

    for shown, groups, steps in ((video[:1], still, n_steps // 2), (video, motion, n_steps - n_steps // 2)):
        scene.requires_grad_(False)
        for parameter in (p for group in groups for p in group["params"]):
            parameter.requires_grad_(True)
        times, opaque, found = torch.linspace(0, 1, len(shown), device=video.device), off_white(shown), None

        def loss(step: int, shown=shown, steps=steps, times=times, opaque=opaque) -> Tensor:
            nonlocal found
            done = step / steps
            if step % guidance_every == 0:  # a new turn, and the model's prediction of all frames
                azimuths, t = random_turn(base.config.views, generator), noise_step(done, len(base.schedule.abar))
                found = guided(scene, shown, base, azimuths, t, fov_deg, generator, guidance=guidance)
            some = torch.randperm(len(shown), generator=generator)[:FRAMES].to(video.device)
            c2w = torch.cat([front, found.c2w]).expand(len(some), -1, 4, 4)
            seen = scene.render(c2w, fov_deg, times[some, None].expand(c2w.shape[:2]), shown.shape[-1])
            known = F.mse_loss(seen.rgb[:, 0], shown[some]) + 0.1 * F.mse_loss(seen.alpha[:, 0], opaque[some])
            return done * known + sds * F.mse_loss(seen.rgb[:, 1:], found.target[some].clamp(0, 1))

        yield from descend(scene, torch.optim.Adam(groups), loss, steps, lambda done: 1 - 0.9 * done)
