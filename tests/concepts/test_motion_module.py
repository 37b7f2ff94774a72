"""The motion module against diffusers' AnimateDiff: outputs, gradients, names; and what it must not do."""

import pytest
import torch
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from einops import rearrange
from refused import refused
from tiny import shaken
from torch.testing import assert_close

from fourd_minimal.motion_module import MotionModule

CHANNELS = 32


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(0)
    kind = dict(activation_fn="geglu", attention_bias=False, double_self_attention=True, num_layers=1)
    kind |= dict(positional_embeddings="sinusoidal", num_positional_embeddings=32, norm_num_groups=8)
    return shaken(AnimateDiffTransformer3D(4, CHANNELS // 4, CHANNELS, **kind))


def ours(state, **options):
    module = MotionModule(CHANNELS, n_heads=4, norm_groups=8, **options)
    module.load_animatediff(state)
    return module


def run_theirs(module, x):
    y = module(rearrange(x, "b t c h w -> (b t) c h w"), num_frames=x.shape[1])
    return rearrange(y, "(b t) c h w -> b t c h w", b=len(x))


def test_outputs_and_gradients_are_diffusers(theirs):
    x, module = torch.randn(2, 6, CHANNELS, 4, 3, requires_grad=True), ours(theirs.state_dict(), norm_over_clip=True)
    found, expected = module(x), run_theirs(theirs, x)
    assert_close(found, expected, atol=1e-5, rtol=1e-5)

    def gradients(out, parameters):
        named = dict(parameters)
        upstream = torch.linspace(-1, 1, x.numel()).view_as(x)
        return dict(zip(["x", *named], torch.autograd.grad(out, [x, *named.values()], upstream), strict=True))

    found, expected = gradients(found, module.named_parameters()), gradients(expected, theirs.named_parameters())
    assert_close(found["x"], expected["x"], atol=1e-5, rtol=1e-4)
    qkv = torch.cat([expected[f"transformer_blocks.0.attn1.to_{a}.weight"] for a in "qkv"])
    assert_close(found["attentions.0.to_qkv.weight"], qkv, atol=1e-4, rtol=1e-4)
    for name, other in (
        ("proj_in.weight", "proj_in.weight"),
        ("ff.wide.weight", "transformer_blocks.0.ff.net.0.proj.weight"),
        ("ff_norm.bias", "transformer_blocks.0.norm3.bias"),
        ("norm.weight", "norm.weight"),
        ("attentions.1.to_out.bias", "transformer_blocks.0.attn2.to_out.0.bias"),
    ):
        assert_close(found[name], expected[other], atol=1e-4, rtol=1e-4)


def test_frame_by_frame_statistics_are_diffusers_on_frames_that_share_theirs(theirs):
    """AnimateDiff's own norm looks at each frame; where all frames have the same statistics, the two agree."""
    frame = torch.randn(1, 1, CHANNELS, 4, 4)
    x = torch.cat([frame, frame.flip(-1), frame.flip(-2), frame.transpose(-1, -2)], 1)
    state = theirs.state_dict()
    assert_close(ours(state)(x), run_theirs(theirs, x), atol=1e-5, rtol=1e-5)
    louder = x * torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1, 1)
    assert (ours(state)(louder) - ours(state, norm_over_clip=True)(louder)).abs().max() > 0.1


def test_the_identity_at_the_start():
    module, x = MotionModule(64), torch.randn(2, 5, 64, 3, 3, requires_grad=True)
    assert torch.equal(module(x), x)
    module(x).square().sum().backward()
    assert_close(x.grad, 2 * x.detach())
    assert module.proj_out.weight.grad.abs().max() > 0  # it can leave it
    assert module.proj_in.weight.grad.abs().max() == 0


def test_places_do_not_mix_and_frames_do(theirs):
    module, x = ours(theirs.state_dict()), torch.randn(1, 4, CHANNELS, 3, 3, requires_grad=True)
    module.norm = torch.nn.Identity()  # the group norm does look at the whole frame
    module(x)[0, 2, :, 1, 1].sum().backward()
    reached = x.grad[0].abs().sum(1) > 0
    assert reached[:, 1, 1].all() and reached.sum() == 4


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda _: MotionModule(30), ("channels", 30)),
        (lambda _: MotionModule(32, n_heads=0), ("channels", 32)),
        (lambda _: MotionModule(32)(torch.zeros(1, 4, 16, 2, 2)), ("x", (1, 4, 16, 2, 2))),
        (lambda _: MotionModule(32, max_frames=4)(torch.zeros(1, 5, 32, 2, 2)), ("x", 5)),
        (
            lambda s: ours({k: v for k, v in s.items() if "attn2.to_k" not in k}),
            ("state", "attentions.1.to_qkv.weight"),
        ),
        (lambda s: ours({**s, "attention3.weight": torch.ones(1)}), ("state", "attention3.weight")),
        (lambda s: ours({**s, "proj_in.weight": torch.ones(64, 64)}), ("proj_in.weight", (64, 64))),
    ],
)
def test_bad_input_is_named(theirs, call, said):
    refused(lambda: call(theirs.state_dict()), *said)
