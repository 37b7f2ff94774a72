"""4DM: one video of an object becomes multi-view videos of it.

4Diffusion, section 3.2. The base is an image-conditioned multi-view model (`multiview_unet.py`): noisy views of one
moment, conditioned on that moment's picture, become clean views. It knows no time. 4DM puts motion modules
(`motion_module.py`) between its blocks and trains these alone, so that the moments of a video agree.

    base   x (b, 1, v, c, h, w), reference (b, 1, c, h, w)
    4DM    x (b, f, v, c, h, w), reference (b, f, c, h, w): the input video, frame by frame

Classifier-free guidance: x0 = x0_uncond + g (x0_cond - x0_uncond); unconditional means a reference and tokens of zeros.

Longer videos than it was trained for: every step predicts windows of `times` frames that overlap by half, and blends
predictions where they overlap (MultiDiffusion, Bar-Tal et al. 2023). The paper makes 8 frames and no more.

Departures at toy scale: pixels, not latents; x0 and not noise is predicted, which learns in half the time; tokens of
the reference are its patches, not CLIP's; cameras are relative to the reference's camera, so that "azimuth 90" means 90
degrees from where the input was recorded. (The paper's are in the object's own frame, which the model must infer; with
`object_frame`, as in `full`, so are ours.)
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fourd_minimal.cameras import circular_trajectory
from fourd_minimal.ddpm import NoiseSchedule, ddim
from fourd_minimal.motion_module import MotionModule
from fourd_minimal.multiview_unet import MultiviewUNet, MultiviewUNetConfig
from fourd_minimal.systems.pixels import check_pixels
from fourd_minimal.systems.weights import Pretrained, fingerprint, load_into, load_weights, save_weights

Part = Literal["base", "motion"]
FILES: dict[Part, str] = {"base": "base.safetensors", "motion": "motion.safetensors"}


@dataclass(frozen=True)
class FourDMConfig:
    """The network, and the videos it was trained for."""

    unet: MultiviewUNetConfig = field(default_factory=MultiviewUNetConfig)
    image_size: int = 256
    """Of the square frames, in pixels."""
    views: int = 4
    """Views made at a time, evenly around the object."""
    times: int = 8
    """Frames of a video."""
    elevation_deg: float = 0.0
    """Of all cameras."""
    radius: float = 3.9
    """Distance of all cameras, in scene units; the camera conditioning holds directions only."""
    token_patch: int = 8
    """Side of the reference's patches that become its tokens, in pixels."""
    predicts: Literal["x0", "eps"] = "x0"
    n_heads: int = 8
    """Heads of the motion modules."""
    max_frames: int = 32
    """The longest clip that the motion modules have positions for."""
    norm_groups: int = 32
    """Groups of the motion modules' norms."""
    object_frame: bool = False
    """Camera conditioning in the object's own frame, as ImageDream's, where azimuth 0 faces its front; else in the
    frame of the reference's camera."""

    def __post_init__(self):
        unet, side = self.unet, self.unet.patch * 2 ** (len(self.unet.widths) - 1)
        latent = unet.image_channels != 3
        if not latent and (self.image_size % side or self.image_size % self.token_patch):
            raise ValueError(f"image_size is {self.image_size}; expected multiples of {side} and {self.token_patch}.")
        if not latent and unet.token_dim != unet.image_channels * self.token_patch**2:
            raise ValueError(f"token_dim is {unet.token_dim}; a patch has {unet.image_channels * self.token_patch**2}.")
        if self.views < 1 or self.times < 1:
            raise ValueError(f"views, times are {self.views}, {self.times}; expected at least 1 of each.")

    def camera_conditioning(self, c2w: Float[Tensor, "*b n 4 4"]) -> Float[Tensor, "*b m 4 4"]:
        """Poses of all cameras but the first, the reference's, as the network takes them."""
        return c2w[..., 1:, :, :] if self.object_frame else relative(c2w)

    @property
    def motion_options(self) -> dict[str, int]:
        return dict(n_heads=self.n_heads, max_frames=self.max_frames, norm_groups=self.norm_groups)


def add_motion_modules(unet: MultiviewUNet, **options) -> MultiviewUNet:
    """Put an untrained motion module, the identity, at each of the U-Net's places, in place; freeze all else."""
    unet.requires_grad_(False)
    unet.temporal = nn.ModuleList(MotionModule(channels, **options) for channels in unet.places)
    return unet


class FourDM(Pretrained):
    """The multi-view video diffusion model."""

    config_class, shipped, file = FourDMConfig, "four_diffusion_toy", FILES["base"]

    def __init__(self, config: FourDMConfig, motion: bool = True):
        super().__init__()
        self.config, self.schedule = config, NoiseSchedule()
        self.unet = MultiviewUNet(config.unet)
        if motion:
            add_motion_modules(self.unet, **config.motion_options)

    @property
    def motion(self) -> nn.ModuleList:
        """All that 4DM trains."""
        return self.unet.temporal

    def tokens(self, reference: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k d"]:
        """Tokens of the reference: its patches."""
        patch = self.config.token_patch
        return rearrange(reference, "b c (y p) (x q) -> b (y x) (c p q)", p=patch, q=patch)

    def denoise(
        self,
        z: Float[Tensor, "b f v c h w"],
        t: Int[Tensor, " b"],
        cameras: Float[Tensor, "b v 4 4"],
        reference: Float[Tensor, "b r c h w"],
        shown: Bool[Tensor, " b"] | None = None,
        tokens: Float[Tensor, "b r k d"] | None = None,
        text: Float[Tensor, "b l e"] | None = None,
    ) -> Float[Tensor, "b f v c h w"]:
        """Clean frames, predicted.

        Args:
            z: noisy frames.
            t: step of the schedule, one per object: all views and frames share it.
            cameras: of `FourDMConfig.camera_conditioning`.
            reference: the input video, in [-1, 1]; as many frames as `z` has.
            shown: where it is False the prediction is unconditional: reference and tokens are zeros.
            tokens: of the reference, where they are not its patches: CLIP's, in `full`.
            text: tokens of a caption, where the model has text.

        Raises:
            ValueError: counts of frames that differ, or text missing or given where there is none.
        """
        b, f = z.shape[:2]
        if reference.shape[1] != f:
            raise ValueError(f"reference has {reference.shape[1]} frames and z has {f}; expected as many.")
        if (text is None) != (self.config.unet.text_dim is None):
            raise ValueError("text is missing; expected tokens." if text is None else "text is given; expected none.")
        tokens = self.tokens(reference.flatten(0, 1)) if tokens is None else tokens.flatten(0, 1)
        if shown is not None:
            reference = reference * shown[:, None, None, None, None]
            tokens = tokens * shown.repeat_interleave(f)[:, None, None]
        t_each, cameras, text = (a if a is None else a.repeat_interleave(f, 0) for a in (t, cameras, text))
        out = self.unet(z.flatten(0, 1), t_each, cameras, reference.flatten(0, 1), tokens, text, frames=f)
        out = rearrange(out, "(b f) v c h w -> b f v c h w", f=f)
        return out if self.config.predicts == "x0" else self.schedule.x0_from_eps(z, out, t)

    def cameras(self, azimuths_deg: Sequence[float]) -> Float[Tensor, "v 4 4"]:
        """Poses relative to that of the input video's camera, or in the object's own frame, as configured."""
        azimuth = torch.tensor([0.0, *azimuths_deg])
        return self.config.camera_conditioning(
            circular_trajectory(azimuth, self.config.elevation_deg, self.config.radius)
        )

    @torch.no_grad()
    def denoising(
        self,
        reference: Float[Tensor, "b f c h w"],
        cameras: Float[Tensor, "b v 4 4"],
        n_steps: int = 32,
        guidance: float = 2.0,
        noise: Float[Tensor, "b r v c h w"] | None = None,
        seed: int = 0,
        window: int | None = None,
        tokens: Float[Tensor, "b f k d"] | None = None,
        text: tuple[Float[Tensor, "b l e"], Float[Tensor, "b l e"]] | None = None,
    ) -> Iterator[Float[Tensor, "b f v c h w"]]:
        """DDIM over all views and frames at once; pixels in [-1, 1]; yields every state, the last is the sample.

        Args:
            reference: the input videos, in [-1, 1].
            cameras: of `FourDMConfig.camera_conditioning`.
            n_steps: of DDIM.
            guidance: 1 is none.
            noise: where to start; drawn with `seed`, independent for every view and frame, when left out.
            window: frames predicted together; all of them when left out.
            tokens: see `denoise`.
            text: tokens of a caption and of the negative prompt, where the model has text.
        """
        b, f, c, h, w = reference.shape
        if noise is None:
            shape = b, f, cameras.shape[1], c, h, w
            noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(reference)

        def predict(z: Tensor, t: Tensor, frames: slice, shown: bool) -> Tensor:
            some = None if tokens is None else tokens[:, frames]
            caption = None if text is None else text[not shown]
            given = cameras, reference[:, frames], torch.full((b,), shown, device=z.device), some, caption
            return self.denoise(z[:, frames], t.expand(b), *given)

        def guided(z: Tensor, t: Tensor, frames: slice) -> Tensor:
            conditional = predict(z, t, frames, True)
            if guidance == 1:
                return conditional
            unconditional = predict(z, t, frames, False)
            return unconditional + guidance * (conditional - unconditional)

        def eps_fn(z: Tensor, t: Tensor) -> Tensor:
            clean = blend_windows(lambda frames: guided(z, t, frames), f, min(window or f, f))
            if self.config.unet.image_channels == 3:
                clean = clean.clamp(-1, 1)
            return self.schedule.eps_from_x0(z, clean, t)

        yield from ddim(eps_fn, noise, self.schedule, n_steps, to_clean=True)

    def sample(
        self,
        video: Float[Tensor, "t c h w"],
        azimuths_deg: Sequence[float] = (0.0, 90.0, 180.0, 270.0),
        n_steps: int = 32,
        guidance: float = 2.0,
        seed: int = 0,
        windows: bool = False,
    ) -> Float[Tensor, "v t 3 h w"]:
        """A video of an object on white in, multi-view videos out; in [0, 1].

        Args:
            video: square frames of `config.image_size`.
            azimuths_deg: of the views, relative to the input's camera, or to the object's front, as configured; the
                model was trained on views evenly around.
            n_steps: of DDIM.
            guidance: 1 is none.
            seed: of the noise.
            windows: predict `times` frames at a time, for longer videos than the model was trained for.

        Raises:
            ValueError: frames of another size or range, too many frames, no views, angles or guidance not finite.
        """
        check_pixels("video", video)
        size, most = self.config.image_size, self.config.max_frames
        if video.ndim != 4 or tuple(video.shape[1:]) != (3, size, size):
            raise ValueError(f"video has shape {tuple(video.shape)}; expected (t, 3, {size}, {size}).")
        if len(video) > most and not windows:
            raise ValueError(f"video has {len(video)} frames; expected at most {most}, or windows=True.")
        if not len(azimuths_deg) or not all(map(math.isfinite, azimuths_deg)):
            raise ValueError(f"azimuths_deg is {tuple(azimuths_deg)}; expected one or more finite angles.")
        if not math.isfinite(guidance):
            raise ValueError(f"guidance is {guidance}; expected a finite number.")
        reference = video[None].to(next(self.parameters())) * 2 - 1
        cameras = self.cameras(azimuths_deg)[None].to(reference)
        window = self.config.times if windows else None
        *_, sample = self.denoising(reference, cameras, n_steps, guidance, seed=seed, window=window)
        return rearrange((sample[0].clamp(-1, 1) + 1) / 2, "f v c h w -> v f c h w").to(video)

    @classmethod
    def from_pretrained(cls, name: str | Path = "toy", motion: bool | None = None) -> "FourDM":
        """Load what training left in a folder: "toy" for the weights shipped with the package, or a folder.

        Args:
            name: "toy" or a folder with `base.safetensors`, and `motion.safetensors` where there is motion.
            motion: False gives the base that 4DM began with, frame by frame; by default, what the folder has.

        Raises:
            ValueError: a file is missing, cut short, of another kind or of another configuration.
        """
        folder = cls.folder(name)
        tensors, config, notes = load_weights(folder / FILES["base"], FourDMConfig)
        model = cls(config, motion=False)
        load_into(model, tensors, folder / FILES["base"])
        if (folder / FILES["motion"]).exists() if motion is None else motion:
            began_with = fingerprint(model)
            tensors, config, notes = load_weights(folder / FILES["motion"], FourDMConfig)
            if config != model.config or notes.get("base") != began_with:
                raise ValueError(f"{folder / FILES['motion']} was trained in another base than the one beside it.")
            add_motion_modules(model.unet, **config.motion_options)
            load_into(model.motion, tensors, folder / FILES["motion"])
        model.notes = notes
        return model.requires_grad_(False)

    def save_pretrained(
        self, folder: str | Path, part: Part | None = None, dtype: torch.dtype = torch.float16, **notes
    ) -> Path:
        """Write a part into a file that `from_pretrained` reads, by default all that there are; `notes` go inside."""
        if part is None:
            path = self.save_pretrained(folder, "base", dtype, **notes)
            return self.save_pretrained(folder, "motion", dtype, **notes) if [*self.motion.parameters()] else path
        base = {k: v for k, v in self.state_dict().items() if not k.startswith("unet.temporal.")}
        state = self.motion.state_dict() if part == "motion" else base
        if part == "motion":
            notes["base"] = fingerprint(base)
        return save_weights(Path(folder) / FILES[part], state, self.config, dtype, **notes)


def relative(c2w: Float[Tensor, "*b n 4 4"]) -> Float[Tensor, "*b m 4 4"]:
    """All poses but the first, relative to the first."""
    return torch.linalg.inv(c2w[..., :1, :, :]) @ c2w[..., 1:, :, :]


def blend_windows(
    predict: Callable[[slice], Float[Tensor, "b s v c h w"]], frames: int, window: int
) -> Float[Tensor, "b f v c h w"]:
    """Predictions window by window, blended where windows overlap, which they do by half.

    Args:
        predict: from a slice of the frames to clean frames.
        frames: of the whole video.
        window: frames of one window.
    """
    begin = sorted({*range(0, frames - window, max(1, window // 2)), frames - window})
    ramp = torch.arange(1, window + 1.0)
    weight, total, found = torch.minimum(ramp, ramp.flip(0))[:, None, None, None, None], 0.0, 0.0
    for first in begin:
        here = slice(first, first + window)
        made = predict(here)
        mask = weight.to(made)
        around = (0, 0) * 4 + (first, frames - window - first)
        found = found + F.pad(made * mask, around)
        total = total + F.pad(mask, around)
    return found / total
