// The canvas of painter.py: each region has its own mask, so regions may overlap.
//
// A mask is an array of bytes, one per pixel, row by row, from 0 (outside) to 255 (inside). Tools set
// whole pixels by the rule of densenb.layout.masks: a pixel is inside when its center is. So a painted box
// is a box. A layer is a mask and its PNG in base64. Layers never change: every stroke makes a new
// one. So undo is a list of layers, and an untouched region is sent back as the text from Python.

const SHAPES = { Box: () => true, Ellipse: (x, y) => x * x + y * y <= 1 }; // -1 to 1 across
const TOOLS = ["Brush", "Eraser", "Fill", ...Object.keys(SHAPES)];
const PAPER = 240; // the gray under the regions
const SHARP = 1024; // the longer side of the canvas, in its own pixels
const TOKEN = 16; // picture pixels per side of an image token of SD 3.5
const MOST_STEPS = 50; // of undo
const STEP = 8; // picture pixels that an arrow key moves the cursor; 1 with Shift

// ------------------------------------------------------------------------------------- the tools
function stroke(mask, { width, height }, from, to, radius, value) {
  const [dx, dy] = [to.x - from.x, to.y - from.y];
  const length = dx * dx + dy * dy || 1;
  const rows = between(Math.min(from.y, to.y) - radius, Math.max(from.y, to.y) + radius, height);
  const columns = between(Math.min(from.x, to.x) - radius, Math.max(from.x, to.x) + radius, width);
  for (let row = rows[0]; row < rows[1]; row++) {
    for (let column = columns[0]; column < columns[1]; column++) {
      const [x, y] = [column + 0.5 - from.x, row + 0.5 - from.y];
      const along = Math.min(Math.max((x * dx + y * dy) / length, 0), 1);
      const [away, off] = [x - along * dx, y - along * dy];
      if (away * away + off * off <= radius * radius) mask[row * width + column] = value;
    }
  }
}

// Fill a shape in the dragged box.
function shape(mask, { width, height }, from, to, inside) {
  const [x0, x1] = edges(from.x, to.x, width);
  const [y0, y1] = edges(from.y, to.y, height);
  for (let row = y0; row < y1; row++) {
    for (let column = x0; column < x1; column++) {
      const x = (2 * (column + 0.5 - x0)) / (x1 - x0) - 1;
      const y = (2 * (row + 0.5 - y0)) / (y1 - y0) - 1;
      if (inside(x, y)) mask[row * width + column] = 255;
    }
  }
}

// Fill everything that can be reached from the place without crossing painted pixels.
function fill(mask, { width, height }, place) {
  const open = [[Math.floor(place.x), Math.floor(place.y)]];
  while (open.length) {
    const [column, row] = open.pop();
    const outside = column < 0 || row < 0 || column >= width || row >= height;
    if (outside || mask[row * width + column] >= 128) continue;
    mask[row * width + column] = 255;
    open.push([column - 1, row], [column + 1, row], [column, row - 1], [column, row + 1]);
  }
}

function between(low, high, size) {
  return [Math.max(Math.floor(low), 0), Math.min(Math.ceil(high), size)];
}

// Both ends of a dragged side, rounded to pixels in the picture, at least one pixel apart.
function edges(a, b, size) {
  const low = Math.min(Math.max(Math.round(Math.min(a, b)), 0), size - 1);
  return [low, Math.min(Math.max(Math.round(Math.max(a, b)), low + 1), size)];
}

// ---------------------------------------------------------------------------------- PNG and bytes
function sheet(width, height) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  return canvas.getContext("2d", { willReadFrequently: true });
}

function encode(mask, { width, height }) {
  const pen = sheet(width, height);
  const image = pen.createImageData(width, height);
  image.data.fill(255);
  for (let i = 0; i < mask.length; i++) image.data.fill(mask[i], 4 * i, 4 * i + 3);
  pen.putImageData(image, 0, 0);
  return pen.canvas.toDataURL("image/png").split(",")[1];
}

// White is inside, black or transparent is outside. Pictures are stretched to the masks' size.
async function decode(blob, { width, height }) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  const pen = sheet(width, height);
  pen.fillRect(0, 0, width, height);
  pen.imageSmoothingQuality = "high";
  pen.drawImage(bitmap, 0, 0, width, height);
  const { data } = pen.getImageData(0, 0, width, height);
  return new Uint8ClampedArray(width * height).map(
    (_, i) => 0.299 * data[4 * i] + 0.587 * data[4 * i + 1] + 0.114 * data[4 * i + 2],
  );
}

async function layerOf(text, size) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return { text, mask: await decode(new Blob([bytes], { type: "image/png" }), size) };
}

// ------------------------------------------------------------------------------------- drawing
// Draw the regions in their colors; return the middle of each (null when it is empty).
function compose(pen, masks, colours, chosen, { width, height }) {
  const image = pen.createImageData(width, height);
  image.data.fill(PAPER);
  for (let i = 3; i < image.data.length; i += 4) image.data[i] = 255;
  const middles = masks.map((mask, region) => {
    const sum = { x: 0, y: 0, count: 0 };
    for (let i = 0; i < mask.length; i++) {
      if (!mask[i]) continue;
      const [column, row] = [i % width, Math.floor(i / width)];
      if (mask[i] >= 128) {
        sum.x += column + 0.5;
        sum.y += row + 0.5;
        sum.count += 1;
      }
      const rim =
        column === 0 || row === 0 || column === width - 1 || row === height - 1 ||
        Math.min(mask[i - 1], mask[i + 1], mask[i - width], mask[i + width]) < 128;
      const opacity = (mask[i] / 255) * (rim ? 1 : region === chosen ? 0.65 : 0.35);
      for (let c = 0; c < 3; c++) {
        image.data[4 * i + c] += opacity * (colours[region][c] - image.data[4 * i + c]);
      }
    }
    return sum.count ? { x: sum.x / sum.count, y: sum.y / sum.count } : null;
  });
  pen.putImageData(image, 0, 0);
  return middles;
}

function drawGrid(pen, zoom, { width, height }) {
  pen.strokeStyle = "rgba(0, 0, 0, 0.18)";
  pen.lineWidth = 1;
  pen.beginPath();
  for (let x = TOKEN; x < width; x += TOKEN) {
    pen.moveTo(x * zoom, 0);
    pen.lineTo(x * zoom, height * zoom);
  }
  for (let y = TOKEN; y < height; y += TOKEN) {
    pen.moveTo(0, y * zoom);
    pen.lineTo(width * zoom, y * zoom);
  }
  pen.stroke();
}

// Black with a white rim, always inside the canvas; `unit` is the size of a pixel of the page.
function drawLabel(pen, unit, text, x, y, bold) {
  pen.font = `${bold ? "bold " : ""}${14 * unit}px sans-serif`;
  const half = pen.measureText(text).width / 2 + 3 * unit;
  const left = Math.min(Math.max(x, half), Math.max(pen.canvas.width - half, half));
  const top = Math.min(Math.max(y, 11 * unit), pen.canvas.height - 11 * unit);
  Object.assign(pen, { textAlign: "center", textBaseline: "middle", lineJoin: "round" });
  Object.assign(pen, { lineWidth: 3 * unit, strokeStyle: "white", fillStyle: "black" });
  pen.strokeText(text, left, top);
  pen.fillText(text, left, top);
}

// A cross, and a ring of the brush's size.
function drawCursor(pen, unit, zoom, { x, y }, radius) {
  for (const [line, colour] of [[3, "white"], [1, "black"]]) {
    Object.assign(pen, { lineWidth: line * unit, strokeStyle: colour });
    pen.beginPath();
    if (radius) pen.arc(x * zoom, y * zoom, radius * zoom, 0, 2 * Math.PI);
    for (const [dx, dy] of [[6 * unit, 0], [0, 6 * unit]]) {
      pen.moveTo(x * zoom - dx, y * zoom - dy);
      pen.lineTo(x * zoom + dx, y * zoom + dy);
    }
    pen.stroke();
  }
}

// ------------------------------------------------------------------------------------- the page
function element(parent, tag, properties = {}, attributes = {}) {
  const node = Object.assign(document.createElement(tag), properties);
  Object.entries(attributes).forEach(([name, value]) => node.setAttribute(name, value));
  parent.append(node);
  return node;
}

function button(parent, text, label, onclick) {
  const attributes = { "aria-label": label, title: label };
  return element(parent, "button", { type: "button", textContent: text, onclick }, attributes);
}

function group(parent, label) {
  return element(parent, "div", { className: "group" }, { role: "group", "aria-label": label });
}

function rgb(colour) {
  return [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
}

function render({ model, el }) {
  const size = { width: model.get("width"), height: model.get("height") };
  const zoom = SHARP / Math.max(size.width, size.height);
  const state = { regions: [], layers: [], past: [], future: [], chosen: 0, tool: "Brush" };
  const loading = { turn: 0, anew: true };
  let gesture = null; // {pointer, from, at, mask}: what is being painted and not yet committed
  let cursor = null; // {x, y}, in picture pixels
  let middles = [];

  // ---- elements of the page
  const root = element(el, "div", { className: "densenb-painter", inert: true });
  const regionBar = group(root, "regions");
  const bar = element(root, "div", { className: "bar" });
  const toolBar = group(bar, "tools");
  const tools = TOOLS.map((name) => button(toolBar, name, name, () => setTool(name)));
  const sizeLabel = element(bar, "label", { textContent: "size " });
  const most = Math.max(4, Math.round(Math.max(size.width, size.height) / 2));
  const brush = element(sizeLabel, "input", {
    type: "range", min: 2, max: most, value: Math.round(most / 5), oninput: () => draw(),
  }, { "aria-label": "brush size in pixels" });
  const changes = group(bar, "changes");
  const undoButton = button(changes, "Undo", "Undo (Ctrl+Z)", () => travel("past", "future"));
  const redoButton = button(changes, "Redo", "Redo (Ctrl+Y)", () => travel("future", "past"));
  button(changes, "Clear", "Clear the chosen region", () => commit(blank()));
  const file = element(root, "input", { type: "file", accept: "image/*", hidden: true });
  button(changes, "Import PNG", "Import a PNG as the chosen region", () => file.click());
  const gridLabel = element(bar, "label", { textContent: " token grid" });
  const grid = element(gridLabel, "input", { type: "checkbox", onchange: () => draw() });
  gridLabel.prepend(grid);
  const canvas = element(root, "canvas", {
    width: Math.round(size.width * zoom), height: Math.round(size.height * zoom), tabIndex: 0,
  }, {
    role: "application",
    "aria-label":
      "Painted regions. Arrow keys move the cursor, with Shift by one pixel; Space or Enter " +
      "paints; number keys choose the region.",
  });
  const line = element(root, "div", { className: "message" }, { role: "status" });
  const copied = element(root, "details");
  element(copied, "summary", { textContent: "copy this layout: the same in Python" });
  const copyButton = button(copied, "Copy", "Copy the Python code", copy);
  const code = element(copied, "pre", { tabIndex: 0 });
  const paper = sheet(size.width, size.height);

  // ---- drawing
  function repaint() {
    const masks = state.layers.map((layer) => layer.mask);
    if (gesture) masks[state.chosen] = gesture.mask;
    const colours = state.regions.map((region) => rgb(region.colour));
    middles = compose(paper, masks, colours, state.chosen, size);
    draw();
  }

  function draw() {
    const pen = canvas.getContext("2d");
    const unit = canvas.width / (canvas.clientWidth || canvas.width);
    pen.imageSmoothingEnabled = false; // pixels stay square
    pen.drawImage(paper.canvas, 0, 0, canvas.width, canvas.height);
    if (grid.checked) drawGrid(pen, zoom, size);
    middles.forEach((middle, i) => {
      const text = `${i + 1} ${state.regions[i].phrase}`;
      const short = text.length > 26 ? `${text.slice(0, 25)}…` : text;
      if (middle) drawLabel(pen, unit, short, middle.x * zoom, middle.y * zoom, i === state.chosen);
    });
    const round = state.tool === "Brush" || state.tool === "Eraser";
    if (cursor) drawCursor(pen, unit, zoom, cursor, round ? radius() : 0);
  }

  function refresh() {
    const press = (node, on) => node.setAttribute("aria-pressed", on);
    [...regionBar.children].forEach((node, i) => press(node, i === state.chosen));
    tools.forEach((node) => press(node, node.textContent === state.tool));
    undoButton.setAttribute("aria-disabled", !state.past.length); // `disabled` would lose the focus
    redoButton.setAttribute("aria-disabled", !state.future.length);
    repaint();
  }

  function listRegions() {
    regionBar.replaceChildren();
    state.regions.forEach(({ phrase, colour }, i) => {
      const node = button(regionBar, "", `Region ${i + 1}: ${phrase}`, () => choose(i));
      element(node, "span", { className: "swatch" }).style.background = colour;
      node.append(`${i + 1} ${phrase}`);
    });
  }

  function choose(region) {
    if (region >= state.layers.length) return;
    finish();
    state.chosen = region;
    refresh();
  }

  function setTool(name) {
    finish();
    state.tool = name;
    refresh();
  }

  // ---- changes and undo
  const radius = () => brush.valueAsNumber / 2;
  const blank = () => new Uint8ClampedArray(size.width * size.height);

  function commit(mask) {
    gesture = null;
    const layer = { text: encode(mask, size), mask };
    if (layer.mask.every((value, i) => value === state.layers[state.chosen].mask[i])) {
      return refresh(); // nothing changed, so there is no step to undo
    }
    step(state.layers.map((old, i) => (i === state.chosen ? layer : old)));
    send();
  }

  function step(layers) {
    state.past = [...state.past, state.layers].slice(-MOST_STEPS);
    state.future = [];
    state.layers = layers;
  }

  function travel(back, forth) {
    finish();
    if (!state[back].length) return;
    state[forth].push(state.layers);
    state.layers = state[back].pop();
    send();
  }

  function send() {
    tell(); // replaces messages of the page itself
    refresh();
    model.set("masks", state.layers.map((layer) => layer.text));
    model.save_changes();
  }

  // From Python, or from another view of the same painter.
  function receive() {
    load().catch((error) => say(`The masks cannot be shown: ${error.message}`));
  }

  async function load() {
    const turn = ++loading.turn;
    const known = Object.fromEntries(state.layers.map((layer) => [layer.text, layer]));
    const layers = await Promise.all(
      model.get("masks").map((text) => known[text] ?? layerOf(text, size)),
    );
    if (turn !== loading.turn) return; // a later call has overtaken this one
    if (loading.anew) {
      const chosen = Math.min(state.chosen, layers.length - 1);
      Object.assign(state, { regions: model.get("regions"), layers, past: [], future: [], chosen });
      loading.anew = root.inert = false; // painting is possible from here on
      listRegions();
    } else if (layers.some((layer, i) => layer.text !== state.layers[i].text)) {
      step(layers);
    } else return; // this page itself sent these masks
    gesture = null;
    refresh();
  }

  function loadAnew() {
    loading.anew = true;
    receive();
  }

  async function importFile() {
    const [picture] = file.files;
    file.value = ""; // so that the same file can be chosen again
    try {
      const mask = await decode(picture, size);
      if (!mask.some((value) => value > 0)) throw new Error("It is black all over.");
      commit(mask);
    } catch (error) {
      say(`${picture.name}: ${error.message} Give a picture that is white where the region is.`);
    }
  }

  function say(text) {
    line.textContent = text;
  }

  async function copy() {
    try {
      await navigator.clipboard.writeText(code.textContent);
      copyButton.textContent = "Copied";
    } catch { // some pages may not use the clipboard
      getSelection().selectAllChildren(code);
      copyButton.textContent = "Selected: now press Ctrl+C";
    }
  }

  // ---- one gesture, by pointer or by key
  function begin(place, pointer) {
    gesture = { pointer, from: place, at: place, mask: state.layers[state.chosen].mask.slice() };
    if (state.tool === "Fill") fill(gesture.mask, size, place);
    else extend(place);
  }

  function extend(place) {
    const value = state.tool === "Eraser" ? 0 : 255;
    if (state.tool === "Brush" || state.tool === "Eraser") {
      stroke(gesture.mask, size, gesture.at, place, radius(), value);
    } else if (state.tool !== "Fill") {
      gesture.mask.set(state.layers[state.chosen].mask);
      shape(gesture.mask, size, gesture.from, place, SHAPES[state.tool]);
    }
    gesture.at = place;
    repaint();
  }

  function finish() {
    if (gesture) commit(gesture.mask);
  }

  function cancel() {
    gesture = null;
    repaint();
  }

  function place(event) {
    const frame = canvas.getBoundingClientRect();
    return {
      x: ((event.clientX - frame.left) / frame.width) * size.width,
      y: ((event.clientY - frame.top) / frame.height) * size.height,
    };
  }

  canvas.onpointerdown = (event) => {
    if (event.button !== 0 || gesture?.pointer !== undefined) return;
    canvas.setPointerCapture(event.pointerId); // a stroke may cross the edge
    cursor = place(event);
    begin(cursor, event.pointerId);
  };
  canvas.onpointermove = (event) => {
    cursor = place(event);
    if (gesture?.pointer === event.pointerId) extend(cursor);
    else draw();
  };
  canvas.onpointerup = (event) => gesture?.pointer === event.pointerId && finish();
  canvas.onpointercancel = (event) => gesture?.pointer === event.pointerId && cancel();
  canvas.onpointerleave = canvas.onblur = () => {
    if (gesture) return;
    cursor = null;
    draw();
  };
  file.onchange = importFile;

  // ---- keys
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  function onCanvas(event) {
    cursor ??= { x: size.width / 2, y: size.height / 2 };
    if (event.key in arrows) {
      const [dx, dy] = arrows[event.key].map((way) => way * (event.shiftKey ? 1 : STEP));
      cursor.x = Math.min(Math.max(cursor.x + dx, 0), size.width);
      cursor.y = Math.min(Math.max(cursor.y + dy, 0), size.height);
      if (gesture) extend({ ...cursor });
      else draw();
    } else if (event.key === " " || event.key === "Enter") {
      if (gesture) finish(); // the second corner of a shape
      else begin({ ...cursor });
      if (!(state.tool in SHAPES)) finish();
    } else if (event.key === "Escape") cancel();
    else return false;
    return true;
  }

  function onKey(event) {
    const command = event.ctrlKey || event.metaKey;
    const key = event.key.toLowerCase();
    if (command && (key === "y" || (key === "z" && event.shiftKey))) travel("future", "past");
    else if (command && key === "z") travel("past", "future");
    else if (!command && /^[1-9]$/.test(key)) choose(Number(key) - 1);
    else if (event.target !== canvas || command || !onCanvas(event)) {
      if (!command) event.stopPropagation(); // or letters would run commands of the notebook
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  }
  root.addEventListener("keydown", onKey);

  // ---- values from Python
  const tell = () => say(model.get("message"));
  function recode() {
    code.textContent = model.get("code");
    copyButton.textContent = "Copy";
  }
  const heard = {
    "change:masks": receive,
    "change:loads": loadAnew,
    "change:message": tell,
    "change:code": recode,
  };
  Object.entries(heard).forEach(([name, callback]) => model.on(name, callback));
  tell();
  recode();
  receive();
  return () => Object.entries(heard).forEach(([name, callback]) => model.off(name, callback));
}

export default { render };
