"""Weights on disk: safetensors files with the configuration inside, written whole or not at all."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

Config = TypeVar("Config")
Model = TypeVar("Model", bound="Pretrained")
SHIPPED = Path(__file__).parents[1] / "weights"


class Pretrained(nn.Module):
    """A model that `save_pretrained(folder)` writes and `from_pretrained(folder)` reads, from its `config` on."""

    config_class: type
    shipped: str
    """The folder of the weights that come with the package, below `fourd_minimal/weights`."""
    file: str
    """The file in a folder of weights."""
    notes: Mapping[str, Any] = MappingProxyType({})
    """How loaded weights were made."""

    @classmethod
    def folder(cls, name: str | Path) -> Path:
        """Where weights lie: those shipped with the package for "toy", else a folder."""
        return SHIPPED / cls.shipped if str(name) == "toy" else Path(name)

    @classmethod
    def from_pretrained(cls: type[Model], name: str | Path = "toy") -> Model:
        """Load "toy", the weights shipped with the package, or what `save_pretrained` or training left in a folder.

        Raises:
            ValueError: the file is missing, cut short, of another kind or of another configuration.
        """
        path = cls.folder(name) / cls.file
        tensors, config, notes = load_weights(path, cls.config_class)
        model = cls(config).requires_grad_(False)
        load_into(model, tensors, path)
        model.notes = notes
        return model

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype = torch.float16, **notes) -> Path:
        """Write a file that `from_pretrained` reads, with `notes` inside."""
        return save_weights(Path(folder) / self.file, self.state_dict(), self.config, dtype, **notes)


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A draft beside `path` to write into; it takes its name when the block ends without an error, else it vanishes.

    So nobody ever finds half a file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with whole_file(path) as draft:
        draft.write_bytes(text.encode())


def save_weights(
    path: str | Path, tensors: Mapping[str, Tensor], config: Any, dtype: torch.dtype | None = None, **notes: Any
) -> Path:
    """Write tensors (in their own dtypes by default), the dataclass they belong to, and notes (JSON values)."""
    metadata = {"class": type(config).__name__, "config": json.dumps(dataclasses.asdict(config))}
    metadata |= {name: json.dumps(value) for name, value in notes.items()}
    with whole_file(path) as draft:
        save_file({name: t.detach().to("cpu", dtype).contiguous() for name, t in tensors.items()}, draft, metadata)
        mask = os.umask(0)  # safetensors leaves files that only their owner reads
        os.umask(mask)
        draft.chmod(0o666 & ~mask)
    return Path(path)


def load_weights(path: str | Path, config_class: type[Config]) -> tuple[dict[str, Tensor], Config, dict[str, Any]]:
    """Read what `save_weights` wrote: tensors, the configuration, the notes; the configuration is checked first.

    Raises:
        ValueError: no such file, not a safetensors file or cut short, or weights of another class.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"No weights at {path}; expected a .safetensors file written by fourd_minimal.")
    try:
        with safe_open(path, "pt") as file:
            config, notes = _described(path, file.metadata() or {}, config_class)
            return {name: file.get_tensor(name) for name in file.keys()}, config, notes  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a complete safetensors file ({error}).") from None


def _described(path: Path, metadata: dict[str, str], config_class: type[Config]) -> tuple[Config, dict[str, Any]]:
    """The configuration and the notes in a file's metadata."""
    if metadata.get("class") != config_class.__name__:
        found = metadata.get("class", "no configuration")
        raise ValueError(f"{path} holds {found}; expected weights with a {config_class.__name__} inside.")
    try:
        notes = {name: json.loads(text) for name, text in metadata.items() if name not in ("class", "config")}
        return _rebuild(config_class, json.loads(metadata["config"])), notes
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds a configuration this version does not read ({error}).") from None


def load_into(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Give a module the tensors that `path` held.

    Raises:
        ValueError: names or shapes that are not the module's.
    """
    try:
        module.load_state_dict(tensors)
    except RuntimeError:
        raise ValueError(f"{path} holds tensors that do not fit the configuration inside it.") from None


def fingerprint(weights: nn.Module | Mapping[str, Tensor]) -> str:
    """Which weights these are, after rounding to the 16 bits they are saved in."""
    named = weights.state_dict() if isinstance(weights, nn.Module) else weights
    state = (v.half().cpu().numpy().tobytes() for _, v in sorted(named.items()))
    return hashlib.sha256(b"".join(state)).hexdigest()[:16]


def _rebuild(config_class: type[Config], values: dict[str, Any]) -> Config:
    """Turn JSON back into a (nested) dataclass; lists become tuples."""
    hints = get_type_hints(config_class)

    def convert(hint: Any, value: Any) -> Any:
        if dataclasses.is_dataclass(hint):
            return _rebuild(hint, value)
        if isinstance(value, list):
            return tuple(convert(None, v) for v in value)
        return value

    return config_class(**{name: convert(hints.get(name), value) for name, value in values.items()})
