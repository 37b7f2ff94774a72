"""SSIM against torchmetrics; the range of the perceptual distance; what the loss leads to."""

import torch
from parity import assert_same
from refused import refused
from torch.testing import assert_close
from torchmetrics.functional.image import structural_similarity_index_measure

from fourd_minimal.anchor_loss import AnchorLoss, ssim


def pictures():
    a = torch.rand(3, 3, 24, 19)
    return a, (a + 0.3 * torch.randn_like(a)).clamp(0, 1)


def test_outputs_and_gradients_are_torchmetrics():
    a, b = (x.requires_grad_() for x in pictures())
    found = ssim(a, b)
    expected = structural_similarity_index_measure(a, b, data_range=1.0, reduction="none")
    assert found.min() > 0.2 and found.max() < 0.95
    assert_same(found, expected, [a, b], dict(atol=1e-6, rtol=1e-3), atol=1e-5, rtol=1e-5)


def test_the_perceptual_distance_gets_pictures_from_minus_one_to_one():
    """The slip of the paper's code: pictures in [0, 1]."""
    given = []

    def distance(a, b):
        given.extend((a, b))
        return torch.tensor([0.1, 0.3])

    zero, one = torch.zeros(2, 3, 16, 16), torch.ones(2, 3, 16, 16)
    found = AnchorLoss(distance)(zero, one)
    assert (given[0] == -1).all() and (given[1] == 1).all()
    assert_close(found, 200 * torch.tensor(0.2) + 100 * (1 - ssim(zero, one).mean()))


def test_descending_the_loss_brings_a_render_to_the_frame():
    start, frame = pictures()
    x = start.clone().requires_grad_()
    loss = AnchorLoss(lambda a, b: (a - b).square().mean((1, 2, 3)))
    optimiser = torch.optim.Adam([x], lr=0.02)
    for _ in range(60):
        optimiser.zero_grad()
        loss(x, frame).backward()
        optimiser.step()
    assert (x - frame).abs().mean() < 0.2 * (start - frame).abs().mean()
    assert loss(frame, frame).abs() < 1e-4


def test_pictures_smaller_than_a_window_are_refused():
    refused(lambda: ssim(torch.rand(1, 3, 10, 16), torch.rand(1, 3, 10, 16)), "pictures", "10 x 16")
