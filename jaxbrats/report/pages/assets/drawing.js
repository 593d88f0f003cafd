// Drawing one plane of the viewer: image, labels or errors, crosshair, letters, and the profile over its slider.

let waiting = false;
function redraw() {
  if (waiting || !labels) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    for (const plane of Object.keys(PLANES)) {
      drawPlane(plane);
      drawProfile(plane);
    }
    describePoint();
    viewer.dataset.ready = "true";
  });
}

// Where a slice lies on its canvas: pixels of the canvas for each voxel, and of the first voxel's corner.
function placement(plane) {
  const [across, down] = PLANES[plane];
  const { canvas } = pictures[plane];
  const size = [scene.shape[across] * scene.spacing[across], scene.shape[down] * scene.spacing[down]];
  const room = [canvas.width, canvas.height];
  const scale = Math.min(room[0] / size[0], room[1] / size[1]) * state.zoom;
  const start = [across, down].map((axis, side) => {
    const whole = size[side] * scale;
    if (whole <= room[side]) return (room[side] - whole) / 2;
    const middle = (state.centre[axis] + 0.5) * scene.spacing[axis] * scale;
    return Math.min(0, Math.max(room[side] - whole, room[side] / 2 - middle));
  });
  return { step: [across, down].map((axis) => scene.spacing[axis] * scale), start, scale };
}

// 256 colours [r, g, b, a] as the 32-bit numbers of a picture.
function palette(colourOf) {
  const bytes = new Uint8ClampedArray(1024);
  for (let value = 0; value < 256; value++) bytes.set(colourOf(value), 4 * value);
  return new Uint32Array(bytes.buffer);
}

const scratch = document.createElement("canvas");
function paint(context, { width, height, values }, place, colours, smooth) {
  scratch.width = width;
  scratch.height = height;
  const pen = scratch.getContext("2d");
  const picture = pen.createImageData(width, height);
  const pixels = new Uint32Array(picture.data.buffer);
  for (let pixel = 0; pixel < pixels.length; pixel++) pixels[pixel] = colours[values[pixel]];
  pen.putImageData(picture, 0, 0);
  context.imageSmoothingEnabled = smooth;
  context.imageSmoothingQuality = "high";
  context.drawImage(scratch, ...place.start, width * place.step[0], height * place.step[1]);
}

function greys([black, white]) {
  return palette((value) => {
    const shade = value === 0 ? 0 : ((value - black) / (white - black)) * 255;
    return [shade, shade, shade, 255];
  });
}

const NOTHING = [0, 0, 0, 0];
function labelFills(shift, alpha) {
  return palette((value) => {
    const label = (value >> shift) & 3;
    return label ? [...rgb(scene.colours[label]), alpha] : NOTHING;
  });
}

// Agreement is shown faintly: it is the rest that is looked for.
function errorFills(wanted, alpha) {
  return palette((value) => {
    const [inTruth, inPrediction] = [wanted.includes(value & 3), wanted.includes((value >> 2) & 3)];
    if (inTruth && inPrediction) return [...rgb(scene.errors.agreed), alpha / 2];
    if (inTruth) return [...rgb(scene.errors.missed), 1.6 * alpha];
    return inPrediction ? [...rgb(scene.errors.extra), 1.6 * alpha] : NOTHING;
  });
}

function drawPlane(plane) {
  const [across, down, through] = PLANES[plane];
  const { canvas, slider, caption } = pictures[plane];
  const context = canvas.getContext("2d");
  const index = state.point[through];
  const place = placement(plane);
  context.fillStyle = "#000";
  context.fillRect(0, 0, canvas.width, canvas.height);

  const image = images[state.modality];
  if (image) paint(context, cut(image, scene.shape, plane, index), place, greys(state.windows[state.modality]), true);

  const both = cut(labels, scene.shape, plane, index);
  const wanted = scene.regions[state.region];
  const alpha = 255 * state.opacity;
  if (state.errors) paint(context, both, place, errorFills(wanted, alpha), false);
  else if (state.truth || state.prediction) paint(context, both, place, labelFills(state.prediction ? 2 : 0, alpha), false);
  if (state.truth || (state.prediction && !state.errors)) {
    const shift = state.truth ? 0 : 2;
    const slice = { ...both, values: both.values.map((value) => (value >> shift) & 3) };
    // An edge that two labels share is the inner one's, drawn last.
    if (state.errors) outline(context, slice, place, (label) => wanted.includes(label), "#ffffff");
    else for (const label of [2, 3, 1]) outline(context, slice, place, (one) => one === label, scene.colours[label]);
  }

  drawCrosshair(context, place, canvas, [state.point[across], state.point[down]]);
  drawLetters(context, plane, canvas, place.scale);
  slider.value = index;
  const at = sourceVoxel(state.point);
  const axis = scene.toSource.findIndex((row) => row[through] !== 0);
  const where = scene.toWorld ? `, ${"xyz"[through]} = ${world(state.point)[through]} mm` : "";
  caption.textContent = `${plane}: ${"ijk"[axis]} = ${at[axis]}${where}`;
}

function outline(context, { width, height, values }, place, inside, colour) {
  const is = (x, y) => x >= 0 && y >= 0 && x < width && y < height && inside(values[y * width + x]);
  const path = new Path2D();
  const edge = (x0, y0, x1, y1) => {
    path.moveTo(place.start[0] + x0 * place.step[0], place.start[1] + y0 * place.step[1]);
    path.lineTo(place.start[0] + x1 * place.step[0], place.start[1] + y1 * place.step[1]);
  };
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      if (!inside(values[y * width + x])) continue;
      if (!is(x, y - 1)) edge(x, y, x + 1, y);
      if (!is(x, y + 1)) edge(x, y + 1, x + 1, y + 1);
      if (!is(x - 1, y)) edge(x, y, x, y + 1);
      if (!is(x + 1, y)) edge(x + 1, y, x + 1, y + 1);
    }
  context.lineCap = "square";
  context.lineWidth = 1.4 * devicePixelRatio;
  context.strokeStyle = colour;
  context.stroke(path);
}

function drawCrosshair(context, place, canvas, [x, y]) {
  const middle = [place.start[0] + (x + 0.5) * place.step[0], place.start[1] + (y + 0.5) * place.step[1]];
  const gap = 9 * devicePixelRatio;
  context.strokeStyle = "rgba(255, 255, 255, 0.55)";
  context.lineWidth = devicePixelRatio;
  context.beginPath();
  for (const [from, to] of [[0, middle[0] - gap], [middle[0] + gap, canvas.width]]) {
    context.moveTo(from, middle[1]);
    context.lineTo(to, middle[1]);
  }
  for (const [from, to] of [[0, middle[1] - gap], [middle[1] + gap, canvas.height]]) {
    context.moveTo(middle[0], from);
    context.lineTo(middle[0], to);
  }
  context.stroke();
}

function drawLetters(context, plane, canvas, scale) {
  const size = 12 * devicePixelRatio;
  const inset = 0.8 * size;
  context.font = `600 ${size}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.lineJoin = "round";
  context.lineWidth = 3 * devicePixelRatio;
  context.strokeStyle = "#000";
  context.fillStyle = "#fff";
  const write = (text, x, y) => {
    context.strokeText(text, x, y);
    context.fillText(text, x, y);
  };
  if (scene.ends) {
    const [across, down] = PLANES[plane].map((axis) => scene.ends[axis]);
    write(across[0], inset, canvas.height / 2);
    write(across[1], canvas.width - inset, canvas.height / 2);
    write(down[0], canvas.width / 2, inset);
    write(down[1], canvas.width / 2, canvas.height - inset);
  }
  const bar = 20 * scale;
  const right = canvas.width - inset;
  const bottom = canvas.height - inset;
  context.fillRect(right - bar, bottom, bar, 2 * devicePixelRatio);
  context.font = `${0.85 * size}px system-ui, sans-serif`;
  context.textAlign = "right";
  write("2 cm", right, bottom - 0.8 * size);
}

// Over each slider: how much of the region lies in each slice. A prediction without a truth below it stands out.
function drawProfile(plane) {
  const through = PLANES[plane][2];
  const { profile } = pictures[plane];
  const { truth, prediction } = counts[through];
  const context = profile.getContext("2d");
  const { width, height } = profile;
  const most = Math.max(1, ...truth, ...prediction);
  const toX = (index) => (index / truth.length) * width;
  const toY = (value) => height - (value ? Math.max(0.08, Math.sqrt(value / most)) : 0) * (height - 2);
  context.clearRect(0, 0, width, height);
  context.fillStyle = "#5f7f92";
  prediction.forEach((value, index) => {
    context.fillRect(toX(index), toY(value), toX(index + 1) - toX(index) + 0.5, height);
  });
  context.strokeStyle = "#fff";
  context.lineWidth = 1.3 * devicePixelRatio;
  context.beginPath();
  truth.forEach((value, index) => {
    context.lineTo(toX(index), toY(value));
    context.lineTo(toX(index + 1), toY(value));
  });
  context.stroke();
}
