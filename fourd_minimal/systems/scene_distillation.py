"""A video of an object becomes a scene that moves: 4Diffusion from end to end.

Section 3.3 of the paper. 4DM surrounds the video with videos; a dynamic NeRF is optimised until 4DM finds nothing to
say about its renders, and until they look like those videos:

    each step   one random turn u of four cameras around, all frames       x = render(u + 0, 90, 180, 270 degrees)
                L_sds = 1/2 |x - sg[x0(x)]|^2 / images                     4D-aware: one look at all of them (`sds.py`)
                L_anchor, of one frame of one sampled video                (`anchor_loss.py`)
                and what keeps density tidy

The video itself is compared with nothing: in the paper nobody knows its camera. Score distillation frame by frame is
the same run with the base in place of 4DM. A guide (`Guide`) may look in its place too: a model of latents, whose loss
reaches the renders through its encoder. With a guide alone there is no video and there are no videos, and score
distillation is all there is.

Departures, off in the paper's configuration. A fit to the sampled videos comes first (`fit_steps`), which takes seconds
instead of thousands of steps. The gradient of L_sds is taken at some pixels of the renders, drawn anew, and one look
serves a few steps, since the look is what costs. A mask loss is against white ghosts (`python -m
figures.distil_ablation`: none).

Departures, always. Cameras have the elevation and distance that 4DM knows; the paper draws elevations of 0 to 5
degrees. Where renders are not as large as 4DM's frames, it sees them resized, and what it wants is resized back. The
anchor draws any of the sampled views. The orientation loss is of all frames, and its gradient also reaches weights.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from fourd_minimal.anchor_loss import AnchorLoss
from fourd_minimal.cameras import circular_trajectory
from fourd_minimal.ddpm import NoiseSchedule
from fourd_minimal.sds import Distilled, Guess, draw_step, score_distillation
from fourd_minimal.systems.dynamic_nerf import (
    DynamicNeRF,
    DynamicNeRFConfig,
    Pixels,
    adamw,
    fit_steps,
    pixels_of,
)
from fourd_minimal.systems.four_diffusion import FourDM
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
    """What an optimisation depends on; the defaults are the paper's. The direct fit has its own in `fit_steps`."""

    nerf: DynamicNeRFConfig = field(default_factory=DynamicNeRFConfig)
    fov_deg: float = 45.0
    sizes: tuple[tuple[int, int], ...] = ((0, 64), (5000, 192), (10_000, 256))
    """From which step on renders have how many pixels per side."""
    n_steps: int = 35_000
    fit_steps: int = 0
    """Before them, of a direct fit to the sampled videos."""
    sampled_views: int = 4
    """Of which videos are sampled; a multiple of what the model makes at a time."""
    sampling_steps: int = 100
    sampling_guidance: float = 5.0
    sds: float = 1.0
    guidance: float = 5.0
    rescale: float = 0.2
    anneal_steps: int = 5000
    looks_every: int = 1
    """Steps that one look of the model serves."""
    pixels: int | None = None
    """Of the renders, at which a step takes the gradient; all of them when left out."""
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
        least = dict(n_steps=0, fit_steps=0, sampled_views=1, sampling_steps=1, looks_every=1, occupancy_every=1)
        least |= dict(anneal_steps=1) | (dict(pixels=1) if self.pixels is not None else {})
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least {lowest}.")
        weights = "sampling_guidance sds guidance rescale anchor direct mask opacity rate_grids rate_mlps fov_deg"
        for name in weights.split():
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a finite number, not negative,.")


@runtime_checkable
class Guide(Protocol):
    """What may look at renders without being 4DM, such as `pretrained/stable_guide.py`; a module."""

    config: Any
    """With `views`, `times`, `image_size`, `elevation_deg` and `radius`, as 4DM's has them."""
    schedule: NoiseSchedule

    def look(
        self,
        renders: Float[Tensor, "t v 3 h w"],
        azimuths_deg: Float[Tensor, " v"],
        t: Int[Tensor, ""],
        guidance: float,
        rescale: float,
        generator: torch.Generator | None = None,
    ) -> Distilled:
        """Score distillation of renders in [0, 1], `image_size` large; the loss has a gradient at them."""
        ...


class Step(NamedTuple):
    """What the caller sees after each step."""

    number: int
    losses: dict[str, float]
    """Each with its weight."""
    scene: DynamicNeRF


def noise_predictor(model: FourDM, video: Float[Tensor, "t 3 h w"], azimuths_deg: Float[Tensor, " v"]) -> Guess:
    """What a model says of noisy renders `(t, v, 3, h, w)`: the noise it sees in them, with the video and without."""
    reference, cameras = video[None] * 2 - 1, model.cameras(azimuths_deg.tolist())[None].to(video)
    both = torch.tensor([True, False], device=video.device)

    def guess(z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        twice = [a.expand(2, *a.shape[1:]) for a in (z[None], cameras, reference)]
        clean = model.denoise(twice[0], t.expand(2), twice[1], twice[2], both)
        shown, nothing = model.schedule.eps_from_x0(twice[0], clean, t.expand(2))
        return shown, nothing

    return guess


def off_white(rgb: Float[Tensor, "*b 3 h w"]) -> Float[Tensor, "*b 1 h w"]:
    """How far from white: the opacity of what stands on white, where an object's darkest colour is below 0.75."""
    return ((1 - rgb).amax(-3, keepdim=True) / 0.25).clamp(0, 1)


def cameras_around(model: FourDM | Guide, n: int) -> Float[Tensor, "n 4 4"]:
    """Evenly, from the video's own camera on, which stands at azimuth 0."""
    return circular_trajectory(torch.arange(n) * (360 / n), model.config.elevation_deg, model.config.radius)


def surroundings(
    video: Float[Tensor, "t 3 h w"], model: FourDM, config: SceneConfig, seed: int = 0
) -> Float[Tensor, "v t 3 h w"]:
    """Sampled videos, as `cameras_around` would see the object; as many at a time as the model makes."""
    azimuth, groups = (
        torch.arange(config.sampled_views) * (360 / config.sampled_views),
        config.sampled_views // model.config.views,
    )
    options = dict(n_steps=config.sampling_steps, guidance=config.sampling_guidance)
    made = [model.sample(video, azimuth[i::groups].tolist(), seed=seed * groups + i, **options) for i in range(groups)]
    return rearrange(made, "g v t c h w -> (v g) t c h w")


def optimise_steps(
    video: Float[Tensor, "t 3 h w"] | None,
    model: FourDM | Guide,
    config: SceneConfig,
    perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
    videos: Float[Tensor, "v t 3 h w"] | None = None,
    seed: int = 0,
    path: str | Path | None = None,
    checkpoint_every: int = 100,
    guidance_model: FourDM | Guide | None = None,
) -> Iterator[Step]:
    """Optimise a scene, yielding after every step.

    Args:
        video: of an object over white, in [0, 1], as large as the model's frames; None where a guide is the model.
        model: 4DM, which samples the videos, and looks at renders; or a guide, which knows what to see by itself.
        config: everything it depends on.
        perceptual: the anchor's distance of pictures in [-1, 1].
        videos: sampled before, of `config.sampled_views` cameras from azimuth 0 on; sampled by `model` when left out.
        seed: of everything random.
        path: of the checkpoint; if it is there, the optimisation goes on from it, exactly.
        checkpoint_every: steps between checkpoints; one is also written at the end.
        eyes: what looks at renders in place of 4DM: its base, for score distillation frame by frame, or a guide.

    Raises:
        ValueError: an anchor without a distance; steps without a loss; a checkpoint of other settings or of another
            video; a model that works on latents; other videos than cameras; a video for a guide as the model, or what
            wants one without; anything that `FourDM.sample` refuses.
    """
    if isinstance(model, Guide):
        _refuse_videos(video, videos, config)
    elif video is None:
        raise ValueError("video is None; 4DM wants a video.")
    if config.anchor and perceptual is None:
        raise ValueError("perceptual is None; the anchor loss wants a distance of pictures.")
    if config.n_steps and not (config.sds or config.anchor or config.direct or config.mask):
        raise ValueError(f"n_steps is {config.n_steps} with sds, anchor, direct and mask at 0; expected one of them.")
    if not isinstance(model, Guide):
        if model.config.unet.image_channels != 3:
            channels = model.config.unet.image_channels
            raise ValueError(f"model works on {channels} latent channels; expected 3 colours.")
        if config.sampled_views % model.config.views:
            raise ValueError(f"sampled_views is {config.sampled_views}; expected a multiple of {model.config.views}.")
        check_pixels("video", video)
    looker = guidance_model or model
    device = next(model.parameters()).device if video is None else video.device
    scene = DynamicNeRF(config.nerf, seed).to(device)
    optimiser = adamw(scene, config.rate_grids, config.rate_mlps)
    c2w = cameras_around(model, config.sampled_views).to(device)
    path, start = None if path is None else Path(path), 0
    notes = dict(
        seed=seed, video=None if video is None else fingerprint({"": video}), guidance_model=fingerprint(looker)
    )
    if isinstance(looker, Guide):
        notes["guide"] = repr(looker.config)
    if path is not None and path.exists():
        start, known = _resume(path, scene, optimiser, config, notes)
        if videos is not None and not torch.equal(videos.cpu(), known):
            raise ValueError(f"{path} is of another run: videos differ; delete it, or choose another path.")
        videos = known if known is None else known.to(device)
    elif videos is None and video is not None:
        videos = surroundings(video, model, config, seed)
    if videos is not None:
        expected = (config.sampled_views, *video.shape)
        if tuple(videos.shape) != expected:
            raise ValueError(f"videos has shape {tuple(videos.shape)}; expected {expected}, a video for each view,.")
        if not start and config.fit_steps:
            given = videos, off_white(videos), c2w, config.fov_deg
            for _ in fit_steps(scene, *given, config.fit_steps, mask=config.mask, seed=seed):
                pass
        known = pixels_of(scene, videos, off_white(videos), c2w, config.fov_deg)
    images = (looker.config.times if video is None else len(video)) * looker.config.views
    anchor = AnchorLoss(perceptual) if config.anchor else None
    if start == config.n_steps:
        yield Step(start, {}, scene)
    for number in range(start, config.n_steps):
        generator = torch.Generator().manual_seed(seed * 10_000_000 + number)
        if number % config.occupancy_every == 0:
            scene.update_occupancy(generator)
        losses = {}
        if config.sds:
            if number % config.looks_every == 0:
                looked = _look(scene, video, looker, config, number, generator)
            losses |= _pull(scene, looked, images, config, number, generator, isinstance(looker, Guide))
        if anchor:
            view, time = (int(torch.randint(n, (), generator=generator)) for n in videos.shape[:2])
            moment = time / max(1, videos.shape[1] - 1)
            seen = scene.render(c2w[view], config.fov_deg, moment, videos.shape[-1])
            losses["anchor"] = config.anchor * anchor(seen.rgb[None], videos[view, time][None])
        if config.direct or config.mask:
            some = known.drawn(config.pixels or 4096, generator)
            colour, opacity = scene.look(*some[:3], generator)
            off = colour + (1 - opacity)[:, None] - some.rgb
            losses["direct"] = config.direct * off.square().mean()
            losses["mask"] = config.mask * (opacity - some.alpha).square().mean()
        optimiser.zero_grad()
        sum(losses.values()).backward()
        optimiser.step()
        done = number + 1
        whole = done % config.looks_every == 0  # a run that goes on looks anew, so it must not stop between looks
        if path is not None and ((whole and done % checkpoint_every < config.looks_every) or done == config.n_steps):
            _save(path, scene, optimiser, videos, config, step=done, **notes)
        yield Step(done, {name: loss.item() for name, loss in losses.items()}, scene)
    scene.update_occupancy(torch.Generator().manual_seed(seed))


def optimise_scene(
    video: Float[Tensor, "t 3 h w"] | None, model: FourDM | Guide, config: SceneConfig, **options
) -> DynamicNeRF:
    """The scene at the end of `optimise_steps`, which has the arguments."""
    *_, last = optimise_steps(video, model, config, **options)
    return last.scene.requires_grad_(False)


def _refuse_videos(video: Tensor | None, videos: Tensor | None, config: SceneConfig) -> None:
    """A guide as the model samples no videos, and nothing that wants some can be."""
    if video is not None or videos is not None:
        raise ValueError(
            "model is a guide, which samples no videos; expected no video, or 4DM with the guide as eyes,."
        )
    for name in ("anchor", "direct", "mask", "fit_steps"):
        if getattr(config, name):
            raise ValueError(f"{name} is {getattr(config, name)}, and wants videos; expected without a video, 0.")


@torch.no_grad()
def _look(
    scene: DynamicNeRF,
    video: Tensor | None,
    model: FourDM | Guide,
    config: SceneConfig,
    number: int,
    generator: torch.Generator,
) -> Pixels:
    """Four views of all frames from a random angle on, with the colours that the model would like to see there.

    Of a guide: with the change of colours that it would like to see there.
    """
    size = [size for begin, size in config.sizes if begin <= number][-1]
    frames = model.config.times if video is None else len(video)
    views, whole, device = model.config.views, (model.config.image_size,) * 2, scene.space.table.device
    azimuth = (torch.rand((), generator=generator) + torch.arange(views)) * (360 / views)
    c2w = circular_trajectory(azimuth, model.config.elevation_deg, model.config.radius).to(device)
    times = torch.linspace(0, 1, frames, device=device)
    given = c2w.expand(frames, -1, 4, 4), config.fov_deg, times[:, None].expand(-1, views), size
    seen = scene.render(*given, rays_per_side=1)
    with torch.enable_grad():
        renders = seen.rgb.detach().requires_grad_(isinstance(model, Guide))
        x = F.interpolate(renders.flatten(0, 1), whole, mode="bilinear", antialias=True).unflatten(0, (frames, views))
    t = draw_step(number / config.anneal_steps, len(model.schedule.abar), generator=generator).to(device)
    options = dict(guidance=config.guidance, rescale=config.rescale, generator=generator)
    if isinstance(model, Guide):
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(model.look(x, azimuth, t, **options).loss, renders)
        change = rearrange(slope * (-frames * views / 4), "t v c h w -> v t c h w")  # `_pull` has this slope there
        return pixels_of(scene, change, rearrange(seen.alpha, "t v 1 h w -> v t 1 h w"), c2w, config.fov_deg)
    guess = noise_predictor(model, video, azimuth)
    x0 = score_distillation(x * 2 - 1, guess, model.schedule.abar, t, **options).target
    target = F.interpolate((x0.flatten(0, 1) + 1) / 2, (size,) * 2, mode="bilinear", antialias=True)
    target = rearrange(target, "(t v) c h w -> v t c h w", t=frames)
    looked = pixels_of(scene, target, rearrange(seen.alpha, "t v 1 h w -> v t 1 h w"), c2w, config.fov_deg)
    if config.pixels is None:
        return looked
    held = (looked.alpha > 0.01) | (looked.rgb < 0.9).any(1)  # where neither has anything there is nothing to pull
    if not held.any():
        return looked
    return Pixels(*(values[held] for values in looked))


def _pull(
    scene: DynamicNeRF,
    looked: Pixels,
    images: int,
    config: SceneConfig,
    number: int,
    generator: torch.Generator,
    by_change: bool = False,
) -> dict[str, Tensor]:
    """Renders towards what the model would like to see, and what keeps density tidy, at some pixels or at all.

    `by_change`: what was looked up is the wanted change of colours, so that whatever is rendered now has this slope.
    """
    some = looked if config.pixels is None else looked.drawn(config.pixels, generator)
    orientation = config.orientation.at(number)
    colour, opacity = scene.look(*some[:3], generator, orientation > 0)
    seen = colour[:, :3] + (1 - opacity)[:, None]
    off = 2 * (seen - (seen.detach() + some.rgb if by_change else some.rgb))
    certain = opacity.clamp(1e-3, 1 - 1e-3)
    losses = dict(
        sds=config.sds * 0.5 * off.square().sum(1).mean() * len(looked.rgb) / images,
        opacity=config.opacity * (opacity.square() + 0.01).sqrt().mean(),
        entropy=config.entropy.at(number) * torch.special.entr(torch.stack([certain, 1 - certain])).sum(0).mean(),
    )
    if orientation > 0:
        losses["orientation"] = orientation * colour[:, 3].mean()
    return losses


def _save(
    path: Path,
    scene: DynamicNeRF,
    optimiser: torch.optim.Optimizer,
    videos: Tensor | None,
    config: SceneConfig,
    **notes,
) -> None:
    state = {} if videos is None else {"videos": videos}
    state |= {f"scene.{name}": tensor for name, tensor in scene.state_dict().items()}
    for index, slot in optimiser.state_dict()["state"].items():
        state |= {f"optimiser.{index}.{name}": tensor for name, tensor in slot.items()}
    save_weights(path, {name: tensor.clone() for name, tensor in state.items()}, config, **notes)


def _resume(
    path: Path, scene: DynamicNeRF, optimiser: torch.optim.Optimizer, config: SceneConfig, expected: dict[str, Any]
) -> tuple[int, Tensor | None]:
    """Load a checkpoint into both; say after which step it was written, and which videos were sampled, if any."""
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
