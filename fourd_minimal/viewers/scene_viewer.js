// A viewer of moving Gaussians: drag to orbit, wheel to come closer, slide through time. Drawn by three.js (THREE).
//
// anywidget calls `render` in a notebook, viewer.html calls it in a saved page. The model holds `time` in [0, 1] and
// `_scene`, which never changes: positions at times spread evenly, looks, and the camera to begin with.

const VERTEX = `
precision highp float;
uniform mat4 viewMatrix, projectionMatrix;
uniform vec2 size; // of the canvas, in pixels
uniform float blur; // squared pixels
in vec3 position; // a corner of the square, in [-1, 1]
in vec4 ball; // centre and radius
in vec4 look; // colour and opacity
out vec4 ink;
out vec2 off; // from the centre, in pixels
out vec3 conic;

void main() { // the same projection as gaussians.py, in the same units
  vec4 local = viewMatrix * vec4(ball.xyz, 1.0);
  float z = -local.z;
  float focal = projectionMatrix[1][1] * size.y / 2.0;
  vec2 slope = local.xy / z;
  vec2 bound = 1.3 * (size / 2.0) / focal;
  vec2 u = clamp(slope, -bound, bound);
  float across = pow(focal * ball.w / z, 2.0);
  vec2 variance = across * (1.0 + u * u) + blur;
  float mixed = across * u.x * u.y;
  conic = vec3(variance.y, -mixed, variance.x) / (variance.x * variance.y - mixed * mixed);
  ink = look;
  off = position.xy * 3.5 * sqrt(variance);
  vec2 place = (focal * slope + off) / (size / 2.0);
  gl_Position = z > 0.05 ? vec4(place, 0.0, 1.0) : vec4(2.0, 2.0, 0.0, 1.0); // behind the camera: nowhere
}`;

const FRAGMENT = `
precision highp float;
in vec4 ink;
in vec2 off;
in vec3 conic;
out vec4 colour;

void main() {
  float power = conic.x * off.x * off.x + 2.0 * conic.y * off.x * off.y + conic.z * off.y * off.y;
  float alpha = min(ink.a, 0.99) * exp(-0.5 * power);
  if (alpha < 0.001) discard;
  colour = vec4(ink.rgb * alpha, alpha);
}`;

const SECONDS = 2; // of playing from the first time to the last

function create(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

const floats = (text) => new Float32Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);

function render({ model, el }) {
  const data = model.get("_scene");
  const positions = data.positions.map(floats); // one array of n x 3 per time
  const [radius, look] = [floats(data.radius), floats(data.look)];
  const n = radius.length;

  const canvas = create("canvas", { ariaLabel: "The scene. Drag to look around it, scroll to come closer." });
  canvas.style.background = `url(${data.background}) 0 0 / 100% 100%`;
  const slider = create("input", { type: "range", min: 0, max: 1, step: 0.005, disabled: positions.length === 1 });
  const button = create("button", { type: "button", textContent: "time", ariaLabel: "play time" });
  const home = create("button", { type: "button", textContent: "back to the start", className: "home" });
  const controls = create("div", { className: "controls" }, button, slider, home);
  const root = create("div", { className: "scene-viewer" }, create("header", { textContent: data.title }), canvas, controls);
  for (const part of [button, slider, home]) part.dataset.lmSuppressShortcuts = "true"; // keys are not JupyterLab's
  el.append(root);

  const renderer = new THREE.WebGLRenderer({ canvas, alpha: true, antialias: false, preserveDrawingBuffer: true });
  renderer.setPixelRatio(data.pixel_ratio || window.devicePixelRatio);
  renderer.setSize(data.width, data.width, false);
  renderer.outputColorSpace = THREE.LinearSRGBColorSpace; // colours are what they are
  canvas.style.width = data.width + "px";
  const pixels = renderer.getDrawingBufferSize(new THREE.Vector2());

  const shape = new THREE.InstancedBufferGeometry();
  const square = new Float32Array([-1, -1, 0, 1, -1, 0, 1, 1, 0, -1, 1, 0]);
  const balls = new THREE.InstancedBufferAttribute(new Float32Array(4 * n), 4).setUsage(THREE.DynamicDrawUsage);
  const looks = new THREE.InstancedBufferAttribute(new Float32Array(4 * n), 4).setUsage(THREE.DynamicDrawUsage);
  shape.setAttribute("position", new THREE.BufferAttribute(square, 3));
  shape.setIndex([0, 1, 2, 0, 2, 3]);
  shape.setAttribute("ball", balls);
  shape.setAttribute("look", looks);
  shape.instanceCount = n;
  const material = new THREE.RawShaderMaterial({
    vertexShader: VERTEX,
    fragmentShader: FRAGMENT,
    glslVersion: THREE.GLSL3,
    uniforms: { size: { value: pixels }, blur: { value: data.blur * Math.max(1, pixels.y / data.fitted_height) ** 2 } },
    depthTest: false,
    depthWrite: false,
    transparent: true,
    blending: THREE.CustomBlending,
    blendEquation: THREE.AddEquation,
    blendSrc: THREE.OneFactor,
    blendDst: THREE.OneMinusSrcAlphaFactor,
  });
  const mesh = new THREE.Mesh(shape, material);
  mesh.frustumCulled = false;
  const stage = new THREE.Scene();
  stage.add(mesh);

  const camera = new THREE.PerspectiveCamera(data.fov_deg, 1, 0.01, 100);
  camera.position.fromArray(data.camera);
  const orbit = new THREE.OrbitControls(camera, canvas);
  orbit.update();
  orbit.saveState();

  const now = new Float32Array(3 * n);
  const depth = new Float32Array(n);
  const order = Uint32Array.from({ length: n }, (_, i) => i);
  function draw() {
    const time = Math.min(Math.max(model.get("time"), 0), 1) * (positions.length - 1);
    const first = Math.min(Math.floor(time), Math.max(0, positions.length - 2));
    const [a, b] = [positions[first], positions[Math.min(first + 1, positions.length - 1)]];
    for (let i = 0; i < 3 * n; i++) now[i] = a[i] + (time - first) * (b[i] - a[i]);
    camera.updateMatrixWorld();
    const [x, y, z] = [2, 6, 10].map((k) => camera.matrixWorldInverse.elements[k]);
    for (let i = 0; i < n; i++) depth[i] = x * now[3 * i] + y * now[3 * i + 1] + z * now[3 * i + 2];
    order.sort((i, j) => depth[i] - depth[j]); // the farthest first
    for (let k = 0; k < n; k++) {
      const i = order[k];
      balls.array.set(now.subarray(3 * i, 3 * i + 3), 4 * k);
      balls.array[4 * k + 3] = radius[i];
      looks.array.set(look.subarray(4 * i, 4 * i + 4), 4 * k);
    }
    balls.needsUpdate = looks.needsUpdate = true;
    renderer.render(stage, camera);
    slider.value = model.get("time");
    model.set("camera", camera.position.toArray());
    canvas.dataset.camera = camera.position.toArray(); // for those who look from outside
  }

  let playing = 0; // the animation frame that is asked for; 0 rests
  function play(on, at = model.get("time")) {
    cancelAnimationFrame(playing);
    playing = 0;
    button.setAttribute("aria-pressed", on);
    if (!on) return model.save_changes();
    let began; // the first frame's moment, which may lie before the click that asked for it
    const step = (moment) => {
      began ??= moment - at * SECONDS * 1000;
      model.set("time", ((moment - began) / 1000 / SECONDS) % 1);
      playing = requestAnimationFrame(step);
    };
    playing = requestAnimationFrame(step);
  }
  button.onclick = () => play(!playing);
  slider.oninput = () => (play(false), model.set("time", slider.valueAsNumber), model.save_changes());
  home.onclick = () => (play(false), model.set("time", 0), orbit.reset(), model.save_changes());
  orbit.addEventListener("change", draw);
  orbit.addEventListener("end", () => model.save_changes());
  model.on("change:time", draw);
  play(false);
  draw();
  return () => {
    play(false);
    model.off("change:time", draw);
    orbit.dispose();
    renderer.dispose();
  };
}

export default { render };
