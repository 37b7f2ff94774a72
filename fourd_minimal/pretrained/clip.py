"""CLIP's features of pictures and of captions, as `metrics.clip_i`, `clip_c` and `clip_score` take them.

Radford et al. 2021 (arXiv 2103.00020), by the transformers package. Pictures are prepared as CLIP's own are: the
shorter side becomes 224, bicubic and antialiased, the middle is cut out, and colours are standardised

    x' = (x - mean) / std          sizes, mean and std from the model's own preprocessor configuration

so what lies outside the middle square has no influence. Neither 4Real-Video nor 4Diffusion names its CLIP; numbers of
different ones do not compare, so the name belongs beside the number.

Departures: no rounding to 256 levels between resizing and standardising.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fourd_minimal.metrics import check
from fourd_minimal.pretrained.published import library, load, load_model


class Clip:
    """A CLIP with its preprocessing.

    Args:
        model: a `transformers.CLIPModel`.
        tokenizer: of its captions.
        processor: a `transformers.CLIPImageProcessor`, of which sizes, mean and std count.
        name: what to write beside a number.
        batch: pictures or captions at a time.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, processor: Any, name: str = "CLIP", batch: int = 64):
        self.model, self.tokenizer, self.name, self.batch = model.eval().requires_grad_(False), tokenizer, name, batch
        self.size, self.crop = (
            processor.size["shortest_edge"],
            tuple(processor.crop_size[side] for side in ("height", "width")),
        )
        self.mean, self.std = processor.image_mean, processor.image_std

    @classmethod
    def from_pretrained(
        cls, name: str | Path = "openai/clip-vit-large-patch14", device: str | torch.device = "cpu", batch: int = 64
    ) -> "Clip":
        """A published CLIP by its name, or a folder with one: safetensors, tokenizer, preprocessor configuration.

        Raises:
            ValueError: no transformers; no such folder; no network and nothing cached; weights that are no safetensors
                or lack a tensor.
        """
        transformers = library("transformers", "metrics")
        model = load_model(transformers.CLIPModel, str(name)).to(device)
        tokenizer = load(transformers.AutoTokenizer.from_pretrained, str(name))
        processor = load(transformers.AutoImageProcessor.from_pretrained, str(name))
        return cls(model, tokenizer, processor, f"CLIP ({name})", batch)

    def prepare(self, pictures: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 y x"]:
        """Pictures in [0, 1] as the network takes them: resized, their middle, standardised."""
        (h, w), shorter = pictures.shape[-2:], min(pictures.shape[-2:])
        size = [self.size if side == shorter else self.size * side // shorter for side in (h, w)]
        for y, x in ((h, size[1]), size):  # one axis after the other, as Pillow, which holds both results in range
            pictures = F.interpolate(pictures, (y, x), mode="bicubic", antialias=True).clamp(0, 1)
        top, left = ((whole - part) // 2 for whole, part in zip(size, self.crop, strict=True))
        middle = pictures[..., top : top + self.crop[0], left : left + self.crop[1]]
        mean, std = (torch.tensor(v).to(pictures)[:, None, None] for v in (self.mean, self.std))
        return (middle - mean) / std

    @torch.no_grad()
    def pictures(self, pictures: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Features of pictures in [0, 1], not of length 1; on the pictures' device.

        Raises:
            ValueError: see `metrics.check`.
        """
        check("pictures", pictures)
        weights = next(self.model.parameters())
        batches = (self.prepare(some.float()).to(weights) for some in pictures.split(self.batch))
        return torch.cat([_pooled(self.model.get_image_features(pixel_values=some)) for some in batches]).to(pictures)

    @torch.no_grad()
    def captions(self, captions: Sequence[str]) -> Float[Tensor, "n d"]:
        """Features of captions, not of length 1; what is beyond the 77 tokens that CLIP reads is left out.

        Raises:
            ValueError: no caption, or one string instead of several.
        """
        if isinstance(captions, str) or not captions:
            raise ValueError(f"captions is {captions!r}; expected a list of at least one caption.")
        device, longest = next(self.model.parameters()).device, self.model.config.text_config.max_position_embeddings
        options = dict(padding=True, truncation=True, max_length=longest, return_tensors="pt")
        found = []
        for start in range(0, len(captions), self.batch):
            tokens = self.tokenizer([*captions[start : start + self.batch]], **options).to(device)
            found.append(
                _pooled(self.model.get_text_features(**{k: tokens[k] for k in ("input_ids", "attention_mask")}))
            )
        return torch.cat(found).float()


def _pooled(found: Any) -> Float[Tensor, "n d"]:
    """Transformers 5 wraps the features, 4 does not."""
    return getattr(found, "pooler_output", found)
