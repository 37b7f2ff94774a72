"""Which of the four presets is in force, and on which device: `FOURD_PRESET` = smoke | cpu | gpu | full.

Unset, it is `gpu` where CUDA is there, else `cpu`.
"""

import os

import torch

from fourd_minimal.configs.four_real_video import PRESETS, FourRealVideoPreset


def device() -> torch.device:
    """CUDA where there is one, else the CPU; under torchrun this process's own."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ["LOCAL_RANK"])) if "LOCAL_RANK" in os.environ else torch.device("cuda")


def preset_name() -> str:
    """The name in force.

    Raises:
        ValueError: `FOURD_PRESET` holds another word.
    """
    name = os.environ.get("FOURD_PRESET") or ("gpu" if torch.cuda.is_available() else "cpu")
    if name not in PRESETS:
        raise ValueError(f"FOURD_PRESET is {name!r}; expected one of {', '.join(PRESETS)}.")
    return name


def four_real_video(name: str | None = None) -> FourRealVideoPreset:
    """The preset of 4Real-Video called `name`, or the one in force."""
    name = name or preset_name()
    if name not in PRESETS:
        raise ValueError(f"name is {name!r}; it must be one of {', '.join(PRESETS)}.")
    return PRESETS[name]
