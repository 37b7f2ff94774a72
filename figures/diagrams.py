"""Both systems at a glance, drawn by code: the two streams, the motion module, the loop of score distillation.

Blue is the view stream, orange the time stream, pink and dashed what flows back as gradient. What is trained is green,
what is frozen grey and striped, and a legend says so in words; amber cells with a dot are given. Equations have their
paper's numbers: 4Real-Video's in `two_streams`, 4Diffusion's in the other two.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.path import Path as Corners

from fourd_minimal.cli.main import program
from fourd_minimal.multiview_unet import MultiviewUNetConfig
from fourd_minimal.systems.weights import whole_file
from fourd_minimal.viewers.notebook import AMBER, BLUE, GREEN, GREY, ORANGE, PINK

INK = "#333333"
WIDE, HIGH = 90, 50
"""Units of a drawing, ten to an inch."""


def pale(colour: str, share: float = 0.2) -> tuple[float, ...]:
    """A colour thinned with white."""
    return tuple(1 - share * (1 - part) for part in to_rgb(colour))


def canvas(title: str) -> tuple[Figure, Axes]:
    """An empty drawing: x to the right, y up, one unit as long as the other."""
    figure = Figure(figsize=(WIDE / 10, HIGH / 10), facecolor="white", layout="none")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDE), ylim=(0, HIGH))
    axes.set_axis_off()
    figure.suptitle(title, x=0.5, y=0.97, va="top", fontsize=12, color=INK)
    return figure, axes


def say(axes: Axes, x: float, y: float, text: str, colour: str = INK, ha: str = "center", turn: float = 0) -> None:
    """Words, their middle (or the end that `ha` names) at x, y, turned by some degrees; darker, to be read."""
    dark = [0.85 * part for part in to_rgb(colour)]
    axes.text(x, y, text, color=dark, fontsize=9.5, ha=ha, va="center", linespacing=1.3, rotation=turn)


def box(axes: Axes, x: float, y: float, w: float, h: float, text: str = "", kind: str = INK) -> None:
    """Words in a box around x, y; `kind` is "frozen", "trained" or a colour."""
    colour = {"frozen": GREY, "trained": GREEN}.get(kind, kind)
    inside = dict(facecolor="#F3F3F3", edgecolor="#DCDCDC", hatch="//") if kind == "frozen" else {}
    inside = inside or dict(facecolor="white" if kind == INK else pale(colour))
    for looks in (dict(linewidth=0, **inside), dict(fill=False, edgecolor=colour, linewidth=1.5)):
        style = f"round,pad=0,rounding_size={min(0.7, w / 4)}"
        axes.add_patch(FancyBboxPatch((x - w / 2, y - h / 2), w, h, boxstyle=style, **looks))
    say(axes, x, y, text)


def frame(axes: Axes, x: float, y: float, w: float, h: float, colour: str) -> None:
    """An outline around what belongs together, its middle at x, y."""
    looks = dict(boxstyle="round,pad=0,rounding_size=1", fill=False, edgecolor=colour, linewidth=1.2)
    axes.add_patch(FancyBboxPatch((x - w / 2, y - h / 2), w, h, **looks))


def arrow(axes: Axes, *points: tuple[float, float], colour: str = INK, dashed: bool = False) -> None:
    """From the first point to the last, around the corners between them."""
    looks = dict(edgecolor=colour, facecolor=colour, linewidth=1.4, linestyle=(0, (4, 2)) if dashed else "-")
    axes.add_patch(FancyArrowPatch(path=Corners(points), arrowstyle="-|>", mutation_scale=10, **looks))


def plus(axes: Axes, x: float, y: float, start: float, lift: float) -> None:
    """A residual: what passes x = `start` is added again at x, by a way that leaves the line at y by `lift`."""
    axes.add_patch(Circle((x, y), 1.1, facecolor="white", edgecolor=INK, linewidth=1.4))
    axes.plot((x - 0.6, x + 0.6), (y, y), color=INK, linewidth=1.4)
    axes.plot((x, x), (y - 0.6, y + 0.6), color=INK, linewidth=1.4)
    arrow(axes, (start, y), (start, y + lift), (x, y + lift), (x, y + (1.4 if lift > 0 else -1.4)))


def cells(axes: Axes, x: float, y: float, rows: int, columns: int, colour: Callable, side: float = 2.2) -> None:
    """Frames around x, y, views down, times across, of `colour(v, t)`; amber ones bear a dot, for they are given."""
    for v in range(rows):
        for t in range(columns):
            left, low, shade = x + (t - columns / 2) * side, y + (rows / 2 - v - 1) * side, colour(v, t)
            face = shade if shade == AMBER else pale(shade, 0.55)
            axes.add_patch(Rectangle((left, low), side, side, facecolor=face, edgecolor="white", linewidth=1.5))
            if shade == AMBER:
                axes.add_patch(Circle((left + side / 2, low + side / 2), side / 9, color=INK))


def legend(axes: Axes, *kinds: str) -> None:
    """What stripes, colours, dots and dashes mean, at the foot of a drawing."""
    for i, kind in enumerate(kinds):
        x, y = WIDE / 2 + (i - (len(kinds) - 1) / 2) * 14 - 3, 2.6
        if kind == "given":
            cells(axes, x + 0.7, y, 1, 1, lambda v, t: AMBER, side=2)
        elif kind == "gradient":
            arrow(axes, (x - 2, y), (x + 1.7, y), colour=PINK, dashed=True)
        else:
            box(axes, x, y, 3.4, 2, kind=kind)
        say(axes, x + 2.6, y, kind, ha="left")


def two_streams() -> Figure:
    """4Real-Video: a grid with its first row and column given, two streams through frozen blocks, sync layers."""
    figure, axes = canvas("4Real-Video: two streams see a grid through the same frozen blocks, and synchronise")
    middle, away = 25, 9
    cells(axes, 9.5, middle, 4, 4, lambda v, t: AMBER if v * t == 0 else GREY)
    say(axes, 9.5, middle + 6, "time $t$ →")
    say(axes, 3.2, middle, "view $v$ →", turn=-90)
    say(axes, 9.5, middle - 7.5, "two videos,\nelse noise")
    axes.plot((14.5, 19), (middle, middle), color=INK, linewidth=1.4)

    frame(axes, 47.5, middle, 49, 36, GREY)
    say(axes, 70.5, middle + 15.8, "× $L$ layers", ha="right")
    sync = "sync layer\n\nhard: eq. 8\nsoft: eqs. 9, 10\n\n$x^v$, $x^t$ drawn\ntogether"
    box(axes, 64, middle, 13, 26, sync, "trained")
    say(axes, 46, middle, "one block for both: eq. 4")
    for sign, up, colour, name, seen_as, seen in (
        ("v", 1, BLUE, "view stream: time stands still, the camera moves", "columns\neq. 3", lambda v, t: t == 1),
        ("t", -1, ORANGE, "time stream: the camera stands still, time moves", "rows\neq. 2", lambda v, t: v == 1),
    ):
        y = middle + up * away
        arrow(axes, (19, middle), (19, y), (26, y), colour=colour)
        say(axes, 18.5, y + 2 * up, f"tokens $x^{sign}$", colour)
        cells(axes, 30.5, y, 4, 4, lambda v, t, c=colour, seen=seen: c if seen(v, t) else GREY, side=2)
        say(axes, 30.5, middle + 2.2 * up, seen_as, colour)
        say(axes, 26.5, middle + 15.8 * up, name, colour, ha="left")
        arrow(axes, (35, y), (39, y), colour=colour)
        box(axes, 46, y, 13, 6, "block $\\varphi_l$\nfrozen", "frozen")
        say(axes, 46, middle + 3.3 * up, f"$y^{sign} = x^{sign} + \\varphi_l(x^{sign}; c^{sign})$", colour)
        arrow(axes, (53, y), (57, y), colour=colour)
        say(axes, 54.9, y + 2 * up, f"$y^{sign}$", colour)
        arrow(axes, (71, y), (75.5, y), (75.5, middle + 2.4 * up), colour=colour)
        say(axes, 74.5, y + 2 * up, f"$x^{sign}$", colour)
    box(axes, 75.5, middle, 5.4, 4, "mean")
    arrow(axes, (78.6, middle), (80.5, middle))
    cells(axes, 85, middle, 4, 4, lambda v, t: AMBER if v * t == 0 else GREEN)
    say(axes, 85, middle - 7.5, "the grid,\ncompleted")
    legend(axes, "given", "frozen", "trained")
    return figure


def motion_module() -> Figure:
    """4Diffusion: where motion modules stand in the frozen multi-view U-Net, and what is inside one."""
    figure, axes = canvas("4Diffusion: a motion module at the end of every block of a frozen multi-view model")
    full, y, levels = MultiviewUNetConfig(), 36.5, (9, 7, 5, 3.5)
    down = [height for height, _ in zip(levels, full.widths, strict=True) for _ in range(full.n_res_blocks)]
    up = [height for height in reversed(levels) for _ in range(full.n_res_blocks + 1)]
    for i, height in enumerate([*down, levels[-1], *up]):
        box(axes, 3 + 2 * i, y, 1, height, kind="frozen")
        box(axes, 3.9 + 2 * i, y, 0.5, height, kind="trained")
    say(axes, 23.5, y + 6.3, "multi-view U-Net (ImageDream)")
    for x, part in ((9.5, f"{len(down)} down"), (19.4, "1 middle"), (33, f"{len(up)} up")):
        say(axes, x, y - 6.3, part)

    axes.plot(((44.5, 44.5), (48.5, 48.5)), ((y + 4.5, y - 4.5), (y + 5, y - 5)), color=GREY, linestyle=":")
    frame(axes, 68.3, y, 39.4, 10.4, GREY)
    say(axes, 68.3, y + 6.3, "one block")
    box(axes, 55, y, 9, 6, "residual\nblock", "frozen")
    box(axes, 68.5, y, 13, 6, "attention over\nviews: eqs. 1-3", "frozen")
    box(axes, 82, y, 9, 6, "motion\nmodule", "trained")
    for start, end in ((48.6, 50.3), (59.7, 61.8), (75.2, 77.3)):
        arrow(axes, (start, y), (end, y))
    axes.plot((82, 82), (y - 3.2, 26.2), color=GREEN, linestyle=":")

    y = 16
    frame(axes, 45, y, 86, 20, GREEN)
    axes.plot(((18, 78.5), (18, 78.5)), ((y - 9, y - 9), (y + 6.5, y + 6.5)), color=GREY, linestyle=":")
    for x, number in ((18, 4), (48, 5), (78.5, 6)):
        say(axes, x, y + 7.7, f"eq. {number}")
    for x, wide, layer in (
        (12, 9, "GroupNorm"),
        (22, 5, "$W_{in}$"),
        (36.5, 17, "LayerNorm, position,\nattention over times"),
        (57.5, 9.5, "LayerNorm,\nGEGLU"),
        (72.5, 8, "$W_{out}$,\n0 at first"),
    ):
        box(axes, x, y, wide, 5, layer, "trained")
    layers = ((4.5, 7.2), (16.8, 19.2), (24.8, 27.7), (45.3, 47.1), (49.9, 52.4), (62.6, 64.1), (66.9, 68.2))
    for start, end in (*layers, (76.8, 80.6), (83.4, 87)):
        arrow(axes, (start, y), (end, y))
    plus(axes, 48.5, y, 26.2, 4.5)
    plus(axes, 65.5, y, 51, 4.5)
    plus(axes, 82, y, 5.8, -4.5)
    say(axes, 37.3, y + 5.6, "twice")
    for x, shape in ((10, "b t c h w"), (48, "(b h w) t c: the times of one place of one view"), (83.2, "b t c h w")):
        say(axes, x, y - 7.3, shape)
    legend(axes, "frozen", "trained")
    return figure


def sds_loop() -> Figure:
    """4Diffusion: a dynamic NeRF's renders follow what frozen 4DM predicts of them, and sampled videos."""
    figure, axes = canvas("4Diffusion: frozen 4DM says what the renders of a dynamic NeRF should have been")
    top, y = 39, 22
    cells(axes, 11.5, top, 1, 4, lambda v, t: AMBER)
    say(axes, 11.5, top + 2.8, "video")
    arrow(axes, (16.5, top), (26, top))
    box(axes, 31, top, 9, 5, "4DM\nfrozen", "frozen")
    arrow(axes, (36, top), (42.3, top))
    cells(axes, 47.2, top, 4, 4, lambda v, t: GREY)
    say(axes, 53, top + 2.2, "anchor videos,\nsampled once", ha="left")
    arrow(axes, (52.2, top), (70, top))
    box(axes, 79, top, 17, 6, "anchor loss, eq. 11\nLPIPS and SSIM")

    frame(axes, 11.5, y, 19, 17, GREEN)
    say(axes, 11.5, y + 6.2, "dynamic NeRF, eq. 9")
    box(axes, 6.6, y + 1.2, 7.6, 5, "hash grid\n$P_{xyz}$", "trained")
    say(axes, 11.5, y + 1.2, "+")
    box(axes, 16.4, y + 1.2, 7.6, 5, "hash grid\n$P_{xyzt}$", "trained")
    box(axes, 11.5, y - 5, 17.4, 3, "two MLPs", "trained")
    arrow(axes, (11.5, y + 8.8), (11.5, 33), (79, 33), (79, top - 3.4))
    say(axes, 47.2, 31.5, "one frame, rendered from one anchor video's camera")
    for x in (6.6, 16.4):
        arrow(axes, (x, y - 1.6), (x, y - 3.3))

    arrow(axes, (21.5, y), (26, y))
    cells(axes, 31, y, 4, 4, lambda v, t: GREEN)
    say(axes, 30, y - 8, "renders $x$: all views,\nall times, from a\nrandom azimuth")
    arrow(axes, (36, y), (42.3, y))
    arrow(axes, (39, y), (39, 11), (79, 11), (79, y - 3.4))
    cells(axes, 47.2, y, 4, 4, lambda v, t: GREY)
    say(axes, 47.2, y - 7.2, "$z_t$: one $t$ for all,\nown noise for each")
    arrow(axes, (52.2, y), (55.5, y))
    box(axes, 60.5, y, 9, 5, "4DM\nfrozen", "frozen")
    say(axes, 60.5, y - 7.2, "shown the video,\nthe cameras")
    arrow(axes, (60.5, y - 5), (60.5, y - 2.9))
    arrow(axes, (65.5, y), (70, y))
    say(axes, 67.6, y + 1.8, "sg[$x_0$]")
    box(axes, 79, y, 17, 6, "4D-aware SDS, eq. 10\n$\\frac{1}{2} |x - $sg$[x_0]|^2 / $images")

    axes.plot((88, 89), (y, y), color=PINK, linewidth=1.4, linestyle=(0, (4, 2)))
    arrow(axes, (88, top), (89, top), (89, 6.5), (11.5, 6.5), (11.5, y - 9), colour=PINK, dashed=True)
    say(axes, 47.2, 8.3, "to the dynamic NeRF only: none through 4DM")
    legend(axes, "given", "frozen", "trained", "gradient")
    return figure


@dataclass(frozen=True)
class Diagrams:
    """Draw both systems: two streams, the motion module, the loop of score distillation."""

    out: Path = Path("figures")
    """The pictures go into this folder."""

    def run(self) -> None:
        """Write each diagram as a picture of its name."""
        for draw in (two_streams, motion_module, sds_loop):
            with whole_file(self.out / f"{draw.__name__}.png") as draft:
                draw().savefig(draft, format="png", dpi=110)


if __name__ == "__main__":
    program(Diagrams)
