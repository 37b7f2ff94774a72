// A viewer of 4D grids: drag sideways for time, up and down for viewpoint.
// anywidget calls `render` in a notebook, viewer.html calls it in a saved page. `model` holds the two moving numbers,
// `time` and `view`, and `_grid`, which never changes: the frames as sprite sheets (views down, times across) and their looks.

const AXES = {
  time: { size: "times", keys: ["ArrowLeft", "ArrowRight"] },
  view: { size: "views", keys: ["ArrowUp", "ArrowDown"] },
};
const DRAG_STEP = 40; // screen pixels of drag per frame, at most

const element = (tag, properties = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
};

function render({ model, el }) {
  const grid = model.get("_grid");
  const last = { time: grid.times - 1, view: grid.views - 1 };

  const moveTo = (cell) => {
    for (const axis in cell) model.set(axis, Math.min(Math.max(cell[axis], 0), last[axis]));
    model.save_changes();
  };

  // The parts

  const panels = element("div", { className: "panels", tabIndex: 0, role: "group" });
  panels.ariaLabel = "Frames of the grid. Left and right arrows change the time, up and down arrows the view.";
  const screens = grid.panels.map(({ label, sprite }) => {
    const canvas = element("canvas", { width: grid.width, height: grid.height });
    panels.append(element("figure", {}, canvas, element("figcaption", { textContent: label })));
    const image = element("img", { onload: () => draw(), src: sprite });
    return { canvas, image };
  });

  const map = element("div", { className: "map" });
  map.ariaHidden = true; // the sliders say the same
  const cells = grid.known.map((row) => row.map((known) => element("i", { className: known ? "known" : "" })));
  map.append(...cells.flat());

  const sliders = {}, buttons = {};
  for (const axis in AXES) {
    sliders[axis] = element("input", { type: "range", className: axis, min: 0, max: last[axis], ariaLabel: axis });
    sliders[axis].oninput = () => moveTo({ [axis]: sliders[axis].valueAsNumber });
    buttons[axis] = element("button", { type: "button", className: axis, disabled: !last[axis] }, axis);
    buttons[axis].onclick = () => play(axis, !playing[axis]);
  }
  const place = element("output");

  const root = element(
    "section",
    { className: "grid-viewer", ariaLabel: grid.title || "4D grid" },
    element("header", { textContent: grid.title }),
    panels,
    element("nav", {}, sliders.time, sliders.view, map, element("div", { className: "play" }, buttons.time, buttons.view), place),
  );
  root.classList.toggle("pixelated", !grid.smooth);
  root.dataset.lmSuppressShortcuts = true; // JupyterLab keeps its hands off the arrow keys
  root.style.setProperty("--panel", `$${grid.width * grid.scale}px`);
  el.append(root);
}

export default { render };
