"""The multi-view U-Net: which slots attend to which, what the reference and the cameras do, and the paper's size."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.embeddings import IPAdapterPlusImageProjection, get_timestep_embedding
from parity import assert_same
from refused import refused
from tiny import shaken
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


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    return shaken(MultiviewUNet(TINY)).requires_grad_(False)


@pytest.fixture
def inputs(seed):
    """Views, step, cameras, reference and tokens of six objects."""
    cameras = torch.eye(4).repeat(6, 4, 1, 1)
    cameras[..., :3, :] = torch.randn(6, 4, 3, 4)
    return torch.randn(6, 4, 3, 8, 8), torch.full((6,), 400), cameras, torch.randn(6, 3, 8, 8), torch.randn(6, 9, 12)


def test_steps_are_embedded_as_diffusers_does():
    t = torch.tensor([0, 1, 500, 999])
    assert_close(embed_steps(t, 32), get_timestep_embedding(t, 32, flip_sin_to_cos=True, downscale_freq_shift=0))


def test_attention_is_torchs_with_several_contexts_summed():
    attention, x, contexts = Attention(16, (8, 12), 4), torch.randn(2, 5, 16), [torch.randn(2, 7, n) for n in (8, 12)]
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


def test_views_that_change_places_change_places(model, inputs):
    """No view has a number: only cameras distinguish them."""
    views, t, cameras, *others = inputs
    order, found = [2, 0, 3, 1], model(*inputs)
    assert_close(model(views[:, order], t, cameras[:, order], *others), found[:, order], atol=1e-4, rtol=1e-3)
    assert (model(views, t, cameras[:, order], *others) - found).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("options", "control"),
    [
        (dict(), "reference"),
        (dict(), "tokens"),
        (dict(reference_slot=False, concat=True), "reference"),
        (dict(reference_slot=False, pooled=True), "tokens"),
    ],
)
def test_each_conditioning_path_reaches_every_view(inputs, options, control):
    model = shaken(MultiviewUNet(replace(TINY, **options))).requires_grad_(False)
    *others, reference, tokens = inputs
    zeroed = (0 * reference, tokens) if control == "reference" else (reference, 0 * tokens)
    assert ((model(*others, *zeroed) - model(*inputs)).abs().amax((2, 3, 4)) > 1e-4).all()


def test_distance_is_no_part_of_the_camera(model, inputs):
    views, t, cameras, *others = inputs
    far = cameras.clone()
    far[..., :3, 3] *= 3
    assert_close(model(views, t, far, *others), model(*inputs))


def test_a_camera_in_the_references_place_has_no_direction(model, inputs):
    """Rounding leaves a translation of 1e-7 there; blown up to unit length it would point anywhere."""
    views, t, cameras, *others = inputs
    here, nearly = cameras.clone(), cameras.clone()
    here[:, 0, :3, 3], nearly[:, 0, :3, 3] = 0.0, torch.tensor([3e-7, -2e-7, 1e-7])
    found = [model(views, t, c2w, *others) for c2w in (here, nearly)]
    assert_close(*found, atol=1e-3, rtol=0)
    assert (model(*inputs) - found[0]).abs().max() > 1e-3


def test_the_resampler_is_ip_adapters():
    """Outputs and gradients, with diffusers' weights."""
    theirs = IPAdapterPlusImageProjection(12, 24, 24, depth=2, dim_head=64, heads=2, num_queries=4, ffn_ratio=4)
    ours = Resampler(replace(TINY, resampler_depth=2, resampler_heads=2))
    state = {"queries": theirs.latents[0]}
    for part in ("proj_in", "proj_out", "norm_out"):
        state |= {f"{part}.{k}": v for k, v in getattr(theirs, part).state_dict().items()}
    names = {"ln0": "norm_tokens", "ln1": "norm_queries", "attn.to_q": "to_q", "attn.to_out.0": "to_out"}
    names |= {"ff.0": "feed_forward.0", "ff.1.net.0.proj": "feed_forward.1", "ff.1.net.2": "feed_forward.3"}
    for i, layer in enumerate(theirs.layers):
        own = layer.state_dict()
        for name, value in own.items():
            stem, kind = name.rsplit(".", 1)
            if stem in names:
                state[f"layers.{i}.{names[stem]}.{kind}"] = value
        state[f"layers.{i}.to_kv.weight"] = torch.cat([own["attn.to_k.weight"], own["attn.to_v.weight"]])
    ours.load_state_dict(state)
    tokens = torch.randn(2, 9, 12, requires_grad=True)
    assert_same(ours(tokens), theirs(tokens), [tokens], atol=1e-5, rtol=1e-4)


def test_objects_of_a_batch_do_not_mix(model, inputs):
    assert_close(model(*inputs)[:1], model(*(a[:1] for a in inputs)), atol=1e-5, rtol=1e-4)


def test_what_is_put_over_time_sees_each_slot_by_itself(model, inputs):
    """At every residual block, the frames of one slot are a clip; the reference's too."""
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, x):
            seen.append(tuple(x.shape))
            return x

    plain, kept = model(*inputs), model.temporal
    model.temporal = torch.nn.ModuleList(Spy() for _ in model.places)
    watched = model(*inputs, frames=3)
    model.temporal = kept
    assert_close(watched, plain)
    assert len(seen) == len(model.places) and all(shape[:2] == (2 * 5, 3) for shape in seen)
    assert [shape[2] for shape in seen] == model.places


def test_full_has_the_papers_size_and_places():
    """21 motion modules of about 453M parameters; Stable Diffusion 2.1 has 865.9M, and ImageDream adds its controls."""
    with torch.device("meta"):
        base = MultiviewUNet(MultiviewUNetConfig())
        modules = [MotionModule(channels) for channels in base.places]
    assert len(modules) == 21
    count = lambda m: sum(p.numel() for p in m.parameters()) / 1e6  # noqa: E731
    assert sum(map(count, modules)) == pytest.approx(453, rel=0.02)
    added = count(base.of_camera) + count(base.resampler)
    for block in [*base.down, *base.up, base.middle]:
        if isinstance(block[1], JointTransformer):
            added += count(block[1].cross_attention.to_kv[1])
    assert count(base) - added == pytest.approx(865.9, rel=0.02)


def test_widths_that_do_not_divide_are_named():
    refused(lambda: replace(TINY, widths=(16, 20)), "widths", [20])
