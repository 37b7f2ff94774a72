"""What optimised scenes are tested with."""

from dataclasses import replace

import pytest
import torch

from fourd_minimal.configs.four_diffusion import FOUR_DM
from fourd_minimal.systems.four_diffusion import FourDM


@pytest.fixture(scope="module")
def base():
    """A multi-view model without motion modules."""
    torch.manual_seed(0)
    return FourDM(FOUR_DM["smoke"].model, motion=False).requires_grad_(False)


@pytest.fixture(scope="module")
def latent_base():
    """One that works on latents, and so cannot say anything about renders."""
    model = FOUR_DM["smoke"].model
    return FourDM(replace(model, unet=replace(model.unet, image_channels=4)), motion=False)


@pytest.fixture
def film():
    """Three frames of 16 x 16 pixels: a coloured square on white."""
    frames = torch.ones(3, 3, 16, 16)
    frames[:, :, 4:12, 5:11] = torch.rand(3, 3, 8, 6, generator=torch.Generator().manual_seed(0)) * 0.5
    return frames
