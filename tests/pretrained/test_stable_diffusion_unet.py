"""One view, no camera, no tokens: the multi-view U-Net is diffusers' U-Net with the same weights."""

from dataclasses import replace

import pytest
import torch
from refused import refused
from tiny import shaken, unet_2d
from torch.testing import assert_close

from fourd_minimal.multiview_unet import MultiviewUNet, MultiviewUNetConfig
from fourd_minimal.pretrained.stable_diffusion_unet import load_stable_diffusion

SMALL = dict(head_dim=8, norm_groups=8, text_dim=12, token_dim=10, n_tokens=3, resampler_depth=1, resampler_heads=1)
WIDTHS, LEVELS = (16, 32, 48), (0, 1)
CONFIG = MultiviewUNetConfig(
    widths=WIDTHS, n_res_blocks=2, attention_levels=LEVELS, context_dim=14, reference_slot=False, **SMALL
)


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(0)
    return shaken(unet_2d(WIDTHS, LEVELS, heads=(2, 4, 6), use_linear_projection=True), 0.25)


def ours(theirs, config=CONFIG):
    model = MultiviewUNet(config)
    kept = load_stable_diffusion(model, theirs.state_dict())
    assert all(n.startswith(("resampler", "of_camera")) or ".cross_attention.to_kv.1." in n for n in kept)
    with torch.no_grad():  # what ImageDream adds says nothing
        for name in kept:
            model.get_parameter(name).zero_()
    return model


def inputs(n=3):
    generator = torch.Generator().manual_seed(1)
    x, text = torch.randn(n, 4, 16, 16, generator=generator), torch.randn(n, 5, 12, generator=generator)
    return x, torch.tensor([1, 500, 999])[:n], text


def test_outputs_and_gradients_are_diffusers(theirs):
    x, t, text = inputs()
    pair = [x.clone().requires_grad_() for _ in range(2)]
    model = ours(theirs)
    cameras, tokens = torch.eye(4).expand(3, 1, 4, 4), torch.zeros(3, 6, 10)
    found = model(pair[0][:, None], t, cameras, torch.zeros_like(x), tokens, text)[:, 0]
    expected = theirs(pair[1], t, encoder_hidden_states=text).sample
    assert_close(found, expected, atol=1e-4, rtol=1e-4)
    weight = torch.linspace(-1, 1, x.numel()).view_as(x)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    assert_close(pair[0].grad, pair[1].grad, atol=1e-4, rtol=1e-3)
    grads = dict(theirs.named_parameters())
    assert_close(
        model.get_parameter("down.2.0.before.2.weight").grad,
        grads["down_blocks.1.resnets.0.conv1.weight"].grad,
        atol=1e-3,
        rtol=1e-3,
    )


def test_version_1_has_as_many_heads_at_every_width_and_convolutions_for_projections():
    torch.manual_seed(0)
    first = shaken(unet_2d(WIDTHS, LEVELS, heads=2), 0.25)
    x, t, text = inputs()
    cameras, tokens = torch.eye(4).expand(3, 1, 4, 4), torch.zeros(3, 6, 10)
    found = ours(first, replace(CONFIG, n_heads=2))(x[:, None], t, cameras, torch.zeros_like(x), tokens, text)[:, 0]
    assert_close(found, first(x, t, encoder_hidden_states=text).sample, atol=1e-4, rtol=1e-4)
    other = ours(first)(x[:, None], t, cameras, torch.zeros_like(x), tokens, text)[:, 0]
    assert (other - found).abs().max() > 1e-2
    refused(lambda: replace(CONFIG, n_heads=3), "widths", [16, 32])


def test_joint_attention_is_self_attention_over_views_laid_side_by_side(theirs):
    """Four equal views with one camera: what each sees is what it would see alone."""
    x, t, text = inputs()
    model, cameras = ours(theirs), torch.eye(4).expand(3, 4, 4, 4)
    tokens = torch.zeros(3, 6, 10)
    together = model(x[:, None].expand(-1, 4, -1, -1, -1), t, cameras, torch.zeros_like(x), tokens, text)
    assert_close(together[:, 2], theirs(x, t, encoder_hidden_states=text).sample, atol=1e-4, rtol=1e-4)
    other = torch.stack([x, x, x.flip(0), x], 1)
    changed = model(other, t, cameras, torch.zeros_like(x), tokens, text)
    assert (changed - together)[:, 0].abs().max() > 1e-3  # a view sees the others


def test_what_does_not_fit_is_named(theirs):
    mute, wide = (MultiviewUNet(replace(CONFIG, **other)) for other in (dict(text_dim=None), dict(concat=True)))
    state = theirs.state_dict()
    refused(lambda: load_stable_diffusion(mute, state), "unet", "text")
    refused(lambda: load_stable_diffusion(wide, state), "conv_in.weight", (16, 4, 3, 3))
    state = {"vae.thing.weight": torch.ones(1)}
    refused(lambda: load_stable_diffusion(MultiviewUNet(CONFIG), state), "state", "vae.thing")
