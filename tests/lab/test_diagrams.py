"""Diagrams can be read, also without colours, and say what the code says."""

import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import same_color, to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from matplotlib.text import Text
from PIL import Image

from fourd_minimal import sync, two_stream
from fourd_minimal.lab import diagrams
from fourd_minimal.lab.notebook import BLUE, GREEN, GREY, ORANGE, PINK, words
from fourd_minimal.motion_module import MotionModule
from fourd_minimal.multiview_unet import MultiviewUNet, MultiviewUNetConfig
from fourd_minimal.systems.four_real_video import known_cells

ROOT = Path(__file__).parents[2]
DRAWS = {  # the paper, and the files that the diagram is of
    diagrams.two_streams: ("4Real-Video", {"two_stream", "sync"}),
    diagrams.motion_module: ("4Diffusion", {"motion_module", "multiview_unet", "four_diffusion"}),
    diagrams.sds_loop: ("4Diffusion", {"sds", "anchor_loss", "dynamic_nerf"}),
}


@pytest.fixture(scope="module", params=DRAWS, ids=lambda draw: draw.__name__)
def draw(request):
    return request.param


@pytest.fixture(scope="module")
def figure(draw):
    figure = draw()
    FigureCanvasAgg(figure).draw()
    return figure


def texts(figure):
    return [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]


def outlines(figure):
    return [patch for patch in figure.findobj(FancyBboxPatch) if not patch.get_fill()]


def ends(arrow):
    """First and last corner of an arrow, in the drawing's units."""
    corners = arrow._path_original.vertices
    return tuple(corners[0]), tuple(corners[-1])


def equations(figure):
    """Every equation that a diagram names; "eqs. 1-3" are three, "eqs. 9, 10" are two."""
    numbers = set()
    for said in re.findall(r"eqs?\. (\d+(?:(?:, |-)\d+)*)", " ".join(text.get_text() for text in texts(figure))):
        for part in said.split(", "):
            first, last = (part.split("-") * 2)[:2]
            numbers |= set(range(int(first), int(last) + 1))
    return numbers


def test_every_word_can_be_read(figure):
    extents = [text.get_window_extent() for text in texts(figure)]
    for text, extent in zip(texts(figure), extents, strict=True):
        assert text.get_fontsize() >= 9, text
        assert figure.bbox.containsx(extent.x0) and figure.bbox.containsx(extent.x1), text
        assert figure.bbox.containsy(extent.y0) and figure.bbox.containsy(extent.y1), text
        linear = [
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(text.get_color())
        ]
        lightness = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        assert 1.05 / (lightness + 0.05) > 4.5, f"{text}: too pale on white"
    for (one, a), (other, b) in combinations(zip(texts(figure), extents, strict=True), 2):
        assert not a.overlaps(b), f"{one} lies on {other}"


def test_words_lie_inside_their_box_or_outside(figure):
    for text in texts(figure):
        extent = text.get_window_extent()
        for outline in outlines(figure):
            around = outline.get_window_extent()
            inside = around.x0 < extent.x0 and extent.x1 < around.x1 and around.y0 < extent.y0 and extent.y1 < around.y1
            assert inside or not around.overlaps(extent), f"{text} crosses the edge of a box"


def test_no_line_crosses_words(figure):
    lines = [(line.get_transform(), line.get_path()) for line in figure.findobj(Line2D) if len(line.get_xdata())]
    lines += [(arrow.axes.transData, arrow._path_original) for arrow in figure.findobj(FancyArrowPatch)]
    for text in texts(figure):
        for transform, path in lines:
            crossed = transform.transform_path(path).intersects_bbox(text.get_window_extent(), filled=False)
            assert not crossed, f"a line crosses {text}"


def test_equations_are_those_of_what_is_drawn(draw, figure):
    paper, files = DRAWS[draw]
    assert words(figure).startswith(f"{paper}: ")
    (part,) = re.findall(rf"^## {paper}$(.*?)(?=^## |\Z)", (ROOT / "notebooks/equations.md").read_text(), re.M | re.S)
    code = dict(re.findall(r"^\| eq\. (\d+) \| .*? \| (.*?) \|", part, re.M))
    assert equations(figure)
    for number in equations(figure):
        assert files & set(re.findall(r"(\w+)\.py#L", code[str(number)])), f"eq. {number} is not of {files}"


def test_equations_of_the_streams_are_in_the_docstrings():
    told = re.findall(r"[Ee]qs?\.\s+(\d+(?:(?:,| and)\s+\d+)*)", two_stream.__doc__ + sync.__doc__)
    named = {int(number) for numbers in told for number in re.findall(r"\d+", numbers)}
    drawn = equations(diagrams.two_streams())
    assert drawn == {2, 3, 4, 8, 9, 10} and drawn <= named


def test_frozen_and_trained_differ_in_more_than_colour(figure):
    filled = [patch for patch in figure.findobj(FancyBboxPatch) if patch.get_fill()]
    striped = [outline for outline in outlines(figure) for patch in filled
               if patch.get_hatch() and patch.get_bbox().bounds == outline.get_bbox().bounds]  # fmt: skip
    assert striped and all(same_color(outline.get_edgecolor(), GREY) for outline in striped)
    assert any(same_color(outline.get_edgecolor(), GREEN) for outline in outlines(figure))
    assert {"frozen", "trained"} <= {text.get_text() for text in texts(figure)}


def test_given_cells_bear_a_dot():
    dots = diagrams.two_streams().findobj(Circle)
    assert len(dots) == 2 * known_cells(4, 4).sum() + 1  # before, after, and the legend


def test_streams_have_their_colours_and_their_frames():
    said = {text.get_text(): text.get_color() for text in texts(diagrams.two_streams())}
    for stream, equation, colour in (("columns", 3, BLUE), ("rows", 2, ORANGE)):
        dark = said[f"{stream}\neq. {equation}"]
        assert [part / 0.85 for part in dark] == pytest.approx(to_rgb(colour))


def test_the_module_is_drawn_as_it_is():
    narrow = dict(widths=(8, 8, 8, 8), norm_groups=8, head_dim=8, resampler_depth=1, resampler_heads=1, context_dim=8)
    places = MultiviewUNet(replace(MultiviewUNetConfig(), **narrow)).places
    said = " ".join(text.get_text() for text in texts(diagrams.motion_module()))
    blocks = [int(re.search(rf"(\d+) {part}", said)[1]) for part in ("down", "middle", "up")]
    assert sum(blocks) == len(places) == 21
    module = MotionModule(32)
    assert "twice" in said and len(module.attentions) == 2
    assert "0 at first" in said and not module.proj_out.weight.any()


def test_gradients_reach_the_nerf_alone():
    figure = diagrams.sds_loop()
    (nerf,) = [text.get_position() for text in texts(figure) if text.get_text().startswith("dynamic NeRF")]
    (field,) = [o.get_bbox() for o in outlines(figure) if o.get_bbox().contains(*nerf)]
    reached = [ends(arrow)[1] for arrow in figure.findobj(FancyArrowPatch) if same_color(arrow.get_edgecolor(), PINK)]
    reached = [(x, y) for x, y in reached if y > 5]  # without the legend
    assert len(reached) == 1
    assert field.x0 < reached[0][0] < field.x1 and 0 < field.y0 - reached[0][1] < 1


def test_pictures_are_written(tmp_path):
    diagrams.write(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {f"{draw.__name__}.png" for draw in DRAWS}
    for file in tmp_path.iterdir():
        with Image.open(file) as picture:
            assert picture.size == (990, 550) and picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
