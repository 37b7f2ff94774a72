"""Every stage that trains, as a planner meets it: its model, and one micro-batch of its loss, on empty tensors.

The losses are the trainers' own. Batches have their shapes and nothing in them.

Departures. Where 4DM is of the full size, latents, CLIP's tokens and a caption's 77 are taken as made before. Score
distillation has no one loss: a step of `scene_distillation` is walked through; where a scene holds anything (`HELD`),
and that samples go 2^20 at a time, is assumed. Its anchor is not counted.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from figures.tally import Tally
from fourd_minimal.configs.four_diffusion import FOUR_DM
from fourd_minimal.configs.four_real_video import PRESETS
from fourd_minimal.configs.scene_distillation import SCENES
from fourd_minimal.configs.text_to_video import TEXT_TO_VIDEO
from fourd_minimal.configs.upsampler import UPSAMPLERS
from fourd_minimal.systems.conditioning import known_cells
from fourd_minimal.systems.dynamic_nerf import AT_ONCE, DynamicNeRF
from fourd_minimal.systems.four_diffusion import FourDM
from fourd_minimal.systems.four_real_video import FourRealVideo
from fourd_minimal.systems.scene_distillation import SceneConfig
from fourd_minimal.systems.text_to_video import TextToVideo
from fourd_minimal.systems.upsampler import Upsampler
from fourd_minimal.training import four_diffusion as multiview
from fourd_minimal.training import four_real_video as training
from fourd_minimal.training import text_to_video as text
from fourd_minimal.training import upsampler as upsampling
from fourd_minimal.volume_rendering import composite

System = Literal["four_real_video", "upsampler", "text_to_video", "four_diffusion", "scene_distillation"]
StageName = Literal["base", "sync", "joint", "motion"]
PresetName = Literal["smoke", "cpu", "gpu", "full"]
STAGES: dict[System, tuple[StageName, ...]] = {"four_real_video": ("base", "sync", "joint")}
STAGES["four_diffusion"] = ("base", "motion")
"""Of the systems that have several."""
HELD = 0.1
"""Share of a ray's samples where the occupancy grid says that there may be something: assumed."""


class Case(NamedTuple):
    """What some of a stage's steps compute."""

    share: float
    """Of all steps."""
    loss: Callable[[nn.Module, int, Tally], Tensor]
    """Of the model, for a micro-batch of so many."""


class Stage(NamedTuple):
    """One training run."""

    model: Callable[[], nn.Module]
    part: Callable[[nn.Module], nn.Module]
    """What is trained."""
    cases: list[Case]
    steps: int
    batch: int
    """Of a whole step."""
    parts: int
    averaged: bool
    """Whether an average of the weights is kept."""
    least: int = 1
    """What a micro-batch is a multiple of: 2 where half of the videos are fixed-view."""
    otherwise: tuple[tuple[str, Callable[[], "Stage"]], ...] = ()
    """Flags that make less of a step, and the stage with them, for where nothing else fits."""
    says: str = ""
    """What the count does not know."""


def find_stage(system: str, name: str | None = None, preset: Any = None) -> Stage:
    """A stage of a system: of several, by default the one the paper is about. `preset`: settings, or a preset's name.

    Raises:
        ValueError: a name that is not there, or a stage without steps.
    """
    make, presets, default = MAKERS[system]
    names = STAGES.get(system, ())
    if name is not None and name not in names:
        raise ValueError(f"stage is {name!r}; expected of {system}: {', '.join(names) or 'none, it has one stage'}.")
    preset = presets[preset or "full"] if preset is None or isinstance(preset, str) else preset
    stage = make(preset, name or default) if names else make(preset)
    if stage.steps < 1:
        raise ValueError(f"stage {name or default!r} of {system} has no steps in this preset; nothing is trained.")
    return stage


def _four_real_video(preset, name: StageName) -> Stage:
    cfg = preset.model

    def videos(size: tuple[int, int], model: nn.Module, n: int, tally: Tally) -> Tensor:
        batches = []
        for context, frames in (("dynamic", cfg.times), ("freeze", cfg.views)):
            clean = torch.empty(n // 2, frames, cfg.dit.channels, *size)
            seen = torch.ones(n // 2, frames, dtype=torch.bool)
            batches.append(training.Batch(torch.empty_like(clean), torch.empty(n // 2), seen, clean, context))
        return training.batch_loss(model, batches)

    def grids(model: nn.Module, n: int, tally: Tally) -> Tensor:
        clean = torch.empty(n, cfg.views, cfg.times, cfg.dit.channels, *cfg.dit.image_size)
        seen = known_cells(cfg.views, cfg.times).expand(n, -1, -1)
        return training.batch_loss(model, [training.Batch(torch.empty_like(clean), torch.empty(n), seen, clean)])

    steps = getattr(preset, f"{name}_steps")
    cases, batch = [Case(1.0, grids)], preset.sync_batch
    if name == "base":
        sizes = preset.base_sizes or ((0, tuple(cfg.dit.image_size)),)
        cases, batch = [Case(share, partial(videos, size)) for share, size in _shares(sizes, steps)], preset.base_batch
    least = 2 if name == "base" else 1
    return Stage(partial(FourRealVideo, cfg), lambda m: m.part(name), cases, steps, batch, preset.parts, True, least)


def _shares(changes: tuple[tuple[int, Any], ...], steps: int) -> Iterator[tuple[float, Any]]:
    """From which step on something holds -> in which share of all steps."""
    for (begin, value), (end, _) in zip(changes, (*changes[1:], (steps, None)), strict=True):
        if steps and begin < steps:
            yield (min(end, steps) - begin) / steps, value


def _upsampler(preset) -> Stage:
    cfg = preset.model

    def grids(views: int, times: int, model: nn.Module, n: int, tally: Tally) -> Tensor:
        n = n * preset.views * preset.times // (views * times)
        clean, level = torch.empty(n, views, times, cfg.dit.channels, *cfg.dit.image_size), torch.empty(n)
        small = torch.empty(*clean.shape[:4], *cfg.small_size)
        return upsampling.batch_loss(model, upsampling.Batch(torch.empty_like(clean), level, small, level, clean))

    cases = [Case(0.25, partial(grids, preset.views, preset.times)), Case(0.75, partial(grids, 2, 2))]
    return Stage(partial(Upsampler, cfg), lambda m: m, cases, preset.steps, preset.batch, preset.parts, True)


def _text_to_video(preset) -> Stage:
    cfg = preset.model

    def videos(model: nn.Module, n: int, tally: Tally) -> Tensor:
        batches = []
        for context, frames in (("dynamic", cfg.times), ("freeze", cfg.views)):
            clean = torch.empty(n // 2, frames, cfg.dit.channels, *cfg.dit.image_size)
            seen = torch.ones(n // 2, frames, dtype=torch.bool)
            words = torch.zeros(n // 2, cfg.slots, dtype=torch.long)
            batches.append(text.Batch(torch.empty_like(clean), torch.empty(n // 2), seen, clean, words, context))
        return text.batch_loss(model, batches)

    model = partial(TextToVideo, cfg)
    return Stage(model, lambda m: m, [Case(1.0, videos)], preset.steps, preset.batch, preset.parts, True, 2)


def _four_diffusion(preset, name: StageName) -> Stage:
    cfg, frames = preset.model, 1 if name == "base" else preset.model.times

    def objects(model: nn.Module, n: int, tally: Tally) -> Tensor:
        clean = _frames(cfg, n, frames, cfg.views)
        t, shown = torch.zeros(n, dtype=torch.long), torch.ones(n, dtype=torch.bool)
        model.denoise = partial(FourDM.denoise, model, **_conditions(cfg, n, frames))
        cameras, noise = torch.empty(n, cfg.views, 4, 4), torch.empty_like(clean)
        return multiview.batch_loss(model, multiview.Batch(clean, clean[:, :, 0], cameras, t, noise, shown))

    part = (lambda m: m.unet) if name == "base" else (lambda m: m.motion)
    steps, batch = (getattr(preset, f"{name}_{what}") for what in ("steps", "batch"))
    model = partial(FourDM, cfg, motion=name == "motion")
    says = "" if cfg.unet.image_channels == 3 else "Latents and CLIP's tokens are taken as made before."
    return Stage(model, part, [Case(1.0, objects)], steps, batch, preset.parts, True, says=says)


def _frames(cfg, n: int, frames: int, views: int) -> Tensor:
    side = cfg.image_size if cfg.unet.image_channels == 3 else cfg.image_size // 8
    return torch.empty(n, frames, views, cfg.unet.image_channels, side, side)


def _conditions(cfg, n: int, frames: int) -> dict[str, Tensor]:
    """What a model on latents reads beside the video: CLIP's 257 tokens of every frame, and 77 of a caption."""
    given = {}
    if cfg.unet.image_channels != 3:
        given["tokens"] = torch.empty(n, frames, 257, cfg.unet.token_dim)
    if cfg.unet.text_dim:
        given["text"] = torch.empty(n, 77, cfg.unet.text_dim)
    return given


class _Distillation(nn.Module):
    """A scene, its guidance model, and, for latents, what makes them."""

    def __init__(self, config: SceneConfig, guidance_model: Any):
        super().__init__()
        self.scene, self.guidance_model, self.encoder = DynamicNeRF(config.nerf), FourDM(guidance_model), None
        if guidance_model.unet.image_channels != 3:
            try:
                from diffusers import AutoencoderKL
            except ImportError:
                raise ValueError('the encoder is of diffusers: pip install "fourd-minimal[pretrained]".') from None
            down, up = ["DownEncoderBlock2D"] * 4, ["UpDecoderBlock2D"] * 4
            widths = [128, 256, 512, 512]
            self.encoder = AutoencoderKL(3, 3, down, up, widths, layers_per_block=2, latent_channels=4).encoder


def _scene_distillation(preset: SceneConfig) -> Stage:
    guidance_model = FOUR_DM[next((name for name, value in SCENES.items() if value.nerf == preset.nerf), "full")].model
    frames, views = guidance_model.times, guidance_model.views
    images = frames * views

    def step(size: int, model: _Distillation, n: int, tally: Tally) -> Tensor:
        with tally.times(1 / preset.guidance_every):
            guide(size, model, tally)
        rays = preset.pixels or images * size**2
        return _backward_rays(rays, model.scene, preset)

    def guide(size: int, model: _Distillation, tally: Tally) -> None:
        rays = images * size**2
        held = int(HELD * rays * preset.nerf.n_samples)
        at_once = min(held, AT_ONCE)
        with torch.no_grad(), tally.times(held / at_once):
            model.scene(torch.empty(at_once, 3), torch.empty(at_once))
        x = torch.empty(images, 3, guidance_model.image_size, guidance_model.image_size, requires_grad=True)
        seen = model.encoder(x)[:, :4] if model.encoder else x
        z, t = seen.detach().unflatten(0, (frames, views)), torch.zeros(2, dtype=torch.long)
        video = _frames(guidance_model, 2, frames, 1)[:, :, 0]
        cameras, both = torch.empty(2, views, 4, 4), z.expand(2, *z.shape)
        conditions = _conditions(guidance_model, 2, frames)
        with torch.no_grad():
            target = model.guidance_model.denoise(both, t, cameras, video, **conditions)[0]
        if model.encoder:
            (seen - target.flatten(0, 1)).square().sum().backward()

    def cases() -> Iterator[Case]:
        for share, size in _shares(preset.sizes, preset.n_steps):
            yield Case(share, partial(step, size))

    says = (
        f"Of the samples along rays, {HELD:.0%} lie where something is, we assume. The anchor and the sampled videos "
        "are not counted. The field is plain torch; the paper has fused kernels. Fewer pixels are less of each step."
    )
    model = partial(_Distillation, preset, guidance_model)
    fewer = tuple(
        (f"--settings.pixels {n}", partial(_scene_distillation, replace(preset, pixels=n)))
        for n in (2**k for k in range(16, 8, -2))
        if n < (preset.pixels or images * preset.sizes[-1][1] ** 2)
    )
    return Stage(model, lambda m: m.scene, [*cases()], preset.n_steps, 1, 1, False, otherwise=fewer, says=says)


def _backward_rays(rays: int, scene: DynamicNeRF, preset: SceneConfig) -> Tensor:
    """The gradient's pass through the field, with the orientation loss, at so many rays."""
    samples = preset.nerf.n_samples
    held = int(HELD * rays * samples)
    points, times, directions = torch.empty(held, 3), torch.empty(held), torch.empty(held, 3)
    if preset.orientation.begin or preset.orientation.end:
        sigma, rgb = scene.with_orientation(points, times, directions)
    else:
        sigma, rgb = scene(points, times)
    everywhere = rays * samples
    density = sigma.new_zeros(everywhere).index_copy(0, torch.zeros(held, dtype=torch.long), sigma)
    colour = rgb.new_zeros(everywhere, rgb.shape[1]).index_copy(0, torch.zeros(held, dtype=torch.long), rgb)
    shape = rays, samples
    seen = composite(density.view(shape), colour.view(*shape, -1), torch.empty(shape))
    return (seen.rgb.square().mean() + seen.opacity.square().mean()) / 2


MAKERS = {
    "four_real_video": (_four_real_video, PRESETS, "sync"),
    "upsampler": (_upsampler, UPSAMPLERS, None),
    "text_to_video": (_text_to_video, TEXT_TO_VIDEO, None),
    "four_diffusion": (_four_diffusion, FOUR_DM, "motion"),
    "scene_distillation": (_scene_distillation, SCENES, None),
}
"""How a stage is made of a preset, where presets are, and which stage is meant by default."""
