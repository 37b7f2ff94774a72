"""What is no picture is refused in one sentence; what is one passes."""

import pytest
import torch

from fourd_minimal.systems.pixels import check_pixels


def test_pictures_pass():
    check_pixels("video", torch.tensor([0.0, 0.5, 1.0]))


@pytest.mark.parametrize(
    "frames, sentence",
    [
        (torch.ones(2, dtype=torch.uint8), "video is torch.uint8; a floating-point tensor with pixels"),
        (torch.zeros(0, 3), r"video has shape \(0, 3\), so no pixels"),
        (torch.tensor([0.5, torch.nan]), "video holds NaN"),
        (torch.tensor([-0.5, 0.5]), "video reaches from -0.5 to 0.5; pixels"),
        (torch.tensor([0.5, 2.0]), "video reaches from 0.5 to 2; pixels"),
    ],
)
def test_what_is_no_picture_is_refused(frames, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_pixels("video", frames)
