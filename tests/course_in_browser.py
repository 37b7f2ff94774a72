"""Opens every notebook in JupyterLab, in Chromium, runs it, and uses all that moves, as a reader would.

    python tests/course_in_browser.py --out visits
    python tests/course_in_browser.py --notebooks 00 04 --preset cpu --out visits

Each notebook is alone in a new folder, with the pictures that its text shows. What was done and what was wrong ends in
a table, `report.md`, and in the exit status; wrong is also what a stored notebook has that moves and was not seen to
move. Beside it are screenshots to look at: of every widget before and after it was moved, and of the whole notebook in
pieces. It takes minutes for each notebook, so it is no part of the test suite; figures/course_in_browser.md is the
table of a run of them all.
"""

import argparse
import json
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from browser import lab, open_notebook, page

from fourd_minimal.training.tables import made_by, table

ROOT = Path(__file__).resolve().parents[1]
RUN = 3600  # seconds a notebook may take
MOVE = 60  # seconds until something that was moved shows it
ATTACHED = "JupyterLab asks for attachment:NAME as an address before it takes the picture from the cell"
HARMLESS = {
    f"Failed to load resource: net::ERR_UNKNOWN_URL_SCHEME ({name}.png)": ATTACHED
    for name in ("two_streams", "motion_module", "sds_loop")
}
"""Console errors that are no fault of ours: the exact text, and why."""
SHOWN = re.compile(r"\.\./figures/[\w./-]+\.(?:svg|png|gif|jpe?g|webp|mp4|webm)")
SETTINGS = {
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},  # all cells exist, seen or not
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false"},  # no question in front of the notebook
}
STDERR = "[data-mime-type='application/vnd.jupyter.stderr']"  # warnings and errors
BROKEN = "mjx-merror, mjx-container [style*='color: red']"  # a formula that MathJax cannot read
WIDGET = ".jp-OutputArea-output:not([data-mime-type])"  # alone of all outputs they say no type
LABEL = "xpath=ancestor::*[contains(@class, 'widget-slider')]/label"
AREA = "xpath=ancestor::*[contains(concat(' ', @class, ' '), ' jp-Cell-outputArea ')]"

PIXELS = """(area) => [...area.querySelectorAll("img, canvas")].filter((node) => node.checkVisibility()).map((node) => {
    const copy = document.createElement("canvas");
    copy.width = node.naturalWidth ?? node.width;
    copy.height = node.naturalHeight ?? node.height;
    if (copy.width * copy.height) copy.getContext("2d").drawImage(node, 0, 0);
    return copy.toDataURL();
})"""
UNREAD = """(text) => {
    const copy = text.cloneNode(true);
    copy.querySelectorAll("code, pre, mjx-container, a").forEach((node) => node.remove());
    return copy.textContent.match(/.{0,40}(\\$|\\\\[a-z]+|\\*\\*|\\|[ :]*---).{0,40}/)?.[0] ?? "";
}"""
FRAMES = """async (image) => {
    const blob = await fetch(image.src).then((answer) => answer.blob());
    if (blob.type !== "image/gif") return 0;
    const decoder = new ImageDecoder({ data: await blob.arrayBuffer(), type: blob.type });
    await decoder.tracks.ready;
    return decoder.tracks.selectedTrack.frameCount;
}"""


@dataclass
class Visit:
    """One notebook, open in a page; what was done there, and what was wrong."""

    page: object
    name: str
    folder: Path
    done: Counter = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def all(self, selector: str) -> list:
        """What is there and can be seen, in the order of the notebook."""
        found = self.page.locator(f".jp-Notebook {selector}").all()
        return [one for one in found if one.is_visible()]

    def shoot(self, what, label: str) -> None:
        what.screenshot(path=self.folder / f"{label}.png")

    def check(self, kind: str, good: bool, otherwise: str) -> None:
        self.done[kind] += good
        if not good:
            self.wrong.append(f"{kind}: {otherwise}")


def main() -> int:
    """Visits the notebooks one by one; returns 1 when something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--notebooks", nargs="+", default=[""], help="beginnings of their names; all by default")
    parser.add_argument("--folder", type=Path, default=ROOT / "notebooks", help="where they are; figures/ is beside it")
    parser.add_argument("--preset", default="smoke", help="FOURD_PRESET of their kernels")
    parser.add_argument("--out", type=Path, required=True, help="for report.md and screenshots")
    asked = parser.parse_args()
    notebooks = [n for n in sorted(asked.folder.glob("*.ipynb")) if n.name.startswith(tuple(asked.notebooks))]
    if not notebooks:
        parser.error(f"no notebook in {asked.folder} begins with {', '.join(asked.notebooks)}")
    visits = []
    for notebook in notebooks:
        visits.append(visit(notebook, asked.preset, asked.out))
        (asked.out / "report.md").write_text(report(visits, asked.preset))
        print(f"{notebook.stem}: {'; '.join(visits[-1].wrong) or 'all is well'}", flush=True)
    return int(any(v.wrong for v in visits))


def visit(notebook: Path, preset: str, out: Path) -> Visit:
    """Everything with one notebook, in a JupyterLab and a page of its own."""
    folder = out / notebook.stem
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as home:
        copy_alone(notebook, Path(home) / "work")
        with lab(Path(home), settings=SETTINGS, FOURD_PRESET=preset) as address, page(1500, 1400) as opened:
            visited = Visit(opened, notebook.stem, folder)
            try:
                look_at_everything(visited, address, f"notebooks/{notebook.name}")
            except Exception as error:
                visited.wrong.append(f"the visit broke off: {type(error).__name__}: {str(error)[:300]}")
                visited.shoot(opened, "broken_off")
            for kind, n in moves(notebook).items():
                if visited.done[kind] < n:
                    visited.wrong.append(f"{kind}: {visited.done[kind]} of {n}")
            console = [text for text in opened.errors if text not in HARMLESS]
            visited.done["console errors"] = len(console)
            visited.wrong += [f"console: {text}" for text in dict.fromkeys(console)]
    return visited


def moves(notebook: Path) -> Counter:
    """What there is to be moved, by the notebook's text, its outputs and the state of the widgets that it stores."""
    book, found = json.loads(notebook.read_text()), Counter()
    for cell in book["cells"]:
        found["folds opened"] += "".join(cell["source"]).count("<details>") * (cell["cell_type"] == "markdown")
        found["videos played"] += sum("image/gif" in output.get("data", {}) for output in cell.get("outputs", ()))
    stored = book["metadata"].get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {}).get("state", {})
    for model in stored.values():
        name, ours = model["model_name"], model["state"].get("_anywidget_id", "")
        found["sliders moved"] += name.endswith("SliderModel")
        found["menus used"] += name == "DropdownModel"
        found["players played"] += name == "PlayModel"
        found["viewers dragged"] += ours.endswith("Viewer")
    return found


def copy_alone(notebook: Path, work: Path) -> None:
    """The notebook, and the pictures that its text shows."""
    (work / "notebooks").mkdir(parents=True)
    shutil.copy(notebook, work / "notebooks")
    for shown in set(SHOWN.findall(notebook.read_text())):
        picture = work / "notebooks" / shown
        picture.parent.mkdir(parents=True, exist_ok=True)
        if (notebook.parent / shown).is_file():
            shutil.copy(notebook.parent / shown, picture)


def look_at_everything(visited: Visit, address: str, path: str) -> None:
    open_notebook(visited.page, address, path)
    visited.shoot(visited.page, "top_as_opened")
    run_all_cells(visited)
    visited.shoot(visited.page, "top_after_the_run")
    for look in (cells, texts, pictures, videos, sliders, menus, players, studies, grid_viewers, scene_viewers, folds):
        look(visited)
    whole_length(visited)


def run_all_cells(visited: Visit) -> None:
    """Run > Run All Cells, until no cell waits and the kernel is idle."""
    page, began = visited.page, time.monotonic()
    waiting = "[...document.querySelectorAll('.jp-Notebook .jp-InputPrompt')].some((p) => p.textContent.includes('*'))"
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_function(waiting)
    page.wait_for_function(f"!{waiting}", timeout=1000 * RUN, polling=200)
    page.get_by_text("| Idle").first.wait_for()
    visited.seconds = time.monotonic() - began
    page.wait_for_timeout(2000)  # what the last cell sent is drawn


def cells(visited: Visit) -> None:
    """Ran in order, and nothing in them is broken."""
    told = visited.page.locator(".jp-Notebook .jp-CodeCell .jp-InputPrompt").all_inner_texts()
    for expected, prompt in enumerate(told, 1):
        visited.check("cells run", prompt.strip() == f"[{expected}]:", f"cell {expected} says {prompt.strip()}")
    for text in visited.page.locator(f".jp-Notebook {STDERR}").all_text_contents():
        kind = visited.wrong if "Traceback (most recent call last)" in text else visited.notes
        kind.append(f"on stderr: {text.strip()[-300:]}")
    for widget in visited.page.locator(f".jp-Notebook {WIDGET}").all():
        drawn = until(lambda widget=widget: widget.evaluate("(w) => w.firstElementChild?.childElementCount > 0"))
        visited.check("widgets", drawn, f"one shows nothing: {widget.inner_text()[:100]!r}")


def texts(visited: Visit) -> None:
    """Markdown and its formulas became what they were meant to be."""
    for formula in visited.page.locator(f".jp-Notebook :is({BROKEN})").all():
        visited.wrong.append(f"a formula: {formula.text_content()}")
    for text in visited.page.locator(".jp-Notebook .jp-RenderedMarkdown").all():
        left = text.evaluate(UNREAD)
        visited.check("texts", not left, f"Markdown shines through: {left}")


def pictures(visited: Visit) -> None:
    for image in visited.page.locator(".jp-Notebook img").all():
        alt = image.get_attribute("alt") or (image.get_attribute("src") or "")[:80]
        good = until(lambda image=image: image.evaluate("(image) => image.complete && image.naturalWidth > 0"))
        visited.check("images", good, f"not there: {alt}")


def videos(visited: Visit) -> None:
    """Videos play, and so do GIFs of more than one frame."""
    for video in visited.all("video"):
        video.evaluate("(video) => { video.muted = true; video.loop = true; video.play(); }")
        plays = until(lambda video=video: video.evaluate("(video) => video.readyState >= 2 && video.currentTime > 0"))
        visited.check("videos played", plays, "a <video> that does not start")
    for image in visited.all("img:not([src$='.svg'])"):
        if image.evaluate(FRAMES) > 1:
            image.scroll_into_view_if_needed()
            first = image.screenshot()
            plays = until(lambda image=image, first=first: image.screenshot() != first)
            visited.check("videos played", plays, f"a GIF that stands still: {image.get_attribute('alt')}")


def sliders(visited: Visit) -> None:
    """Those of ipywidgets, with keys."""
    for number, handle in enumerate(visited.all(".noUi-handle")):
        low, now, high = (float(handle.get_attribute(f"aria-value{name}")) for name in ("min", "now", "max"))
        if not handle.locator(LABEL).is_visible():
            visited.notes.append(f"slider_{number} has no label")
        if low == high:
            visited.notes.append("a slider with one stop only")
            continue
        key = "ArrowLeft" if now == high else "ArrowRight"
        changes(visited, "sliders moved", handle.locator(AREA), partial(press, handle, key, 3), f"slider_{number}")


def menus(visited: Visit) -> None:
    for number, menu in enumerate(visited.all(".widget-dropdown select")):
        index, n = menu.evaluate("(menu) => [menu.selectedIndex, menu.options.length]")
        choose = partial(menu.select_option, index=(index + 1) % n)
        changes(visited, "menus used", menu.locator(AREA), choose, f"menu_{number}")


def players(visited: Visit) -> None:
    """The Play of ipywidgets, which drives a slider."""
    for number, player in enumerate(visited.all(".widget-play")):
        start, stop, _ = player.locator("button").all()
        changes(visited, "players played", player.locator(AREA), start.click, f"play_{number}")
        stop.click()


def studies(visited: Visit) -> None:
    """One pair of a user study is judged, and the next comes."""
    for number, study in enumerate(visited.all(f"{WIDGET} > .widget-vbox:has(.widget-toggle-buttons)")):
        changes(visited, "pairs judged", study.locator(AREA), partial(judge, study), f"study_{number}")


def grid_viewers(visited: Visit) -> None:
    """Dragged, then moved with its own sliders, then played."""
    for number, viewer in enumerate(visited.all(".grid-viewer")):
        label = f"grid_viewer_{number}"
        across, down = viewer.evaluate(
            "(viewer) => [...viewer.querySelectorAll('input')].map((i) => (i.value === i.max ? -0.45 : 0.45))"
        )
        pull = partial(drag, visited.page, viewer.locator("canvas").first, across, down)
        changes(visited, "viewers dragged", viewer, pull, label)
        use_controls(visited, viewer, label)


def scene_viewers(visited: Visit) -> None:
    for number, viewer in enumerate(visited.all(".scene-viewer")):
        label = f"scene_viewer_{number}"
        pull = partial(drag, visited.page, viewer.locator("canvas"), 0.2, 0.1)
        changes(visited, "viewers dragged", viewer, pull, label)
        use_controls(visited, viewer, label)


def use_controls(visited: Visit, viewer, label: str) -> None:
    """A viewer's own sliders, with keys, and its buttons that play."""
    for slider in viewer.locator("input[type=range]:enabled").all():
        steps, at_end = slider.evaluate("(s) => [(s.max - s.min) / (s.step || 1), s.value === s.max]")
        name = slider.evaluate("(s) => s.labels[0]?.textContent.trim() ?? 'slider'")
        back, on = ("ArrowUp", "ArrowDown") if name == "view" else ("ArrowLeft", "ArrowRight")
        move = partial(press, slider, back if at_end else on, -(-int(steps) // 3))
        changes(visited, "viewers' sliders", viewer, move, f"{label}_{name}")
    for button in viewer.locator("button[aria-label^=play]:enabled").all():
        name = button.get_attribute("aria-label").replace(" ", "_")
        changes(visited, "viewers played", viewer, button.click, f"{label}_{name}")
        button.click()


def press(one, key: str, times: int) -> None:
    one.focus()
    for _ in range(times):
        one.page.keyboard.press(key)  # a key that went to JupyterLab would take the focus along


def judge(study) -> None:
    """Answers every question with the first button and goes on."""
    for line in study.locator(".widget-toggle-buttons").all():
        line.locator("button").first.click()
    study.get_by_role("button", name="Next").click()  # waits until it is enabled


def folds(visited: Visit) -> None:
    """Hints, solutions and answers open."""
    for fold in visited.all("details"):
        closed = fold.bounding_box()["height"]
        fold.locator("summary").click()
        opens = until(lambda fold=fold, closed=closed: fold.bounding_box()["height"] > closed + 5)
        visited.check("folds opened", opens, fold.inner_text()[:60])


def whole_length(visited: Visit) -> None:
    """The notebook from its first line to its last, one screen after the other."""
    panel = visited.page.locator(".jp-WindowedPanel-outer").first
    height, seen = panel.evaluate("(panel) => [panel.scrollHeight, panel.clientHeight]")
    for piece in range(-(-height // seen)):
        panel.evaluate("(panel, top) => panel.scrollTo(0, top)", piece * seen)
        visited.page.wait_for_timeout(300)
        visited.shoot(panel, f"piece_{piece:02d}")


def changes(visited: Visit, kind: str, area, act: Callable[[], object], label: str) -> None:
    """Does `act` and checks that the pictures of `area` become others."""
    area.scroll_into_view_if_needed()
    before = area.evaluate(PIXELS)
    visited.shoot(area, f"{label}_before")
    act()
    new = until(lambda: differ(before, area.evaluate(PIXELS)))
    visited.shoot(area, f"{label}_after")
    visited.check(kind, new, f"{label} changes no picture")


def differ(before: list[str], after: list[str]) -> bool:
    return before != after and "data:," not in after  # that is one which is not loaded yet


def drag(page, frame, across: float, down: float) -> None:
    """From the middle, by shares of the frame's size."""
    box = frame.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + across * box["width"], y + down * box["height"], steps=5)
    page.mouse.up()


def until(true: Callable[[], bool], seconds: float = MOVE) -> bool:
    """Asks again and again, and returns the last answer."""
    end = time.monotonic() + seconds
    while not (answer := true()) and time.monotonic() < end:
        time.sleep(0.1)
    return answer


COLUMNS = ("cells run", "texts", "widgets", "images", "videos played", "sliders moved", "menus used", "players played")
COLUMNS += ("pairs judged", "viewers dragged", "viewers' sliders", "viewers played", "folds opened", "console errors")


def report(visits: list[Visit], preset: str) -> str:
    """A table of what was done, then what was wrong, then what is only worth a look."""
    lines = [
        f"Notebooks in JupyterLab, in Chromium, preset {preset}, CPU: what was done, one by one, and was seen to work. "
        + made_by(shlex.join(["python", "tests/course_in_browser.py", *sys.argv[1:]])),
        "",
    ]
    rows = [[v.name, *(str(v.done[kind]) for kind in COLUMNS), f"{v.seconds:.0f}"] for v in visits]
    lines.append(table(["notebook", *COLUMNS, "seconds"], rows))
    for title, kind in (("Wrong", "wrong"), ("Worth a look", "notes")):
        found = [f"- {v.name}: {' '.join(text.split())}" for v in visits for text in getattr(v, kind)]
        lines += ["", f"## {title}", "", *(found or ["Nothing."])]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
