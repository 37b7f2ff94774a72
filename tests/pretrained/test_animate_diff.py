"""AnimateDiff's weights in our places, and views joined in diffusers' U-Net, each against the other."""

from functools import partial

import pytest
import torch
from diffusers import MotionAdapter, UNetMotionModel
from einops import rearrange, repeat
from refused import refused
from tiny import shaken, unet_2d
from torch.testing import assert_close

from fourd_minimal.motion_module import MotionModule
from fourd_minimal.multiview_unet import MultiviewUNet, MultiviewUNetConfig
from fourd_minimal.pretrained.animate_diff import joint_views, load_motion_adapter, place_names
from fourd_minimal.pretrained.stable_diffusion_unet import load_stable_diffusion
from fourd_minimal.systems.four_diffusion import add_motion_modules

WIDTHS, HEADS, GROUPS, FRAMES, VIEWS = (16, 32), 2, 8, 3, 2
SMALL = dict(
    head_dim=8, norm_groups=GROUPS, text_dim=12, token_dim=10, n_tokens=3, resampler_depth=1, resampler_heads=1
)
CONFIG = MultiviewUNetConfig(
    widths=WIDTHS, n_res_blocks=2, attention_levels=(0,), context_dim=14, reference_slot=False, **SMALL
)


def adapter(middle=True, frames=16):
    torch.manual_seed(1)
    sizes = dict(motion_layers_per_block=2, motion_num_attention_heads=HEADS, motion_norm_num_groups=GROUPS)
    more = dict(motion_max_seq_length=frames, use_motion_mid_block=middle)
    return shaken(MotionAdapter(block_out_channels=WIDTHS, **sizes, **more))


@pytest.fixture(scope="module")
def still():
    """Stable Diffusion 2, tiny and random."""
    torch.manual_seed(0)
    return shaken(unet_2d(WIDTHS, heads=(2, 4), use_linear_projection=True), 0.25)


def ours(still, state):
    """The multi-view U-Net with both; what ImageDream adds says nothing."""
    model = MultiviewUNet(CONFIG)
    kept = load_stable_diffusion(model, still.state_dict())
    with torch.no_grad():
        for name in kept:
            model.get_parameter(name).zero_()
    add_motion_modules(model, n_heads=HEADS, norm_groups=GROUPS, norm_over_clip=True)
    return model, load_motion_adapter(model, state)


def inputs(objects=2, views=1):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(objects, FRAMES, views, 4, 8, 8, generator=generator)
    return x, torch.tensor([981, 3])[:objects], torch.randn(objects, 5, 12, generator=generator)


def run_ours(model, x, t, text):
    b, f, v = x.shape[:3]
    flat, cameras = x.flatten(0, 1), torch.eye(4).expand(b * f, v, 4, 4)
    each_t, each_text = t.repeat_interleave(f), text.repeat_interleave(f, 0)
    out = model(flat, each_t, cameras, torch.zeros_like(flat[:, 0]), torch.zeros(b * f, 6, 10), each_text, frames=f)
    return rearrange(out, "(b f) v c h w -> b f v c h w", f=f)


def run_theirs(model, x, t, text):
    b, f, v = x.shape[:3]
    clips, each_text = rearrange(x, "b f v c h w -> (b v) c f h w"), repeat(text, "b l d -> (b v f) l d", v=v, f=f)
    out = model(clips, t.repeat_interleave(v), encoder_hidden_states=each_text).sample
    return rearrange(out, "(b v) c f h w -> b f v c h w", v=v)


def authors_names(state):
    """The same tensors as AnimateDiff's authors name them in their files."""
    found = {}
    for name, value in state.items():
        place, _, inside = name.partition(".motion_modules.")
        index, _, inside = inside.partition(".")
        inside = inside.replace("transformer_blocks.0.norm3", "transformer_blocks.0.ff_norm")
        for i in (1, 2):
            inside = inside.replace(f".attn{i}.", f".attention_blocks.{i - 1}.")
            inside = inside.replace(f"transformer_blocks.0.norm{i}", f"transformer_blocks.0.norms.{i - 1}")
        inside = inside.replace("pos_embed.pe", "attention_blocks.0.pos_encoder.pe")
        found[f"module.{place}.motion_modules.{index}.temporal_transformer.{inside}"] = value
    return found


def test_outputs_and_gradients_are_diffusers(still):
    motion = adapter()
    theirs = UNetMotionModel.from_unet2d(still, motion)
    model, lacking = ours(still, motion.state_dict())
    assert lacking == []
    x, t, text = inputs()
    pair = [x.clone().requires_grad_() for _ in range(2)]
    found, expected = run_ours(model, pair[0], t, text), run_theirs(theirs, pair[1], t, text)
    assert_close(found, expected, atol=1e-4, rtol=1e-4)
    weight = torch.linspace(-1, 1, x.numel()).view_as(x)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    assert_close(pair[0].grad, pair[1].grad, atol=1e-4, rtol=1e-3)
    grads = {name: p.grad for name, p in theirs.named_parameters()}
    for name, module in zip(place_names(model), model.temporal, strict=True):
        assert_close(module.proj_in.weight.grad, grads[f"{name}.proj_in.weight"], atol=1e-3, rtol=1e-3, msg=name)
    alone = run_theirs(UNetMotionModel.from_unet2d(still, adapter(middle=False)), x, t, text)
    assert (alone - expected).abs().max() > 1e-3  # motion modules say something, the middle one too


def test_all_names_give_the_same(still):
    motion = adapter()
    whole = UNetMotionModel.from_unet2d(still, motion).state_dict()
    x, t, text = inputs()
    found = [run_ours(ours(still, s)[0], x, t, text) for s in (motion.state_dict(), whole, authors_names(whole))]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_a_place_that_the_file_lacks_is_the_identity_and_is_reported(still):
    motion = adapter(middle=False)
    x, t, text = inputs()
    model, lacking = ours(still, motion.state_dict())
    assert lacking == ["mid_block.motion_modules.0"]
    assert_close(
        run_ours(model, x, t, text),
        run_theirs(UNetMotionModel.from_unet2d(still, motion), x, t, text),
        atol=1e-4,
        rtol=1e-4,
    )
    filled, _ = ours(still, adapter().state_dict())
    load_motion_adapter(filled, motion.state_dict())  # what was there before is gone
    assert torch.equal(run_ours(filled, x, t, text), run_ours(model, x, t, text))


def test_joined_views_are_those_of_the_multi_view_unet(still):
    motion = adapter()
    theirs, (model, _) = UNetMotionModel.from_unet2d(still, motion), ours(still, motion.state_dict())
    x, t, text = inputs(views=VIEWS)
    pair = [x.clone().requires_grad_() for _ in range(2)]
    with joint_views(theirs, VIEWS):
        found = run_theirs(theirs, pair[0], t, text)
    expected = run_ours(model, pair[1], t, text)
    assert_close(found, expected, atol=1e-4, rtol=1e-4)
    weight = torch.linspace(-1, 1, x.numel()).view_as(x)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    assert_close(pair[0].grad, pair[1].grad, atol=1e-4, rtol=1e-3)


def test_one_view_and_after_the_block_it_is_the_library_bit_for_bit(still):
    model = UNetMotionModel.from_unet2d(still, adapter())
    x, t, text = inputs(views=VIEWS)
    own, apart = dict(model.attn_processors), run_theirs(model, x, t, text)
    with joint_views(model, 1):
        assert torch.equal(run_theirs(model, x, t, text), apart)
    with joint_views(model, VIEWS):
        assert (run_theirs(model, x, t, text) - apart).abs().max() > 1e-3
    assert torch.equal(run_theirs(model, x, t, text), apart)
    assert all(model.attn_processors[name] is processor for name, processor in own.items())
    with pytest.raises(RuntimeError, match="inside"), joint_views(model, VIEWS):
        raise RuntimeError("inside")
    assert torch.equal(run_theirs(model, x, t, text), apart)
    assert not model._forward_pre_hooks


def test_views_of_another_object_and_of_another_frame_are_not_read(still):
    """Without motion modules, which reach over frames: a `UNet2DConditionModel`, whose rows are (pictures, views)."""
    x = torch.randn(2, VIEWS, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    text, t = torch.randn(1, 5, 12).expand(4, -1, -1), torch.tensor(500)
    with joint_views(still, VIEWS):
        found = still(x.flatten(0, 1), t, encoder_hidden_states=text).sample.unflatten(0, (2, VIEWS))
        other = x.clone()
        other[1, 0] = 0
        changed = still(other.flatten(0, 1), t, encoder_hidden_states=text).sample.unflatten(0, (2, VIEWS))
    moved = (changed - found).abs().amax((2, 3, 4)) > 1e-4
    assert moved.tolist() == [[False, False], [True, True]]


def test_what_does_not_fit_is_named(still):
    state, unet = adapter().state_dict(), MultiviewUNet(CONFIG)
    refused(lambda: load_motion_adapter(unet, state), "unet", "add_motion_modules(unet)")
    add_motion_modules(unet, n_heads=HEADS, norm_groups=GROUPS)
    refused(lambda: load_motion_adapter(unet, still.state_dict()), "state", "motion")
    far = {name.replace("up_blocks.1", "up_blocks.3"): value for name, value in state.items()}
    refused(lambda: load_motion_adapter(unet, far), "state", "up_blocks.3.motion_modules.0")
    name = "down_blocks.1.motion_modules.0.proj_in.weight"
    other = {**state, name: torch.zeros(4, 4)}
    refused(lambda: load_motion_adapter(unet, other), "down_blocks.1.motion_modules.0", "proj_in.weight", (4, 4))
    assert isinstance(unet.temporal[0], MotionModule)
    refused(joint_views(still, 0).__enter__, "views", 0)
    with joint_views(still, 2):
        refused(joint_views(still, 2).__enter__, "unet")
        three = partial(still, torch.zeros(3, 4, 8, 8), 1, encoder_hidden_states=torch.zeros(3, 5, 12))
        refused(three, "sample", 3)
