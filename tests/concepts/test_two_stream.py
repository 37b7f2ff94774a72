"""The blocks are those of `VideoDiT`, and Wan's as diffusers has them, unmodified."""

from functools import partial

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed, WanTransformerBlock
from einops import rearrange
from parity import assert_same
from refused import refused
from tiny import shaken
from torch import nn
from torch.testing import assert_close

from fourd_minimal.sync import HardSync, SoftSync, average_sync
from fourd_minimal.two_stream import Sequential4D, TwoStream, both_streams, columns, from_columns, from_rows, rows
from fourd_minimal.video_dit import VideoDiT, VideoDiTConfig

B, N, D = 2, 4, 24  # samples, tokens in a frame of 4x4 pixels, channels
shapes = pytest.mark.parametrize(("views", "times"), [(3, 3), (3, 4), (4, 2)])


@pytest.fixture
def model(seed):
    """A video model in which every weight counts."""
    return shaken(VideoDiT(VideoDiTConfig(image_size=(4, 4), patch=2, dim=D, depth=3, heads=2)), 0.2)


def identity(y_view, y_time, cond):
    return y_view, y_time


def average(y_view, y_time, cond):
    x = average_sync(y_view, y_time)
    return x, x


def grid_tokens(views, times):
    return torch.randn(B, views, times, N, D, requires_grad=True)


def conditions(model, views, times):
    """For the columns and for the rows: (c, text, angles), as `VideoDiT` makes them."""
    of_columns = model.embed(torch.randn(B * times, views, 3, 4, 4), torch.rand(B * times, views), context="freeze")
    of_rows = model.embed(torch.randn(B * views, times, 3, 4, 4), torch.rand(B * views, times), context="dynamic")
    angles = of_columns[2], of_columns[2] if views == times else of_rows[2]
    return [(cond[1].detach(), None, angle) for cond, angle in zip((of_columns, of_rows), angles, strict=True)]


CLOSE = dict(gradients=dict(atol=1e-4, rtol=1e-4), atol=1e-5, rtol=1e-5)


def test_rows_and_columns_are_what_the_grid_says():
    grid = grid_tokens(3, 4)
    for b in range(B):
        for t in range(4):
            assert torch.equal(columns(grid)[b * 4 + t], torch.cat([grid[b, v, t] for v in range(3)]))
        for v in range(3):
            assert torch.equal(rows(grid)[b * 3 + v], torch.cat([grid[b, v, t] for t in range(4)]))
    assert torch.equal(from_columns(columns(grid), 3, 4), grid) and torch.equal(from_rows(rows(grid), 3, 4), grid)


@shapes
def test_without_exchange_each_stream_is_the_video_model(model, views, times):
    """Eqs. 2, 3: the view stream is the base on every freeze-time video, the time stream on every fixed-view video."""
    grid, sigma = torch.randn(B, views, times, 3, 4, 4), torch.rand(B, views, times)
    inputs = grid, sigma, sigma < 0.5, grid
    as_columns = [rearrange(a, "b v t ... -> (b t) v ...") for a in inputs]
    as_rows = [rearrange(a, "b v t ... -> (b v) t ...") for a in inputs]
    x_view, c_view, angles_view, _ = model.embed(*as_columns, "freeze")
    x_time, c_time, angles_time, _ = model.embed(*as_rows, "dynamic")
    y_view, y_time = TwoStream(model.blocks, [identity] * 3)(
        from_columns(x_view, views, times),
        from_rows(x_time, views, times),
        (c_view, None, angles_view),
        (c_time, None, angles_view if views == times else angles_time),
    )
    exact = dict(atol=0, rtol=0) if views != times else dict(atol=1e-5, rtol=1e-5)  # a larger batch may round otherwise
    assert_close(model.unembed(columns(y_view), c_view), model(*as_columns, "freeze"), **exact)
    assert_close(model.unembed(rows(y_time), c_time), model(*as_rows, "dynamic"), **exact)


@shapes
def test_averaging_makes_the_streams_equal_at_every_layer(model, views, times):
    layers = []

    def observe(layer, y_view, y_time, x_view, x_time):
        assert torch.equal(x_view, x_time) and not torch.allclose(y_view, y_time)
        assert_close(x_view, average_sync(y_view, y_time))
        layers.append(layer)

    x_view, x_time = TwoStream(model.blocks, [average] * 3)(
        grid_tokens(views, times), grid_tokens(views, times), *conditions(model, views, times), observe=observe
    )
    assert torch.equal(x_view, x_time) and layers == [0, 1, 2]


@shapes
def test_one_batch_for_both_streams_is_two_calls(model, views, times):
    block, inputs = model.blocks[0], (grid_tokens(views, times), grid_tokens(views, times))
    of_columns, of_rows = conditions(model, views, times)
    by_two_calls = (
        from_columns(block(columns(inputs[0]), *of_columns), views, times),
        from_rows(block(rows(inputs[1]), *of_rows), views, times),
    )
    calls = []
    ours = both_streams(lambda *a: calls.append(a) or block(*a), *inputs, of_columns, of_rows)
    assert len(calls) == (1 if views == times else 2)
    assert_same(ours, by_two_calls, [*inputs, *block.parameters()], **CLOSE)


@shapes
def test_the_transposed_grid_gives_transposed_and_swapped_outputs(model, views, times):
    two_stream = TwoStream(model.blocks, [SoftSync(D, D).start_at(w) for w in (0.1, 0.2, 0.5)])
    x_view, x_time, cond = grid_tokens(views, times), grid_tokens(views, times), torch.randn(B, views, times, D)
    of_columns, of_rows = conditions(model, views, times)
    y_view, y_time = two_stream(x_view, x_time, of_columns, of_rows, cond)
    turned = (a.transpose(1, 2) for a in (x_time, x_view))
    z_view, z_time = two_stream(*turned, of_rows, of_columns, cond.transpose(1, 2))
    assert_close((z_time.transpose(1, 2), z_view.transpose(1, 2)), (y_view, y_time), atol=1e-5, rtol=1e-5)


@shapes
def test_streams_see_their_own_row_or_column_until_they_exchange(model, views, times):
    """Where the gradient of one cell reaches, in (view, time), is what that cell has seen."""
    of_columns, of_rows = conditions(model, views, times)

    def reach(n_layers, sync, stream):
        x_view, x_time = inputs = grid_tokens(views, times), grid_tokens(views, times)
        outputs = TwoStream(model.blocks[:n_layers], [sync] * n_layers)(x_view, x_time, of_columns, of_rows)
        gradients = torch.autograd.grad(outputs[stream][1, 1, 0].square().sum(), inputs, allow_unused=True)
        return [torch.zeros(B, views, times) if g is None else (g.abs().sum((-1, -2)) > 0).float() for g in gradients]

    nothing, row, column, sample = torch.zeros(4, B, views, times)
    row[1, 1], column[1, :, 0], sample[1] = 1, 1, 1
    for n_layers in (1, 3):
        assert_close(reach(n_layers, identity, stream=0), [column, nothing])
        assert_close(reach(n_layers, identity, stream=1), [nothing, row])
    assert_close(reach(1, average, stream=0), [column, row])
    assert_close(reach(2, average, stream=0), [sample, sample])


def test_the_sync_gets_every_layers_output_and_its_condition(model):
    layers = [HardSync(D, 5), SoftSync(D, 5).start_at(0.2), HardSync(D, 5)]
    for layer in layers:
        nn.init.normal_(layer.linear.shift.weight)
    x_view, x_time, cond = grid_tokens(3, 2), grid_tokens(3, 2), torch.randn(B, 3, 2, 5)
    of_columns, of_rows = conditions(model, 3, 2)
    by_hand = x_view, x_time
    for block, layer in zip(model.blocks, layers, strict=True):
        by_hand = layer(*both_streams(block, *by_hand, of_columns, of_rows), cond)
    two_stream = TwoStream(model.blocks, layers)
    assert_close(two_stream(x_view, x_time, of_columns, of_rows, cond), by_hand, atol=0, rtol=0)
    parameters = set(two_stream.parameters())
    assert all(parameter in parameters for layer in (*model.blocks, *layers) for parameter in layer.parameters())


@shapes
def test_sequential_is_equation_5_cell_by_cell(model, views, times):
    of_columns, of_rows = conditions(model, views, times)
    x = grid_tokens(views, times)

    def only(cond, i):
        return [a if a is None or len(a) == 1 else a[i : i + 1] for a in cond]  # angles are shared

    by_hand = x
    for block in model.blocks:
        y = torch.empty_like(by_hand)
        for b in range(B):
            for t in range(times):
                video = rearrange(by_hand[b, :, t], "v n d -> 1 (v n) d")
                y[b, :, t] = block(video, *only(of_columns, b * times + t)).view(views, N, D)
        by_hand = torch.empty_like(y)
        for b in range(B):
            for v in range(views):
                video = rearrange(y[b, v], "t n d -> 1 (t n) d")
                by_hand[b, v] = block(video, *only(of_rows, b * views + v)).view(times, N, D)
    ours = Sequential4D(model.blocks)
    assert_same(ours(x, of_columns, of_rows), by_hand, [x, *ours.parameters()], **CLOSE)


def test_sequential_with_its_own_views_and_adapters(model):
    """Other blocks for the views; an adapter gets both updates and the condition, and has the last word."""
    x, cond = grid_tokens(2, 3), torch.randn(B, 2, 3, 7)
    seen = []

    def adapter(y, x, given):
        seen.append((y, x, given))
        return x + 1

    streams = Sequential4D([lambda a: 2 * a], [lambda a: a + 3], [adapter])
    watched = []
    out = streams(x, cond_sync=cond, observe=lambda *a: watched.append(a))
    ((y, after, given),) = seen
    assert_close(y, x + 3)
    assert_close(after, 2 * (x + 3))
    assert_close(out, 2 * (x + 3) + 1)
    assert given is cond and watched[0][0] == 0
    assert_close(watched[0][1:], (y, out))


@shapes
def test_blocks_of_a_library_work_unmodified(views, times):
    """Wan's block takes its rotary angles as a pair; an adapter of one line hands them over."""
    wan = [WanTransformerBlock(D, 48, 2, cross_attn_norm=True) for _ in range(2)]

    def adapted(block, tokens, text, temb, cos, sin):
        return block(tokens, text, temb, (cos, sin))

    def rotary(frames):
        return WanRotaryPosEmbed(D // 2, (1, 1, 1), 8)(torch.empty(1, 1, frames, 2, 2))

    of_view, of_time = ([torch.randn(B * n, 5, D), torch.randn(B * n, 6, D)] for n in (times, views))
    of_view += rotary(views)
    of_time += of_view[2:] if views == times else rotary(times)
    x_view, x_time = grid_tokens(views, times), grid_tokens(views, times)
    blocks = [partial(adapted, block) for block in wan]

    alone = columns(x_view)
    for block in wan:
        alone = block(alone, *of_view[:2], tuple(of_view[2:]))
    y_view, _ = TwoStream(blocks, [identity] * 2)(x_view, x_time, of_view, of_time)
    assert_close(columns(y_view), alone, atol=1e-5, rtol=1e-5)

    y_view, y_time = TwoStream(blocks, [average] * 2)(x_view, x_time, of_view, of_time)
    assert torch.equal(y_view, y_time)
    y_view.square().sum().backward()
    assert all(p.grad.abs().max() > 0 for block in wan for p in block.parameters())


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda a: TwoStream([a] * 3, [identity] * 2), ("sync", 2)),
        (lambda a: Sequential4D([a], adapters=[a] * 2), ("adapters", 2)),
        (lambda a: TwoStream([a], [identity])(grid_tokens(2, 3), grid_tokens(3, 2)), ("x_time", (2, 3, 2, 4, 24))),
        (lambda a: TwoStream([a], [identity])(grid_tokens(2, 2), grid_tokens(2, 2), (None,), ()), ("zip",)),
    ],
)
def test_bad_input_is_named(unchecked, call, said):
    refused(lambda: call(lambda x, *cond: x), *said)
