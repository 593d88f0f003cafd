// The viewer: three planes through one point of a case, image below, truth and prediction above.

const scene = JSON.parse(document.getElementById("scene").textContent);
const viewer = document.getElementById("viewer");
const pictures = Object.fromEntries(
  [...viewer.querySelectorAll("[data-plane]")].map((figure) => [
    figure.dataset.plane,
    {
      canvas: figure.querySelector(".picture"),
      profile: figure.querySelector(".profile"),
      slider: figure.querySelector("input"),
      caption: figure.querySelector("figcaption"),
    },
  ]),
);
const state = {
  point: [...scene.start], // where the planes cross
  centre: [...scene.start], // what a magnified picture shows the middle of
  modality: 0,
  truth: true,
  prediction: true,
  errors: false,
  region: "WT",
  opacity: 0.4,
  zoom: 1,
  windows: scene.modalities.map((modality) => [...modality.window]),
};
const images = [];
let labels = null;
let counts = null;

function rgb(colour) {
  return [1, 3, 5].map((start) => parseInt(colour.slice(start, start + 2), 16));
}

// ---- places

function apply(matrix, point) {
  return matrix.map((row) => row[0] * point[0] + row[1] * point[1] + row[2] * point[2] + row[3]);
}

const sourceVoxel = (point) => apply(scene.toSource, point).map(Math.round);
// Adding 0 turns -0 into 0.
const world = (point) => apply(scene.toWorld, point).map((value) => Math.round(value) + 0);

function describePoint() {
  const [x, y, z] = state.point;
  const both = labels[x + scene.shape[0] * (y + scene.shape[1] * z)];
  const parts = [`voxel ${sourceVoxel(state.point).join(", ")}`];
  if (scene.toWorld) parts.push(`x, y, z ${world(state.point).join(", ")} mm`);
  parts.push(`truth: ${scene.labelTitles[both & 3]}`, `prediction: ${scene.labelTitles[both >> 2]}`);
  document.getElementById("point").textContent = parts.join(" · ");
}

function goTo(point, recentre = true) {
  state.point = point.map((value, axis) => Math.min(scene.shape[axis] - 1, Math.max(0, Math.round(value))));
  if (recentre) state.centre = [...state.point];
  redraw();
}

function move(axis, steps) {
  goTo(state.point.map((value, one) => (one === axis ? value + steps : value)));
}

// ---- controls

function press(buttons, isPressed) {
  for (const button of buttons) button.setAttribute("aria-pressed", String(isPressed(button)));
}

async function showModality(number) {
  state.modality = number;
  press(viewer.querySelectorAll("[data-modality]"), (button) => Number(button.dataset.modality) === number);
  showWindow();
  if (!images[number]) {
    const { image } = scene.modalities[number];
    images[number] = await decodeImage(image, scene.shape, scene.tile, scene.columns);
  }
  redraw();
}

function showLayer(name, on) {
  state[name] = on;
  press(viewer.querySelectorAll("[data-layer]"), (button) => state[button.dataset.layer]);
  const fill = state.errors
    ? ""
    : state.prediction ? "Fill: prediction." : state.truth ? "Fill: truth." : "";
  const line = state.truth ? "Outline: truth." : state.prediction && !state.errors ? "Outline: prediction." : "";
  document.getElementById("drawn").textContent = `${fill} ${line}`;
  document.getElementById("label-legend").hidden = state.errors;
  document.getElementById("error-legend").hidden = !state.errors;
  redraw();
}

function showRegion(region) {
  state.region = region;
  press(document.querySelectorAll("[data-region]"), (button) => button.dataset.region === region);
  for (const list of document.querySelectorAll("[data-lesions]")) list.hidden = list.dataset.lesions !== region;
  if (labels) counts = countSlices(labels, scene.shape, scene.regions[region]);
  redraw();
}

// Brightness moves the window of grey values, contrast makes it narrower; both are 0 in the middle.
const brightness = document.getElementById("brightness");
const contrast = document.getElementById("contrast");
function setWindow() {
  const [black, white] = scene.modalities[state.modality].window;
  const half = ((white - black) / 2) * 2 ** -contrast.value;
  const middle = (black + white) / 2 - brightness.value * (white - black);
  state.windows[state.modality] = [middle - half, middle + half];
  redraw();
}
function showWindow() {
  const [black, white] = scene.modalities[state.modality].window;
  const [low, high] = state.windows[state.modality];
  contrast.value = -Math.log2((high - low) / (white - black));
  brightness.value = ((black + white) / 2 - (low + high) / 2) / (white - black);
}

function showZoom(zoom) {
  state.zoom = zoom;
  press(viewer.querySelectorAll("[data-zoom]"), (button) => Number(button.dataset.zoom) === zoom);
  goTo(state.point);
}

function onClick(selector, action) {
  for (const button of document.querySelectorAll(selector)) button.addEventListener("click", () => action(button));
}

onClick("[data-modality]", (button) => showModality(Number(button.dataset.modality)));
onClick("[data-layer]", (button) => showLayer(button.dataset.layer, !state[button.dataset.layer]));
onClick("[data-region]", (button) => showRegion(button.dataset.region));
onClick("[data-zoom]", (button) => showZoom(Number(button.dataset.zoom)));
onClick("#reset", () => {
  contrast.value = brightness.value = 0;
  setWindow();
});
document.getElementById("opacity").addEventListener("input", (event) => {
  state.opacity = event.target.value / 100;
  redraw();
});
for (const slider of [brightness, contrast]) slider.addEventListener("input", setWindow);

for (const [plane, { canvas, slider }] of Object.entries(pictures)) {
  const [across, down, through] = PLANES[plane];
  slider.max = scene.shape[through] - 1;
  slider.addEventListener("input", () => move(through, slider.value - state.point[through]));
  const pointAt = (event) => {
    const box = canvas.getBoundingClientRect();
    const place = placement(plane);
    const point = [...state.point];
    [event.clientX - box.left, event.clientY - box.top].forEach((offset, side) => {
      const pixel = (offset / (side ? box.height : box.width)) * (side ? canvas.height : canvas.width);
      point[side ? down : across] = Math.floor((pixel - place.start[side]) / place.step[side]);
    });
    // A magnified picture stays where it is while it is pointed at.
    goTo(point, false);
  };
  canvas.addEventListener("click", pointAt);
  canvas.addEventListener("pointermove", (event) => {
    // A finger that moves scrolls the page.
    if (event.buttons === 1 && event.pointerType !== "touch") pointAt(event);
  });
  canvas.addEventListener("wheel", (event) => {
    // Over a picture that was not clicked, the wheel scrolls the page.
    if (document.activeElement !== canvas || event.ctrlKey) return;
    event.preventDefault();
    move(through, Math.sign(event.deltaY));
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: [across, -1], ArrowRight: [across, 1], ArrowUp: [down, -1], ArrowDown: [down, 1],
      PageUp: [through, -1], PageDown: [through, 1] }[event.key];
    if (!steps || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    move(...steps);
  });
}

document.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const key = event.key.toLowerCase();
  const layer = { t: "truth", p: "prediction", e: "errors" }[key];
  if (layer) showLayer(layer, !state[layer]);
  if (key >= "1" && key <= String(scene.modalities.length)) showModality(Number(key) - 1);
});

// ---- lesions

function showLesion(row) {
  const list = row.closest("[data-lesions]");
  showRegion(list.dataset.lesions);
  for (const other of document.querySelectorAll("[data-index]")) other.classList.toggle("current", other === row);
  const rows = [...list.querySelectorAll("[data-index]")];
  document.getElementById("lesion").textContent =
    `${list.dataset.lesions} lesion ${rows.indexOf(row) + 1} of ${rows.length}: ${row.dataset.told}`;
  goTo(row.dataset.index.split(",").map(Number));
}

// The lesion before or after the one shown, of the region shown.
function turnLesions(steps) {
  const rows = [...document.querySelectorAll(`[data-lesions="${state.region}"] [data-index]`)];
  const now = rows.findIndex((row) => row.classList.contains("current"));
  if (rows.length) showLesion(rows[now < 0 ? 0 : (now + steps + rows.length) % rows.length]);
}

onClick("[data-turn]", (button) => turnLesions(Number(button.dataset.turn)));
onClick("[data-index] button", (button) => {
  showLesion(button.closest("[data-index]"));
  viewer.scrollIntoView({ block: "nearest" });
});

function followAddress() {
  const row = document.getElementById(location.hash.replace("#show=", ""));
  if (row) showLesion(row);
}
addEventListener("hashchange", followAddress);

// ---- beginning

function fit() {
  for (const { canvas, profile } of Object.values(pictures))
    for (const one of [canvas, profile]) {
      one.width = Math.max(1, Math.round(one.clientWidth * devicePixelRatio));
      one.height = Math.max(1, Math.round(one.clientHeight * devicePixelRatio));
    }
  redraw();
}
new ResizeObserver(fit).observe(viewer);

(async () => {
  try {
    labels = await decodeLabels(scene.labels, scene.shape);
    showRegion("WT");
    showLayer("truth", true);
    fit();
    await showModality(0);
    followAddress();
  } catch (error) {
    document.getElementById("point").textContent =
      `This browser cannot show the volumes (${error}). Chrome 80, Firefox 113, Safari 16.4 or later can.`;
  }
})();
