// The volumes of a page: decoded once, then cut into slices. Axes run to the patient's left, back and feet.

// The axes that run across, down and through each plane.
const PLANES = { axial: [0, 1, 2], coronal: [0, 2, 1], sagittal: [1, 2, 0] };

// Labels: gzip, x fastest, bits 0 and 1 the truth, 2 and 3 the prediction.
async function decodeLabels(uri, shape) {
  const bytes = Uint8Array.from(atob(uri.slice(uri.indexOf(",") + 1)), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const labels = new Uint8Array(await new Response(stream).arrayBuffer());
  if (labels.length !== shape[0] * shape[1] * shape[2]) throw new Error("the page is damaged");
  return labels;
}

// An image: a mosaic of axial slices, read row by row because browsers limit the size of a canvas.
async function decodeImage(uri, [across, down, count], [width, height], columns) {
  const picture = new Image();
  picture.src = uri;
  await picture.decode();
  const strip = document.createElement("canvas");
  strip.width = columns * width;
  strip.height = height;
  const context = strip.getContext("2d", { willReadFrequently: true });
  const volume = new Uint8Array(across * down * count);
  let place = 0;
  for (let slice = 0; slice < count; slice++) {
    if (slice % columns === 0) context.drawImage(picture, 0, (-slice / columns) * height);
    const pixels = context.getImageData((slice % columns) * width, 0, across, down).data;
    for (let pixel = 0; pixel < pixels.length; pixel += 4) volume[place++] = pixels[pixel];
  }
  return volume;
}

// One slice of a volume: {width, height, values}, row by row.
function cut(volume, shape, plane, index) {
  const [across, down, through] = PLANES[plane];
  const stride = [1, shape[0], shape[0] * shape[1]];
  const width = shape[across];
  const height = shape[down];
  const values = new Uint8Array(width * height);
  let place = 0;
  for (let y = 0; y < height; y++) {
    let from = index * stride[through] + y * stride[down];
    for (let x = 0; x < width; x++, from += stride[across]) values[place++] = volume[from];
  }
  return { width, height, values };
}

// How many voxels of `wanted` labels each slice holds along each axis, in the truth and in the prediction.
function countSlices(labels, shape, wanted) {
  const counts = shape.map((size) => ({ truth: new Uint32Array(size), prediction: new Uint32Array(size) }));
  const isWanted = [0, 1, 2, 3].map((label) => wanted.includes(label));
  let place = 0;
  for (let z = 0; z < shape[2]; z++)
    for (let y = 0; y < shape[1]; y++)
      for (let x = 0; x < shape[0]; x++) {
        const both = labels[place++];
        if (both === 0) continue;
        if (isWanted[both & 3]) [x, y, z].forEach((index, axis) => counts[axis].truth[index]++);
        if (isWanted[both >> 2]) [x, y, z].forEach((index, axis) => counts[axis].prediction[index]++);
      }
  return counts;
}
