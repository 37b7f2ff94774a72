"""The text condition of Wan's two streams: a prompt with two endings, in place of 4Real-Video's context embeddings.

The paper trains a context embedding for each of its two groups of data, scenes that move and scenes that rest (section
3.1). Wan has none, but it reads text: the prompt of each stream ends in the kind of its videos.

Departures: that, and the sentences, which are assumed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from fourd_minimal.pretrained.published import library, load, load_model

WORDS = 512
"""Tokens of a prompt, as Wan was trained."""
ENDINGS = (
    "Time stands still: everything is frozen in its place while the camera moves around it.",
    "The camera stands still and films the moving scene.",
)
"""What follows the prompt for the columns, freeze-time videos, and for the rows, fixed-view videos. Assumed."""


class Contexts(NamedTuple):
    """Embedded prompts of both streams, one for every grid or one for all."""

    freeze: Float[Tensor, "_ l d"]
    dynamic: Float[Tensor, "_ l d"]


def embed_texts(
    name: str | Path, texts: Sequence[str], device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> Float[Tensor, "n l d"]:
    """Prompts as Wan reads them, by the tokenizer and text encoder of its folder, which are then freed.

    The text encoder is larger than the video model (UMT5-XXL, 5.7 billion weights): embed first, then load the rest.

    Raises:
        ValueError: no text encoder there.
    """
    diffusers, transformers = library("diffusers"), library("transformers")
    tokenizer = load(transformers.AutoTokenizer.from_pretrained, name, "tokenizer")
    encoder = load_model(transformers.UMT5EncoderModel, name, "text_encoder", dtype=dtype)
    reader = diffusers.WanPipeline(tokenizer, encoder.to(device), vae=None, scheduler=None)
    with torch.no_grad():
        return reader.encode_prompt([*texts], do_classifier_free_guidance=False, max_sequence_length=WORDS)[0]


def contexts(prompt: str = "") -> list[str]:
    """The prompt with each of the two `ENDINGS`.

    >>> contexts("A red ball.")[1]
    'A red ball. The camera stands still and films the moving scene.'
    """
    return [f"{prompt} {ending}".strip() for ending in ENDINGS]
