"""4D-fy: score distillation from three models in turn, first of a scene that is still, then of one that moves.

Bahmani et al. 2024, section 3 (arXiv 2311.17984). Two hash grids, over space and over space and time, learn from what
frozen diffusion models say of renders (`sds.py`), and from nothing else. Each look asks one of

    multi-view    the base      four views of one moment
    image         the base      one view of one moment
    video         4DM           one view of all moments

    stage 1, of 10 parts     multi-view
    stage 2, of 25           multi-view or image, 1 : 1
    stage 3, of 100          multi-view, image or video, 2 : 1 : 1

In stages 1 and 2 the moment is the first, and the grid over space and time rests. In stage 3 the moment is any, that
grid learns, and the one over space learns less: what is there stays, and begins to move. Noise levels fall from 0.98 to
[0.02, 0.5] during four fifths of stage 1.

Departures. There, a text says what to make, and no video is seen. Our models read pictures, so these stand for the
text: the base is shown the frame of the moment, 4DM the video; no loss compares renders with it. The image model is the
base, asked about one view at a time, for plain score distillation; theirs is variational (VSD), and learns what renders
look like on the way. Guidance is what our models bear (there 50, 7.5 and 100), rescaled by 0.2 (there 0.5). All losses
have the clean-image form, and weight 1; there, only the multi-view one has this form, and video has 0.1. Cameras have
the elevation and distance that our models know.

For small pictures. One look serves a few steps, each with the gradient at some pixels. Renders are over a random
background, and their opacity follows where the target is off white; there, the background learns, and opacity has a
price. Rates are for hundreds of steps: grids learn at 0.04, there at 0.01; in stage 3 the one over space keeps 0.3 of
this, there 0.01.
"""

from collections.abc import Iterator, Sequence

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

from fourd_minimal.cameras import circular_trajectory
from fourd_minimal.sds import draw_step, score_distillation
from fourd_minimal.systems.dynamic_nerf import DynamicNeRF, DynamicNeRFConfig, Pixels, pixels_of, reconstruction_loss
from fourd_minimal.systems.four_diffusion import FourDM
from fourd_minimal.systems.guidance import noise_predictor
from fourd_minimal.systems.pixels import check_pixels
from fourd_minimal.systems.scene_distillation import off_white

STAGES = 10, 25, 100
"""Their lengths, in thousands of steps."""
MULTI_VIEW, IMAGE, VIDEO = range(3)
CHANCES = (1.0, 0.0, 0.0), (0.5, 0.5, 0.0), (0.5, 0.25, 0.25)
"""Of each of these to be asked, stage by stage."""


def optimise_steps(
    video: Float[Tensor, "t 3 h w"],
    model: FourDM,
    n_steps: int,
    seed: int = 0,
    *,
    base: FourDM,
    nerf: DynamicNeRFConfig | None = None,
    fov_deg: float = 36.0,
    stages: Sequence[float] = STAGES,
    video_model: float = 1.0,
    guidance: float = 1.5,
    rescale: float = 0.2,
    rate: float = 4e-2,
    still: float = 0.3,
    mask: float = 0.1,
    pixels: int = 512,
    looks_every: int = 3,
) -> Iterator[DynamicNeRF]:
    """Optimise a scene, yielding it after every step.

    Args:
        video: of an object over white, in [0, 1], as large as the models' frames, seen from azimuth 0.
        model: 4DM, which knows videos.
        n_steps: of all three stages.
        seed: of everything random.
        base: the same without motion modules, which knows views of single frames.
        nerf: sizes of the field; the paper's when left out.
        fov_deg: vertical field of view.
        stages: their lengths, in any unit.
        video: weight of what the video model says.
        guidance: of every model.
        rescale: see `score_distillation`.
        rate: of the grids; that of the MLPs is a tenth.
        still: in stage 3, the share of its rate that the grid over space keeps.
        mask: weight of the opacity's error.
        pixels: at which a step takes its gradient.
        looks_every: steps that one look serves.

    Raises:
        ValueError: fewer steps than stages; other than three stages; a video of another size, with NaN, or outside
            [0, 1]; models of latents; motion modules in the base, or none in the other; no pixels, or no steps for a
            look.
    """
    check_pixels("video", video)
    size = base.config.image_size
    if video.ndim != 4 or tuple(video.shape[1:]) != (3, size, size):
        raise ValueError(f"video has shape {tuple(video.shape)}; expected (t, 3, {size}, {size}).")
    if base.config.unet.image_channels != 3:
        raise ValueError(f"base works on {base.config.unet.image_channels} latent channels; expected 3 colours.")
    if not list(model.motion.parameters()) or list(base.motion.parameters()):
        which = "base has" if list(base.motion.parameters()) else "model has no"
        raise ValueError(f"{which} motion modules; expected a model with them, and a base without,.")
    for name, count in dict(pixels=pixels, looks_every=looks_every).items():
        if count < 1:
            raise ValueError(f"{name} is {count}; expected at least 1.")
    first, second, _ = lasting = stage_lengths(n_steps, stages)
    stage_of = [stage for stage, length in enumerate(lasting) for _ in range(length)]
    scene = DynamicNeRF(nerf or DynamicNeRFConfig(), seed).to(video.device)
    for number, stage in enumerate(stage_of):
        generator = torch.Generator().manual_seed(seed * 10_000_000 + number)
        began = number in (0, first, first + second)
        if began:
            optimiser = stage_optimiser(scene, stage, rate, still)
        if number % 16 == 0:
            scene.update_occupancy(generator)
        if began or number % looks_every == 0:
            kind = int(torch.multinomial(torch.tensor(CHANCES[stage]), 1, generator=generator))
            frame = int(torch.randint(len(video) if stage == 2 else 1, (), generator=generator))
            t = draw_step(number / (0.8 * first), len(base.schedule.abar), (0.98, 0.5), (0.98, 0.02), generator)
            frames = slice(None) if kind == VIDEO else slice(frame, frame + 1)
            guidance_model, views = (model if kind == VIDEO else base), (base.config.views if kind == MULTI_VIEW else 1)
            options = dict(guidance=guidance, rescale=rescale, generator=generator)
            expected = _look(scene, video, frames, guidance_model, views, fov_deg, t.to(video.device), **options)
        loss = reconstruction_loss(scene, expected.drawn(pixels, generator), generator, mask)
        optimiser.zero_grad()
        (loss * (video_model if kind == VIDEO else 1.0)).backward()
        optimiser.step()
        yield scene
    scene.update_occupancy(torch.Generator().manual_seed(seed))


def stage_lengths(n_steps: int, stages: Sequence[float] = STAGES) -> tuple[int, int, int]:
    """Steps of each of the three stages, at least one.

    >>> stage_lengths(135_000), stage_lengths(3)
    ((10000, 25000, 100000), (1, 1, 1))
    """
    if len(stages) != 3 or min(stages) <= 0:
        raise ValueError(f"stages is {tuple(stages)}; expected three lengths above 0.")
    if n_steps < 3:
        raise ValueError(f"n_steps is {n_steps}; expected at least 3, one for each stage,.")
    first = min(max(1, round(n_steps * stages[0] / sum(stages))), n_steps - 2)
    second = min(max(1, round(n_steps * stages[1] / sum(stages))), n_steps - first - 1)
    return first, second, n_steps - first - second


def stage_optimiser(scene: DynamicNeRF, stage: int, rate: float, still: float) -> torch.optim.AdamW:
    """Each stage has an optimiser of its own; the grid over space and time learns in the last alone."""
    moving = stage == 2
    scene.space_time.requires_grad_(moving)
    mlps = [*scene.to_density.parameters(), *scene.to_colour.parameters()]
    groups = [
        dict(params=scene.space.parameters(), lr=rate * (still if moving else 1.0)),
        dict(params=scene.space_time.parameters(), lr=rate),
        dict(params=mlps, lr=rate / 10),
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.99), eps=1e-15, weight_decay=0.0, fused=True)


@torch.no_grad()
def _look(
    scene: DynamicNeRF,
    video: Tensor,
    frames: slice,
    guidance_model: FourDM,
    views: int,
    fov_deg: float,
    t: Int[Tensor, ""],
    generator: torch.Generator,
    **options: float,
) -> Pixels:
    """Views of some frames from a random angle on, with the colours that a model would like to see there."""
    size, times = guidance_model.config.image_size, torch.linspace(0, 1, len(video), device=video.device)[frames]
    azimuth = (torch.rand((), generator=generator) + torch.arange(views)) * (360 / views)
    c2w = circular_trajectory(azimuth, guidance_model.config.elevation_deg, guidance_model.config.radius).to(video)
    seen = scene.render(c2w.expand(len(times), -1, 4, 4), fov_deg, times[:, None].expand(-1, views), size)
    given = seen.rgb * 2 - 1, noise_predictor(guidance_model, video[frames], azimuth), guidance_model.schedule.abar, t
    target = (score_distillation(*given, generator=generator, **options).target.clamp(-1, 1) + 1) / 2
    target, alpha = (rearrange(a, "t v c h w -> v t c h w") for a in (target, seen.alpha))
    looked = pixels_of(scene, target, off_white(target), c2w, fov_deg)
    looked = looked._replace(times=repeat(times, "t -> (v t h w)", v=views, h=size, w=size))
    held = (alpha.flatten() > 0.01) | (looked.rgb < 0.9).any(1)  # elsewhere there is nothing to pull
    return Pixels(*(values[held] for values in looked)) if held.any() else looked
