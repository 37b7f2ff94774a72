"""CLIP's features of pictures and of captions, as `metrics.clip_i`, `clip_c` and `clip_score` take them.

Radford et al. 2021 (arXiv 2103.00020), by the transformers package. Pictures are prepared as CLIP's own are: the
shorter side becomes 224, bicubic and antialiased, the middle is cut out, and colours are standardised

    x' = (x - mean) / std          sizes, mean and std from the model's own preprocessor configuration

so what lies outside the middle square is not seen. Neither 4Real-Video nor 4Diffusion names its CLIP; numbers of
different ones do not compare, so the name belongs beside the number.

Departures: no rounding to 256 levels between resizing and standardising.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from fourd_minimal.metrics import check

MISSING = "transformers cannot be imported: {}; CLIP and VideoScore want it (pip install -e '.[metrics]')."


class Clip:
    """A CLIP and how it wants its pictures.

    Args:
        model: a `transformers.CLIPModel`.
        tokenizer: of its captions.
        size: of the shorter side, to begin with.
        crop: height and width of the middle that it sees.
        mean: of each colour.
        std: of each colour.
        name: what to write beside a number.
        batch: pictures or captions at a time.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer,
        size: int,
        crop: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        name: str = "CLIP",
        batch: int = 64,
    ):
        self.model, self.tokenizer, self.name, self.batch = model.eval().requires_grad_(False), tokenizer, name, batch
        self.size, self.crop, self.mean, self.std = size, crop, mean, std

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path = "openai/clip-vit-large-patch14",
        device: str | torch.device = "cpu",
        batch: int = 64,
    ) -> "Clip":
        """A published CLIP by its name, or a folder with one: safetensors, tokenizer, preprocessor configuration.

        Raises:
            ValueError: no transformers; no such folder; no network and nothing cached; weights that are no safetensors
                or lack a tensor.
        """
        try:
            from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel
        except ImportError as reason:
            raise ValueError(MISSING.format(reason)) from None
        name = str(name_or_folder)
        try:
            model, info = CLIPModel.from_pretrained(name, use_safetensors=True, output_loading_info=True)
            tokenizer, pictures = AutoTokenizer.from_pretrained(name), AutoImageProcessor.from_pretrained(name)
        except OSError as reason:
            raise not_loaded("CLIP", name, reason) from None
        refuse_gaps(name, info)
        crop = pictures.crop_size["height"], pictures.crop_size["width"]
        given = pictures.size["shortest_edge"], crop, pictures.image_mean, pictures.image_std
        return cls(model.to(device), tokenizer, *given, name=f"CLIP ({name})", batch=batch)

    def prepare(self, pictures: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 y x"]:
        """Pictures in [0, 1] as the network sees them: resized, their middle, standardised."""
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
        found = [
            _pooled(self.model.get_image_features(pixel_values=self.prepare(some.float()).to(weights)))
            for some in pictures.split(self.batch)
        ]
        return torch.cat(found).to(pictures)

    @torch.no_grad()
    def captions(self, captions: Sequence[str]) -> Float[Tensor, "n d"]:
        """Features of captions, not of length 1; what is beyond the 77 tokens that CLIP reads is left out.

        Raises:
            ValueError: no caption, or one string instead of several.
        """
        if isinstance(captions, str) or not captions:
            raise ValueError(f"captions is {captions!r}; expected a list of at least one caption.")
        device, longest = next(self.model.parameters()).device, self.model.config.text_config.max_position_embeddings
        found = []
        for start in range(0, len(captions), self.batch):
            some = list(captions[start : start + self.batch])
            options = dict(padding=True, truncation=True, max_length=longest, return_tensors="pt")
            tokens = self.tokenizer(some, **options).to(device)
            given = dict(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
            found.append(_pooled(self.model.get_text_features(**given)))
        return torch.cat(found).float()


def not_loaded(kind: str, name: str, reason: Exception) -> ValueError:
    """One sentence for what transformers says in several."""
    first = str(reason).strip().partition("\n")[0].rstrip(".")
    return ValueError(f"{kind} cannot be loaded from {name!r}: {first}; expected a folder with it, or a network,.")


def refuse_gaps(name: str, info: dict) -> None:
    """Refuse a model with tensors that were in no file, or of another shape: they would be random.

    Raises:
        ValueError: names one of them.
    """
    gaps = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if gaps:
        raise ValueError(
            f"{name!r} has {len(gaps)} tensors missing or of another shape, such as {gaps[0]}; all wanted."
        )


def _pooled(found) -> Float[Tensor, "n d"]:
    """Transformers 5 wraps the features, 4 does not."""
    return getattr(found, "pooler_output", found)
