"""Loading published weights, by name or from a folder: complete, as safetensors, or one sentence why not.

A library that finds a tensor missing fills it at random and goes on; here that is refused.
"""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn


def library(name: str, extra: str = "pretrained") -> Any:
    """A library that an extra of this package brings; a ValueError that names the extra where it is missing."""
    try:
        return import_module(name)
    except ImportError as reason:
        raise ValueError(
            f'{reason.name or reason} is missing; pip install "fourd-minimal[{extra}]" brings it.'
        ) from None


def package_folder(name: str, extra: str) -> Path:
    """Where an installed package keeps its files; nothing of it is run. A ValueError where it is missing."""
    package = find_spec(name)
    if package is None:
        raise ValueError(f'{name.replace("_", "-")} is missing; pip install "fourd-minimal[{extra}]" brings it.')
    return Path(package.submodule_search_locations[0])


def load(from_pretrained: Callable, name: str | Path, part: str = "", **options: Any) -> Any:
    """What a library's `from_pretrained` gives for a repository, a folder, or a part of either.

    Raises:
        ValueError: it cannot be loaded.
    """
    try:
        return from_pretrained(name, **(dict(subfolder=part) if part else {}), **options)
    except (OSError, ValueError, TypeError) as reason:
        said = " ".join(str(reason).strip().partition("\n")[0].rstrip(".").split())
        what = f"the {part} of {str(name)!r}" if part else repr(str(name))
        raise ValueError(
            f"{what} cannot be loaded ({said}); expected a folder with safetensors, or a network."
        ) from None


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
