"""The designs: each starts as the equation it stands for, trains only its own layers, and shares the base's weights."""

from typing import get_args

import pytest
import torch
from torch.testing import assert_close

from fourd_minimal.fused_attention import Fused4D
from fourd_minimal.systems.designs import UNTRAINED, Design, TunedAttention, build, trained_layers
from fourd_minimal.two_stream import Sequential4D, TwoStream, columns, rows
from fourd_minimal.video_dit import Block

B, V, T, N, D = 2, 3, 4, 5, 12


@pytest.fixture
def blocks():
    torch.manual_seed(0)
    blocks = torch.nn.ModuleList(Block(D, 2) for _ in range(3))
    for p in blocks.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return blocks


@pytest.fixture
def inputs():
    x = torch.randn(2, B, V, T, N, D)
    conditions = (torch.randn(B * T, V, D), None, None), (torch.randn(B * V, T, D), None, None)
    return x, conditions, torch.randn(B, V, T, D)


def run(streams, inputs):
    x, conditions, cond = inputs
    if isinstance(streams, Sequential4D | Fused4D):
        return streams(x.mean(0), *conditions, cond)
    return torch.stack(streams(*x, *conditions, cond))


@pytest.mark.parametrize(
    ("design", "as_"),
    [("soft", "weighted"), ("hard", "average"), ("hard_wide", "average"),
     ("sequential_attention", "sequential"), ("sequential_adapter", "sequential"), ("fused_attention", "fused")],
)  # fmt: skip
def test_trained_designs_start_as_their_untrained_equations(blocks, inputs, design, as_):
    assert_close(run(build(design, blocks, D), inputs), run(build(as_, blocks, D), inputs))


def test_sequential_is_views_first_then_times(blocks, inputs):
    (x, _), (of_views, of_times), _ = inputs
    streams = build("sequential", blocks[:1], D)
    y = torch.empty_like(x)
    for t in range(T):
        cond = of_views[0].unflatten(0, (B, T))[:, t]
        y[:, :, t] = blocks[0](x[:, :, t].flatten(1, 2), cond).unflatten(1, (V, N))
    assert_close(rows(streams(x, of_views, of_times)), blocks[0](rows(y), *of_times))
    assert columns(y).shape == (B * T, V * N, D)


@pytest.mark.parametrize("design", get_args(Design))
def test_only_the_trained_layers_get_gradients_and_all_of_them_do(blocks, inputs, design):
    streams = build(design, blocks, D)
    assert isinstance(streams, {"sequential": Sequential4D, "fused": Fused4D}.get(design.split("_")[0], TwoStream))
    layers = trained_layers(streams)
    mine = list(layers.parameters())
    if design in UNTRAINED:
        assert mine == []
        return
    blocks.requires_grad_(False)
    layers.requires_grad_(True)
    for p in mine:
        torch.nn.init.normal_(p, std=0.1)
    out = run(streams, inputs)
    (out * torch.randn_like(out)).sum().backward()
    assert all(p.grad.abs().max() > 0 for p in mine)
    assert not {id(p) for p in mine} & {id(p) for p in blocks.parameters()}
    assert all(p.grad is None for p in blocks.parameters())


def test_tuned_attention_is_a_block_with_other_attention_weights(blocks):
    """The change is added to every weight of the attention and to no other; later changes of the base show through."""
    tuned, other = TunedAttention(blocks[0]), Block(D, 2)
    other.load_state_dict(blocks[0].state_dict())
    for p in tuned.change.values():
        torch.nn.init.normal_(p)
    with torch.no_grad():
        for name, p in other.attention.named_parameters():
            p += tuned.change[name.replace(".", "/")]
        blocks[0].mlp[0].weight += 1
        other.mlp[0].weight += 1
    x, c = torch.randn(2, 6, D, requires_grad=True), torch.randn(2, 3, D)
    ours, theirs = tuned(x, c), other(x, c)
    assert_close(ours, theirs)
    weight = torch.randn_like(ours)
    gradients = [torch.autograd.grad((o * weight).sum(), x)[0] for o in (ours, theirs)]
    assert_close(*gradients)
    assert len(list(tuned.parameters())) == len(list(other.attention.parameters()))
