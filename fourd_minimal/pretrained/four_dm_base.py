"""4DM's base out of a published U-Net: ImageDream's, or Stable Diffusion 2's, where ImageDream began."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from fourd_minimal.multiview_unet import MultiviewUNet
from fourd_minimal.pretrained import image_dream_unet, stable_diffusion_unet
from fourd_minimal.systems.four_diffusion import FourDM, FourDMConfig
from fourd_minimal.systems.weights import fingerprint
from fourd_minimal.training.loop import fresh


def published_base(config: FourDMConfig, path: str | Path, seed: int = 0) -> tuple[FourDM, list[str]]:
    """A base with the weights of a file, and the names of those that it lacks, which are random; see `load_unet`."""
    base = fresh(lambda: FourDM(config, motion=False), seed)
    return base, load_unet(base.unet, path)


def keep(base: FourDM, folder: Path, path: Path, lacks: list[str]) -> None:
    """Write a base that is not trained as the file that training would leave in `folder`.

    Raises:
        ValueError: weights that the file at `path` lacks, or another base in the folder.
    """
    if lacks:
        some = f"{len(lacks)} tensors, such as {lacks[0]}"
        raise ValueError(f"{path} lacks {some}; --stage base and --settings.base-steps train them.")
    kept = folder / FourDM.file
    if not kept.exists():
        base.save_pretrained(folder, "base", made_from=path.name)
    elif fingerprint(FourDM.from_pretrained(folder, motion=False)) != fingerprint(base):
        raise ValueError(f"{kept} is there, and is not {path}; expected another folder.")


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
