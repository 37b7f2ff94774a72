from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from refused import refused

from fourd_minimal.viewers.contact_sheet import GUTTER, GUTTER_RGB, KNOWN_RGB, compare_sheet, contact_sheet


@pytest.fixture
def grid():
    """Every frame of one colour of its own, so that a frame in the wrong place shows."""
    colours = torch.arange(3 * 4 * 3).reshape(3, 4, 3, 1, 1) / 36
    return colours.expand(3, 4, 3, 8, 10).clone()


def tile(sheet, v, t, h, w):
    """One cell of an unlabelled sheet, with its frame."""
    h, w = h + 2 * GUTTER, w + 2 * GUTTER
    return sheet[v * h : (v + 1) * h, t * w : (t + 1) * w]


def test_every_frame_lies_at_its_view_and_time(grid):
    sheet = contact_sheet(grid, scale=1, labels=False)
    assert sheet.dtype == np.uint8
    for v in range(3):
        for t in range(4):
            frame = tile(sheet, v, t, 8, 10)[GUTTER:-GUTTER, GUTTER:-GUTTER]
            np.testing.assert_array_equal(frame, (grid[v, t] * 255).round().permute(1, 2, 0).numpy())


@pytest.mark.parametrize("known", [True, False, torch.eye(3, 4, dtype=torch.bool)])
def test_known_cells_are_framed(grid, known):
    sheet = contact_sheet(grid, scale=1, labels=False, known=known)
    for v in range(3):
        for t in range(4):
            given = known and (v == 0 or t == 0) if isinstance(known, bool) else known[v, t]
            assert tuple(tile(sheet, v, t, 8, 10)[0, 0]) == (KNOWN_RGB if given else GUTTER_RGB)


def test_the_file_holds_the_sheet_and_nothing_else_is_left(grid, tmp_path):
    sheet = contact_sheet(grid, tmp_path / "new" / "sheet.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new" / "sheet.png")), sheet)
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["sheet.png"]


def test_compare_sheet_lays_the_sheets_side_by_side(grid):
    options = {"scale": 2, "rows": [0, 1]}
    sheet = compare_sheet({"truth": grid, "prediction": 1 - grid}, **options)
    left, right = contact_sheet(grid, **options), contact_sheet(1 - grid, **options)
    height, width, _ = left.shape
    np.testing.assert_array_equal(sheet[-height:, :width], left)
    np.testing.assert_array_equal(sheet[-height:, -width:], right)


def test_rounding_just_outside_the_range_is_forgiven():
    sheet = contact_sheet(torch.tensor([-9e-4, 0.5, 1 + 9e-4]).reshape(1, 1, 3, 1, 1), scale=1, labels=False)
    assert tuple(sheet[GUTTER, GUTTER]) == (0, 128, 255)


def test_what_is_no_grid_and_options_that_make_no_sense_are_named(grid):
    for shape in ((2, 2, 3, 4), (1, 2, 2, 3, 4, 4), (2, 2, 1, 4, 4), (2, 0, 3, 4, 4)):
        refused(lambda shape=shape: contact_sheet(torch.zeros(shape)), "grid", shape)
    for level, shown in ((torch.nan, "NaN"), (-1.0, -1), (1.01, 1.01)):
        refused(lambda level=level: contact_sheet(torch.full((1, 1, 3, 4, 4), level)), "grid", shown)
    refused(lambda: contact_sheet(grid, known=torch.ones(4, 3, dtype=torch.bool)), "known", (4, 3))
    refused(lambda: contact_sheet(grid, known=torch.ones(3, 4)), "known", "torch.float32")
    for options in (dict(scale=0), dict(rows=[3]), dict(cols=[])):
        refused(partial(contact_sheet, grid, **options), *next(iter(options.items())))
    refused(lambda: compare_sheet({"a": grid, "b": grid[:2]}), "a", (3, 4, 3, 8, 10), "b", (2, 4, 3, 8, 10))
    refused(lambda: compare_sheet({}), "grid")
    refused(lambda: compare_sheet({"a": grid, "b": grid * torch.nan}), "grid['b']", "NaN")
