from functools import partial

import pytest
import torch
from refused import refused
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


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def streams():
    """y^v, y^t and the embedding of sigma."""
    return *(torch.randn(B, V, T, N, D, requires_grad=True) for _ in range(2)), torch.randn(B, V, T, K)


def randomised(module):
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


def assert_same_layer(one, other, y_view, y_time):
    """Equal outputs, and equal gradients of both streams for any weight on both outputs."""
    for ours, theirs in zip(one, other, strict=True):
        assert_close(ours, theirs)
    weights = [torch.randn_like(y_view), torch.randn_like(y_time)]
    gradients = [
        torch.autograd.grad(sum((x * w).sum() for x, w in zip(outputs, weights, strict=True)), (y_view, y_time))
        for outputs in (one, other)
    ]
    assert_close(*gradients)


@pytest.mark.parametrize("w", [0.0, 0.1, 0.3, 0.5])
@pytest.mark.parametrize("used_before", [False, True])
def test_soft_at_w_is_equation_13(streams, w, used_before):
    y_view, y_time, cond = streams
    soft = SoftSync(D, K)
    if used_before:
        randomised(soft)
    assert_same_layer(soft.start_at(w)(*streams), weighted_sync(y_view, y_time, w), y_view, y_time)
    assert_close(soft(y_view, y_time, cond), soft(y_view, y_time, 100 * cond), atol=0, rtol=0)


def test_soft_at_one_half_is_equation_12(streams):
    y_view, y_time, _ = streams
    for outputs in (SoftSync(D, K).start_at(0.5)(*streams), weighted_sync(y_view, y_time, 0.5)):
        assert_same_layer(outputs, (average_sync(y_view, y_time),) * 2, y_view, y_time)


def test_equation_13_by_hand(streams):
    y_view, y_time, _ = streams
    by_hand = 0.8 * y_view + 0.2 * y_time, 0.8 * y_time + 0.2 * y_view
    assert_same_layer(weighted_sync(y_view, y_time, 0.2), by_hand, y_view, y_time)


def test_soft_starts_as_the_identity(streams):
    y_view, y_time, _ = streams
    x_view, x_time = SoftSync(D, K)(*streams)
    assert torch.equal(x_view, y_view) and torch.equal(x_time, y_time)
    assert_same_layer((x_view, x_time), (y_view, y_time), y_view, y_time)


def test_hard_starts_as_the_average(streams):
    y_view, y_time, _ = streams
    x_view, x_time = HardSync(D, K)(*streams)
    assert x_view is x_time
    average = average_sync(y_view, y_time)
    assert_same_layer((x_view, x_time), (average, average), y_view, y_time)


@pytest.mark.parametrize("dim, cond_dim", [(96, 96), (384, 384), (64, 128)])
def test_wide_hard_has_the_parameters_of_soft_and_starts_as_the_average(dim, cond_dim):
    wide, soft = (sum(p.numel() for p in layer(dim, cond_dim).parameters()) for layer in (WideHardSync, SoftSync))
    assert abs(wide / soft - 1) < 0.01


def test_wide_hard_starts_as_the_average_and_its_hidden_layer_counts(streams):
    y_view, y_time, cond = streams
    wide = WideHardSync(D, K)
    assert_same_layer(wide(*streams), (average_sync(y_view, y_time),) * 2, y_view, y_time)
    randomised(wide)
    both = torch.cat([y_view, y_time], -1)
    x, _ = HardSync.forward(wide, *streams)
    hidden = nn.functional.gelu(both @ wide.beside[0].weight.T, approximate="tanh")
    assert_same_layer(wide(*streams), (x + hidden @ wide.beside[2].weight.T,) * 2, y_view, y_time)


def test_the_sequential_adapter_starts_as_the_identity_and_reads_both_updates(streams):
    y, x, cond = streams
    adapter = SequentialAdapter(D, K)
    assert_close(adapter(*streams), x, atol=0, rtol=0)
    randomised(adapter)
    scale = 1 + adapter.linear.scale(cond)[..., None, :]
    of_y, of_x = adapter.linear.weight.chunk(2, 1)
    by_hand = (
        x + (scale[..., :D] * y) @ of_y.T + (scale[..., D:] * x) @ of_x.T + adapter.linear.shift(cond)[..., None, :]
    )
    assert_close(adapter(*streams), by_hand)


def test_mod_linear_by_einsum():
    layer = randomised(ModLinear(D, 4, K))
    y, cond = torch.randn(B, V, T, N, D, requires_grad=True), torch.randn(B, V, T, K, requires_grad=True)
    a = torch.einsum("ik,bvtk->bvti", layer.scale.weight, cond) + layer.scale.bias
    b = torch.einsum("ok,bvtk->bvto", layer.shift.weight, cond) + layer.shift.bias
    modulated = y + torch.einsum("bvti,bvtni->bvtni", a, y)
    expected = torch.einsum("oi,bvtni->bvtno", layer.weight, modulated) + b.unsqueeze(3)
    assert_close(layer(y, cond), expected, atol=1e-4, rtol=1e-4)
    inputs, weight = [y, cond, *layer.parameters()], torch.randn_like(expected)
    ours, theirs = (torch.autograd.grad(x, inputs, weight) for x in (layer(y, cond), expected))
    assert_close(ours, theirs, atol=1e-3, rtol=1e-4)


def test_each_weight_block_joins_the_streams_it_should(streams):
    """Eq. 8: W = [W^v, W^t]. Eq. 10: rows are updates of view and time, columns read view and time."""
    y_view, y_time, cond = streams
    hard, soft = HardSync(D, K), SoftSync(D, K)
    for layer in (hard, soft):
        nn.init.normal_(layer.linear.weight)
        nn.init.normal_(layer.linear.shift.weight)
    of_view, of_time = hard.linear.weight.split(D, 1)
    mixture = y_view @ of_view.T + y_time @ of_time.T + hard.linear.shift(cond)[..., None, :]
    assert_same_layer(hard(*streams), (mixture, mixture), y_view, y_time)
    (vv, vt), (tv, tt) = (half.split(D, 1) for half in soft.linear.weight.split(D, 0))
    b_view, b_time = soft.linear.shift(cond)[..., None, :].split(D, -1)
    by_hand = y_view + y_view @ vv.T + y_time @ vt.T + b_view, y_time + y_view @ tv.T + y_time @ tt.T + b_time
    assert_same_layer(soft(*streams), by_hand, y_view, y_time)


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
    for layer in (randomised(HardSync(D, K)), randomised(SoftSync(D, K))):
        (gradient,) = torch.autograd.grad(sum(x[1, 2, 3].square().sum() for x in layer(y_view, y_time, cond)), cond)
        assert torch.equal(gradient.abs().sum(-1).nonzero(), torch.tensor([[1, 2, 3]]))


def test_sync_weight_grows_with_depth():
    assert [sync_weight(layer, 8) for layer in range(8)] == pytest.approx([0.1 + 0.05 * layer for layer in range(8)])
    assert sync_weight(0, 1) == 0.1
    for layer in (-1, 4, 5):
        refused(partial(sync_weight, layer, 4), "layer", layer)


@pytest.mark.parametrize("layer", [HardSync(D, K), SoftSync(D, K)], ids=["hard", "soft"])
def test_streams_of_another_shape_are_refused(streams, layer):
    y_view, y_time, cond = streams
    one_channel_less = y_view[..., 1:], y_time[..., 1:]
    for wrong in [(y_view, y_time[:, :, 1:], cond), (*one_channel_less, cond), (y_view, y_time, cond[..., 1:])]:
        with pytest.raises((TypeError, RuntimeError)):  # the shape checker's, or torch's own
            layer(*wrong)
