"""Stable Diffusion and AnimateDiff as a guidance model: score distillation from public weights, for a caption.

4Diffusion distils 4DM, whose weights are not public. This model guides in its place (`systems.guidance.GuidanceModel`),
with a caption as the condition instead of the video:

    z  = scale E(x)                       every frame of every view, through the encoder of the autoencoder
    z0 = the guided prediction            at one t, for all of them: frames by AnimateDiff's motion modules,
                                          views by attention over all views of a frame (`animate_diff.joint_views`)
    L  = 1/2 |z - sg[z0]|^2 / images      `sds.py`; its gradient reaches the renders through E

Stable Diffusion has no camera conditioning. As in DreamFusion (Poole et al. 2022, section 3.2) the caption ends in
"front view", "side view" or "back view", by azimuth, with the front at 0 degrees.

Departures. ImageDream and MVDream were trained on views of one object; here views are joined without any training, so
that they agree in style and not in shape: expect the Janus problem. AnimateDiff's motion modules were trained with
linear betas, Stable Diffusion with betas linear in the square root; with motion, the former are used. The encoder's
mean is taken, not a draw. There is no "overhead view": cameras have one elevation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fourd_minimal.ddpm import NoiseSchedule
from fourd_minimal.pretrained.animate_diff import joint_views
from fourd_minimal.pretrained.published import library, load, load_model
from fourd_minimal.sds import Distilled, Guess, score_distillation

SIDES = "front view", "side view", "back view"
"""How captions end."""


@dataclass(frozen=True)
class StableGuideConfig:
    """Which renders it takes, and from where."""

    views: int = 4
    """Evenly around the object."""
    times: int = 8
    """Frames; AnimateDiff was trained on 16."""
    image_size: int | None = None
    """Pixels per side of the renders; what the U-Net was trained for when left out."""
    elevation_deg: float = 0.0
    radius: float = 3.9
    """Distance of the cameras, in scene units."""
    joint: bool = True
    """Views attend to each other; without, each is a clip by itself."""
    at_once: int = 4
    """Renders that the encoder keeps in memory together."""

    def __post_init__(self):
        for name in ("views", "times", "image_size", "at_once"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1.")


def side(azimuths_deg: Float[Tensor, " v"]) -> Int[Tensor, " v"]:
    """Which of `SIDES` faces a camera: the front and the back are 90 degrees wide.

    >>> side(torch.tensor([0.0, 44.0, 46.0, 180.0, 300.0, 359.0]))
    tensor([0, 0, 1, 2, 1, 0])
    """
    away = ((azimuths_deg + 180) % 360 - 180).abs()
    return (away >= 45).long() + (away > 135).long()


class StableGuide(nn.Module):
    """The guidance model; frozen.

    Args:
        unet: diffusers' `UNetMotionModel`, or a `UNet2DConditionModel`, for frames by themselves.
        vae: diffusers' `AutoencoderKL`.
        schedule: of the noise that the U-Net was trained with.
        text: tokens of the caption from the front, the side and the back, and of the negative prompt.
        config: which renders it takes.
        predicts: as the U-Net's scheduler names it: "epsilon" or "v_prediction".

    Raises:
        ValueError: a U-Net for other latents, tokens or conditions; frames that encoder or motion modules cannot take.
    """

    def __init__(
        self,
        unet: nn.Module,
        vae: nn.Module,
        schedule: NoiseSchedule,
        text: Float[Tensor, "4 l d"],
        config: StableGuideConfig | None = None,
        predicts: str = "epsilon",
    ):
        super().__init__()
        self.unet, self.vae, self.schedule, self.predicts = unet, vae, schedule, predicts
        self.config, expected = config or StableGuideConfig(), unet.config
        shrink = 2 ** (len(vae.config.block_out_channels) - 1)
        if self.config.image_size is None:
            self.config = replace(self.config, image_size=expected.sample_size * shrink)
        self.register_buffer("text", text)
        self.register_buffer("abar", schedule.abar)
        size, unit = self.config.image_size, shrink * 2 ** (len(expected.block_out_channels) - 1)
        self.moves = "motion_max_seq_length" in expected
        if expected.in_channels != vae.config.latent_channels:
            channels = expected.in_channels, vae.config.latent_channels
            raise ValueError(f"unet takes {channels[0]} channels and vae gives {channels[1]}; expected as many.")
        if kind := expected.get("addition_embed_type"):
            raise ValueError(f"unet has the condition {kind!r}; expected Stable Diffusion 1 or 2, with text alone.")
        if text.shape[-1] != expected.cross_attention_dim:
            raise ValueError(f"text has {text.shape[-1]} channels; expected {expected.cross_attention_dim}.")
        if size % unit:
            raise ValueError(f"image_size is {size}; expected a multiple of {unit}.")
        if self.moves and self.config.times > expected.motion_max_seq_length:
            most = expected.motion_max_seq_length
            raise ValueError(f"times is {self.config.times}; expected at most {most}, for the motion modules.")
        if predicts not in ("epsilon", "v_prediction"):
            raise ValueError(f"predicts is {predicts!r}; expected 'epsilon' or 'v_prediction'.")
        self.requires_grad_(False).eval()

    def encode(self, renders: Float[Tensor, "*b 3 h w"]) -> Float[Tensor, "*b c y x"]:
        """Scaled latents of pictures in [0, 1]; activations are recomputed for the gradient."""
        pictures = (2 * renders - 1).reshape(-1, *renders.shape[-3:]).to(self.vae.dtype)
        few = [
            checkpoint(lambda some: self.vae.encode(some).latent_dist.mode(), some, use_reentrant=False)
            for some in pictures.split(self.config.at_once)
        ]
        latents = torch.cat(few).float()
        return (latents * self.vae.config.scaling_factor).reshape(*renders.shape[:-3], *few[0].shape[1:])

    @torch.no_grad()
    def denoise(
        self, z: Float[Tensor, "b t v c h w"], t: Int[Tensor, ""], text: Float[Tensor, "b v l d"]
    ) -> Float[Tensor, "b t v c h w"]:
        """The noise predicted in latents, all frames and views of an object at once."""
        b, frames, views = z.shape[:3]
        rows, captions = ("(b v) c t h w", "(b v t) l d") if self.moves else ("(b t v) c h w", "(b t v) l d")
        given = rearrange(z, f"b t v c h w -> {rows}").to(self.unet.dtype)
        tokens = repeat(text, f"b v l d -> {captions}", t=frames).to(given)
        with joint_views(self.unet, views if self.config.joint else 1):
            out = self.unet(given, t, encoder_hidden_states=tokens).sample
        sizes = dict(b=b, v=views) if self.moves else dict(b=b, t=frames)
        out = rearrange(out, f"{rows} -> b t v c h w", **sizes).to(z)
        return out if self.predicts == "epsilon" else self.schedule.eps_from_velocity(z, out, t)

    def noise_predictor(self, azimuths_deg: Float[Tensor, " v"]) -> Guess:
        """The conditional and the unconditional noise predicted in latents `(t, v, c, h, w)`."""
        captions = self.text[side(azimuths_deg).to(self.text.device)]
        both = torch.stack([captions, self.text[3:].expand_as(captions)])
        return lambda z, t: tuple(self.denoise(z.expand(2, *z.shape), t, both))

    def distill(
        self,
        renders: Float[Tensor, "t v 3 h w"],
        azimuths_deg: Float[Tensor, " v"],
        t: Int[Tensor, ""],
        guidance: float = 50.0,
        rescale: float = 0.5,
        generator: torch.Generator | None = None,
    ) -> Distilled:
        """Score distillation of all frames of all views at once.

        Args:
            renders: in [0, 1], as large as configured; the loss has a gradient at them.
            azimuths_deg: of the views, the front at 0.
            t: one noise level for all.
            guidance, rescale: see `sds.score_distillation`; the defaults are MVDream's, for captions.
            generator: of the noise.

        Returns:
            the loss, and the target latents.
        """
        options = dict(guidance=guidance, rescale=rescale, generator=generator)
        return score_distillation(self.encode(renders), self.noise_predictor(azimuths_deg), self.abar, t, **options)

    @classmethod
    def from_pretrained(
        cls,
        model: str,
        prompt: str,
        motion: str | None = None,
        negative: str = "",
        config: StableGuideConfig | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> "StableGuide":
        """A published Stable Diffusion by its name, or a folder with one; safetensors only.

        Args:
            model: with `unet`, `vae`, `scheduler`, `text_encoder` and `tokenizer`.
            prompt: the caption; "front view" and so on are added.
            motion: a motion adapter of AnimateDiff for this model, or a folder with one; without, frames are denoised
                by themselves.
            negative: the negative prompt.
            config: which renders it takes.
            dtype: of the U-Net; the autoencoder, through which gradients go, keeps 32 bits.

        Raises:
            ValueError: no prompt; no diffusers or transformers; parts that are missing, lack tensors or do not fit.
        """
        if not prompt.strip():
            raise ValueError(f"prompt is {prompt!r}; expected a caption.")
        diffusers = library("diffusers")
        unet = load_model(diffusers.UNet2DConditionModel, model, "unet", torch_dtype=dtype)
        if motion is not None:
            adapter = load_model(diffusers.MotionAdapter, motion, torch_dtype=dtype)
            try:
                unet = diffusers.UNetMotionModel.from_unet2d(unet, adapter)
            except (ValueError, RuntimeError) as reason:
                said = str(reason).strip().partition("\n")[0].rstrip(".:")
                raise ValueError(f"motion {motion!r} does not fit {model!r} ({said}).") from None
        vae = load_model(diffusers.AutoencoderKL, model, "vae")
        betas = {} if motion is None else dict(beta_schedule="linear")  # AnimateDiff's
        scheduler = load(diffusers.DDIMScheduler.from_pretrained, model, "scheduler", **betas)
        schedule = NoiseSchedule(len(scheduler.alphas_cumprod))
        schedule.abar = scheduler.alphas_cumprod.float()
        text = read_captions(model, [*(f"{prompt.strip()}, {side}" for side in SIDES), negative])
        return cls(unet, vae, schedule, text, config, scheduler.config.prediction_type)


@torch.no_grad()
def read_captions(model: str, captions: Sequence[str]) -> Float[Tensor, "n l d"]:
    """Tokens of captions, as the text encoder of a published Stable Diffusion gives them to its U-Net."""
    transformers = library("transformers")
    tokenizer = load(transformers.CLIPTokenizer.from_pretrained, model, "tokenizer")
    reader = load_model(transformers.CLIPTextModel, model, "text_encoder")
    if len(tokenizer) < (size := reader.config.vocab_size):  # without files transformers makes up an empty one
        raise ValueError(f"the tokenizer of {model!r} has {len(tokenizer)} tokens; expected {size}.")
    longest = reader.config.max_position_embeddings
    options = dict(padding="max_length", truncation=True, max_length=longest, return_tensors="pt")
    return reader.eval()(tokenizer(list(captions), **options).input_ids)[0].float()
