"""The set-up of every notebook: style, seed, what a result depends on, and alternative texts of pictures.

The palette is Okabe and Ito's (2008), made for colour-blind readers. A figure's alternative text is its titles and
axes; notebooks store it beside the picture, as `alt`.
"""

import platform
from collections.abc import Mapping, Sequence
from datetime import date
from textwrap import fill
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

import fourd_minimal
from fourd_minimal.configs import presets
from fourd_minimal.viewers.contact_sheet import picture_rows, png

BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
SKY, AMBER, YELLOW, GREY = "#56B4E9", "#E69F00", "#F0E442", "#999999"

STYLE = {
    "axes.prop_cycle": plt.cycler(color=[BLUE, ORANGE, GREEN, PINK, SKY, AMBER, GREY]),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "figure.constrained_layout.use": True,
    "figure.dpi": 80,
    "legend.fontsize": 8,
}


class Start(NamedTuple):
    """Where a notebook runs, and how large its experiments are."""

    device: torch.device
    preset: str
    seed: int
    sizes: dict[str, Any]


def start(smoke: Mapping[str, Any], otherwise: Mapping[str, Any], seed: int = 0) -> Start:
    """Sets style, seed and alternative texts, and prints what a result depends on.

    Args:
        smoke: sizes of the experiments in the preset `smoke`, where everything runs and nothing is learned.
        otherwise: sizes in any other preset.
        seed: of torch's global generator.

    Returns:
        Device, name of the preset, seed and its sizes.

    Raises:
        ValueError: `FOURD_PRESET` is not the name of a preset.

    >>> device, preset, seed, sizes = start(smoke=dict(scenes=2), otherwise=dict(scenes=64))  # doctest: +ELLIPSIS
    20..., fourd_minimal ..., torch ..., Python ...
    device ..., preset ..., seed 0
    scenes ...
    """
    device, preset = presets.device(), presets.preset_name()
    sizes = dict(smoke if preset == "smoke" else otherwise)
    plt.rcParams.update(STYLE)
    torch.manual_seed(seed)
    keep_alt_texts()
    print(f"{date.today()}, fourd_minimal {fourd_minimal.__version__}, torch {torch.__version__}, ", end="")
    print(f"Python {platform.python_version()}")
    print(f"device {device.type}, preset {preset}, seed {seed}")
    print(fill(", ".join(f"{name} {size}" for name, size in sizes.items()), 100))
    return Start(device, preset, seed, sizes)


def picture(x: Tensor) -> Tensor:
    """A model's pixels, in [-1, 1], as a picture in [0, 1].

    >>> picture(torch.tensor([-1.5, 0.0, 1.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    return (x.detach().cpu().clamp(-1, 1) + 1) / 2


def show(
    rows: Mapping[str, Tensor] | Sequence[tuple[str, Tensor]],
    alt: str,
    target: int = 64,
    headings: Mapping[int, str] | None = None,
    shades: int = 256,
) -> None:
    """Displays rows of pictures, each beside its label.

    Args:
        rows: label -> pictures `(n, 3, h, w)` in [0, 1]; or pairs of them, where labels repeat.
        alt: alternative text.
        target: approximate size of a picture on screen, in pixels.
        headings: column -> text above it.
        shades: of each colour; few keep a notebook small.
    """
    from IPython.display import Image, display

    lines = list(rows.items() if isinstance(rows, Mapping) else rows)
    sheet, step = picture_rows(lines, target=target, headings=headings), 255 / (shades - 1)
    display(Image(png(((sheet / step).round() * step).astype("uint8")), alt=alt))


def alt_text(figure: Figure) -> str:
    """A figure's titles, then the labels of its axes.

    >>> figure, axis = plt.subplots()
    >>> _ = axis.set(title="Loss falls", xlabel="step", ylabel="loss")
    >>> alt_text(figure)
    'Loss falls. Axes: step, loss.'
    """
    titles = [figure.get_suptitle(), *(axis.get_title(where) for axis in figure.axes for where in ("left", "center"))]
    labels = [label for axis in figure.axes for label in (axis.get_xlabel(), axis.get_ylabel())]
    title = (
        "; ".join(dict.fromkeys(" ".join(title.split()) for title in titles if title)) or "A picture without a title"
    )
    shown = ", ".join(dict.fromkeys(" ".join(label.split()) for label in labels if label))
    return f"{title.rstrip('.')}. Axes: {shown}." if shown else f"{title.rstrip('.')}."


def keep_alt_texts() -> None:
    """From now on a notebook stores figures with their `alt_text`; without IPython nothing happens."""
    try:
        from IPython import get_ipython
    except ImportError:
        return
    if (shell := get_ipython()) is None:
        return
    plt.close(plt.figure())  # the inline backend registers its formatter with the first figure
    formatter = shell.display_formatter.formatters["image/png"]
    if Figure not in formatter or hasattr(draw := formatter.lookup_by_type(Figure), "of_figures"):
        return

    def described(figure: Figure) -> tuple[Any, dict[str, Any]]:
        picture = draw(figure)
        drawn, known = picture if isinstance(picture, tuple) else (picture, {})
        return drawn, {**known, "alt": alt_text(figure)}

    described.of_figures = True
    formatter.for_type(Figure, described)
