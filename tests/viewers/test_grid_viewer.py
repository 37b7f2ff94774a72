import re
from base64 import b64decode
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange
from PIL import Image
from refused import refused

from fourd_minimal.viewers.grid_page import save_html
from fourd_minimal.viewers.grid_viewer import GridViewer

CHROMIUM = "/usr/bin/chromium"


@pytest.fixture
def grid():
    return torch.rand(4, 6, 3, 8, 10, generator=torch.Generator().manual_seed(0))


def frames_of(grid):
    """What must reach the screen: bytes, one `(h, w, 3)` per cell."""
    return rearrange((grid * 255).round().byte(), "v t c h w -> v t h w c").numpy()


def decoded(panel, v, t):
    sheet = np.asarray(Image.open(BytesIO(b64decode(panel["sprite"].removeprefix("data:image/png;base64,")))))
    return rearrange(sheet, "(v h) (t w) c -> v t h w c", v=v, t=t)


# The widget


def test_sprites_give_every_frame_back_exactly(grid):
    viewer = GridViewer({"truth": grid, "guess": 1 - grid})
    assert [panel["label"] for panel in viewer._grid["panels"]] == ["truth", "guess"]
    for panel, expected in zip(viewer._grid["panels"], (grid, 1 - grid), strict=True):
        np.testing.assert_array_equal(decoded(panel, 4, 6), frames_of(expected))


def test_time_and_view_travel_both_ways(grid):
    viewer = GridViewer(grid, time=2, view=1)
    assert {"time": 2, "view": 1}.items() <= viewer.get_state().items()
    seen = []
    viewer.observe(lambda change: seen.append((change["name"], change["new"])), ["time", "view"])
    viewer.set_state({"time": 5, "view": 3})  # what a front end sends
    assert sorted(seen) == [("time", 5), ("view", 3)]


@pytest.mark.parametrize("name, value", [("time", 6), ("view", 4), ("time", -1)])
def test_a_cell_outside_the_grid_is_refused(grid, name, value):
    refused(lambda: GridViewer(grid, **{name: value}), name, value)
    viewer = GridViewer(grid)
    refused(lambda: setattr(viewer, name, value), name, value)
    assert getattr(viewer, name) == 0


def test_known_cells_are_row_and_column_zero_by_default(grid):
    assert np.array_equal(GridViewer(grid)._grid["known"], [[v == 0 or t == 0 for t in range(6)] for v in range(4)])
    assert not np.any(GridViewer(grid, known=False)._grid["known"])


# The page


def test_the_page_asks_nothing_of_the_network(grid, tmp_path):
    save_html(grid, tmp_path / "new" / "grid.html", title="A grid")
    page = (tmp_path / "new" / "grid.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|\bimport\b|\bfetch\b|@import|url\(|<link|\ssrc=", page)
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["grid.html"]


def test_titles_and_labels_cannot_break_out_of_the_page(grid, tmp_path):
    save_html({"</script><b>": grid}, tmp_path / "grid.html", title="</title><b>")
    page = (tmp_path / "grid.html").read_text(encoding="utf-8")
    assert "<b>" not in page and page.count("</script>") == 2 and page.count("</title>") == 1


@pytest.fixture
def open_page(grid, tmp_path):
    """Opens a saved viewer in a real browser; `page.errors` collects what went wrong in it."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"needs Chromium at {CHROMIUM}")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])

        def open_(shown=grid, width=1000, **options):
            save_html(shown, tmp_path / "grid.html", **options)
            page = browser.new_page(viewport={"width": width, "height": 700}, has_touch=True)
            page.errors = []
            page.on("pageerror", lambda error: page.errors.append(str(error)))
            page.on("console", lambda message: message.type == "error" and page.errors.append(message.text))
            page.on("request", lambda r: r.url.startswith(("file:", "data:")) or page.errors.append(r.url))
            page.goto((tmp_path / "grid.html").as_uri())
            opaque = "(canvas) => canvas.getContext('2d').getImageData(0, 0, 1, 1).data[3] === 255"
            until(page, f"[...document.querySelectorAll('canvas')].every({opaque})")
            return page

        yield open_
        browser.close()


def until(page, condition):
    """Waits from outside: the page's own policy forbids what `page.wait_for_function` does inside."""
    for _ in range(100):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"never true in 5 s: {condition}")


def on_screen(page, panel=0):
    """The pixels of a panel, `(h, w, 3)`."""
    size, data = page.evaluate(
        """(panel) => {
            const canvas = document.querySelectorAll("canvas")[panel];
            const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            return [[canvas.height, canvas.width], Array.from(data)];
        }""",
        panel,
    )
    return np.array(data, np.uint8).reshape(*size, 4)[..., :3]


def assert_at(page, grid, view, time):
    assert page.locator("output").inner_text().startswith(f"view {view}, time {time}")
    np.testing.assert_array_equal(on_screen(page), frames_of(grid)[view, time])
    assert [page.get_by_label(axis, exact=True).input_value() for axis in ("view", "time")] == [str(view), str(time)]
    here = page.evaluate("[...document.querySelectorAll('.map i')].findIndex((cell) => cell.matches('.here'))")
    assert here == view * grid.shape[1] + time
    assert page.errors == []


def drag(page, dx, dy):
    box = page.locator("canvas").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + dx, y + dy, steps=5)
    page.mouse.up()


def test_dragging_moves_through_time_and_view(grid, open_page):
    page = open_page(time=2, view=1)
    assert_at(page, grid, view=1, time=2)
    drag(page, 80, 0)
    assert_at(page, grid, view=1, time=4)
    drag(page, -40, 40)
    assert_at(page, grid, view=2, time=3)
    drag(page, 400, -300)  # the edge of the grid holds
    assert_at(page, grid, view=0, time=5)
    page.mouse.move(10, 10)  # the button is up: nothing follows
    assert_at(page, grid, view=0, time=5)


def test_arrow_keys_move_from_panels_and_sliders(grid, open_page):
    page = open_page()
    page.get_by_role("group").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert_at(page, grid, view=1, time=1)
    page.get_by_label("time", exact=True).press("ArrowRight")
    assert_at(page, grid, view=1, time=2)
    page.get_by_label("view", exact=True).press("ArrowDown")
    assert_at(page, grid, view=2, time=2)
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    assert_at(page, grid, view=1, time=1)
    page.get_by_label("view", exact=True).press("End")
    assert_at(page, grid, view=3, time=1)


def test_playing_time_starts_over_and_playing_view_swings_back(grid, open_page):
    page = open_page(fps=50)
    page.evaluate(
        """() => {
            window.seen = [];
            const place = document.querySelector("output");
            const note = () => seen.push(place.textContent.match(/\\d+/g).map(Number));
            new MutationObserver(note).observe(place, { childList: true });
        }"""
    )
    for axis, entry, lap in (("time", 1, [0, 1, 2, 3, 4, 5, 0, 1]), ("view", 0, [0, 1, 2, 3, 2, 1, 0, 1])):
        button = page.get_by_role("button", name=f"play {axis}")
        page.evaluate("seen.length = 0")
        button.click()
        assert button.get_attribute("aria-pressed") == "true"
        until(page, "seen.length > 12")
        button.click()
        assert button.get_attribute("aria-pressed") == "false"
        seen = [cell[entry] for cell in page.evaluate("seen")]
        assert ",".join(map(str, lap)) in ",".join(map(str, seen))
        page.get_by_label(axis, exact=True).press("Home")
    assert page.errors == []


def test_panels_move_together_and_say_what_was_given(grid, open_page):
    page = open_page({"truth": grid, "guess": 1 - grid}, view=1)
    assert page.locator("figcaption").all_inner_texts() == ["truth", "guess"]
    assert page.locator("output").inner_text() == "view 1, time 0, given"
    drag(page, 40, 0)
    assert page.locator("output").inner_text() == "view 1, time 1"
    np.testing.assert_array_equal(on_screen(page, 0), frames_of(grid)[1, 1])
    np.testing.assert_array_equal(on_screen(page, 1), frames_of(1 - grid)[1, 1])
