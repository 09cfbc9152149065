// The scores of a case: one field open at a time, answered by keys, a click, or typed numbers.
import { button, capital, element } from "./elements.js";

// Keys of commands, which never choose an option.
const RESERVED = "ucrfw+-=−[]?";
const MOST_VALUES = 5000;

const plain = (number) => String(Number(number.toFixed(6)));

// Every value that can be typed, as text; empty if there are too many.
function valuesOf(field) {
  if (field.options.length) return field.options.map((option) => option.value);
  const count = field.step > 0 ? Math.floor((field.high - field.low) / field.step + 1e-6) : Infinity;
  return count > MOST_VALUES ? [] : Array.from({ length: count + 1 }, (_, index) => plain(field.low + index * field.step));
}

// The key of each option, or none where its value is typed.
export function keysOf(options) {
  const values = options.map((option) => option.value.toLowerCase());
  if (values.every((value) => value.length === 1 && !RESERVED.includes(value)) && new Set(values).size === values.length) return values;
  if (values.every((value) => /^-?\d+(\.\d+)?$/.test(value))) return values.map(() => "");
  const signs = [..."123456789abdeghijklmnopqstvxyz"];
  return values.map((_, index) => signs[index] || "");
}

// Whether a typed text is a value, and whether it could become a longer one.
export function typed(field, text) {
  const values = valuesOf(field), number = Number(text);
  if (!text || Number.isNaN(number)) return { valid: false, longer: !text || text === "-" };
  if (field.options.length) return { valid: values.includes(text), longer: values.some((value) => value !== text && value.startsWith(text)) };
  const inside = number >= field.low && number <= field.high;
  const steps = (number - field.low) / field.step;
  const valid = inside && (!(field.step > 0) || Math.abs(steps - Math.round(steps)) < 1e-6);
  return { valid, longer: values.length ? values.some((value) => value !== text && value.startsWith(text)) : true };
}

const typedIn = (field) => field.entry.value.trim().replace(",", ".").replace("−", "-");

export class ScoreForm {
  // `on`: score(field, value), open(field), full()
  constructor(node, form, on) {
    Object.assign(this, { node, on, active: -1, buffer: "", values: {} });
    this.fields = form.fields.map((field, index) => ({ ...field, index, keys: keysOf(field.options) }));
    const regions = [...new Set(this.fields.map((field) => field.region))];
    this.node.replaceChildren(...regions.map((region, index) => this.group(region, index)));
  }

  group(region, index) {
    const node = element("section", "", "region");
    if (region) {
      node.append(element("h2", capital(region), "", { id: `region-${index}` }));
      node.setAttribute("aria-labelledby", `region-${index}`);
    } else node.setAttribute("aria-label", "Scores of the case");
    node.append(...this.fields.filter((field) => field.region === region).map((field) => this.build(field)));
    return node;
  }

  build(field) {
    const node = element("div", "", "field", { tabIndex: -1 });
    node.setAttribute("role", "group");
    field.head = button("", () => this.open(field.index), { className: "head", id: `field-${field.index}` });
    field.value = element("span", "", "value");
    field.head.append(element("span", capital(field.title), "name"), field.value);
    node.setAttribute("aria-labelledby", field.head.id);
    field.body = element("div", "", "body");
    field.shown = element("p", "", "shown", { hidden: true });
    field.note = element("p", "", "note", { id: `note-${field.index}` });
    field.body.append(field.shown, field.options.length ? this.buttons(field) : this.input(field), field.note);
    node.append(field.head, field.body);
    field.node = node;
    return node;
  }

  buttons(field) {
    const longest = Math.max(...field.options.map((option) => option.text.length));
    const list = element("div", "", longest === 0 ? "options short" : longest <= 14 ? "options brief" : "options");
    field.buttons = field.options.map((option, index) => {
      const node = button("", () => this.choose(field, option.value));
      const key = field.keys[index];
      if (key && key !== option.value.toLowerCase()) node.append(element("kbd", key.toUpperCase()));
      node.append(element("b", option.value));
      if (option.text) node.append(element("span", option.text));
      list.append(node);
      return node;
    });
    return list;
  }

  input(field) {
    const row = element("p", "", "number");
    const id = `number-${field.index}`;
    const step = field.step > 0 ? `, step ${plain(field.step)}` : "";
    field.range = `${plain(field.low)} to ${plain(field.high)}${step}`;
    field.entry = element("input", "", "", { id, type: "text", inputMode: "decimal", autocomplete: "off", maxLength: 20 });
    const label = element("label", "", "hidden", { htmlFor: id, textContent: `${field.title}${field.region ? `, ${field.region}` : ""}` });
    field.entry.setAttribute("aria-describedby", `range-${field.index} note-${field.index}`);
    field.entry.addEventListener("input", () => this.type(field, false));
    field.entry.addEventListener("change", () => this.type(field, true, false)); // the reader has gone elsewhere
    row.append(label, field.entry, element("span", field.range, "", { id: `range-${field.index}` }));
    return row;
  }

  // A typed number is taken when it is complete: Enter was pressed, or the reader goes elsewhere.
  type(field, complete, onward = true) {
    const text = typedIn(field);
    const { valid, longer } = typed(field, text);
    const bad = text && !valid && (complete || !longer);
    field.note.textContent = bad ? `Type a number from ${field.range}.` : "";
    field.entry.setAttribute("aria-invalid", String(Boolean(bad)));
    if (!valid || !complete || Number(text) === Number(this.values[field.key] ?? NaN)) return;
    this[onward ? "choose" : "take"](field, plain(Number(text)));
  }

  fill(values, shown) {
    this.values = { ...values };
    this.buffer = "";
    for (const field of this.fields) {
      const lines = shown?.[field.key] || [];
      field.shown.hidden = !lines.length;
      field.shown.textContent = lines.join(" · ");
      this.show(field);
    }
    this.openNext(-1);
  }

  show(field) {
    const value = this.values[field.key];
    field.value.textContent = field.index === this.active && this.buffer ? `${this.buffer}…` : value ?? "–";
    field.node.classList.toggle("scored", value !== undefined);
    field.buttons?.forEach((node, index) => node.setAttribute("aria-pressed", String(field.options[index].value === value)));
    if (field.entry && Number(field.entry.value) !== Number(value)) field.entry.value = value ?? "";
    if (field.entry) field.entry.setAttribute("aria-invalid", "false");
    field.note.textContent = "";
  }

  set(key, value) {
    if (value === null) delete this.values[key];
    else this.values[key] = value;
    const field = this.fields.find((each) => each.key === key);
    if (field) this.show(field);
  }

  choose(field, value) {
    this.take(field, value);
    this.openNext(field.index);
  }

  take(field, value) {
    this.buffer = "";
    const before = this.values[field.key] ?? null;
    this.set(field.key, value);
    this.on.score(field, value, before);
  }

  // What is typed in the open field and not its score yet.
  get pending() {
    const field = this.fields[this.active];
    if (!field?.entry) return this.buffer;
    const text = typedIn(field);
    return text && Number(text) !== Number(this.values[field.key] ?? NaN) ? text : "";
  }

  // Takes what is typed in the open field, where it is a value, before the field is left.
  complete() {
    const field = this.fields[this.active], text = this.pending;
    if (text && typed(field, text).valid) this.take(field, field.entry ? plain(Number(text)) : text);
  }

  get missing() {
    return this.fields.filter((field) => this.values[field.key] === undefined);
  }

  // The next field without a score, also before this one; without any, the case is complete.
  openNext(index) {
    const { missing } = this;
    const next = missing.find((field) => field.index > index) || missing[0];
    if (next) this.open(next.index);
    else if (index < 0) this.open(0);
    else this.on.full();
  }

  open(index) {
    if (index < 0 || index >= this.fields.length) return;
    this.complete();
    const before = this.fields[this.active];
    this.buffer = "";
    this.active = index;
    if (before) this.show(before);
    for (const field of this.fields) {
      field.node.classList.toggle("open", field.index === index);
      field.head.setAttribute("aria-expanded", String(field.index === index));
    }
    this.focus();
    this.on.open(this.fields[index]);
  }

  focus() {
    const field = this.fields[this.active];
    if (!field) return;
    const typing = field.entry && !matchMedia("(pointer: coarse)").matches;
    if (!typing) field.node.focus({ preventScroll: true });
    else if (document.activeElement !== field.entry) {
      field.entry.focus({ preventScroll: true });
      field.entry.select();
    }
    field.node.scrollIntoView({ block: matchMedia("(max-width: 760px)").matches ? "start" : "nearest" });
  }

  // A key for the open field; whether it was used.
  key(sign) {
    const field = this.fields[this.active];
    if (!field || sign.length !== 1) return false;
    if (field.entry) {
      if (!/[\d.,-]/.test(sign) || document.activeElement === field.entry) return false;
      field.entry.focus();
      field.entry.value = sign;
      this.type(field, false);
      return true;
    }
    const index = field.keys.indexOf(sign.toLowerCase());
    if (index >= 0) {
      this.choose(field, field.options[index].value);
      return true;
    }
    if (field.keys[0] !== "" || !/[\d.,-]/.test(sign)) return false;
    const text = this.buffer + sign.replace(",", ".");
    this.buffer = text;
    this.show(field);
    const { valid, longer } = typed(field, text);
    if (!valid && !longer) field.note.textContent = `${text} is not one of the grades.`;
    return true;
  }

  // Enter completes what was typed; whether there was anything.
  enter() {
    const field = this.fields[this.active], text = this.pending;
    if (!text) return false;
    if (field.entry) this.type(field, true);
    else if (typed(field, text).valid) this.choose(field, text);
    else field.note.textContent = `${text} is not one of the grades.`;
    return true;
  }

  // Backspace takes back what was typed; whether there was anything.
  erase() {
    if (!this.buffer) return false;
    this.buffer = this.buffer.slice(0, -1);
    this.show(this.fields[this.active]);
    return true;
  }
}
