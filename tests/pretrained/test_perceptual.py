"""LPIPS is the package's own where weights are found, and never called by its name where they are not."""

import pytest
import torch
from torch.testing import assert_close

from fourd_minimal.pretrained.perceptual import RANDOM, REAL, lpips_vgg

try:
    import lpips
except (ModuleNotFoundError, RuntimeError) as reason:
    pytest.skip(f"needs lpips and the torchvision of this torch: {reason}", allow_module_level=True)


@pytest.fixture
def pair():
    return torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_without_weights_the_label_says_so(monkeypatch, tmp_path, pair):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    distance, label = lpips_vgg()
    assert label == RANDOM and "random" in label
    assert_close(distance(*pair), lpips_vgg()[0](*pair))  # the same random features
    assert (distance(pair[0], pair[0]) == 0).all() and (distance(*pair) > 0).all()


def test_weights_that_are_found_are_used_all_of_them(monkeypatch, tmp_path, pair):
    """A file of VGG's names and shapes, as torchvision would load it."""
    import torchvision

    torch.manual_seed(7)
    trunk = torchvision.models.vgg16(weights=None)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/vgg16-397923af.pth").touch()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda url, **_: trunk.state_dict())
    distance, label = lpips_vgg()
    assert label == REAL
    oracle = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    for number in range(1, 6):
        for name, module in getattr(oracle.net, f"slice{number}").named_children():
            module.load_state_dict(trunk.features[int(name)].state_dict())
    assert_close(distance(*pair), oracle(*pair))
