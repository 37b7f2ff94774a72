"""Text to two videos: the first step of the paper's chain "text -> two videos -> 4D", in small.

Section 4.2 of 4Real-Video: its inputs, a fixed-view video and a freeze-time video that start at the same picture, come
from a text-to-video model and from a model that moves the camera through a still scene. Here both are one network, the
base model's DiT with cross-attention to words:

    caption -> fixed-view video                            context "dynamic", no frame known
    caption, its first frame -> freeze-time video          context "freeze", the first frame known

Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598): x = x_uncond + g (x_cond - x_uncond), on predicted
clean frames, which are then clamped to [-1, 1].

Departures: the paper's text encoder is a large language model's; here it is a table with one learned vector per word of
a vocabulary of two dozen, and a caption is the set of its words. In training words are dropped one by one, so that a
single word works as well: "box", "red".
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fourd_minimal.rectified_flow import euler
from fourd_minimal.systems.pixels import check_pixels
from fourd_minimal.systems.weights import Pretrained
from fourd_minimal.video_dit import Context, VideoDiT, VideoDiTConfig

SILENT = frozenset(["a", "an", "and", "on", "the", "ground"])
"""Words without a vector, which are skipped."""


@dataclass(frozen=True)
class TextToVideoConfig:
    """The network, its words, and the videos it was trained for."""

    dit: VideoDiTConfig = field(default_factory=lambda: VideoDiTConfig(text_dim=64))
    words: tuple[str, ...] = ()
    slots: int = 6
    """The most words of one caption."""
    views: int = 4
    times: int = 4
    shift: float = 3.0
    """Of noise levels towards 1, in training and in sampling; `rectified_flow.shift_sigma`."""

    def __post_init__(self):
        if not self.words or len(set(self.words)) < len(self.words):
            raise ValueError(f"words is {self.words}; expected at least one, and each once.")
        for name, least in dict(slots=1, views=2, times=2).items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least {least}.")
        if self.shift <= 0:
            raise ValueError(f"shift is {self.shift}; expected above 0.")
        if self.dit.text_dim < 1:
            raise ValueError(f"text_dim is {self.dit.text_dim}; expected at least 1.")


class TextToVideo(Pretrained):
    """Captions in, videos out.

    >>> TextToVideo.from_pretrained("toy").config.words[:2]
    ('red', 'orange')
    """

    config_class, shipped, file = TextToVideoConfig, "text_to_video_toy", "text_to_video.safetensors"

    def __init__(self, config: TextToVideoConfig):
        super().__init__()
        self.config = config
        self.dit = VideoDiT(config.dit)
        self.words = nn.Embedding(1 + len(config.words), config.dit.text_dim)  # 0: no word

    def encode(self, captions: Sequence[str]) -> Int[Tensor, "b slots"]:
        """Captions -> numbers of words, each once, 0 where there is none.

        Raises:
            ValueError: no captions, a word outside the vocabulary, or too many words.
        """
        if not captions:
            raise ValueError("captions is empty; expected at least one.")
        known = {word: number for number, word in enumerate(self.config.words, 1)}
        encoded = torch.zeros(len(captions), self.config.slots, dtype=torch.long)
        for row, caption in zip(encoded, captions, strict=True):
            spoken = caption.lower().replace(",", " ").replace(".", " ").split()
            words = [word for word in dict.fromkeys(spoken) if word not in SILENT]
            if strange := [word for word in words if word not in known]:
                raise ValueError(f"{strange[0]!r} of {caption!r} is unknown; expected words of {', '.join(known)}.")
            if len(words) > self.config.slots:
                raise ValueError(f"{caption!r} has {len(words)} words; expected at most {self.config.slots}.")
            row[: len(words)] = torch.tensor([known[word] for word in words], dtype=torch.long)
        return encoded

    def denoise(
        self,
        x: Float[Tensor, "b f c h w"],
        sigma: Float[Tensor, " b"],
        seen: Bool[Tensor, "b f"],
        clean: Float[Tensor, "b f c h w"],
        context: Context,
        words: Int[Tensor, "b slots"],
    ) -> Float[Tensor, "b f c h w"]:
        """Clean frames from a noisy video, some frames of it, and words. As `FourRealVideo.denoise_video` otherwise."""
        x = torch.where(seen[:, :, None, None, None], clean, x)
        return self.dit(x, sigma[:, None] * ~seen, seen, clean, context, self.words(words))

    @torch.no_grad()
    def sample(
        self,
        captions: Sequence[str],
        context: Context,
        first: Float[Tensor, "b c h w"] | None = None,
        n_steps: int = 16,
        guidance: float = 2.0,
        seed: int = 0,
    ) -> Float[Tensor, "b f c h w"]:
        """Videos that captions describe; everything in [-1, 1].

        Args:
            captions: one for each video.
            context: "dynamic" for fixed-view videos, "freeze" for freeze-time videos.
            first: their first frames in [-1, 1], where these are known.
            n_steps, guidance, seed: Euler steps, guidance (1 is none), and of the noise.

        Raises:
            ValueError: a caption of unknown words, or first frames of another shape or range.
        """
        b, cfg = len(captions), self.config
        device = self.words.weight.device
        words = self.encode(captions).to(device)
        frames = cfg.times if context == "dynamic" else cfg.views
        clean = torch.zeros(b, frames, cfg.dit.channels, *cfg.dit.image_size, device=device)
        seen = torch.zeros(b, frames, dtype=torch.bool, device=device)
        if first is not None:
            if first.shape != clean[:, 0].shape:
                raise ValueError(f"first has shape {tuple(first.shape)}; expected {tuple(clean[:, 0].shape)}.")
            check_pixels("(first + 1) / 2", (first + 1) / 2)
            clean[:, 0], seen[:, 0] = first, True
        given = seen[:, :, None, None, None]

        def velocity(x: Tensor, sigma: float) -> Tensor:
            levels, twice = torch.full((2 * b,), sigma, device=device), [torch.cat([a, a]) for a in (seen, clean)]
            captions = torch.cat([words, torch.zeros_like(words)])
            both = self.denoise(torch.cat([x, x]), levels, *twice, context, captions)
            conditional, unconditional = both.chunk(2)
            predicted = unconditional + guidance * (conditional - unconditional)
            return torch.where(given, 0.0, (x - predicted.clamp(-1, 1)) / sigma)

        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed)).to(device)
        *_, sample = euler(velocity, torch.where(given, clean, noise), n_steps, cfg.shift)
        return sample

    def generate(
        self, caption: str, n_steps: int = 16, guidance: float = 2.0, seed: int = 0
    ) -> tuple[Float[Tensor, "t 3 h w"], Float[Tensor, "v 3 h w"]]:
        """A caption in, a fixed-view and a freeze-time video out; in [0, 1]. They start at the same picture.

        Raises:
            ValueError: a caption of unknown words, or without any word of the vocabulary.
        """
        if not self.encode([caption]).any():
            raise ValueError(f"{caption!r} has no known word; expected words of {', '.join(self.config.words)}.")
        fixed = self.sample([caption], "dynamic", None, n_steps, guidance, seed).clamp(-1, 1)
        freeze = self.sample([caption], "freeze", fixed[:, 0], n_steps, guidance, seed + 1).clamp(-1, 1)
        return (fixed[0] + 1) / 2, (freeze[0] + 1) / 2
