"""ImageDream, frame by frame: 4Diffusion without a model that knows time.

Wang and Shi 2023 (arXiv 2312.02201), in the place that 4Diffusion gives it: row "without 4D-aware SDS" of Table 1, and
"ImageDream, per frame" of Table 2. It is the run of `scene_distillation.py` with the multi-view base as its only model.
The base samples four views of every frame, with noise of its own for each, a dynamic NeRF is fitted to them, and score
distillation goes on, frame by frame. Only the field itself joins the frames.

Departures: those of `scene_distillation.py`.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from fourd_minimal.baselines.optimisation import check_inputs
from fourd_minimal.systems import scene_distillation
from fourd_minimal.systems.dynamic_nerf import DynamicNeRF
from fourd_minimal.systems.four_diffusion import FourDM
from fourd_minimal.systems.scene_distillation import Ramp, SceneConfig


def optimise_steps(
    video: Float[Tensor, "t 3 h w"],
    base: FourDM,
    n_steps: int,
    seed: int = 0,
    *,
    config: SceneConfig | None = None,
    perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Iterator[DynamicNeRF]:
    """Optimise a scene, yielding it after every step; sampling and the direct fit come before the first.

    Args: as in `optimisation.py`, and
        config: of `scene_distillation.optimise_steps`, the paper's when left out; its schedules are stretched to
            `n_steps`, its direct fit is not.
        perceptual: the anchor's distance of pictures in [-1, 1], where `config` has an anchor.

    Raises:
        ValueError: a model with motion modules; what `check_inputs` and `scene_distillation.optimise_steps` refuse.
    """
    check_inputs(video, base, n_steps, least=1)
    if list(base.motion.parameters()):
        raise ValueError("base has motion modules; expected the model without them.")
    config = stretched(config or SceneConfig(), n_steps)
    for step in scene_distillation.optimise_steps(video, base, config, perceptual, seed=seed):
        yield step.scene


def stretched(config: SceneConfig, n_steps: int) -> SceneConfig:
    """The same schedules, over another number of steps."""
    share = n_steps / (config.n_steps or n_steps)

    def ramp(given: Ramp) -> Ramp:
        return replace(given, steps=round(share * given.steps), start=round(share * given.start))

    return replace(
        config,
        n_steps=n_steps,
        sizes=tuple((round(share * begin), size) for begin, size in config.sizes),
        anneal_steps=max(1, round(share * config.anneal_steps)),
        orientation=ramp(config.orientation),
        entropy=ramp(config.entropy),
    )
