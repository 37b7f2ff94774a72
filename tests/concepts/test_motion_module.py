"""The motion module against diffusers' AnimateDiff: outputs, gradients, names; and what it must not do."""

import torch
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from einops import rearrange
from refused import refused
from torch.testing import assert_close

from fourd_minimal.motion_module import MotionModule

CHANNELS, FRAMES = 32, 6


def theirs(channels=CHANNELS):
    torch.manual_seed(0)
    module = AnimateDiffTransformer3D(
        num_attention_heads=4, attention_head_dim=channels // 4, in_channels=channels, norm_num_groups=8,
        num_layers=1, activation_fn="geglu", attention_bias=False, double_self_attention=True,
        positional_embeddings="sinusoidal", num_positional_embeddings=32,
    )  # fmt: skip
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return module


def ours(state, **options):
    module = MotionModule(CHANNELS, n_heads=4, norm_groups=8, **options)
    module.load_animatediff(state)
    return module


def run_theirs(module, x):
    y = module(rearrange(x, "b t c h w -> (b t) c h w"), num_frames=x.shape[1])
    return rearrange(y, "(b t) c h w -> b t c h w", b=len(x))


def test_outputs_and_gradients_are_diffusers():
    x = torch.randn(2, FRAMES, CHANNELS, 4, 3)
    oracle, module = theirs(), ours(theirs().state_dict(), norm_over_clip=True)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    found, expected = module(inputs[0]), run_theirs(oracle, inputs[1])
    assert_close(found, expected, atol=1e-5, rtol=1e-5)
    weight = torch.linspace(-1, 1, x.numel()).view_as(x)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    assert_close(inputs[0].grad, inputs[1].grad, atol=1e-5, rtol=1e-4)
    named = dict(oracle.named_parameters())
    qkv = torch.cat([named[f"transformer_blocks.0.attn1.to_{a}.weight"].grad for a in "qkv"])
    assert_close(module.attentions[0].to_qkv.weight.grad, qkv, atol=1e-4, rtol=1e-4)
    for name, other in (
        ("proj_in.weight", "proj_in.weight"),
        ("ff.wide.weight", "transformer_blocks.0.ff.net.0.proj.weight"),
        ("ff_norm.bias", "transformer_blocks.0.norm3.bias"),
        ("norm.weight", "norm.weight"),
        ("attentions.1.to_out.bias", "transformer_blocks.0.attn2.to_out.0.bias"),
    ):
        assert_close(module.get_parameter(name).grad, named[other].grad, atol=1e-4, rtol=1e-4)


def test_frame_by_frame_statistics_are_diffusers_on_frames_that_share_theirs():
    """AnimateDiff's own norm looks at each frame; where all frames have the same statistics, the two agree."""
    frame = torch.randn(1, 1, CHANNELS, 4, 4)
    x = torch.cat([frame, frame.flip(-1), frame.flip(-2), frame.transpose(-1, -2)], 1)
    state = theirs().state_dict()
    assert_close(ours(state)(x), run_theirs(theirs(), x), atol=1e-5, rtol=1e-5)
    louder = x * torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1, 1)
    assert (ours(state)(louder) - ours(state, norm_over_clip=True)(louder)).abs().max() > 0.1


def test_the_identity_at_the_start():
    module, x = MotionModule(64), torch.randn(2, 5, 64, 3, 3, requires_grad=True)
    assert torch.equal(module(x), x)
    module(x).square().sum().backward()
    assert_close(x.grad, 2 * x.detach())
    assert module.proj_out.weight.grad.abs().max() > 0  # it can leave it
    assert module.proj_in.weight.grad.abs().max() == 0


def test_places_do_not_mix_and_frames_do():
    module, x = ours(theirs().state_dict()), torch.randn(1, 4, CHANNELS, 3, 3, requires_grad=True)
    module.norm = torch.nn.Identity()  # the group norm does look at the whole frame
    module(x)[0, 2, :, 1, 1].sum().backward()
    reached = x.grad[0].abs().sum(1) > 0
    assert reached[:, 1, 1].all() and reached.sum() == 4


def test_a_state_that_does_not_fit_is_named():
    state = theirs().state_dict()
    lacking = {k: v for k, v in state.items() if "attn2.to_k" not in k}
    refused(lambda: ours(lacking), "state", "attentions.1.to_qkv.weight")
    refused(lambda: ours({**state, "attention3.weight": torch.ones(1)}), "state", "attention3.weight")
    refused(lambda: ours({**state, "proj_in.weight": torch.ones(64, 64)}), "proj_in.weight", (64, 64))


def test_what_it_cannot_take_is_named():
    refused(lambda: MotionModule(30), "channels", 30)
    refused(lambda: MotionModule(32, n_heads=0), "channels", 32)
    refused(lambda: MotionModule(32)(torch.zeros(1, 4, 16, 2, 2)), "x", (1, 4, 16, 2, 2))
    refused(lambda: MotionModule(32, max_frames=4)(torch.zeros(1, 5, 32, 2, 2)), "x", 5)
