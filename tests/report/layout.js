// Faults of the layout of the open page, each with the element's section and text.
() => {
  const found = [], width = innerWidth, phone = width < 500;
  const add = (fault, element, detail = "") =>
    found.push(`${fault}: ${element.closest("section[id]")?.id ?? ""} "${element.textContent.trim().slice(0, 40)}" ${detail}`);
  const shown = (element) => element.checkVisibility({ visibilityProperty: true }) && !element.closest(".sr");
  const page = document.scrollingElement;
  if (page.scrollWidth > width) found.push(`the page is ${page.scrollWidth} wide`);

  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = texts.nextNode(); text; text = texts.nextNode()) {
    const element = text.parentElement;
    if (!text.textContent.trim() || element.closest("script, style, title, desc") || !shown(element)) continue;
    const range = document.createRange();
    range.selectNodeContents(text);
    const box = range.getBoundingClientRect(), drawing = element.closest("svg");
    if (!box.width) continue;
    let size = parseFloat(getComputedStyle(element).fontSize);
    if (drawing) {
      const matrix = element.getScreenCTM(), frame = drawing.getBoundingClientRect();
      size *= Math.hypot(matrix.a, matrix.b);
      const cut = Math.max(frame.left - box.left, box.right - frame.right, frame.top - box.top, box.bottom - frame.bottom);
      if (cut > 1) add("cut by its chart", element, cut);
    } else {
      if ((box.right > width + 1 || box.left < -1) && !element.closest(".scroll, nav, pre")) add("outside", element);
      for (const word of text.textContent.matchAll(/[^\s\u00ad\u200b\-–—\/,.:;=()_]+/g)) {
        range.setStart(text, word.index);
        range.setEnd(text, word.index + word[0].length);
        const lines = new Set([...range.getClientRects()].map((line) => Math.round(line.top)));
        if (lines.size > 1 && word[0].length <= 24 && getComputedStyle(element).hyphens !== "auto") add("broken word", element, word[0]);
      }
    }
    if (size < (!drawing ? 12 : phone ? 9 : 10) - 0.01) add("small text", element, size);
  }
  for (const element of document.querySelectorAll("body *")) {
    if (!shown(element) || element.closest("svg") || element.clientWidth < 2) continue;
    if (element.scrollWidth <= element.clientWidth + 1) continue;
    if (["hidden", "clip"].includes(getComputedStyle(element).overflowX)) add("cut", element);
    const columns = element.matches(".scroll") ? element.querySelector("tr").children.length : 0;
    const most = element.closest(".answer") ? Infinity : phone ? 4 : width < 1000 ? 8 : 12;
    if (columns && columns < most) add(`scrolls with ${columns} columns`, element);
  }
  for (const drawing of [...document.querySelectorAll("svg")].filter(shown)) {
    const labels = [...drawing.querySelectorAll("text")].filter((label) => !/rotate/.test(label.getAttribute("transform")));
    const boxes = labels.map((label) => label.getBoundingClientRect());
    labels.forEach((label, i) => boxes.slice(0, i).forEach((other, j) => {
      const wide = Math.min(boxes[i].right, other.right) - Math.max(boxes[i].left, other.left);
      const high = Math.min(boxes[i].bottom, other.bottom) - Math.max(boxes[i].top, other.top);
      if (wide > 2 && high > 0.4 * Math.min(boxes[i].height, other.height)) add("labels overlap", label, labels[j].textContent);
    }));
  }
  return [...new Set(found)];
}
