// Small builders of elements; text is never parsed as HTML.
export const get = (id) => document.getElementById(id);

export function element(tag, text = "", className = "") {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  if (className) made.className = className;
  return made;
}

export function figure(images, caption) {
  const made = element("figure", "", "map");
  const row = element("div");
  for (const [source, alt, width, height] of images) {
    const image = element("img");
    Object.assign(image, { src: source, alt, width, height });
    row.append(image);
  }
  made.append(row, element("figcaption", caption));
  return made;
}

export function table(caption, head, rows) {
  const scroll = element("div", "", "scroll");
  const made = element("table");
  made.append(element("caption", caption));
  const first = element("tr");
  for (const text of head) {
    const cell = element(text ? "th" : "td", text);
    if (text) cell.scope = "col";
    first.append(cell);
  }
  const thead = element("thead");
  thead.append(first);
  const body = element("tbody");
  for (const [name, ...cells] of rows) {
    const row = element("tr");
    const heading = element("th", name);
    heading.scope = "row";
    row.append(heading);
    for (const [text, small] of cells.map((cell) => (Array.isArray(cell) ? cell : [cell, ""]))) {
      const cell = element("td", text);
      if (small) cell.append(element("small", small));
      row.append(cell);
    }
    body.append(row);
  }
  made.append(thead, body);
  scroll.append(made);
  return scroll;
}

export function digits(range) {
  const span = range ? range[1] - range[0] : 1;
  return span > 20 ? 1 : 2;
}

export const shown = (value, decimals) => (value === null || value === undefined ? "–" : value.toFixed(decimals));
export const signed = (value, decimals) => `${value > 0 ? "+" : value < 0 ? "−" : ""}${Math.abs(value).toFixed(decimals)}`;
