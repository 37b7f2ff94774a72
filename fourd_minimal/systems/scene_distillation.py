"""A video of an object becomes a scene that moves: 4Diffusion from end to end.

Section 3.3 of the paper. 4DM samples videos from around the object; a dynamic NeRF is optimised until its renders are
likely under 4DM, and look like those videos:

    each step   four cameras around, from a random azimuth u, all frames   x = render(u + 0, 90, 180, 270 degrees)
                L_sds = 1/2 |x - sg[x0(x)]|^2 / images                     4D-aware: one prediction for all (`sds.py`)
                L_anchor, of one frame of one sampled video                (`anchor_loss.py`)
                and regularisation of density: orientation, opacity, entropy

The video itself is compared with nothing: in the paper its camera is unknown. Score distillation frame by frame is the
same run with the base as the guidance model. A model of latents can guide as well (`GuidanceModel`): its loss reaches
the renders through its encoder. As the only model it samples no videos, and score distillation is all there is.

Departures, off in the paper's configuration. A fit to the sampled videos comes first (`fit_steps`), which takes seconds
instead of thousands of steps. The gradient of L_sds is taken at some pixels of the renders, drawn anew, and one
prediction serves a few steps, since the prediction is what costs. A mask loss is against white ghosts
(`python -m figures.distil_ablation`: none).

Departures, always. Cameras have the elevation and distance that 4DM knows; the paper draws elevations of 0 to 5
degrees. Where renders are not as large as 4DM's frames, they are resized for it, and its targets are resized back. The
anchor draws any of the sampled views. The orientation loss is of all frames, and its gradient also reaches weights.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from fourd_minimal.anchor_loss import AnchorLoss
from fourd_minimal.cameras import circular_trajectory
from fourd_minimal.systems.dynamic_nerf import DynamicNeRF, DynamicNeRFConfig, Pixels, adamw, fit_steps, pixels_of
from fourd_minimal.systems.four_diffusion import FourDM
from fourd_minimal.systems.guidance import GuidanceModel, guidance_step
from fourd_minimal.systems.pixels import check_pixels
from fourd_minimal.systems.weights import fingerprint, load_weights, save_weights


@dataclass(frozen=True)
class Ramp:
    """From one value to another, linearly, over so many steps from `start` on; before and after, it stays."""

    begin: float
    end: float
    steps: int = 0
    start: int = 0

    def at(self, step: int) -> float:
        """Its value at a step."""
        share = (step - self.start) / self.steps if self.steps else float(step >= self.start)
        return self.begin + (self.end - self.begin) * min(max(share, 0.0), 1.0)


@dataclass(frozen=True)
class SceneConfig:
    """Settings of an optimisation; the defaults are the paper's. The direct fit has its own in `fit_steps`."""

    nerf: DynamicNeRFConfig = field(default_factory=DynamicNeRFConfig)
    fov_deg: float = 45.0
    sizes: tuple[tuple[int, int], ...] = ((0, 64), (5000, 192), (10_000, 256))
    """From which step on renders have how many pixels per side."""
    n_steps: int = 35_000
    fit_steps: int = 0
    """Steps of a direct fit to the sampled videos, before all others."""
    sampled_views: int = 4
    """How many videos are sampled; a multiple of what the model makes at a time."""
    sampling_steps: int = 100
    sampling_guidance: float = 5.0
    sds: float = 1.0
    guidance: float = 5.0
    rescale: float = 0.2
    anneal_steps: int = 5000
    guidance_every: int = 1
    """Steps that one prediction of the guidance model serves."""
    pixels: int | None = None
    """Pixels of the renders at which a step takes the gradient; all of them when left out."""
    anchor: float = 1.0
    direct: float = 0.0
    """Weight of the squared errors against the sampled videos, at `pixels` of them."""
    mask: float = 0.0
    """Weight of the squared error of opacity, at the same pixels; 0: opacity is unknown."""
    orientation: Ramp = Ramp(10.0, 1000.0, 5000)
    """Weights of this and the next two are for what score distillation renders; without it there are none."""
    opacity: float = 100.0
    entropy: Ramp = Ramp(0.0, 100.0, start=10_000)
    rate_grids: float = 1e-2
    rate_mlps: float = 1e-3
    occupancy_every: int = 16

    def __post_init__(self):
        least = dict(n_steps=0, fit_steps=0, sampled_views=1, sampling_steps=1, guidance_every=1, occupancy_every=1)
        least |= dict(anneal_steps=1) | (dict(pixels=1) if self.pixels is not None else {})
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least {lowest}.")
        weights = "sampling_guidance sds guidance rescale anchor direct mask opacity rate_grids rate_mlps fov_deg"
        for name in weights.split():
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a finite number, not negative.")


class Step(NamedTuple):
    """After each step."""

    number: int
    losses: dict[str, float]
    """Each with its weight."""
    scene: DynamicNeRF


def off_white(rgb: Float[Tensor, "*b 3 h w"]) -> Float[Tensor, "*b 1 h w"]:
    """Opacity, estimated from the distance to a white background: 1 where the darkest colour is below 0.75."""
    return ((1 - rgb).amax(-3, keepdim=True) / 0.25).clamp(0, 1)


def cameras_around(model: FourDM | GuidanceModel, n: int) -> Float[Tensor, "n 4 4"]:
    """Evenly, from the video's own camera on, which stands at azimuth 0."""
    return circular_trajectory(torch.arange(n) * (360 / n), model.config.elevation_deg, model.config.radius)


def multiview_videos(
    video: Float[Tensor, "t 3 h w"], model: FourDM, config: SceneConfig, seed: int = 0
) -> Float[Tensor, "v t 3 h w"]:
    """Sampled videos, as `cameras_around` would see the object; as many at a time as the model makes."""
    azimuth = torch.arange(config.sampled_views) * (360 / config.sampled_views)
    groups = config.sampled_views // model.config.views
    options = dict(n_steps=config.sampling_steps, guidance=config.sampling_guidance)
    made = [model.sample(video, azimuth[i::groups].tolist(), seed=seed * groups + i, **options) for i in range(groups)]
    return rearrange(made, "g v t c h w -> (v g) t c h w")


def optimise_steps(
    video: Float[Tensor, "t 3 h w"] | None,
    model: FourDM | GuidanceModel,
    config: SceneConfig,
    perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
    videos: Float[Tensor, "v t 3 h w"] | None = None,
    seed: int = 0,
    path: str | Path | None = None,
    checkpoint_every: int = 100,
    guidance_model: FourDM | GuidanceModel | None = None,
) -> Iterator[Step]:
    """Optimise a scene, yielding after every step.

    Args:
        video: of an object over white, in [0, 1], as large as the model's frames; None where `model` is not 4DM.
        model: 4DM, which samples the videos and guides; or another guidance model, which has its own condition.
        config: the settings.
        perceptual: the anchor's distance of pictures in [-1, 1].
        videos: sampled before, of `config.sampled_views` cameras from azimuth 0 on; sampled by `model` when left out.
        seed: of everything random.
        path: of the checkpoint; if it is there, the optimisation goes on from it, exactly.
        checkpoint_every: steps between checkpoints; one is also written at the end.
        guidance_model: guides in place of `model`, such as 4DM's base, for score distillation frame by frame.

    Raises:
        ValueError: an anchor without a distance; steps without a loss; a checkpoint of other settings or of another
            video; a model that works on latents; other videos than cameras; a video, or a loss that compares with one,
            where `model` is not 4DM; anything that `FourDM.sample` refuses.
    """
    _check_run(video, model, config, perceptual, videos)
    guide = guidance_model or model
    device = next(model.parameters()).device if video is None else video.device
    scene, c2w = DynamicNeRF(config.nerf, seed).to(device), cameras_around(model, config.sampled_views).to(device)
    optimiser = adamw(scene, config.rate_grids, config.rate_mlps)
    path = None if path is None else Path(path)
    notes = dict(
        seed=seed, guidance_model=fingerprint(guide), video=video if video is None else fingerprint({"": video})
    )
    notes |= dict(guide=repr(guide.config)) if isinstance(guide, GuidanceModel) else {}

    start, videos = _begin(scene, optimiser, c2w, video, videos, model, config, seed, path, notes)
    known = None if videos is None else pixels_of(scene, videos, off_white(videos), c2w, config.fov_deg)
    images = (guide.config.times if video is None else len(video)) * guide.config.views
    anchor = AnchorLoss(perceptual) if config.anchor else None
    if start == config.n_steps:
        yield Step(start, {}, scene)

    for number in range(start, config.n_steps):
        generator = torch.Generator().manual_seed(seed * 10_000_000 + number)
        if number % config.occupancy_every == 0:
            scene.update_occupancy(generator)

        # The losses of this step.
        losses = {}
        if config.sds:
            if number % config.guidance_every == 0:
                size = [size for begin, size in config.sizes if begin <= number][-1]
                progress = number / config.anneal_steps
                given = size, config.fov_deg, progress, config.guidance, config.rescale, generator
                targets = guidance_step(scene, video, guide, *given)
                if config.pixels is not None and isinstance(guide, FourDM):
                    targets = targets.occupied()
            losses |= sds_losses(scene, targets, images, config, number, generator, isinstance(guide, GuidanceModel))
        if anchor:
            losses["anchor"] = config.anchor * _anchor_loss(scene, videos, c2w, config.fov_deg, anchor, generator)
        if config.direct or config.mask:
            losses |= _direct_losses(scene, known, config, generator)
        optimiser.zero_grad()
        sum(losses.values()).backward()
        optimiser.step()

        # A resumed run begins with a new prediction, so checkpoints are written where one is due.
        done = number + 1
        due = done % config.guidance_every == 0 and done % checkpoint_every < config.guidance_every
        if path is not None and (due or done == config.n_steps):
            _save(path, scene, optimiser, videos, config, step=done, **notes)
        yield Step(done, {name: loss.item() for name, loss in losses.items()}, scene)
    scene.update_occupancy(torch.Generator().manual_seed(seed))


def _begin(scene, optimiser, c2w, video, videos, model, config: SceneConfig, seed: int, path: Path | None, notes: dict):
    """Begin at the checkpoint, or with sampled videos and a direct fit to them; returns the step and the videos."""
    if path is not None and path.exists():
        start, saved = _resume(path, scene, optimiser, config, notes)
        if videos is not None and not torch.equal(videos.cpu(), saved):
            raise ValueError(f"{path} is of another run: videos differ; delete it, or choose another path.")
        return start, saved if saved is None else saved.to(c2w.device)
    if video is not None:
        videos = multiview_videos(video, model, config, seed) if videos is None else videos
        if config.fit_steps:
            frames = videos, off_white(videos), c2w, config.fov_deg
            *_, _ = fit_steps(scene, *frames, config.fit_steps, mask=config.mask, seed=seed)
    return 0, videos


def optimise_scene(
    video: Float[Tensor, "t 3 h w"] | None, model: FourDM | GuidanceModel, config: SceneConfig, **options
) -> DynamicNeRF:
    """The scene at the end of `optimise_steps`, which has the arguments."""
    *_, last = optimise_steps(video, model, config, **options)
    return last.scene.requires_grad_(False)


def sds_losses(
    scene: DynamicNeRF,
    targets: Pixels,
    images: int,
    config: SceneConfig,
    number: int,
    generator: torch.Generator,
    changes: bool = False,
) -> dict[str, Tensor]:
    """L_sds and the regularisation of density, at some pixels or at all.

    Args:
        targets: of `guidance_step`.
        images: views times frames, by which L_sds is divided.
        changes: targets are relative to what is rendered now.
    """
    some = targets if config.pixels is None else targets.drawn(config.pixels, generator)
    orientation = config.orientation.at(number)
    colour, opacity = scene.render_pixels(*some[:3], generator, orientation > 0)
    x = colour[:, :3] + (1 - opacity)[:, None]
    error = 2 * (x - (x.detach() + some.rgb if changes else some.rgb))  # of pixels in [-1, 1]
    share = opacity.clamp(1e-3, 1 - 1e-3)
    losses = dict(
        sds=config.sds * 0.5 * error.square().sum(1).mean() * len(targets.rgb) / images,
        opacity=config.opacity * (opacity.square() + 0.01).sqrt().mean(),
        entropy=config.entropy.at(number) * torch.special.entr(torch.stack([share, 1 - share])).sum(0).mean(),
    )
    if orientation > 0:
        losses["orientation"] = orientation * colour[:, 3].mean()
    return losses


def _anchor_loss(scene: DynamicNeRF, videos: Tensor, c2w: Tensor, fov_deg: float, anchor: AnchorLoss, generator):
    """One frame of one sampled video, against the render from its camera at its time."""
    view, time = (int(torch.randint(n, (), generator=generator)) for n in videos.shape[:2])
    rendered = scene.render(c2w[view], fov_deg, time / max(1, videos.shape[1] - 1), videos.shape[-1])
    return anchor(rendered.rgb[None], videos[view, time][None])


def _direct_losses(scene: DynamicNeRF, known: Pixels, config: SceneConfig, generator) -> dict[str, Tensor]:
    """Squared errors of colour and opacity against the sampled videos, at some pixels."""
    some = known.drawn(config.pixels or 4096, generator)
    colour, opacity = scene.render_pixels(*some[:3], generator)
    error = colour + (1 - opacity)[:, None] - some.rgb
    mask = (opacity - some.alpha).square().mean()
    return dict(direct=config.direct * error.square().mean(), mask=config.mask * mask)


def _check_run(video: Tensor | None, model, config: SceneConfig, perceptual, videos: Tensor | None) -> None:
    """One sentence for inputs that do not go together."""
    if config.anchor and perceptual is None and isinstance(model, FourDM):
        raise ValueError("perceptual is None; expected a distance of pictures, for the anchor loss.")
    if config.n_steps and not (config.sds or config.anchor or config.direct or config.mask):
        raise ValueError(f"n_steps is {config.n_steps} with sds, anchor, direct and mask at 0; expected one of them.")
    if not isinstance(model, FourDM):
        if video is not None or videos is not None:
            raise ValueError("model samples no videos; expected 4DM, with this as guidance_model, or no video.")
        for name in ("anchor", "direct", "mask", "fit_steps"):
            if getattr(config, name):
                raise ValueError(f"{name} is {getattr(config, name)} and video is None; expected 0 without a video.")
        return
    if video is None:
        raise ValueError("video is None; expected a video, for 4DM.")
    if (channels := model.config.unet.image_channels) != 3:
        raise ValueError(f"model works on {channels} latent channels; expected 3 colours.")
    if config.sampled_views % model.config.views:
        raise ValueError(f"sampled_views is {config.sampled_views}; expected a multiple of {model.config.views}.")
    check_pixels("video", video)
    expected = (config.sampled_views, *video.shape)
    if videos is not None and tuple(videos.shape) != expected:
        raise ValueError(f"videos has shape {tuple(videos.shape)}; expected {expected}, a video for each view.")


def _save(
    path: Path,
    scene: DynamicNeRF,
    optimiser: torch.optim.Optimizer,
    videos: Tensor | None,
    config: SceneConfig,
    **notes,
) -> None:
    """Scene, optimiser and videos into one checkpoint."""
    state = {} if videos is None else {"videos": videos}
    state |= {f"scene.{name}": tensor for name, tensor in scene.state_dict().items()}
    for index, slot in optimiser.state_dict()["state"].items():
        state |= {f"optimiser.{index}.{name}": tensor for name, tensor in slot.items()}
    save_weights(path, {name: tensor.clone() for name, tensor in state.items()}, config, **notes)


def _resume(
    path: Path, scene: DynamicNeRF, optimiser: torch.optim.Optimizer, config: SceneConfig, expected: dict[str, Any]
) -> tuple[int, Tensor | None]:
    """Load a checkpoint into both; returns its step, and the sampled videos, if any."""
    tensors, saved, notes = load_weights(path, SceneConfig)
    differs = [name for name, value in expected.items() if notes.get(name) != value]
    differs += [f.name for f in fields(config) if getattr(saved, f.name) != getattr(config, f.name)]
    if differs:
        raise ValueError(f"{path} is of another run: {', '.join(differs)} differ; delete it, or choose another path.")
    scene.load_state_dict({k.removeprefix("scene."): v for k, v in tensors.items() if k.startswith("scene.")})
    state = optimiser.state_dict()
    for name, tensor in tensors.items():
        if name.startswith("optimiser."):
            _, index, key = name.split(".")
            state["state"].setdefault(int(index), {})[key] = tensor
    optimiser.load_state_dict(state)
    return notes["step"], tensors.get("videos")
