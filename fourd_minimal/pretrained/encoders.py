"""The encoders of 4DM on latents: Stable Diffusion's autoencoder, CLIP's tokens of the video, tokens of a caption.

4Diffusion's base is ImageDream (section 3.1; Wang and Shi 2023), and these are its three encoders, all frozen:

    z      = scale (mean + std noise)        a draw from the posterior of Stable Diffusion's autoencoder
    tokens = CLIP's second last layer        257 of 1280 numbers for every frame of the video, the class token first
    text   = Stable Diffusion's tokens       77 of 1024 numbers for the caption

As in ImageDream, latents are drawn, the views' and the reference's; the noise is given, so that training can make it a
function of a step's number. CLIP is LAION's ViT-H/14, whose text half is also that of Stable Diffusion 2. Pictures are
prepared as CLIP's own: bicubic, antialiased, colours standardised.

Departures: no rounding to 256 levels between resizing and standardising. One caption serves all objects.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fourd_minimal.pretrained.published import library, load, load_model
from fourd_minimal.pretrained.stable_guide import read_captions


class Encoders(nn.Module):
    """All three; frozen.

    Args:
        vae: diffusers' `AutoencoderKL`.
        vision: transformers' `CLIPVisionModel`.
        text: tokens of the caption; None for a model without text.
        mean, std: of each colour, as CLIP saw them.
        at_once: pictures at a time.
    """

    def __init__(
        self,
        vae: nn.Module,
        vision: nn.Module,
        text: Float[Tensor, "l d"] | None = None,
        mean: Sequence[float] = (0.48145466, 0.4578275, 0.40821073),
        std: Sequence[float] = (0.26862954, 0.26130258, 0.27577711),
        at_once: int = 16,
    ):
        super().__init__()
        self.vae, self.vision, self.at_once = vae, vision, at_once
        self.register_buffer("text", text)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])
        self.requires_grad_(False).eval()

    @property
    def channels(self) -> int:
        """Of the latents."""
        return self.vae.config.latent_channels

    @property
    def shrink(self) -> int:
        """Pixels along a side of a latent."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def refuse_others(self, channels: int, token_dim: int, text_dim: int | None, image_size: int) -> None:
        """One sentence for latents, tokens or text of other sizes than a model's, or frames of broken latents."""
        text = None if self.text is None else self.text.shape[-1]
        for what, given, expected in (
            ("channels of latents", self.channels, channels),
            ("channels of image tokens", self.vision.config.hidden_size, token_dim),
            ("channels of text", text, text_dim),
        ):
            if given != expected:
                raise ValueError(f"encoders give {given} {what}; expected the model's {expected}.")
        if image_size % self.shrink:
            raise ValueError(f"image_size is {image_size}; expected a multiple of {self.shrink}, for latents.")

    @torch.no_grad()
    def latents(self, frames: Float[Tensor, "*b 3 h w"], noise: Float[Tensor, "*b c y x"]) -> Float[Tensor, "*b c y x"]:
        """Frames in [-1, 1] as the U-Net knows them: z = scale (mean + std noise)."""

        def draw(some: Tensor, noise: Tensor) -> Tensor:
            posterior = self.vae.encode(some).latent_dist
            return posterior.mean.float() + posterior.std.float() * noise

        pairs = zip(frames.flatten(0, -4).split(self.at_once), noise.flatten(0, -4).split(self.at_once), strict=True)
        with torch.autocast(frames.device.type, enabled=False):  # targets of training are not rounded
            drawn = torch.cat([draw(*pair) for pair in pairs]) * self.vae.config.scaling_factor
        return drawn.reshape(noise.shape)

    @torch.no_grad()
    def tokens(self, frames: Float[Tensor, "*b 3 s s"]) -> Float[Tensor, "*b k d"]:
        """CLIP's tokens of frames in [-1, 1]."""

        def read(some: Tensor) -> Tensor:
            return self.vision(self.prepare(some), output_hidden_states=True).hidden_states[-2].float()

        with torch.autocast(frames.device.type, enabled=False):
            found = torch.cat([read(some) for some in frames.flatten(0, -4).split(self.at_once)])
        return found.reshape(*frames.shape[:-3], *found.shape[1:])

    def prepare(self, frames: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n 3 y y"]:
        """Frames in [-1, 1] as CLIP expects them."""
        pictures, side = ((frames + 1) / 2).clamp(0, 1), self.vision.config.image_size
        for size in ((frames.shape[-2], side), (side, side)):  # one axis after the other, each kept in range, as Pillow
            pictures = F.interpolate(pictures, size, mode="bicubic", antialias=True).clamp(0, 1)
        return (pictures - self.mean) / self.std

    @classmethod
    def from_pretrained(
        cls, stable_diffusion: str, clip_vision: str, caption: str | None = "", at_once: int = 16
    ) -> "Encoders":
        """Published encoders by their names, or folders with them; safetensors only.

        Args:
            stable_diffusion: with `vae`, and for a caption `text_encoder` and `tokenizer`.
            clip_vision: a CLIP, or its vision alone, with the configuration of its preprocessor.
            caption: of all objects; None for a model without text.
            at_once: pictures at a time.

        Raises:
            ValueError: no diffusers or transformers; something is not there or lacks tensors.
        """
        diffusers, transformers = library("diffusers"), library("transformers")
        vae = load_model(diffusers.AutoencoderKL, stable_diffusion, "vae")
        vision = load_model(transformers.CLIPVisionModel, clip_vision)
        colours = load(transformers.AutoImageProcessor.from_pretrained, clip_vision)
        text = None if caption is None else read_captions(stable_diffusion, [caption])[0]
        return cls(vae, vision, text, colours.image_mean, colours.image_std, at_once)
