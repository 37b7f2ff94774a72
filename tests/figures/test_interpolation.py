"""The middle of two frames: half the way of what moved, the same from both ends, and nothing where nothing moved."""

import pytest
import torch
import torch.nn.functional as F
from refused import refused
from torch.testing import assert_close

from figures.interpolation import flow, interpolate, moved


def texture(n=1, size=48, seed=0):
    """Smooth blots, in colour; wider than the frames that are cut from it."""
    noise = torch.rand(n, 3, size // 6, size // 6, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(noise, size, mode="bicubic").clamp(0, 1)


def shifted(right, down, side=32):
    """Frames that a camera over the texture sees; what is in them moves by (right, down) pixels."""
    return texture()[..., 8 - down : 8 - down + side, 8 - right : 8 - right + side]


@pytest.mark.parametrize("right, down", [(4, 0), (0, 4), (-4, 2)])
def test_a_texture_that_moves_is_halfway_in_the_middle(right, down):
    a, b, truth = shifted(0, 0), shifted(right, down), shifted(right // 2, down // 2)
    inner = (..., slice(6, -6), slice(6, -6))
    error, blended = ((made - truth)[inner].square().mean() for made in (interpolate(a, b), (a + b) / 2))
    assert error < 0.1 * blended
    assert_close(flow(a, b)[inner].mean((0, 2, 3)), torch.tensor([right, down]).float(), atol=0.4, rtol=0)


def test_what_moves_is_fetched_from_where_it_was():
    frame = texture()
    by = torch.zeros(1, 2, 48, 48)
    by[:, 0], by[:, 1] = 3.0, -2.0
    assert_close(moved(frame, by)[..., 5:-5, 5:-5], frame.roll((-2, 3), (2, 3))[..., 5:-5, 5:-5])
    by[:, 0], by[:, 1] = 0.5, 0.0
    assert_close(moved(frame, by)[..., 1:], (frame[..., 1:] + frame[..., :-1]) / 2)


def test_both_directions_agree_and_frames_do_not_mix():
    a, b = torch.cat([shifted(0, 0), shifted(0, 2)]), torch.cat([shifted(4, 0), shifted(0, 2)])
    made = interpolate(a, b)
    assert_close(made, interpolate(b, a))
    assert_close(made[:1], interpolate(a[:1], b[:1]))
    assert_close(made[1], b[1])  # it does not move
    assert not interpolate(a.clone().requires_grad_(), b).requires_grad


def test_bad_frames_are_named():
    refused(lambda: interpolate(texture(), texture() * 2), "b", 2)
    refused(lambda: interpolate(texture() * torch.nan, texture()), "a", "NaN")
