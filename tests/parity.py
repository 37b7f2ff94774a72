"""Two ways to compute one thing: outputs and gradients."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.testing import assert_close


def assert_same(ours, theirs, inputs: Sequence[Tensor], gradients: dict | None = None, **within) -> None:
    """Equal outputs, and equal gradients of a random weighted sum of them at all inputs.

    Args:
        ours, theirs: one tensor each, or as many; both computed from `inputs`.
        inputs: which require gradients.
        gradients: tolerances of the gradients; those of the outputs otherwise.
        within: `atol` and `rtol` of the outputs.

    >>> x = torch.ones(3, requires_grad=True)
    >>> assert_same(x * x, x**2, [x])
    """
    ours, theirs = ([out] if isinstance(out, Tensor) else list(out) for out in (ours, theirs))
    assert_close(ours, theirs, **within)
    weights = [torch.randn_like(out) for out in ours]
    found, expected = (torch.autograd.grad(out, list(inputs), weights) for out in (ours, theirs))
    assert_close(found, expected, **(within if gradients is None else gradients))
