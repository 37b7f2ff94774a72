"""Perceptual distances as `anchor_loss` and `metrics.lpips` take them: LPIPS, or the same form on other features.

LPIPS has VGG's features, by the lpips package; where VGG's weights (528 MB) are missing, those of a random trunk, which
is not LPIPS, and labelled so. The weights are found where torchvision puts them:

    python -c "import torchvision; torchvision.models.vgg16(weights='IMAGENET1K_V1')"
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from fourd_minimal.pretrained.imagenet_features import NAME, SIZE, ImageNetFeatures

IMAGENET = f"perceptual distance ({NAME})"
REAL, RANDOM = "LPIPS (VGG)", "LPIPS's form on random features (VGG's weights were not found)"


class Perceptual(NamedTuple):
    """A distance of pictures in [-1, 1], one for each pair, and what to call it."""

    distance: Callable[[Tensor, Tensor], Tensor]
    label: str


def imagenet(device: str | torch.device = "cpu", size: int = SIZE) -> Perceptual:
    """The distance on features of `imagenet_features.py`, whose weights pip can install (else a ValueError).

    Args:
        device: of the pictures.
        size: pixels to which a picture's shorter side is brought.
    """
    features = ImageNetFeatures(size=size).to(device)
    return Perceptual(lambda a, b: features.perceptual_distance((a + 1) / 2, (b + 1) / 2), IMAGENET)


def lpips_vgg(device: str | torch.device = "cpu", seed: int = 0) -> Perceptual:
    """LPIPS, or its form on random features.

    Args:
        device: of the pictures.
        seed: of the random features.

    Raises:
        ValueError: no lpips, or no torchvision that goes with this torch.
    """
    try:
        import lpips
        from torchvision.models import VGG16_Weights
    except (ModuleNotFoundError, RuntimeError) as reason:  # a torchvision built for another torch lacks its operators
        expected = "expected the extra [metrics] and the torchvision of this torch"
        raise ValueError(f"lpips cannot be imported ({reason}); {expected}.") from None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a deprecated argument that lpips hands to torchvision
            net = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    url = VGG16_Weights.IMAGENET1K_V1.url
    found = (Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name).exists()
    if found:
        weights = torch.hub.load_state_dict_from_url(url, map_location="cpu", weights_only=True)
        for name, tensor in net.net.state_dict().items():  # slice1.0.weight is features.0.weight
            tensor.copy_(weights["features." + name.partition(".")[2]])
    return Perceptual(net.requires_grad_(False).to(device), REAL if found else RANDOM)
