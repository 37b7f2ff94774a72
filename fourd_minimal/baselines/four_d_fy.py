"""4D-fy: score distillation from three models in turn, first of a scene that is still, then of one that moves.

Bahmani et al. 2024, section 3 (arXiv 2311.17984). Two hash grids, over space and over space and time, learn from score
distillation alone (`sds.py`). The guidance model of a step is one of

    multi-view    the base      four views of one moment
    image         the base      one view of one moment
    video         4DM           one view of all moments

    stage 1, of 10 parts     multi-view
    stage 2, of 25           multi-view or image, 1 : 1
    stage 3, of 100          multi-view, image or video, 2 : 1 : 1

In stages 1 and 2 the moment is the first, and the grid over space and time rests. In stage 3 the moment is any, that
grid learns, and the one over space learns less: what is there stays, and begins to move. Noise levels fall from 0.98 to
[0.02, 0.5] during four fifths of stage 1.

Departures. There, a text says what to make; here, the frame of the moment (base) or the video (4DM), which no loss
compares with renders. The image model is the base with one view, for plain score distillation, not VSD. Guidance is
what our models bear (there 50, 7.5 and 100). All losses have the clean-image form, and weight 1. One guidance step
serves a few steps, each at some pixels. Renders are over a random background, and their opacity follows where the
target is off white. Rates are for hundreds of steps.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from fourd_minimal.baselines.optimisation import check_inputs, descend, guided, random_turn, target_pixels
from fourd_minimal.sds import draw_step
from fourd_minimal.systems.dynamic_nerf import DynamicNeRF, DynamicNeRFConfig, reconstruction_loss
from fourd_minimal.systems.four_diffusion import FourDM

STAGES = 10, 25, 100
"""Their lengths, in thousands of steps."""
MULTI_VIEW, IMAGE, VIDEO = range(3)
CHANCES = (1.0, 0.0, 0.0), (0.5, 0.5, 0.0), (0.5, 0.25, 0.25)
"""Of each of these to be the guidance model, stage by stage."""
STILL = 0.3
"""In stage 3, the share of its rate that the grid over space keeps."""


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
    guidance: float = 1.5,
    rescale: float = 0.2,
    rate: float = 4e-2,
    pixels: int = 512,
    guidance_every: int = 3,
) -> Iterator[DynamicNeRF]:
    """Optimise a scene, yielding it after every step.

    Args: as in `optimisation.py`, and
        model: 4DM, which knows videos; the base is the same without motion modules.
        nerf: sizes of the field; the paper's when left out.
        stages: their lengths, in any unit.
        rescale: see `score_distillation`.
        rate: of the grids; that of the MLPs is a tenth.

    Raises:
        ValueError: other than three stages; motion modules in the base, or none in 4DM.
    """
    check_inputs(video, base, n_steps, least=3)
    if not list(model.motion.parameters()) or list(base.motion.parameters()):
        which = "base has" if list(base.motion.parameters()) else "model has no"
        raise ValueError(f"{which} motion modules; expected a model with them, and a base without.")
    lengths, began = stage_lengths(n_steps, stages), 0
    scene = DynamicNeRF(nerf or DynamicNeRFConfig(), seed).to(video.device)

    def loss(step: int) -> Tensor:
        nonlocal expected
        number = began + step
        generator = torch.Generator().manual_seed(seed * 10_000_000 + number)
        if number % 16 == 0:
            scene.update_occupancy(generator)
        if step == 0 or number % guidance_every == 0:
            # which model, of which moments, at which noise level
            kind = int(torch.multinomial(torch.tensor(CHANCES[stage]), 1, generator=generator))
            frame = int(torch.randint(len(video) if stage == 2 else 1, (), generator=generator))
            progress = number / (0.8 * lengths[0])
            t = draw_step(progress, len(base.schedule.abar), (0.98, 0.5), (0.98, 0.02), generator)
            frames = slice(None) if kind == VIDEO else slice(frame, frame + 1)
            chosen, views = (model if kind == VIDEO else base), (base.config.views if kind == MULTI_VIEW else 1)
            # its prediction, which serves the next steps too
            options = dict(frames=frames, guidance=guidance, rescale=rescale)
            found = guided(scene, video, chosen, random_turn(views, generator), t, fov_deg, generator, **options)
            expected = target_pixels(scene, found._replace(target=found.target.clamp(0, 1)), fov_deg)
        return reconstruction_loss(scene, expected.drawn(pixels, generator), generator)

    for stage, length in enumerate(lengths):
        expected = None
        yield from descend(scene, stage_optimiser(scene, stage, rate), loss, length)
        began += length
    scene.update_occupancy(torch.Generator().manual_seed(seed))


def stage_lengths(n_steps: int, stages: Sequence[float] = STAGES) -> tuple[int, int, int]:
    """Steps of each of the three stages, at least one.

    >>> stage_lengths(135_000), stage_lengths(3)
    ((10000, 25000, 100000), (1, 1, 1))
    """
    if len(stages) != 3 or min(stages) <= 0:
        raise ValueError(f"stages is {tuple(stages)}; expected three lengths above 0.")
    first = min(max(1, round(n_steps * stages[0] / sum(stages))), n_steps - 2)
    second = min(max(1, round(n_steps * stages[1] / sum(stages))), n_steps - first - 1)
    return first, second, n_steps - first - second


def stage_optimiser(scene: DynamicNeRF, stage: int, rate: float) -> torch.optim.AdamW:
    """Each stage has an optimiser of its own; the grid over space and time learns in the last alone."""
    moving = stage == 2
    scene.space_time.requires_grad_(moving)
    mlps = [*scene.to_density.parameters(), *scene.to_colour.parameters()]
    groups = [
        dict(params=scene.space.parameters(), lr=rate * (STILL if moving else 1.0)),
        dict(params=scene.space_time.parameters(), lr=rate),
        dict(params=mlps, lr=rate / 10),
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.99), eps=1e-15, weight_decay=0.0, fused=True)
