// One image: zoom, pan, window and level, and slices. Films and scans are drawn from their own values.
import { button, element } from "./elements.js";
import { request } from "./entries.js";

const MOST_ZOOM = 32;
// Slices that are kept in memory, and that are fetched ahead on each side.
const MOST_SLICES = 240, AHEAD = 6;
// Of the window, for one press of an arrow.
const STEP = 0.05;
const blobs = new Map();

// The pixels of an image or slice, fetched once: an address for a photograph, else values.
function pixels(image, slice = 0) {
  const key = `${image.id} ${slice}`;
  if (!blobs.has(key)) {
    const load = async () => {
      const response = await request(`api/image/${image.id}?slice=${slice}`);
      if (image.kind === "photo") return URL.createObjectURL(await response.blob());
      return new Uint16Array(await response.arrayBuffer());
    };
    const loaded = load();
    loaded.catch(() => blobs.delete(key)); // it may be there at the next attempt
    blobs.set(key, loaded);
    const slices = [...blobs.keys()].filter((each) => !each.endsWith(" 0"));
    if (slices.length > MOST_SLICES) blobs.delete(slices[0]);
  }
  return blobs.get(key);
}

const middle = (image) => Math.floor((image.slices - 1) / 2);

export function prefetch(images) {
  for (const image of images) if (image.kind) pixels(image, middle(image)).catch(() => {});
}

// Forget everything but these images.
export function keep(images) {
  const ids = new Set(images.map((image) => image.id));
  for (const [key, loaded] of blobs) {
    if (ids.has(key.split(" ")[0])) continue;
    blobs.delete(key);
    loaded.then((value) => typeof value === "string" && URL.revokeObjectURL(value)).catch(() => {});
  }
}

export class Viewer {
  // `on`: used(viewer) when it is pointed at or has the focus, larger(viewer)
  constructor(image, label, on) {
    Object.assign(this, { image, label, on, slice: middle(image), low: image.low, high: image.high, pointers: new Map() });
    Object.assign(this, { zoom: 1, x: 0, y: 0 });
    this.node = element("figure", "", "viewer");
    this.stage = element("div", "", "stage", { tabIndex: 0 });
    this.stage.setAttribute("role", "group");
    this.stage.setAttribute("aria-label", `${label}${image.kind === "volume" ? `, ${image.slices} slices` : ""}. Arrows move it when it is enlarged.`);
    this.picture = image.kind === "photo" ? element("img", "", "", { alt: label, draggable: false }) : element("canvas");
    if (image.kind !== "photo") this.picture.setAttribute("role", "img");
    this.picture.setAttribute("aria-label", label);
    this.message = element("p", image.problem || "Loading …", "loading");
    this.stage.append(this.message);
    this.node.append(this.stage, this.bar());
    if (!image.kind) return;
    this.stage.append(this.picture);
    this.listen();
    this.ready = this.draw();
  }

  bar() {
    const bar = element("figcaption");
    bar.append(element("span", this.label, "label"));
    if (!this.image.kind) return bar;
    if (this.image.kind === "volume") {
      this.slider = element("input", "", "", { type: "range", min: 1, max: this.image.slices, value: this.slice + 1 });
      this.slider.setAttribute("aria-label", `Slice of ${this.label}`);
      this.slider.addEventListener("input", () => this.show(Number(this.slider.value) - 1));
      this.count = element("span", "", "figures");
      bar.append(this.slider, this.count);
    }
    this.figures = element("output", "", "figures");
    const tools = element("span", "", "tools");
    const tool = (text, name, action) => {
      const node = button(text, action, { ariaLabel: `${name}: ${this.label}`, title: name });
      tools.append(node);
      return node;
    };
    if (this.image.kind !== "photo") {
      const toggle = tool("◐", "Drag changes window and level", () => {
        this.windowing = !this.windowing;
        toggle.ariaPressed = String(this.windowing);
        this.stage.classList.toggle("windowing", this.windowing);
      });
      toggle.ariaPressed = "false";
    }
    tool("−", "Smaller", () => this.zoomBy(1 / 1.5));
    tool("+", "Zoom in", () => this.zoomBy(1.5));
    tool("↺", "Reset view and window", () => this.reset());
    tool("⤢", "Larger or back", () => this.on.larger(this));
    bar.append(this.figures, tools);
    return bar;
  }

  listen() {
    const { stage } = this;
    new ResizeObserver(() => this.place()).observe(stage);
    stage.addEventListener("focus", () => this.on.used(this));
    stage.addEventListener("dblclick", () => this.on.larger(this));
    stage.addEventListener("contextmenu", (event) => event.preventDefault());
    stage.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.on.used(this);
      if (this.image.kind === "volume" && !event.ctrlKey) this.show(this.slice + Math.sign(event.deltaY));
      else this.zoomBy(Math.exp(-Math.max(-100, Math.min(100, event.deltaY)) * (event.ctrlKey ? 0.01 : 0.002)), event);
    }, { passive: false });
    stage.addEventListener("pointerdown", (event) => {
      this.on.used(this);
      if (event.pointerType !== "touch" || this.zoom > 1 || this.windowing || this.pointers.size) stage.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, event);
    });
    stage.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) stage.addEventListener(name, (event) => this.pointers.delete(event.pointerId));
  }

  // One pointer pans, or with the right button changes window and level; two pinch.
  move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const [dx, dy] = [event.clientX - before.clientX, event.clientY - before.clientY];
    const other = [...this.pointers.values()].find((each) => each.pointerId !== event.pointerId);
    this.pointers.set(event.pointerId, event);
    if (other) {
      const distance = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
      this.zoomBy(distance(event) / Math.max(1, distance(before)), other);
    } else if (event.buttons & 2 || this.windowing) this.windowBy(dx / 200, dy / 200);
    else if (this.zoom > 1) this.pan(dx, dy);
  }

  // Where the picture lies: fitted into its stage, then moved and scaled.
  place() {
    const { width, height, spacing } = this.image;
    const [tall, wide] = [height * spacing[0], width * spacing[1]];
    const box = this.stage.getBoundingClientRect();
    const fit = Math.min(box.width / wide, box.height / tall);
    [this.width, this.height] = [wide * fit, tall * fit];
    const [most, least] = [Math.max(0, (this.width * this.zoom - box.width) / 2), Math.max(0, (this.height * this.zoom - box.height) / 2)];
    this.x = Math.max(-most, Math.min(most, this.x));
    this.y = Math.max(-least, Math.min(least, this.y));
    Object.assign(this.picture.style, { width: `${this.width}px`, height: `${this.height}px` });
    this.picture.style.transform = `translate(-50%, -50%) translate(${this.x}px, ${this.y}px) scale(${this.zoom})`;
    this.picture.classList.toggle("pixels", fit * this.zoom > 4);
    this.stage.classList.toggle("zoomed", this.zoom > 1);
    this.state();
  }

  state() {
    const { kind, slope, intercept } = this.image;
    const real = (value) => value * slope + intercept;
    const number = (value) => (Math.abs(value) < 10 && slope % 1 ? value.toFixed(2) : Math.round(value).toString()).replace("-", "−");
    const level = number(real((this.low + this.high) / 2));
    const span = number(Math.abs(real(this.high) - real(this.low)));
    const parts = [kind === "photo" ? "" : `L ${level} W ${span}`, this.zoom > 1 ? `${this.zoom.toFixed(1)}×` : ""];
    this.figures.textContent = parts.filter(Boolean).join(" · ");
    if (this.count) this.count.textContent = `${this.slice + 1}/${this.image.slices}`;
  }

  zoomBy(factor, at = null) {
    const zoom = Math.max(1, Math.min(MOST_ZOOM, this.zoom * factor));
    const box = this.stage.getBoundingClientRect();
    const [x, y] = at ? [at.clientX - box.x - box.width / 2, at.clientY - box.y - box.height / 2] : [0, 0];
    this.x = x - ((x - this.x) * zoom) / this.zoom;
    this.y = y - ((y - this.y) * zoom) / this.zoom;
    this.zoom = zoom;
    this.place();
  }

  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.place();
  }

  reset() {
    Object.assign(this, { zoom: 1, x: 0, y: 0, low: this.image.low, high: this.image.high });
    this.place();
    this.paint();
  }

  // Wider by a share of the window, and its level moved by a share of it.
  windowBy(wider, level) {
    if (this.image.kind === "photo") return;
    const span = this.high - this.low;
    const [centre, width] = [(this.low + this.high) / 2 + level * span, Math.max(2, Math.min(131070, span * (1 + wider)))];
    this.low = Math.max(-65535, Math.min(131070, centre)) - width / 2;
    this.high = this.low + width;
    this.paint();
    this.state();
  }

  show(slice) {
    const next = Math.max(0, Math.min(this.image.slices - 1, slice));
    if (next === this.slice) return;
    const forward = next > this.slice ? 1 : -1;
    this.slice = next;
    this.slider.value = next + 1;
    this.state();
    this.draw();
    for (let step = 1; step <= AHEAD; step++) {
      const ahead = next + forward * step;
      if (ahead >= 0 && ahead < this.image.slices) pixels(this.image, ahead).catch(() => {});
    }
  }

  async draw() {
    const { slice } = this;
    try {
      const loaded = await pixels(this.image, slice);
      if (slice !== this.slice) return;
      if (this.image.kind === "photo") {
        this.picture.src = loaded;
        await this.picture.decode();
      } else this.values = loaded;
      this.message.hidden = true;
      this.paint();
    } catch (error) {
      this.message.textContent = error.message || "This image cannot be shown.";
      this.message.hidden = false;
      this.message.append(" ", button("Try again", () => this.draw()));
    }
  }

  // The values through the window, at most once a frame.
  paint() {
    if (!this.values || this.painting) return;
    this.painting = requestAnimationFrame(() => {
      this.painting = 0;
      const { width, height } = this.image;
      if (this.picture.width !== width) Object.assign(this.picture, { width, height });
      const context = this.picture.getContext("2d");
      const target = (this.target ||= context.createImageData(width, height));
      const colours = new Uint32Array(target.data.buffer), table = new Uint32Array(65536);
      const scale = 255 / (this.high - this.low);
      for (let value = 0; value < 65536; value++) {
        const grey = Math.max(0, Math.min(255, Math.round((value - this.low) * scale)));
        table[value] = 0xff000000 | (grey << 16) | (grey << 8) | grey;
      }
      for (let index = 0; index < colours.length; index++) colours[index] = table[this.values[index]];
      context.putImageData(target, 0, 0);
    });
  }

  // A key for this image; whether it was used. `windowing`: W is pressed.
  key(name, windowing) {
    const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[name];
    if (!this.image.kind) return false;
    if (windowing && arrow && this.image.kind !== "photo") this.windowBy(arrow[0] * STEP, arrow[1] * STEP);
    else if (arrow && this.zoom > 1 && document.activeElement === this.stage) this.pan(-60 * arrow[0], -60 * arrow[1]);
    else if (name === "+" || name === "=") this.zoomBy(1.5);
    else if (name === "-" || name === "−") this.zoomBy(1 / 1.5);
    else if (name === "r") this.reset();
    else if (name === "f") this.on.larger(this);
    else if (this.image.kind === "volume" && (name === "]" || name === "PageDown")) this.show(this.slice + 1);
    else if (this.image.kind === "volume" && (name === "[" || name === "PageUp")) this.show(this.slice - 1);
    else return false;
    return true;
  }
}

// The number of columns in which images of these aspects (width through height) are largest in a box.
export function columnsFor(aspects, width, height, bar) {
  const area = (columns) => {
    const rows = Math.ceil(aspects.length / columns);
    const [across, down] = [width / columns, Math.max(120, height / rows - bar)];
    return aspects.reduce((sum, aspect) => sum + Math.min(across, down * aspect) ** 2 / aspect, 0);
  };
  const counts = aspects.map((_, index) => index + 1);
  return counts.reduce((best, count) => (area(count) > area(best) ? count : best), 1);
}
