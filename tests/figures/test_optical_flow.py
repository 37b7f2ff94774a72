"""Optical flow: a frame between two is halfway of what moved, and pixels are found again where they are."""

import pytest
import torch
import torch.nn.functional as F
from refused import refused
from torch.testing import assert_close

from figures.optical_flow import interpolate, match, moved
from fourd_minimal.metrics import confidence


def texture(n=1, size=(48, 48), seed=0, blot=6):
    """Smooth blots, in colour; wider than the frames that are cut from it."""
    noise = torch.rand(n, 3, *(side // blot for side in size), generator=torch.Generator().manual_seed(seed))
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


def test_what_moves_is_fetched_from_where_it_was():
    frame, by = texture(), torch.zeros(1, 2, 48, 48)
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
    assert_close(match(a, b)[1:], match(a[1:], b[1:]))


def test_a_shift_is_found_inside_and_what_left_the_picture_is_not():
    wide = texture(2, (54, 72), blot=3)
    a, b = wide[..., 3:51, 4:68], wide[..., 6:54, 1:65]  # what is at (x, y) in a is at (x + 3, y - 3) in b
    sure = match(a, b)
    assert sure[:, 8:-8, 8:-8].median() > 0.98 and sure[:, 8:-8, 8:-8].mean() > 0.9
    assert sure[:, :, -2:].mean() < 0.1 and sure[:, :2].mean() < 0.1


def test_a_picture_is_found_in_itself_and_strangers_are_not():
    a, b = (texture(2, (48, 64), seed, blot=3) for seed in (0, 1))
    assert_close(match(a, a), torch.ones(2, 48, 64), atol=1e-3, rtol=0)
    assert confidence(match(a, b))[0.5] < 0.35


@pytest.mark.parametrize("of", [interpolate, match])
def test_bad_frames_are_named(of):
    refused(lambda: of(texture(), texture() * 2), "b", 2)
    refused(lambda: of(texture() * torch.nan, texture()), "a", "NaN")
