"""Sync layers against their equations, in outputs and gradients; where they start, and what each weight joins."""

import pytest
import torch
from parity import assert_same
from refused import refused
from tiny import shaken
from torch import nn
from torch.testing import assert_close

from fourd_minimal.sync import (
    HardSync,
    ModLinear,
    SequentialAdapter,
    SoftSync,
    WideHardSync,
    average_sync,
    sync_weight,
    weighted_sync,
)

B, V, T, N, D, K = 2, 3, 4, 5, 6, 7


@pytest.fixture
def streams(seed):
    """y^v, y^t and the embedding of sigma."""
    return *(torch.randn(B, V, T, N, D, requires_grad=True) for _ in range(2)), torch.randn(B, V, T, K)


@pytest.mark.parametrize("w", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("used_before", [False, True])
def test_soft_at_w_is_equation_13(streams, w, used_before):
    y_view, y_time, cond = streams
    soft = shaken(SoftSync(D, K), 1.0) if used_before else SoftSync(D, K)
    assert_same(soft.start_at(w)(*streams), weighted_sync(y_view, y_time, w), streams[:2])
    assert_close(soft(y_view, y_time, cond), soft(y_view, y_time, 100 * cond), atol=0, rtol=0)


def test_soft_at_one_half_is_equation_12(streams):
    assert_same(SoftSync(D, K).start_at(0.5)(*streams), (average_sync(*streams[:2]),) * 2, streams[:2])


def test_equation_13_by_hand(streams):
    y_view, y_time, _ = streams
    by_hand = 0.8 * y_view + 0.2 * y_time, 0.8 * y_time + 0.2 * y_view
    assert_same(weighted_sync(y_view, y_time, 0.2), by_hand, streams[:2])


def test_soft_starts_as_the_identity(streams):
    y_view, y_time, _ = streams
    assert_same(SoftSync(D, K)(*streams), (1 * y_view, 1 * y_time), streams[:2], atol=0, rtol=0)


def test_hard_starts_as_the_average(streams):
    y_view, y_time, _ = streams
    for layer in (HardSync(D, K), WideHardSync(D, K)):
        x_view, x_time = layer(*streams)
        assert x_view is x_time
        assert_same((x_view, x_time), (average_sync(y_view, y_time),) * 2, streams[:2])


def test_the_hidden_layer_of_wide_hard_counts(streams):
    wide = shaken(WideHardSync(D, K), 1.0)
    x, _ = HardSync.forward(wide, *streams)
    hidden = nn.functional.gelu(torch.cat(streams[:2], -1) @ wide.beside[0].weight.T, approximate="tanh")
    assert_same(wide(*streams), (x + hidden @ wide.beside[2].weight.T,) * 2, streams[:2])


def test_the_sequential_adapter_starts_as_the_identity_and_reads_both_updates(streams):
    y, x, cond = streams
    adapter = SequentialAdapter(D, K)
    assert torch.equal(adapter(*streams), x)
    shaken(adapter, 1.0)
    scale = 1 + adapter.linear.scale(cond)[..., None, :]
    of_y, of_x = adapter.linear.weight.chunk(2, 1)
    update = (scale[..., :D] * y) @ of_y.T + (scale[..., D:] * x) @ of_x.T + adapter.linear.shift(cond)[..., None, :]
    assert_close(adapter(*streams), x + update)


def test_mod_linear_by_einsum():
    layer = shaken(ModLinear(D, 4, K), 1.0)
    y, cond = torch.randn(B, V, T, N, D, requires_grad=True), torch.randn(B, V, T, K, requires_grad=True)
    a = torch.einsum("ik,bvtk->bvti", layer.scale.weight, cond) + layer.scale.bias
    b = torch.einsum("ok,bvtk->bvto", layer.shift.weight, cond) + layer.shift.bias
    modulated = y + torch.einsum("bvti,bvtni->bvtni", a, y)
    expected = torch.einsum("oi,bvtni->bvtno", layer.weight, modulated) + b.unsqueeze(3)
    inputs = [y, cond, *layer.parameters()]
    assert_same(layer(y, cond), expected, inputs, dict(atol=1e-3, rtol=1e-4), atol=1e-4, rtol=1e-4)


def test_each_weight_block_joins_the_streams_it_should(streams):
    """Eq. 8: W = [W^v, W^t]. Eq. 10: rows are updates of view and time, columns read view and time."""
    y_view, y_time, cond = streams
    hard, soft = HardSync(D, K), SoftSync(D, K)
    for layer in (hard, soft):
        nn.init.normal_(layer.linear.weight)
        nn.init.normal_(layer.linear.shift.weight)
    of_view, of_time = hard.linear.weight.split(D, 1)
    mixture = y_view @ of_view.T + y_time @ of_time.T + hard.linear.shift(cond)[..., None, :]
    assert_same(hard(*streams), (mixture, mixture), streams[:2])
    (vv, vt), (tv, tt) = (half.split(D, 1) for half in soft.linear.weight.split(D, 0))
    b_view, b_time = soft.linear.shift(cond)[..., None, :].split(D, -1)
    by_hand = y_view + y_view @ vv.T + y_time @ vt.T + b_view, y_time + y_view @ tv.T + y_time @ tt.T + b_time
    assert_same(soft(*streams), by_hand, streams[:2])


@pytest.mark.parametrize("layer", [HardSync(D, K), SoftSync(D, K).start_at(0.3)], ids=["hard", "soft"])
def test_swapped_streams_give_swapped_outputs(streams, layer):
    y_view, y_time, cond = streams
    x_view, x_time = layer(y_view, y_time, cond)
    assert_close(layer(y_time, y_view, cond), (x_time, x_view))


@pytest.mark.parametrize(
    "layer", [HardSync(D, K), SoftSync(D, K), SoftSync(D, K).start_at(0.1)], ids=["hard", "soft", "soft at 0.1"]
)
def test_training_wakes_every_weight_within_two_steps(streams, layer):
    goal = torch.randn(B, V, T, N, D)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1)

    def woken():
        optimiser.zero_grad()
        sum((x - goal).square().mean() for x in layer(*streams)).backward()
        return {name.removeprefix("linear.") for name, p in layer.named_parameters() if p.grad.abs().max() > 0}

    assert {"weight", "shift.weight", "shift.bias"} <= woken()
    optimiser.step()
    assert woken() == {"weight", "scale.weight", "scale.bias", "shift.weight", "shift.bias"}


def test_sigma_acts_on_its_own_cell(streams):
    y_view, y_time, cond = streams
    cond.requires_grad_()
    for layer in (shaken(HardSync(D, K)), shaken(SoftSync(D, K))):
        (gradient,) = torch.autograd.grad(sum(x[1, 2, 3].square().sum() for x in layer(y_view, y_time, cond)), cond)
        assert torch.equal(gradient.abs().sum(-1).nonzero(), torch.tensor([[1, 2, 3]]))


def test_sync_weight_grows_with_depth():
    assert [sync_weight(layer, 8) for layer in range(8)] == pytest.approx([0.1 + 0.05 * layer for layer in range(8)])
    assert sync_weight(0, 1) == 0.1


@pytest.mark.parametrize("layer", [-1, 4])
def test_a_layer_out_of_range_is_named(layer):
    refused(lambda: sync_weight(layer, 4), "layer", layer)
