"""Parity: Wan 2.1's block, rotary positions and noise-level embedding, as diffusers has them."""

from dataclasses import replace

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from diffusers.models.embeddings import Timesteps
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed, WanTransformerBlock
from einops import rearrange, repeat
from torch import nn
from torch.testing import assert_close

from fourd_minimal.video_dit import (
    CONTEXTS,
    Block,
    VideoDiT,
    VideoDiTConfig,
    nearest_seen,
    rotary_angles,
    rotate,
    sigma_embedding,
)

TINY = VideoDiTConfig(image_size=(8, 4), patch=2, dim=24, depth=2, heads=2)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def unchecked(monkeypatch):
    """Without the shape checker, which would speak before our own errors."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def randomised(module, std=0.3):
    """No parameter left at the zero or the one it starts with."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=std)
    return module


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
    ours = randomised(Block(dim, heads, mlp_ratio=3, text_dim=dim))
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


def test_without_text_the_block_is_the_one_with_silent_text():
    silent, without = randomised(Block(24, 2, text_dim=10)), Block(24, 2)
    nn.init.zeros_(silent.text_attention.to_out.weight)
    nn.init.zeros_(silent.text_attention.to_out.bias)
    without.load_state_dict({name: p for name, p in silent.state_dict().items() if not name.startswith("text")})
    x, c, text = torch.randn(2, 12, 24), torch.randn(2, 3, 24), torch.randn(2, 5, 10)
    assert_close(without(x, c), silent(x, c, text), atol=0, rtol=0)


@pytest.mark.parametrize("head_dim", [2, 4, 10, 12, 16, 64])
def test_rotary_positions_are_those_of_wan(head_dim):
    frames, rows, columns = 5, 3, 2
    cos, sin = WanRotaryPosEmbed(head_dim, (1, 1, 1), 8)(torch.empty(1, 1, frames, rows, columns))
    angles = rotary_angles(frames, rows, columns, head_dim)
    assert_close(angles.cos(), cos[0, :, 0, ::2])  # it holds every number twice, once for each channel of a pair
    assert_close(angles.sin(), sin[0, :, 0, 1::2])


def test_rotation_turns_pairs_and_only_relative_positions_count():
    q, k = torch.randn(1, 2, 1, 12).expand(-1, -1, 24, -1), torch.randn(1, 2, 1, 12).expand(-1, -1, 24, -1)
    angles = rotary_angles(4, 3, 2, 12)
    as_complex = torch.view_as_complex(q.unflatten(-1, (6, 2)).contiguous()) * torch.polar(torch.ones(24, 6), angles)
    assert_close(rotate(q, angles), torch.view_as_real(as_complex).flatten(-2))
    products = rearrange(
        rotate(q, angles) @ rotate(k, angles).mT, "1 h (f r c) (f2 r2 c2) -> h f r c f2 r2 c2", f=4, r=3, f2=4, r2=3
    )
    assert_close(products[:, 0, 1, 0, 1, 2, 1], products[:, 2, 0, 0, 3, 1, 1])
    assert not torch.allclose(products[:, 0, 1, 0, 1, 2, 1], products[:, 1, 1, 0, 0, 2, 1])


@pytest.mark.parametrize("dim", [8, 24, 256])
def test_sigma_embedding_is_that_of_diffusers(dim):
    sigma = torch.rand(50)
    theirs = Timesteps(dim, flip_sin_to_cos=True, downscale_freq_shift=0)(1000 * sigma)
    assert_close(sigma_embedding(sigma, dim), theirs, atol=1e-4, rtol=0)
    assert_close(sigma_embedding(sigma.view(5, 10), dim), theirs.view(5, 10, dim), atol=1e-4, rtol=0)


def test_at_the_start_blocks_are_the_identity_and_the_output_is_zero():
    model = VideoDiT(TINY)
    video, sigma = torch.randn(2, 3, 3, 8, 4), torch.rand(2, 3)
    tokens, c, angles, _ = model.embed(video, sigma)
    for block in model.blocks:
        assert torch.equal(block(tokens, c, None, angles), tokens)
    assert torch.equal(model(video, sigma), torch.zeros_like(video))


def test_no_parameter_is_dead_after_three_steps():
    """The zeros of AdaLN-Zero wake one after another: the output, then the gates, then what they gate."""
    model = VideoDiT(TINY)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    video, sigma, seen = torch.randn(2, 3, 3, 8, 4), torch.rand(2, 3), torch.tensor([[True, False, False]] * 2)
    for _ in range(4):
        optimiser.zero_grad()
        for context in CONTEXTS:
            (model(video, sigma, seen, video, context) - video).square().mean().backward()
        optimiser.step()
    assert [name for name, p in model.named_parameters() if p.grad.abs().max() == 0] == []


@pytest.mark.parametrize("frame", [0, 1, 2])
def test_sigma_belongs_to_its_frame(frame):
    block = randomised(Block(24, 2))
    nn.init.zeros_(block.attention.to_out.weight)  # attention would carry the change to the other frames
    x, c = torch.randn(1, 12, 24), torch.randn(1, 3, 24)
    other = c.clone()
    other[:, frame] += 1
    changed = (block(x, c) != block(x, other)).view(3, 4, 24).any((1, 2))
    assert changed.tolist() == [i == frame for i in range(3)]

    model = randomised(VideoDiT(TINY))
    video, sigma = torch.randn(1, 3, 3, 8, 4), torch.rand(1, 3, requires_grad=True)
    _, c, *_ = model.embed(video, sigma)
    (gradient,) = torch.autograd.grad(c[0, frame].square().sum(), sigma)
    assert (gradient[0] != 0).tolist() == [i == frame for i in range(3)]
    (gradient,) = torch.autograd.grad(model(video, sigma)[0, frame].square().sum(), sigma)
    assert (gradient != 0).all()


def test_tokens_and_pixels_keep_their_place():
    """What a frame's patch holds goes into its token and comes out of it."""
    model = randomised(VideoDiT(TINY))
    video, sigma = torch.randn(1, 3, 3, 8, 4, requires_grad=True), torch.rand(1, 3)
    tokens, c, *_ = model.embed(video, sigma)
    token = (1 * 4 + 2) * 2 + 1  # frame 1, patch row 2 of 4, patch column 1 of 2
    patch = torch.zeros(3, 8, 4, dtype=torch.bool)
    patch[1, 4:6, 2:4] = True
    (reads,) = torch.autograd.grad(tokens[0, token].square().sum(), video)
    assert torch.equal(reads[0].abs().sum(1) > 0, patch)
    other = tokens.clone()
    other[0, token] += torch.randn(24)
    changed = model.unembed(tokens, c) != model.unembed(other, c)
    assert torch.equal(changed[0].any(1), patch)


def test_the_last_layer_by_hand():
    model = randomised(VideoDiT(TINY))
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
    model = randomised(VideoDiT(TINY))
    video, sigma = torch.randn(1, 3, 3, 8, 4), torch.rand(1, 3)
    dynamic, freeze = model(video, sigma), model(video, sigma, context="freeze")
    assert not torch.allclose(dynamic, freeze)
    model.context_in.weight.data = model.context_in.weight.data.flip(0)
    assert_close(model(video, sigma, context="freeze"), dynamic)


def test_frames_of_another_size_are_what_a_model_of_that_size_makes_of_them():
    model, other = VideoDiT(TINY), VideoDiT(replace(TINY, image_size=(4, 6)))
    other.load_state_dict(randomised(model).state_dict())
    video, sigma = torch.randn(1, 3, 3, 4, 6), torch.rand(1, 3)
    assert_close(model(video, sigma), other(video, sigma), rtol=0, atol=0)


def test_text_reaches_every_frame():
    model = randomised(VideoDiT(VideoDiTConfig(image_size=(8, 4), patch=2, dim=24, depth=1, heads=2, text_dim=10)))
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
    model = randomised(VideoDiT(TINY))
    video, sigma = torch.randn(2, 3, 3, 8, 4), torch.rand(2, 3)
    seen = torch.tensor([[False, True, False], [False, False, False]])
    hidden = torch.where(seen[..., None, None, None], video, torch.nan)
    assert torch.equal(model(video, sigma, seen, hidden), model(video, sigma, seen, video))
    assert_close(model(video, sigma, seen, hidden)[1:], model(video[1:], sigma[1:]))
    assert not torch.allclose(model(video, sigma, seen, video + 1)[0], model(video, sigma, seen, video)[0])


def test_a_batch_is_its_samples():
    model = randomised(VideoDiT(TINY))
    video, sigma, seen = torch.randn(3, 4, 3, 8, 4), torch.rand(3, 4), torch.rand(3, 4) < 0.5
    one_by_one = [model(video[i : i + 1], sigma[i : i + 1], seen[i : i + 1], video[i : i + 1]) for i in range(3)]
    assert_close(model(video, sigma, seen, video), torch.cat(one_by_one))


def test_one_clip_is_learnt():
    """A square gliding over a black picture, predicted from noise and its first frame."""
    model = VideoDiT(VideoDiTConfig(image_size=(8, 8), patch=4, dim=48, depth=2, heads=2))
    clip = -torch.ones(4, 4, 3, 8, 8)
    for t in range(4):
        clip[:, t, :, 2:5, t : t + 3] = torch.tensor([1.0, 0.5, -0.5])[:, None, None]
    seen = torch.tensor([True, False, False, False]).expand(4, -1)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(200):
        sigma = torch.rand(4, 1) * ~seen
        noisy = torch.lerp(clip, torch.randn_like(clip), sigma[..., None, None, None])
        loss = (model(noisy, sigma, seen, clip) - clip).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) / 10 < losses[0] / 20


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model, x, sigma: model(x[..., :3], sigma), r"x has frames of shape \(3, 8, 3\)"),
        (lambda model, x, sigma: model(x[:, :, :1], sigma), r"x has frames of shape \(1, 8, 4\)"),
        (lambda model, x, sigma: model(x, sigma, context="sideways"), "context is 'sideways'"),
        (lambda model, x, sigma: model(x, sigma, seen=sigma > 0), "seen and clean"),
        (lambda model, x, sigma: model(x, sigma, clean=x), "seen and clean"),
        (lambda *_: VideoDiTConfig(image_size=(8, 6), patch=4), "patch is 4"),
        (lambda *_: VideoDiTConfig(dim=20, heads=3), "heads is 3"),
        (lambda *_: VideoDiTConfig(dim=20, heads=4), "heads is 4"),
    ],
)
def test_errors_name_the_argument(unchecked, call, message):
    with pytest.raises(ValueError, match=message):
        call(VideoDiT(TINY), torch.randn(1, 3, 3, 8, 4), torch.rand(1, 3))


def test_without_text_the_text_layers_are_passed_over():
    torch.manual_seed(0)
    block, x, c = Block(24, 2, text_dim=24), torch.randn(1, 6, 24), torch.randn(1, 3, 24)
    torch.nn.init.normal_(block.modulation.weight)
    without = block(x, c)
    with torch.no_grad():
        for p in block.text_attention.parameters():
            p.fill_(9.0)
    assert_close(block(x, c), without)


def test_text_for_a_model_without_is_refused():
    with pytest.raises(ValueError, match="text is given; only a model built with text_dim"):
        Block(24, 2)(torch.randn(1, 6, 24), torch.randn(1, 3, 24), torch.zeros(1, 5, 24))


@pytest.fixture
def refined():
    return VideoDiT(replace(TINY, patch=4, refine=16))


def test_refinement_carries_detail_past_the_tokens(refined):
    """With tokens that say nothing, a pixel still reaches the output near itself, and there alone."""
    randomised(refined)
    nn.init.zeros_(refined.patch_out.weight)
    video, sigma = torch.randn(1, 2, 3, 8, 4, requires_grad=True), torch.rand(1, 2)
    (reads,) = torch.autograd.grad(refined(video, sigma)[0, 1, :, 0, 0].sum(), video)
    reach = (reads[0].abs().sum(1) > 0).nonzero()
    assert (
        (reach[:, 0] == 1).all() and reach[:, 1].max() == 5 and len(reach) == 6 * 4
    )  # two convolutions, two pixels each


def test_refinement_starts_at_zero_and_wakes(refined):
    video, sigma = torch.randn(2, 3, 3, 8, 4), torch.rand(2, 3)
    assert torch.equal(refined(video, sigma), torch.zeros_like(video))
    optimiser = torch.optim.SGD(refined.parameters(), lr=0.1)
    seen = torch.tensor([[True, False, False]] * 2)
    for _ in range(5):
        optimiser.zero_grad()
        for context in CONTEXTS:
            (refined(video, sigma, seen, video, context) - video).square().mean().backward()
        optimiser.step()
    assert [name for name, p in refined.named_parameters() if p.grad.abs().max() == 0] == []


def test_refinement_needs_an_even_patch_and_room_for_pixels():
    for wrong in dict(patch=1, refine=16), dict(patch=4, refine=8):
        with pytest.raises(ValueError, match=f"refine is {wrong['refine']} .*patch of {wrong['patch']}"):
            replace(TINY, **wrong)
