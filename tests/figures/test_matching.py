"""Matchers: sure of what is there, unsure of what is not; the networks' formats, by small networks that have them."""

import pytest
import torch
import torch.nn.functional as F
from refused import refused
from torch.testing import assert_close

from figures.matching import classical, dust3r_confidence, gim_confidence
from fourd_minimal.metrics import confidence


def texture(n=2, size=(48, 64), seed=0):
    rough = torch.rand(n, 3, size[0] // 3, size[1] // 3, generator=torch.Generator().manual_seed(seed))
    smooth = F.interpolate(rough, size, mode="bicubic").clamp(0, 1)
    return (smooth - smooth.amin()) / (smooth.amax() - smooth.amin())


# Optical flow


def test_a_picture_is_found_in_itself():
    assert_close(classical(texture(), texture()), torch.ones(2, 48, 64), atol=1e-3, rtol=0)


def test_a_shift_is_found_inside_and_what_left_the_picture_is_not():
    wide = texture(size=(54, 72))
    a, b = wide[..., 3:51, 4:68], wide[..., 6:54, 1:65]  # what is at (x, y) in a is at (x + 3, y - 3) in b
    sure = classical(a, b)
    assert sure[:, 8:-8, 8:-8].median() > 0.98 and sure[:, 8:-8, 8:-8].mean() > 0.9
    assert sure[:, :, -2:].mean() < 0.1 and sure[:, :2].mean() < 0.1
    assert sure[:, :, 8:10].mean() > 0.7 and sure[:, -10:-8].mean() > 0.7


def test_strangers_are_not_found():
    sure = classical(texture(seed=0), texture(seed=1))
    assert confidence(sure)[0.5] < 0.35
    assert sure.mean() < classical(texture(), texture().roll(2, -1)).mean() - 0.4


def test_the_distance_is_in_pixels():
    """Twice the distance is the square root of the sureness; where it is 0, it was outside."""
    a, b = texture(seed=0), texture(seed=1)
    assert_close(classical(a, b, 2.0), classical(a, b).sqrt())


def test_pairs_do_not_know_of_each_other():
    a, b = texture(3), texture(3).roll(2, -1)
    assert_close(classical(a, b)[1:2], classical(a[1:2], b[1:2]))


# GIM


class Dense(torch.nn.Module):
    """DKM's and RoMa's call: the certainty is the first channel of what it is given, on its own grid."""

    def __init__(self, h, w, symmetric, channel):
        super().__init__()
        self.h_resized, self.w_resized, self.symmetric, self.channel = h, w, symmetric, channel

    def match(self, a, b):
        assert a.shape == b.shape and len(a) == 1
        of_a, of_b = (F.interpolate(x, (self.h_resized, self.w_resized))[0, 0] for x in (a, b))
        certainty = torch.cat([of_a, of_b], -1) if self.symmetric else of_a
        return torch.zeros(*certainty.shape, 4), certainty[None] if self.channel else certainty


@pytest.mark.parametrize(("symmetric", "channel"), [(True, False), (False, True), (False, False)])
@pytest.mark.parametrize("grid", [(48, 64), (96, 128), (96, 96), (48, 128)])
def test_a_dense_certainty_comes_back_pixel_by_pixel(symmetric, channel, grid):
    """Whatever the network's aspect: pictures are padded, not stretched, and the padding is cut off again."""
    sure = gim_confidence(Dense(*grid, symmetric, channel))(texture(seed=0), texture(seed=1))
    assert sure.shape == (2, 48, 64)
    off = (sure - texture(seed=0)[:, 0]).abs()
    assert off.mean() < 0.05
    assert grid[0] != 48 or off.max() < 1e-5  # there its grid is the padded picture's own


MATCHES = torch.tensor([[8.0, 0.0], [16.0, 40.0], [8.0, 0.0]]), torch.tensor([0.3, 0.9, 0.7]), torch.tensor([0, 1, 0])


def fills_in(data):
    assert data["image0"].shape == data["image1"].shape == (2, 1, 48, 64) and data["color1"].shape == (2, 3, 48, 64)
    data.update(zip(("mkpts0_f", "mconf", "m_bids"), MATCHES, strict=True))


def returns(data):
    return dict(zip(("keypoints0", "confidence", "batch_indexes"), MATCHES, strict=True))


@pytest.mark.parametrize("network", [fills_in, returns])
def test_matches_are_scattered_to_their_pixels_the_surest_wins_and_the_rest_is_0(network):
    expected = torch.zeros(2, 48, 64)
    expected[0, 0, 8], expected[1, 40, 16] = 0.7, 0.9
    assert_close(gim_confidence(network)(texture(), texture()), expected)


def test_positions_are_those_of_the_picture_not_of_what_the_network_saw():
    """LoFTR wants multiples of 8: 50 x 70 is seen as 48 x 64."""
    sure = gim_confidence(fills_in)(texture(size=(50, 70)), texture(size=(50, 70)))
    assert sure.shape == (2, 50, 70)
    assert sure.nonzero().tolist() == [[0, 0, 9], [1, 42, 18]]  # 8.5 * 70/64 = 9.3, 40.5 * 50/48 = 42.2


def test_grey_is_grey_and_colours_are_colours():
    def network(data):
        assert_close(data["image0"][:, 0], 0.299 * data["color0"][:, 0] + 0.587 * data["color0"][:, 1] + 0.114)
        return returns(data)

    a = texture()
    a[:, 2] = 1
    gim_confidence(network)(a, texture())


# DUSt3R


def dust3r(view1, view2):
    """conf is 1 + 4 x the first picture's red; for the second picture, of its own."""
    for view in (view1, view2):
        n, _, h, w = view["img"].shape
        assert h % 16 == w % 16 == 0 and view["img"].min() >= -1 and view["img"].min() < -0.5
        assert view["true_shape"].tolist() == [[h, w]] * n and len(view["idx"]) == len(view["instance"]) == n
        assert all(isinstance(name, str) for name in view["instance"])
    assert not set(view1["instance"]) & set(view2["instance"])
    one, two = (1 + 4 * (view["img"][:, 0] + 1) / 2 for view in (view1, view2))
    return (
        dict(pts3d=torch.zeros(*one.shape, 3), conf=one),
        dict(pts3d_in_other_view=torch.zeros(*two.shape, 3), conf=two),
    )


def test_dust3rs_confidence_is_the_first_pictures_and_comes_back_to_its_pixels():
    a, b = texture(3, seed=0), texture(3, seed=1)
    raw = dust3r_confidence(dust3r, size=64, raw=True)(a, b)
    assert_close(raw, 1 + 4 * a[:, 0])
    assert_close(dust3r_confidence(dust3r, size=64)(a, b), 1 - 1 / raw)
    larger = dust3r_confidence(dust3r, size=512, raw=True)(a, b)
    assert_close(larger, raw, atol=0.5, rtol=0)
    assert (larger - raw).abs().mean() < 0.05


def test_a_tall_picture_stays_tall():
    shapes = []

    def network(view1, view2):
        shapes.append(view1["img"].shape)
        return dust3r(view1, view2)

    assert dust3r_confidence(network, size=128)(texture(1, (96, 50)), texture(1, (96, 50))).shape == (1, 96, 50)
    assert shapes == [(1, 3, 128, 64)]


# What is refused


@pytest.mark.parametrize("matcher", [classical, gim_confidence(fills_in), dust3r_confidence(dust3r)])
def test_pictures_that_cannot_be_matched(matcher):
    black = torch.zeros(2, 3, 32, 32)
    refused(lambda: matcher(black, torch.zeros(2, 3, 32, 40)), "b", (2, 3, 32, 40))
    refused(lambda: matcher(black, black * torch.nan), "b", "NaN")
    refused(lambda: matcher(black - 0.5, black), "a", -0.5)
    refused(lambda: matcher(black[:, :, :8], black[:, :, :8]), "a", (2, 3, 8, 32))


def test_networks_that_answer_something_else():
    a = texture()

    def dust3r_with(**answer):
        return lambda: dust3r_confidence(lambda one, two: (answer, {}), size=64)(a, a)

    refused(lambda: gim_confidence(lambda data: dict(scores=1))(a, a), "network", "scores")
    refused(dust3r_with(), "network", "conf")
    refused(dust3r_with(conf=torch.ones(2, 8, 8)), "conf", (2, 8, 8))
    refused(dust3r_with(conf=torch.full((2, 48, 64), 0.5)), "conf", 0.5)
    refused(lambda: dust3r_confidence(dust3r, size=8), "size", 8)
    refused(lambda: classical(a, a, pixel=0.0), "pixel", 0)
