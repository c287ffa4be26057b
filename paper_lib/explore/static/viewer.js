// Draws what slots hold: the scene, one tile a slot, what comes back from the slots, and how the
// search for them went. It is a widget in a notebook (the default export) and the whole of the
// static page (`show`). Data and format: paper_lib/explore/views.py.

const SVG = "http://www.w3.org/2000/svg";

function element(parent, tag, properties = {}) {
  const made = document.createElement(tag);
  const { dataset, ...rest } = properties;
  Object.assign(made, rest);
  Object.assign(made.dataset, dataset);
  parent.appendChild(made);
  return made;
}

function drawn(parent, tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  parent.appendChild(made);
  return made;
}

function bytes(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

async function pixels(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = image.width;
  canvas.height = image.height;
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, image.width, image.height);
}

// The adjusted Rand index of two partitions, over the pixels with truth > 0; as
// paper_lib.metrics.foreground_ari, null for an image without objects.
export function foregroundARI(truth, segments) {
  const cells = new Map();
  const rows = new Map();
  const columns = new Map();
  let total = 0;
  for (let i = 0; i < truth.length; i++) {
    if (!truth[i]) continue;
    total++;
    const key = truth[i] * 1000 + segments[i];
    cells.set(key, (cells.get(key) ?? 0) + 1);
    rows.set(truth[i], (rows.get(truth[i]) ?? 0) + 1);
    columns.set(segments[i], (columns.get(segments[i]) ?? 0) + 1);
  }
  if (!total) return null;
  const pairs = (counts) => [...counts.values()].reduce((sum, n) => sum + (n * (n - 1)) / 2, 0);
  const both = pairs(cells);
  const inRows = pairs(rows);
  const inColumns = pairs(columns);
  const chance = total > 1 ? (inRows * inColumns) / ((total * (total - 1)) / 2) : 0;
  const most = (inRows + inColumns) / 2;
  return most === chance ? 1 : (both - chance) / (most - chance);
}

// One row: what one model makes of the scene.
class Panel {
  constructor(root, view, data) {
    this.view = view;
    this.data = data;
    this.attn = bytes(data.attn); // (applications, slots, tokens)
    this.on = Array(data.slots).fill(true);
    this.root = element(root, "section", { className: "slots-panel", dataset: { key: data.key } });
    this.root.style.setProperty("--method", data.colour);
    const head = element(this.root, "h3", { textContent: data.name });
    this.score = element(head, "span", { className: "slots-score" });
    const row = element(this.root, "div", { className: "slots-row" });
    this.overlay = this.tile(row, "who holds what", "slots-overlay");
    this.picture = this.tile(row, "from these slots", "slots-picture");
    const tiles = element(row, "div", { className: "slots-tiles" });
    this.tiles = this.on.map((_, k) => this.slotTile(tiles, k));
    const charts = element(row, "div", { className: "slots-charts" });
    this.residuals = this.chart(charts, "how far a step moves the slots");
    this.paths = this.chart(charts, "where the slots go");
  }

  tile(parent, words, className) {
    const figure = element(parent, "figure", { className });
    const canvas = element(figure, "canvas", { width: this.view.size, height: this.view.size });
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", words);
    element(figure, "figcaption", { textContent: words });
    return canvas;
  }

  slotTile(parent, k) {
    const figure = element(parent, "figure", { className: "slots-slot", dataset: { slot: k + 1 } });
    figure.style.setProperty("--slot", this.view.colours[k % this.view.colours.length]);
    const alone = element(figure, "button", {
      className: "slots-alone",
      title: "show this slot alone; again: show all",
      ariaLabel: `slot ${k + 1}: show it alone, or again all`,
      onclick: () => this.toggleAlone(k),
    });
    const canvas = element(alone, "canvas", { width: this.view.size, height: this.view.size });
    const caption = element(figure, "figcaption");
    const label = element(caption, "label");
    const box = element(label, "input", {
      type: "checkbox",
      checked: true,
      onchange: () => this.set(this.on.map((on, j) => (j === k ? box.checked : on))),
    });
    label.append(` slot ${k + 1}`);
    return { figure, canvas, box };
  }

  chart(parent, words) {
    const figure = element(parent, "figure");
    const svg = drawn(figure, "svg", { viewBox: "0 0 130 84", role: "img", "aria-label": words });
    element(figure, "figcaption", { textContent: words });
    return svg;
  }

  toggleAlone(k) {
    const alone = this.on.every((on, j) => on === (j === k));
    this.set(this.on.map((_, j) => alone || j === k));
  }

  set(on) {
    this.on = on;
    this.view.changed();
  }

  // Draw the state after application n (from 1); a search that ended earlier stays where it ended.
  draw(n) {
    const at = Math.min(n, this.data.applications) - 1;
    const { size, side } = this.view;
    const cell = size / side;
    const tokens = side * side;
    const attn = (k, token) => this.attn[(at * this.data.slots + k) * tokens + token] / 255;
    const scene = this.view.scene.data;

    const winners = new Uint8Array(tokens).fill(255);
    for (let token = 0; token < tokens; token++) {
      let most = -1;
      for (let k = 0; k < this.data.slots; k++) {
        if (this.on[k] && attn(k, token) > most) {
          most = attn(k, token);
          winners[token] = k;
        }
      }
    }
    const tokenOf = (i) =>
      Math.floor(Math.floor(i / size) / cell) * side + Math.floor((i % size) / cell);
    const segments = Uint8Array.from({ length: size * size }, (_, i) => winners[tokenOf(i)]);

    this.paint(this.overlay, (i, c) => {
      const slot = segments[i];
      if (slot === 255) return 0.25 * scene[4 * i + c] + 0.75 * 255;
      return 0.5 * scene[4 * i + c] + 0.5 * this.view.rgb[slot % this.view.rgb.length][c];
    });
    this.tiles.forEach(({ figure, canvas, box }, k) => {
      this.paint(canvas, (i, c) => {
        const mask = attn(k, tokenOf(i));
        return mask * scene[4 * i + c] + (1 - mask) * 255;
      });
      figure.classList.toggle("slots-off", !this.on[k]);
      box.checked = this.on[k];
    });
    this.drawPicture(at + 1);
    this.drawResiduals(at);
    this.drawPaths(at);

    const ari = this.view.truth ? foregroundARI(this.view.truth, segments) : null;
    this.ari = this.on.some(Boolean) ? ari : null;
    const residual = this.data.residuals[at];
    this.score.textContent =
      ` after ${at + 1} step${at ? "s" : ""}: the last one moved the slots by ` +
      `${residual.toPrecision(2)} of their length` +
      (this.ari === null ? "" : `; FG-ARI ${this.ari.toFixed(2)}`);
    this.root.dataset.ari = this.ari;
  }

  paint(canvas, colour) {
    const context = canvas.getContext("2d");
    const { size } = this.view;
    const image = context.createImageData(size, size);
    for (let i = 0; i < size * size; i++) {
      for (let c = 0; c < 3; c++) image.data[4 * i + c] = colour(i, c);
      image.data[4 * i + 3] = 255;
    }
    context.putImageData(image, 0, 0);
  }

  // The key of a picture: which application, and which slots are on.
  key(n) {
    return `${n}/${this.on.map(Number).join("")}`;
  }

  async drawPicture(n) {
    const url = this.data.pictures[this.key(n)];
    this.picture.parentElement.classList.toggle("slots-missing", !url);
    this.picture.nextSibling.textContent = url ? "from these slots" : this.view.missing;
    const context = this.picture.getContext("2d");
    if (!url) return context.clearRect(0, 0, this.view.size, this.view.size);
    const drawnPixels = await pixels(url);
    if (url === this.data.pictures[this.key(Math.min(this.view.n, this.data.applications))]) {
      context.putImageData(drawnPixels, 0, 0);
    }
  }

  drawResiduals(at) {
    const svg = this.residuals;
    svg.replaceChildren();
    const values = this.data.residuals.map((value) => Math.log10(Math.max(value, 1e-7)));
    const low = Math.floor(Math.min(...values, -1));
    const x = (n) => 24 + (n * 100) / Math.max(values.length - 1, 1);
    const y = (value) => 6 + ((0.3 - value) * 68) / (0.3 - low);
    for (let power = low; power <= 0; power++) {
      drawn(svg, "line", { x1: 24, x2: 124, y1: y(power), y2: y(power), class: "slots-grid" });
      const words = drawn(svg, "text", { x: 21, y: y(power) + 3, class: "slots-tick" });
      words.textContent = power ? `1e${power}` : "1";
    }
    const points = values.map((value, n) => `${x(n)},${y(value)}`).join(" ");
    drawn(svg, "polyline", { points, class: "slots-curve" });
    drawn(svg, "circle", { cx: x(at), cy: y(values[at]), r: 3.5, class: "slots-now" });
  }

  drawPaths(at) {
    const svg = this.paths;
    svg.replaceChildren();
    const point = ([x, y]) => [8 + 114 * x, 78 - 72 * y];
    for (let k = 0; k < this.data.slots; k++) {
      const stroke = this.view.colours[k % this.view.colours.length];
      const path = this.data.paths.slice(0, at + 1).map((frame) => point(frame[k]));
      const opacity = this.on[k] ? 1 : 0.15;
      const points = path.map((p) => p.join(",")).join(" ");
      drawn(svg, "polyline", { points, stroke, opacity, class: "slots-path" });
      const [cx, cy] = path[at];
      drawn(svg, "circle", { cx, cy, r: 3.5, fill: stroke, opacity });
    }
  }
}

// Show a view below `root`. `options`: n, the application to begin with; missing, what to say where
// there is no picture; changed, called with {n, on: {panel: [...]}} when the reader changes either.
export async function show(root, data, options = {}) {
  const [scene] = await Promise.all([pixels(data.image)]);
  root.replaceChildren();
  const view = {
    size: data.size,
    side: data.side,
    colours: data.colours,
    rgb: data.colours.map((c) => [1, 3, 5].map((i) => parseInt(c.slice(i, i + 2), 16))),
    truth: data.truth ? bytes(data.truth) : null,
    scene,
    missing: options.missing ?? "not made",
    n: 1,
    changed: () => draw(true),
  };
  const most = Math.max(...data.panels.map((panel) => panel.applications));
  view.n = Math.min(options.n ?? most, most);

  const bar = element(root, "div", { className: "slots-bar" });
  const figure = element(bar, "figure");
  element(figure, "img", { src: data.image, alt: "the scene", className: "slots-scene" });
  element(figure, "figcaption", { textContent: "the scene" });
  const control = element(bar, "div", { className: "slots-control" });
  const label = element(control, "label", { textContent: "step of the iteration " });
  const slider = element(label, "input", { type: "range", min: 1, max: most, value: view.n });
  const output = element(label, "output");
  const play = element(control, "button", { textContent: "▶ play", className: "slots-play" });
  slider.oninput = () => {
    view.n = Number(slider.value);
    draw(true);
  };
  let timer = null;
  const stop = () => {
    clearInterval(timer);
    timer = null;
    play.textContent = "▶ play";
  };
  play.onclick = () => {
    if (timer) return stop();
    view.n = view.n >= most ? 0 : view.n;
    play.textContent = "■ stop";
    timer = setInterval(() => {
      if (!root.isConnected) return stop();
      view.n += 1;
      slider.value = view.n;
      draw(true);
      if (view.n >= most) stop();
    }, 700);
  };

  const panels = data.panels.map((panel) => new Panel(root, view, panel));
  function draw(told) {
    output.textContent = ` ${view.n} of ${most}`;
    for (const panel of panels) panel.draw(view.n);
    const on = Object.fromEntries(panels.map((panel) => [panel.data.key, panel.on]));
    root.dataset.n = view.n;
    if (told) options.changed?.({ n: view.n, on });
  }
  draw(true);
  root.dataset.ready = "yes";
  return {
    addPictures(pictures) {
      for (const panel of panels) Object.assign(panel.data.pictures, pictures[panel.data.key] ?? {});
      for (const panel of panels) panel.draw(view.n);
    },
    stop,
  };
}

function render({ model, el }) {
  const root = element(el, "div", { className: "slots-view" });
  let shown = Promise.resolve(null);
  const refresh = () => {
    // one after the other, so that pictures never reach a view that they are not of
    shown = shown.then(async (old) => {
      old?.stop();
      const data = model.get("view");
      if (!data.panels) return null;
      const made = await show(root, data, {
        missing: "being made",
        changed: (state) => {
          model.set("state", state);
          model.save_changes();
        },
      });
      made.addPictures(model.get("pictures"));
      return made;
    });
  };
  model.on("change:view", refresh);
  model.on("change:pictures", async () => (await shown)?.addPictures(model.get("pictures")));
  refresh();
}

export default { render };
