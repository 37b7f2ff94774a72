"""Parity: Wan 2.1's block, rotary positions and noise-level embedding, as diffusers has them."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.embeddings import Timesteps
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed, WanTransformerBlock
from einops import repeat
from refused import refused
from tiny import shaken
from torch import nn
from torch.testing import assert_close

from fourd_minimal.video_dit import (
    CONTEXTS,
    Block,
    VideoDiT,
    VideoDiTConfig,
    nearest_seen,
    rotary_angles,
    sigma_embedding,
)

TINY = VideoDiTConfig(image_size=(8, 4), patch=2, dim=24, depth=2, heads=2)
REFINED = replace(TINY, patch=4, refine=16)
configs = pytest.mark.parametrize("config", [TINY, REFINED], ids=["plain", "refined"])


def as_wan_names(block):
    """What `block` maps a name to (a weight, a gradient), under the names of `WanTransformerBlock`."""
    wan = {}
    for ours, theirs in (("attention", "attn1"), ("text_attention", "attn2")):
        for kind in ("weight", "bias"):
            wan[f"{theirs}.to_q.{kind}"] = block[f"{ours}.to_q.{kind}"]
            wan[f"{theirs}.to_k.{kind}"], wan[f"{theirs}.to_v.{kind}"] = block[f"{ours}.to_kv.{kind}"].chunk(2)
            wan[f"{theirs}.to_out.0.{kind}"] = block[f"{ours}.to_out.{kind}"]
        wan[f"{theirs}.norm_q.weight"] = block[f"{ours}.norm_q.weight"]
        wan[f"{theirs}.norm_k.weight"] = block[f"{ours}.norm_k.weight"]
    for kind in ("weight", "bias"):
        wan[f"norm2.{kind}"] = block[f"text_norm.{kind}"]
        wan[f"ffn.net.0.proj.{kind}"], wan[f"ffn.net.2.{kind}"] = block[f"mlp.0.{kind}"], block[f"mlp.2.{kind}"]
    return wan


@pytest.mark.parametrize(("dim", "heads"), [(24, 2), (20, 1), (48, 8)])
def test_block_is_that_of_wan(dim, heads):
    frames, rows, columns = 3, 2, 4
    ours = shaken(Block(dim, heads, mlp_ratio=3, text_dim=dim), 0.3)
    theirs = WanTransformerBlock(dim, 3 * dim, heads, cross_attn_norm=True)
    theirs.load_state_dict(as_wan_names(ours.state_dict()) | {"scale_shift_table": torch.zeros(1, 6, dim)})

    def leaf(*shape):
        return torch.randn(*shape, requires_grad=True)

    inputs = x, c, text = leaf(2, frames * rows * columns, dim), leaf(2, frames, dim), leaf(2, 5, dim)
    y = ours(x, c, text, rotary_angles(frames, rows, columns, dim // heads))
    modulation = repeat(ours.modulation(F.silu(c)), "b f (six d) -> b (f s) six d", six=6, s=rows * columns)
    rotary = WanRotaryPosEmbed(dim // heads, (1, 1, 1), 8)(torch.empty(1, 1, frames, rows, columns))
    expected = theirs(x, text, modulation, rotary)
    assert_close(y, expected, atol=2e-5, rtol=1e-5)

    def gradients(output, block):
        """Those of what both share, and those of the block's own parameters by name."""
        shared, named = [*inputs, *ours.modulation.parameters()], dict(block.named_parameters())
        found = torch.autograd.grad(output, [*shared, *named.values()], torch.linspace(-1, 1, y.numel()).view_as(y))
        return found[: len(shared)], dict(zip(named, found[len(shared) :], strict=True))

    (shared_ours, of_ours), (shared_theirs, of_theirs) = gradients(y, ours), gradients(expected, theirs)
    del of_theirs["scale_shift_table"]
    assert_close(shared_ours, shared_theirs, atol=1e-4, rtol=1e-4)
    assert_close(as_wan_names(of_ours), of_theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("head_dim", [2, 4, 10, 12, 16, 64])
def test_rotary_positions_are_those_of_wan(head_dim):
    frames, rows, columns = 5, 3, 2
    cos, sin = WanRotaryPosEmbed(head_dim, (1, 1, 1), 8)(torch.empty(1, 1, frames, rows, columns))
    angles = rotary_angles(frames, rows, columns, head_dim)
    assert_close(angles.cos(), cos[0, :, 0, ::2])  # it holds every number twice, once for each channel of a pair
    assert_close(angles.sin(), sin[0, :, 0, 1::2])


@pytest.mark.parametrize("dim", [8, 24, 256])
def test_sigma_embedding_is_that_of_diffusers(dim):
    sigma = torch.rand(50)
    theirs = Timesteps(dim, flip_sin_to_cos=True, downscale_freq_shift=0)(1000 * sigma)
    assert_close(sigma_embedding(sigma, dim), theirs, atol=1e-4, rtol=0)
    assert_close(sigma_embedding(sigma.view(5, 10), dim), theirs.view(5, 10, dim), atol=1e-4, rtol=0)


@configs
def test_at_the_start_blocks_are_the_identity_and_the_output_is_zero(config):
    model = VideoDiT(config)
    video, sigma = torch.randn(2, 3, 3, 8, 4), torch.rand(2, 3)
    tokens, c, angles, _ = model.embed(video, sigma)
    for block in model.blocks:
        assert torch.equal(block(tokens, c, None, angles), tokens)
    assert torch.equal(model(video, sigma), torch.zeros_like(video))


@configs
def test_no_parameter_stays_dead(config):
    """The zeros of AdaLN-Zero wake one after another: the output, then the gates, then what they gate."""
    model = VideoDiT(config)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    video, sigma, seen = torch.randn(2, 3, 3, 8, 4), torch.rand(2, 3), torch.tensor([[True, False, False]] * 2)
    for _ in range(5):
        optimiser.zero_grad()
        for context in CONTEXTS:
            (model(video, sigma, seen, video, context) - video).square().mean().backward()
        optimiser.step()
    assert [name for name, p in model.named_parameters() if p.grad.abs().max() == 0] == []


@pytest.mark.parametrize("frame", [0, 1, 2])
def test_sigma_belongs_to_its_frame(frame):
    block = shaken(Block(24, 2))
    nn.init.zeros_(block.attention.to_out.weight)  # attention would carry the change to the other frames
    x, c = torch.randn(1, 12, 24), torch.randn(1, 3, 24)
    other = c.clone()
    other[:, frame] += 1
    changed = (block(x, c) != block(x, other)).view(3, 4, 24).any((1, 2))
    assert changed.tolist() == [i == frame for i in range(3)]

    model = shaken(VideoDiT(TINY))
    video, sigma = torch.randn(1, 3, 3, 8, 4), torch.rand(1, 3, requires_grad=True)
    _, c, *_ = model.embed(video, sigma)
    (gradient,) = torch.autograd.grad(c[0, frame].square().sum(), sigma)
    assert (gradient[0] != 0).tolist() == [i == frame for i in range(3)]
    (gradient,) = torch.autograd.grad(model(video, sigma)[0, frame].square().sum(), sigma)
    assert (gradient != 0).all()


def test_a_patch_goes_into_its_token():
    model = shaken(VideoDiT(TINY))
    video, sigma = torch.randn(1, 3, 3, 8, 4, requires_grad=True), torch.rand(1, 3)
    tokens, *_ = model.embed(video, sigma)
    token = (1 * 4 + 2) * 2 + 1  # frame 1, patch row 2 of 4, patch column 1 of 2
    patch = torch.zeros(3, 8, 4, dtype=torch.bool)
    patch[1, 4:6, 2:4] = True
    (reads,) = torch.autograd.grad(tokens[0, token].square().sum(), video)
    assert torch.equal(reads[0].abs().sum(1) > 0, patch)


def test_the_last_layer_by_hand():
    model = shaken(VideoDiT(TINY))
    tokens, c = torch.randn(2, 3 * 4 * 2, 24), torch.randn(2, 3, 24)
    shift, scale = model.modulation_out(F.silu(c)).split(24, -1)
    normal = F.layer_norm(tokens, (24,), eps=1e-6)
    video = model.unembed(tokens, c)
    for frame, row, column in [(0, 0, 0), (1, 3, 0), (2, 2, 1)]:
        token = normal[:, (frame * 4 + row) * 2 + column] * (1 + scale[:, frame]) + shift[:, frame]
        patch = video[:, frame, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert_close(patch.flatten(1), model.patch_out(token), atol=1e-5, rtol=1e-5)


def test_a_seen_black_frame_is_not_an_unseen_one():
    """Both bring zeros; the mask, which is 1 where a frame is seen, tells them apart."""
    model, video, sigma = VideoDiT(TINY), torch.randn(1, 3, 3, 8, 4), torch.rand(1, 3)
    seen, black = torch.tensor([[False, True, False]]), torch.zeros(1, 3, 3, 8, 4)
    difference = model.embed(video, sigma, seen, black)[0] - model.embed(video, sigma)[0]
    of_mask = model.patch_in.weight.view(24, 7, 4)[:, 3].sum(-1)  # channels: 3 noisy, the mask, 3 clean
    assert_close(difference.view(3, 8, 24), seen.view(3, 1, 1) * of_mask.expand(3, 8, 24), atol=1e-6, rtol=0)


def test_contexts_differ():
    model = shaken(VideoDiT(TINY))
    video, sigma = torch.randn(1, 3, 3, 8, 4), torch.rand(1, 3)
    dynamic, freeze = model(video, sigma), model(video, sigma, context="freeze")
    assert not torch.allclose(dynamic, freeze)
    model.context_in.weight.data = model.context_in.weight.data.flip(0)
    assert_close(model(video, sigma, context="freeze"), dynamic)


def test_frames_of_another_size_are_what_a_model_of_that_size_makes_of_them():
    model, other = VideoDiT(TINY), VideoDiT(replace(TINY, image_size=(4, 6)))
    other.load_state_dict(shaken(model).state_dict())
    video, sigma = torch.randn(1, 3, 3, 4, 6), torch.rand(1, 3)
    assert_close(model(video, sigma), other(video, sigma), rtol=0, atol=0)


def test_text_reaches_every_frame():
    model = shaken(VideoDiT(replace(TINY, text_dim=10)))
    video, sigma, text = torch.randn(1, 3, 3, 8, 4), torch.rand(1, 3), torch.randn(1, 7, 10)
    difference = model(video, sigma, text=text) - model(video, sigma, text=text + 1)
    assert (difference.abs().amax((0, 2, 3, 4)) > 1e-4).all()
    assert_close(model(video, sigma, text=text), model(video, sigma, text=text.flip(1)))


def test_nearest_seen_frame_by_brute_force():
    clean, seen = torch.randn(64, 6, 1, 2, 2), torch.rand(64, 6) < 0.3
    seen[:6] = torch.eye(6, dtype=torch.bool)
    assert (~seen.any(1)).any()
    for video, mask, fill in zip(clean, seen, nearest_seen(clean, seen), strict=True):
        for t in range(6):
            candidates = sorted((abs(t - s), s) for s in range(6) if mask[s])
            assert torch.equal(fill[t], video[candidates[0][1]] if candidates else torch.zeros(1, 2, 2))


def test_unseen_frames_are_not_looked_at():
    model = shaken(VideoDiT(TINY))
    video, sigma = torch.randn(2, 3, 3, 8, 4), torch.rand(2, 3)
    seen = torch.tensor([[False, True, False], [False, False, False]])
    hidden = torch.where(seen[..., None, None, None], video, torch.nan)
    assert torch.equal(model(video, sigma, seen, hidden), model(video, sigma, seen, video))
    assert_close(model(video, sigma, seen, hidden)[1:], model(video[1:], sigma[1:]))
    assert not torch.allclose(model(video, sigma, seen, video + 1)[0], model(video, sigma, seen, video)[0])


def test_one_clip_is_learnt():
    """A square gliding over a black picture, predicted from noise and its first frame."""
    model = VideoDiT(VideoDiTConfig(image_size=(8, 8), patch=4, dim=48, depth=2, heads=2))
    clip = -torch.ones(4, 4, 3, 8, 8)
    for t in range(4):
        clip[:, t, :, 2:5, t : t + 3] = torch.tensor([1.0, 0.5, -0.5])[:, None, None]
    seen = torch.tensor([True, False, False, False]).expand(4, -1)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(120):
        sigma = torch.rand(4, 1) * ~seen
        noisy = torch.lerp(clip, torch.randn_like(clip), sigma[..., None, None, None])
        loss = (model(noisy, sigma, seen, clip) - clip).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) / 10 < losses[0] / 10


def test_refinement_carries_detail_past_the_tokens():
    """Where tokens are zero, a pixel still reaches the output near itself, and there alone: two convolutions."""
    refined = shaken(VideoDiT(REFINED))
    nn.init.zeros_(refined.patch_out.weight)
    video, sigma = torch.randn(1, 2, 3, 8, 4, requires_grad=True), torch.rand(1, 2)
    (reads,) = torch.autograd.grad(refined(video, sigma)[0, 1, :, 0, 0].sum(), video)
    reach = (reads[0].abs().sum(1) > 0).nonzero()
    assert (reach[:, 0] == 1).all() and reach[:, 1].max() == 5 and len(reach) == 6 * 4


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda model, x, sigma: model(x[..., :3], sigma), ("x", (3, 8, 3))),
        (lambda model, x, sigma: model(x[:, :, :1], sigma), ("x", (1, 8, 4))),
        (lambda model, x, sigma: model(x, sigma, context="sideways"), ("context", "sideways")),
        (lambda model, x, sigma: model(x, sigma, seen=sigma > 0), ("seen", "clean")),
        (lambda model, x, sigma: model(x, sigma, text=x), ("text",)),
        (lambda *_: replace(TINY, patch=3), ("patch", 3)),
        (lambda *_: replace(TINY, dim=20, heads=3), ("heads", 3)),
        (lambda *_: replace(TINY, dim=20, heads=4), ("heads", 4)),
        (lambda *_: replace(TINY, patch=1, refine=16), ("refine", 16)),
        (lambda *_: replace(TINY, patch=4, refine=8), ("refine", 8)),
    ],
)
def test_bad_input_is_named(unchecked, call, said):
    refused(lambda: call(VideoDiT(TINY), torch.randn(1, 3, 3, 8, 4), torch.rand(1, 3)), *said)
