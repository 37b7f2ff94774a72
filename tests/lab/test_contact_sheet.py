import numpy as np
import pytest
import torch
from PIL import Image

from fourd_minimal.lab.contact_sheet import GUTTER, GUTTER_RGB, KNOWN_RGB, MARGIN, compare_sheet, contact_sheet


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


def test_chosen_rows_and_columns_keep_their_frames_and_their_frame_colour(grid):
    sheet = contact_sheet(grid, scale=1, labels=False, rows=[2, 0], cols=[1, -1])
    whole = contact_sheet(grid, scale=1, labels=False)
    for i, v in enumerate([2, 0]):
        for j, t in enumerate([1, 3]):
            np.testing.assert_array_equal(tile(sheet, i, j, 8, 10), tile(whole, v, t, 8, 10))


def test_scale_repeats_pixels():
    grid = torch.rand(1, 1, 3, 4, 4)
    small = contact_sheet(grid, scale=1, labels=False)[GUTTER:-GUTTER, GUTTER:-GUTTER]
    large = contact_sheet(grid, scale=3, labels=False)[GUTTER:-GUTTER, GUTTER:-GUTTER]
    np.testing.assert_array_equal(large, small.repeat(3, 0).repeat(3, 1))


def test_labels_are_written_outside_the_frames(grid):
    left, top = MARGIN
    sheet = contact_sheet(grid, scale=4)
    np.testing.assert_array_equal(sheet[top:, left:], contact_sheet(grid, scale=4, labels=False))
    assert sheet[:top].min() < 200 and sheet[:, :left].min() < 200


def test_the_file_holds_the_sheet_and_nothing_else_is_left(grid, tmp_path):
    sheet = contact_sheet(grid, tmp_path / "new" / "sheet.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new" / "sheet.png")), sheet)
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["sheet.png"]


def test_a_failed_write_keeps_the_old_file(grid, tmp_path, monkeypatch):
    (tmp_path / "sheet.png").write_bytes(b"old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        contact_sheet(grid, tmp_path / "sheet.png")
    assert [(f.name, f.read_bytes()) for f in tmp_path.iterdir()] == [("sheet.png", b"old")]


def test_compare_sheet_lays_the_sheets_side_by_side(grid):
    options = {"scale": 2, "rows": [0, 1]}
    sheet = compare_sheet({"truth": grid, "prediction": 1 - grid}, **options)
    left, right = contact_sheet(grid, **options), contact_sheet(1 - grid, **options)
    height, width, _ = left.shape
    np.testing.assert_array_equal(sheet[-height:, :width], left)
    np.testing.assert_array_equal(sheet[-height:, -width:], right)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(2, 2, 3, 4), r"grid has shape \(2, 2, 3, 4\); give one grid \(v, t, 3, h, w\)"),
        (torch.zeros(1, 2, 2, 3, 4, 4), "without a batch axis"),
        (torch.zeros(2, 2, 1, 4, 4), r"grid has shape \(2, 2, 1, 4, 4\)"),
        (torch.zeros(2, 0, 3, 4, 4), "empty"),
        (torch.full((1, 1, 3, 4, 4), torch.nan), "NaN"),
        (torch.full((1, 1, 3, 4, 4), -1.0), r"grid lies in \[-1, -1\]; give colours in \[0, 1\]"),
        (torch.full((1, 1, 3, 4, 4), 1.01), r"grid lies in \[1.01, 1.01\]"),
    ],
)
def test_what_is_not_a_grid_is_named(bad, message):
    with pytest.raises(ValueError, match=message):
        contact_sheet(bad)


def test_rounding_just_outside_the_range_is_forgiven():
    sheet = contact_sheet(torch.tensor([-9e-4, 0.5, 1 + 9e-4]).reshape(1, 1, 3, 1, 1), scale=1, labels=False)
    assert tuple(sheet[GUTTER, GUTTER]) == (0, 128, 255)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"known": torch.ones(4, 3, dtype=torch.bool)}, r"known .* \(4, 3\); give True, False or a boolean \(3, 4\)"),
        ({"known": torch.ones(3, 4)}, "known is torch.float32"),
        ({"scale": 0}, "scale is 0"),
        ({"rows": [3]}, r"rows is \[3\]; give one or more indices into 3 entries"),
        ({"cols": []}, r"cols is \[\]"),
    ],
)
def test_options_that_make_no_sense_are_named(grid, options, message):
    with pytest.raises(ValueError, match=message):
        contact_sheet(grid, **options)


def test_grids_to_compare_need_one_shape(grid):
    with pytest.raises(ValueError, match=r"different shapes, \{'a': \(3, 4, 3, 8, 10\), 'b': \(2, 4, 3, 8, 10\)\}"):
        compare_sheet({"a": grid, "b": grid[:2]})
    with pytest.raises(ValueError, match="empty dict"):
        compare_sheet({})
    with pytest.raises(ValueError, match=r"grid\['b'\] holds NaN"):
        compare_sheet({"a": grid, "b": grid * torch.nan})
