"""Where people are in a video: the masks of MediaPipe, whose wheel brings its network along.

It wants an older numpy, so it lives in a Python environment of its own and runs as a subprocess (`people_mask.py`).
`PEOPLE_ENVIRONMENT` is the one line that makes the environment.
"""

import os
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

PEOPLE_ENVIRONMENT = (
    "python3.11 -m venv ~/.cache/fourd_minimal/people && "
    '~/.cache/fourd_minimal/people/bin/pip install "mediapipe==0.10.21"'
)
"""Makes the environment in which MediaPipe runs."""


def people_python() -> Path:
    """The Python that has MediaPipe: $FOURD_PEOPLE_PYTHON, else of the environment made above."""
    return Path(os.environ.get("FOURD_PEOPLE_PYTHON") or "~/.cache/fourd_minimal/people/bin/python").expanduser()


def people_alpha(frames: Float[Tensor, "t 3 h w"]) -> Float[Tensor, "t 1 h w"]:
    """How surely a pixel shows a person, in [0, 1]; frames in [0, 1], best a few hundred pixels large.

    Raises:
        FileNotFoundError: the environment is missing.
        ValueError: MediaPipe failed.
    """
    python = people_python()
    if not python.is_file():
        raise FileNotFoundError(f"There is no MediaPipe at '{python}'; this line makes it: {PEOPLE_ENVIRONMENT}")
    script = Path(__file__).with_name("people_mask.py")
    with TemporaryDirectory() as folder:
        given, made = Path(folder, "frames.npy"), Path(folder, "alpha.npy")
        pictures = rearrange((frames * 255).round().byte(), "t c h w -> t h w c")
        np.save(given, np.ascontiguousarray(pictures.cpu().numpy()))
        run = subprocess.run(
            [python, "-I", script, given, made], capture_output=True, encoding="utf-8", errors="replace"
        )
        if run.returncode or not made.exists():
            said = run.stderr.strip().splitlines() or [f"nothing (exit status {run.returncode})"]
            raise ValueError(f"MediaPipe could not read the frames; it said: {said[-1]}")
        return torch.from_numpy(np.load(made, allow_pickle=False))[:, None].to(frames)
