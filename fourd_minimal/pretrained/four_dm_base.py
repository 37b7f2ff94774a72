"""4DM's base out of a published U-Net: ImageDream's, or Stable Diffusion 2's, where ImageDream began."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from fourd_minimal.multiview_unet import MultiviewUNet
from fourd_minimal.pretrained import image_dream_unet, stable_diffusion_unet


def load_unet(unet: MultiviewUNet, path: str | Path) -> list[str]:
    """Give a U-Net the weights of a file, in place.

    Args:
        unet: changed in place.
        path: a safetensors file, with the names of ImageDream's code or of diffusers.

    Returns:
        the names of the weights that the file lacks, which stay as they were: none with ImageDream's.

    Raises:
        ValueError: no safetensors file, or one that does not fit.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path} is no file; expected ImageDream's or Stable Diffusion's U-Net as safetensors.")
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a complete safetensors file ({error}).") from None
    if image_dream_unet.is_image_dreams(state):
        image_dream_unet.load_image_dream(unet, state)
        return []
    return stable_diffusion_unet.load_stable_diffusion(unet, state)
