"""The multi-view U-Net: who sees whom, what the reference and the cameras do, and the paper's size."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.embeddings import IPAdapterPlusImageProjection, get_timestep_embedding
from refused import refused
from torch.testing import assert_close

from fourd_minimal.motion_module import MotionModule
from fourd_minimal.multiview_unet import (
    Attention,
    JointTransformer,
    MultiviewUNet,
    MultiviewUNetConfig,
    Resampler,
    embed_steps,
)

TINY = MultiviewUNetConfig(3, 2, (16, 32), 1, (1,), 16, 8, None, 12, 4, 24, 1, 1)


def shaken(model):
    """Layers that begin at zero no longer do."""
    torch.manual_seed(1)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.15)
    return model.requires_grad_(False)


def inputs(b=1, v=4, size=16):
    torch.manual_seed(0)
    cameras = torch.eye(4).repeat(b, v, 1, 1)
    cameras[..., :3, :] = torch.randn(b, v, 3, 4)
    views, reference, tokens = torch.randn(b, v, 3, size, size), torch.randn(b, 3, size, size), torch.randn(b, 9, 12)
    return views, torch.full((b,), 400), cameras, reference, tokens


@pytest.fixture(scope="module")
def model():
    return shaken(MultiviewUNet(TINY))


def test_steps_are_embedded_as_diffusers_does():
    t = torch.tensor([0, 1, 500, 999])
    assert_close(embed_steps(t, 32), get_timestep_embedding(t, 32, flip_sin_to_cos=True, downscale_freq_shift=0))


def test_attention_is_torchs_with_several_contexts_summed():
    torch.manual_seed(0)
    attention, x, contexts = (
        Attention(16, (8, 12), 4),
        torch.randn(2, 5, 16),
        (torch.randn(2, 3, 8), torch.randn(2, 7, 12)),
    )
    found = 0.0
    for to_kv, context in zip(attention.to_kv, contexts, strict=True):
        k, v = to_kv(context).chunk(2, -1)
        found = found + F.multi_head_attention_forward(
            attention.to_q(x).transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1), 16, 4,
            torch.eye(16).repeat(3, 1), torch.zeros(48), None, None, False, 0.0, torch.eye(16), torch.zeros(16),
        )[0].transpose(0, 1)  # fmt: skip
    assert_close(attention(x, *contexts), attention.to_out(found), atol=1e-5, rtol=1e-4)


def test_all_places_of_all_slots_read_each_other():
    block = shaken(JointTransformer(16, (8,), 8, 4))
    x, tokens = torch.randn(8, 16, 3, 3), torch.randn(2, 5, 8)
    moved = x.clone()
    moved[1, :, 0, 0] += 1.0  # a place of the second of four slots of the first object
    off = (block(moved, 4, tokens) - block(x, 4, tokens)).abs().amax(1)
    assert (off[:4] > 1e-6).all() and (off[4:] == 0).all()
    alone = (block(moved, 1, tokens.repeat_interleave(4, 0)) - block(x, 1, tokens.repeat_interleave(4, 0))).abs()
    assert (alone[[0, 2, 3]] == 0).all()


def test_views_that_change_places_change_places(model):
    """No view has a number: only cameras tell them apart."""
    views, t, cameras, reference, tokens = inputs()
    order = [2, 0, 3, 1]
    found = model(views, t, cameras, reference, tokens)
    assert_close(model(views[:, order], t, cameras[:, order], reference, tokens), found[:, order], atol=1e-4, rtol=1e-3)
    assert (model(views, t, cameras[:, order], reference, tokens) - found).abs().max() > 1e-2


@pytest.mark.parametrize("control", ["reference", "tokens"])
def test_each_way_of_showing_the_reference_reaches_every_view(model, control):
    views, t, cameras, reference, tokens = inputs()
    found = model(views, t, cameras, reference, tokens)
    gone = torch.zeros_like(reference) if control == "reference" else reference
    empty = torch.zeros_like(tokens) if control == "tokens" else tokens
    off = (model(views, t, cameras, gone, empty) - found).abs().amax((2, 3, 4))
    assert (off > 1e-4).all()


@pytest.mark.parametrize("extra", ["concat", "pooled"])
def test_the_toys_ways_do_too(extra):
    config = replace(TINY, reference_slot=False, **{extra: True})
    model = shaken(MultiviewUNet(config))
    views, t, cameras, reference, tokens = inputs()
    other = (torch.zeros_like(reference), tokens) if extra == "concat" else (reference, torch.zeros_like(tokens))
    found = model(views, t, cameras, reference, tokens)
    assert ((model(views, t, cameras, *other) - found).abs().amax((2, 3, 4)) > 1e-3).all()


def test_distance_is_no_part_of_the_camera(model):
    views, t, cameras, reference, tokens = inputs()
    far = cameras.clone()
    far[..., :3, 3] *= 3
    assert_close(model(views, t, far, reference, tokens), model(views, t, cameras, reference, tokens))


def test_a_camera_in_the_references_place_has_no_direction(model):
    """Rounding leaves a translation of 1e-7 there; blown up to unit length it would point anywhere."""
    views, t, cameras, reference, tokens = inputs()
    here, nearly = cameras.clone(), cameras.clone()
    here[:, 0, :3, 3], nearly[:, 0, :3, 3] = 0.0, torch.tensor([3e-7, -2e-7, 1e-7])
    found = [model(views, t, c2w, reference, tokens) for c2w in (here, nearly)]
    assert_close(*found, atol=1e-3, rtol=0)
    assert (model(views, t, cameras, reference, tokens) - found[0]).abs().max() > 1e-3


def test_the_resampler_is_ip_adapters():
    """Outputs and gradients, with diffusers' weights."""
    torch.manual_seed(0)
    theirs = IPAdapterPlusImageProjection(12, 24, 24, depth=2, dim_head=64, heads=2, num_queries=4, ffn_ratio=4)
    ours = Resampler(replace(TINY, resampler_depth=2, resampler_heads=2))
    state = {"queries": theirs.latents[0]}
    for part in ("proj_in", "proj_out", "norm_out"):
        state |= {f"{part}.{k}": v for k, v in getattr(theirs, part).state_dict().items()}
    for i, layer in enumerate(theirs.layers):
        names = {"ln0": "norm_tokens", "ln1": "norm_queries", "attn.to_q": "to_q", "attn.to_out.0": "to_out"}
        names |= {"ff.0": "feed_forward.0", "ff.1.net.0.proj": "feed_forward.1", "ff.1.net.2": "feed_forward.3"}
        own = layer.state_dict()
        for name, value in own.items():
            stem, kind = name.rsplit(".", 1)
            if stem in names:
                state[f"layers.{i}.{names[stem]}.{kind}"] = value
        state[f"layers.{i}.to_kv.weight"] = torch.cat([own["attn.to_k.weight"], own["attn.to_v.weight"]])
    ours.load_state_dict(state)
    tokens = torch.randn(2, 9, 12)
    a, b = tokens.clone().requires_grad_(), tokens.clone().requires_grad_()
    assert_close(ours(a), theirs(b), atol=1e-5, rtol=1e-4)
    upstream = torch.randn(2, 4, 24)
    ours(a).backward(upstream)
    theirs(b).backward(upstream)
    assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-4)


def test_objects_of_a_batch_do_not_mix(model):
    both = [torch.cat([a, a + (a.dtype.is_floating_point)]) for a in inputs()]
    alone = model(*[a[:1] for a in both])
    assert_close(model(*both)[:1], alone, atol=1e-5, rtol=1e-4)


def test_what_is_put_over_time_sees_each_slot_by_itself(model):
    """At every residual block, the frames of one slot are a clip; the reference's too."""
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, x):
            seen.append(tuple(x.shape))
            return x

    views, t, cameras, reference, tokens = inputs(b=6)
    plain, kept = model(views, t, cameras, reference, tokens), model.temporal
    model.temporal = torch.nn.ModuleList(Spy() for _ in model.places)
    watched = model(views, t, cameras, reference, tokens, frames=3)
    model.temporal = kept
    assert_close(watched, plain)
    assert len(seen) == len(model.places) and all(shape[:2] == (2 * 5, 3) for shape in seen)
    assert [shape[2] for shape in seen] == model.places


def test_full_has_the_papers_size_and_places():
    """21 motion modules of about 453M parameters; Stable Diffusion 2.1 has 865.9M, and ImageDream adds its controls."""
    with torch.device("meta"):
        base = MultiviewUNet(MultiviewUNetConfig())
        modules = [MotionModule(channels) for channels in base.places]
        without = MultiviewUNet(MultiviewUNetConfig())
    assert len(modules) == 21
    count = lambda m: sum(p.numel() for p in m.parameters()) / 1e6  # noqa: E731
    assert sum(map(count, modules)) == pytest.approx(453, rel=0.02)
    added = count(without.of_camera) + count(without.resampler)
    for block in [*without.down, *without.up, without.middle]:
        if isinstance(block[1], JointTransformer):
            added += count(block[1].cross_attention.to_kv[1])
    assert count(base) - added == pytest.approx(865.9, rel=0.02)


def test_widths_that_do_not_divide_are_named():
    refused(lambda: replace(TINY, widths=(16, 20)), "widths", [20])
