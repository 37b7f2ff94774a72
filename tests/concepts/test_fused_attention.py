"""Against a softmax written out token by token, dense masked attention, and the video model's own rows and columns."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from parity import assert_same
from refused import refused
from tiny import shaken
from torch.testing import assert_close

from fourd_minimal.fused_attention import Fused4D, frame_mask, fused_attention, grid_angles, masked_attention
from fourd_minimal.two_stream import rows
from fourd_minimal.video_dit import VideoDiT, VideoDiTConfig, rotary_angles, rotate

B, HEADS, N, D = 2, 3, 4, 8


def heads(views, times, dtype=torch.float64):
    """q, k, v as a linear layer leaves them, heads inside the channels: not contiguous."""
    qkv = torch.randn(3, B, views, times, N, HEADS * D, dtype=dtype)
    return [rearrange(a, "b v t n (h d) -> b v t h n d", h=HEADS).detach().requires_grad_() for a in qkv]


@pytest.mark.parametrize("attention", [fused_attention, masked_attention])
def test_a_softmax_token_by_token(attention):
    q, k, v = heads(3, 4)
    y = attention(q, k, v)
    for view, time in [(0, 0), (1, 2), (2, 3)]:
        seen = [(view, t) for t in range(4)] + [(i, time) for i in range(3) if i != view]  # its own frame once
        for b, head, i in [(0, 0, 0), (1, 2, 3)]:
            keys, values = (torch.stack([a[(b, *f, head, j)] for f in seen for j in range(N)]) for a in (k, v))
            shares = (keys @ q[b, view, time, head, i] / D**0.5).softmax(0)
            assert_close(y[b, view, time, head, i], shares @ values, atol=1e-13, rtol=1e-12)


@pytest.mark.parametrize(("views", "times"), [(1, 1), (1, 4), (3, 1), (2, 5), (4, 4)])
@pytest.mark.parametrize("loud", [1, 300])
def test_it_is_dense_masked_attention_with_its_gradients(views, times, loud):
    q, k, v = heads(views, times)
    for recompute in (False, True):
        ours = fused_attention(loud * q, k, v, recompute)
        assert_same(ours, masked_attention(loud * q, k, v), [q, k, v], atol=1e-12, rtol=1e-11)


def test_recomputing_keeps_no_more_than_queries_keys_and_values():
    def kept(attention):
        storages = {}

        def pack(a):
            storages[a.untyped_storage().data_ptr()] = a.untyped_storage().nbytes()
            return a

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda a: a):
            attention(*qkv)
        return sum(storages.values())

    views, times = 4, 4
    qkv = heads(views, times)
    size = qkv[0].nbytes
    assert kept(partial(fused_attention, recompute=True)) <= 3 * size
    assert 2 * (views + times - 1) * size <= kept(fused_attention) <= (2 * (views + times - 1) + 5) * size


# One stream through a video model's blocks


@pytest.fixture
def model(seed):
    """A video model in which every weight counts."""
    return shaken(VideoDiT(VideoDiTConfig(image_size=(4, 4), patch=2, dim=24, depth=2, heads=2)), 0.2)


def grid_and_conditions(model, views, times):
    """Tokens of a grid; (c, text, angles) of its columns and of its rows, as `VideoDiT` makes them."""
    of_columns = model.embed(torch.randn(B * times, views, 3, 4, 4), torch.rand(B * times, views), context="freeze")
    of_rows = model.embed(torch.randn(B * views, times, 3, 4, 4), torch.rand(B * views, times), context="dynamic")
    conditions = [(c.detach(), None, angles) for _, c, angles, *_ in (of_columns, of_rows)]
    return torch.randn(B, views, times, N, 24, requires_grad=True), *conditions


def test_one_row_is_the_video_model(model):
    x, (c, *others), of_rows = grid_and_conditions(model, 1, 4)
    tokens = rows(x)
    for block in model.blocks:
        tokens = block(tokens, *of_rows)
    same = of_rows[0].view(c.shape)  # both streams condition a frame alike, so that its mean is either
    assert_close(rows(Fused4D(model.blocks)(x, (same, *others), of_rows)), tokens, atol=1e-5, rtol=1e-5)


def test_tokens_are_turned_as_in_a_fixed_view_video_and_an_eighth_as_in_a_freeze_time_video():
    """Products of rotated queries and keys along a row are the video's; along a column those of frames 1/8 apart."""
    q, k = torch.randn(2, 1, 1, 3 * 4 * N, 12, dtype=torch.float64)
    of_views, of_times = (rotary_angles(n, 2, 2, 12)[None].double() for n in (3, 4))
    angles = grid_angles(of_views, of_times, 3, 4)
    ours = (rotate(q, angles) @ rotate(k, angles).mT).view(3, 4, N, 3, 4, N)
    q, k = (a.view(3, 4, N, 12) for a in (q, k))
    q_row, k_row = (rotate(a[1].reshape(1, 1, -1, 12), of_times) for a in (q, k))
    assert_close(ours[1, :, :, 1], (q_row @ k_row.mT).view(4, N, 4, N))
    apart = of_views.view(3, N, 6)
    eighths = torch.cat([apart[..., :2] / 8, apart[..., 2:]], -1).view(1, -1, 6)  # two pairs of channels for the frame
    q_column, k_column = (rotate(a[:, 1].reshape(1, 1, -1, 12), eighths) for a in (q, k))
    assert_close(ours[:, 1, :, :, 1], (q_column @ k_column.mT).view(3, N, 3, N))


@pytest.mark.parametrize(("views", "times"), [(3, 3), (2, 4)])
def test_blocks_run_on_the_whole_grid_with_a_mask(model, views, times):
    """Every layer, and the gradients of all weights, by a dense mask and conditions laid out cell by cell."""
    x, of_columns, of_rows = grid_and_conditions(model, views, times)
    c = torch.empty(B, views, times, 24)
    for b in range(B):
        for view in range(views):
            for time in range(times):
                of_both = of_columns[0][b * times + time, view], of_rows[0][b * views + view, time]
                c[b, view, time] = torch.stack(of_both).mean(0)
    angles = grid_angles(of_columns[2], of_rows[2], views, times)
    mask = frame_mask(views, times).repeat_interleave(N, 0).repeat_interleave(N, 1)
    tokens, layers = x.flatten(1, 3), []
    for block in model.blocks:
        tokens = block(tokens, c.flatten(1, 2), None, angles, partial(F.scaled_dot_product_attention, attn_mask=mask))
        layers.append(tokens.view_as(x))
    seen, stream = [], Fused4D(model.blocks)
    y = stream(x, of_columns, of_rows, observe=lambda *a: seen.append(a))
    assert [layer for layer, _ in seen] == [0, 1]
    assert_close([after for _, after in seen], layers, atol=1e-5, rtol=1e-5)
    exact = dict(atol=1e-4, rtol=1e-4)
    assert_same(y, layers[-1], [x, *stream.parameters()], exact, atol=1e-5, rtol=1e-5)


def test_a_layer_reaches_the_row_and_the_column_and_two_layers_the_grid(model):
    x, *conditions = grid_and_conditions(model, 3, 4)
    for n_layers in (1, 2):
        y = Fused4D(model.blocks[:n_layers])(x, *conditions)
        (gradient,) = torch.autograd.grad(y[1, 1, 2].square().sum(), x)
        reached = gradient.abs().sum((-1, -2)) > 0
        assert torch.equal(reached[1].flatten(), frame_mask(3, 4)[6] if n_layers == 1 else torch.ones(12) > 0)
        assert not reached[0].any()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda q, k, v: fused_attention(q, k[:, :, 1:], v), ("k", (2, 2, 2, 3, 4, 8), (2, 2, 3, 3, 4, 8))),
        (lambda q, k, v: fused_attention(q, k, v[:, 1:]), ("v", (2, 1, 3, 3, 4, 8))),
        (lambda q, *_: Fused4D([])(q[..., 0], (None, q, None), (None, None, None)), ("cond_view", "text")),
    ],
)
def test_bad_input_is_named(unchecked, call, said):
    refused(lambda: call(*heads(2, 3)), *said)
