// A viewer of 4D grids: drag sideways for time, up and down for viewpoint.
//
// anywidget calls `render` in a notebook, viewer.html calls it in a saved page. The model holds the cell on show, `time`
// and `view`, and `_grid`, which never changes: the frames as sprite sheets (views down, times across) and their looks.

const KEYS = {
  ArrowLeft: ["time", -1],
  ArrowRight: ["time", 1],
  ArrowUp: ["view", -1],
  ArrowDown: ["view", 1],
};
const DRAG_STEP = 40; // screen pixels of dragging per frame, at most

function create(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function render({ model, el }) {
  const grid = model.get("_grid");
  const count = { time: grid.times, view: grid.views };

  // Moving: everything below calls this, and the model's change redraws.
  function moveTo(cell) {
    for (const axis in cell) model.set(axis, Math.min(Math.max(cell[axis], 0), count[axis] - 1));
    model.save_changes();
  }

  const screens = grid.panels.map(({ label, sprite }) => ({
    label,
    canvas: create("canvas", { width: grid.width, height: grid.height }),
    sprite: create("img", { onload: draw, src: sprite }),
  }));
  const panels = create(
    "div",
    {
      className: "panels",
      tabIndex: 0,
      role: "group",
      ariaLabel: "Frames. Left and right arrows change the time, up and down arrows the view.",
    },
    ...screens.map(({ label, canvas }) => create("figure", {}, canvas, create("figcaption", { textContent: label }))),
  );
  const cells = grid.known.map((row) => row.map((known) => create("i", { className: known ? "known" : "" })));
  const map = create("div", { className: "map", ariaHidden: "true" }, ...cells.flat()); // a reader hears the sliders
  const sliders = {};
  const labels = {};
  const buttons = {};
  for (const axis in count) {
    const disabled = count[axis] === 1;
    sliders[axis] = create("input", { type: "range", min: 0, max: count[axis] - 1, disabled });
    labels[axis] = create("label", { className: axis }, create("span", { textContent: axis }), sliders[axis]);
    sliders[axis].oninput = () => (play(axis, false), moveTo({ [axis]: sliders[axis].valueAsNumber }));
    buttons[axis] = create("button", { type: "button", textContent: axis, ariaLabel: `play ${axis}`, disabled });
    buttons[axis].onclick = () => play(axis, !playing[axis]);
  }
  const players = create("div", { className: "play" }, buttons.time, buttons.view);
  const place = create("output");
  const root = create(
    "section",
    { className: "grid-viewer", ariaLabel: grid.title || "4D grid" },
    create("header", { textContent: grid.title }),
    panels,
    create("div", { className: "controls" }, labels.time, labels.view, map, players, place),
  );
  root.classList.toggle("pixelated", !grid.smooth);
  const parts = [panels, ...Object.values(sliders), ...Object.values(buttons)];
  for (const part of parts) part.dataset.lmSuppressShortcuts = "true"; // keys are not JupyterLab's
  const sizes = {
    views: grid.views,
    times: grid.times,
    panels: screens.length,
    panel: `${grid.width * grid.scale}px`,
    cell: `${Math.min(Math.max(Math.round(160 / Math.max(grid.times, grid.views)), 4), 24)}px`,
  };
  for (const name in sizes) root.style.setProperty(`--${name}`, sizes[name]);
  el.append(root);

  let shown; // the map's current cell
  function draw() {
    const [time, view] = [model.get("time"), model.get("view")];
    for (const { canvas, sprite } of screens) {
      const { width, height } = canvas;
      canvas.getContext("2d").drawImage(sprite, time * width, view * height, width, height, 0, 0, width, height);
    }
    shown?.classList.remove("here");
    shown = cells[view][time];
    shown.classList.add("here");
    root.classList.toggle("given", grid.known[view][time]);
    for (const axis in count) sliders[axis].value = model.get(axis);
    place.textContent = `view ${view}, time ${time}${grid.known[view][time] ? ", given" : ""}`;
  }

  // Dragging a panel moves from where the drag began; pressing the map goes straight to the cell.
  let origin;
  panels.onpointerdown = (event) => {
    if (event.button) return;
    play("time", false);
    play("view", false);
    panels.setPointerCapture(event.pointerId);
    origin = { x: event.clientX, y: event.clientY, time: model.get("time"), view: model.get("view") };
  };
  panels.onpointermove = (event) => {
    if (!panels.hasPointerCapture(event.pointerId)) return;
    const { width, height } = screens[0].canvas.getBoundingClientRect();
    const steps = (distance, size, n) => Math.round(distance / Math.min(size / n, DRAG_STEP));
    moveTo({
      time: origin.time + steps(event.clientX - origin.x, width, count.time),
      view: origin.view + steps(event.clientY - origin.y, height, count.view),
    });
  };
  map.onpointerdown = (event) => {
    map.setPointerCapture(event.pointerId);
    map.onpointermove(event);
  };
  map.onpointermove = (event) => {
    if (!map.hasPointerCapture(event.pointerId)) return;
    const { left, top, width, height } = map.getBoundingClientRect();
    moveTo({
      time: Math.floor(((event.clientX - left) / width) * count.time),
      view: Math.floor(((event.clientY - top) / height) * count.view),
    });
  };
  root.onkeydown = (event) => {
    if (!(event.key in KEYS) || event.ctrlKey || event.metaKey || event.altKey) return;
    const [axis, step] = KEYS[event.key];
    event.preventDefault();
    play(axis, false);
    moveTo({ [axis]: model.get(axis) + step });
  };

  // Playing: a video starts over, a camera path need not close and so swings back.
  const playing = { time: false, view: false };
  let timer;
  let swing = 1;
  function play(axis, on) {
    playing[axis] = on;
    buttons[axis].ariaPressed = String(on);
    place.ariaLive = playing.time || playing.view ? "off" : "polite";
    clearInterval(timer);
    if (playing.time || playing.view) timer = setInterval(step, 1000 / grid.fps);
  }
  function step() {
    const cell = {};
    if (playing.time) cell.time = (model.get("time") + 1) % count.time;
    if (playing.view) {
      if (!(model.get("view") + swing in cells)) swing = -swing;
      cell.view = model.get("view") + swing;
    }
    moveTo(cell);
  }

  model.on("change:time", draw);
  model.on("change:view", draw);
  play("time", false);
  play("view", false);
  draw();
  return () => {
    clearInterval(timer);
    model.off("change:time", draw);
    model.off("change:view", draw);
  };
}

export default { render };
