// Small builders of elements; text is never parsed as HTML.
export const get = (id) => document.getElementById(id);

export function element(tag, text = "", className = "", properties = {}) {
  const node = document.createElement(tag);
  if (text) node.textContent = text;
  if (className) node.className = className;
  return Object.assign(node, properties);
}

export function button(text, action, properties = {}) {
  const node = element("button", text, "", { type: "button", ...properties });
  node.addEventListener("click", action);
  return node;
}

export const capital = (text) => text && text[0].toUpperCase() + text.slice(1);
export const counted = (count, singular, plural = `${singular}s`) => `${count} ${count === 1 ? singular : plural}`;
