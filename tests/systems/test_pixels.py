"""What is no picture is refused in one sentence; what is one passes."""

import torch
from refused import refused

from fourd_minimal.systems.pixels import check_pixels


def test_pictures_pass():
    check_pixels("video", torch.tensor([0.0, 0.5, 1.0]))


def test_what_is_no_picture_is_refused():
    refused(lambda: check_pixels("video", torch.ones(2, dtype=torch.uint8)), "video", "torch.uint8")
    refused(lambda: check_pixels("video", torch.zeros(0, 3)), "video", (0, 3))
    refused(lambda: check_pixels("video", torch.tensor([0.5, torch.nan])), "video", "NaN")
    refused(lambda: check_pixels("video", torch.tensor([-0.5, 0.5])), "video", "-0.5", "0.5")
    refused(lambda: check_pixels("video", torch.tensor([0.5, 2.0])), "video", "0.5", 2)
