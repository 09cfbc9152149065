// The course of the primary outcome over visits: a chart with intervals and bands, and a table that says the same.
import { digits, element, shown, signed, table } from "./elements.js";
import { bandsOf } from "./results.js";

const FLAGGED = "flagged: see the visit";
const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 250, LEFT = 44, RIGHT = 24, TOP = 24, BOTTOM = 40;
const SHADES = ["#eef5f9", "#dceaf3", "#c6ddeb", "#b0cfe3", "#9ac1da", "#84b3d1"];

function draw(tag, attributes, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

export function drawTrajectory(node, course, model) {
  node.replaceChildren();
  if (!course) return;
  const target = model.targets.find((other) => other.name === course.target);
  const decimals = digits(target.range);
  const box = element("article", "", "answer course");
  node.append(box);
  box.append(element("h3", `${course.title} over the visits`), chart(box, course, target, decimals));
  const thresholds = model.response ? model.response.thresholds : [];
  const head = ["visit", course.title, ...(model.response ? ["change"] : []), ...thresholds.map((t) => `≥ ${t} %`)];
  const rows = course.visits.map((visit) => {
    const range = visit.flagged ? FLAGGED : visit.low === null ? "" : `${shown(visit.low, decimals)} to ${shown(visit.high, decimals)}`;
    const change = visit.is_baseline ? "baseline" : visit.change === null ? "–" : `${signed(visit.change, 0)} %`;
    const responses = thresholds.map((t) => (String(t) in visit.response ? (visit.response[String(t)] ? "yes" : "no") : "–"));
    return [visit.visit, [shown(visit.value, decimals), range], ...(model.response ? [change, ...responses] : [])];
  });
  box.append(table("Below a value: its interval", head, rows));
  if (model.response) {
    const clear = thresholds.includes(100) ? ` 100 % means a predicted score of at most ${course.clear_at.toFixed(2)}.` : "";
    box.append(element("p", `Change from ${course.baseline || "the baseline"} in percent. “yes”: the score fell by at least the percentage above.${clear}`, "note"));
  }
}

function chart(box, course, target, decimals) {
  const width = Math.max(280, box.clientWidth - 36);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": described(course, decimals) });
  const days = course.visits.map((visit, position) => visit.day ?? position);
  const [from, to] = [Math.min(...days), Math.max(...days)];
  const top = Math.min(target.range[1], 1.1 * Math.max(...course.visits.map((visit) => visit.high ?? visit.value)) || target.range[1]);
  const low = Math.min(target.range[0], ...course.visits.map((visit) => visit.value));
  const names = width > 520; // the names of bands have a margin of their own
  const x = (day) => LEFT + 14 + ((width - LEFT - RIGHT - (names ? 150 : 28)) * (day - from)) / (to - from || 1);
  const y = (value) => HEIGHT - BOTTOM - ((HEIGHT - TOP - BOTTOM) * (value - low)) / (top - low || 1);
  for (const band of bandsOf(target)) {
    const [bottom, upper] = [Math.max(band.low, low), Math.min(band.high, top)];
    if (upper <= bottom) continue;
    svg.append(draw("rect", { x: LEFT, y: y(upper), width: width - LEFT - RIGHT, height: y(bottom) - y(upper), fill: SHADES[band.shade] }));
    if (names && y(bottom) - y(upper) > 16) svg.append(draw("text", { x: width - RIGHT - 6, y: y(upper) + 14, "text-anchor": "end" }, band.name));
  }
  for (const value of ticks(low, top)) {
    svg.append(draw("line", { x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value), stroke: "#d9dee3" }));
    svg.append(draw("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, String(value)));
  }
  const points = course.visits.map((visit, position) => `${x(days[position])},${y(visit.value)}`);
  svg.append(draw("polyline", { points: points.join(" "), fill: "none", stroke: "#005a8d", "stroke-width": 2 }));
  course.visits.forEach((visit, position) => {
    const at = x(days[position]);
    if (visit.low !== null) {
      svg.append(draw("line", { x1: at, x2: at, y1: y(visit.low), y2: y(Math.min(visit.high, top)), stroke: "#005a8d", "stroke-width": 6, "stroke-opacity": 0.3, "stroke-linecap": "round" }));
    }
    svg.append(draw("circle", { cx: at, cy: y(visit.value), r: 5, fill: visit.flagged ? "#fff" : "#005a8d", stroke: visit.flagged ? "#005a8d" : "#fff", "stroke-width": 1.5 }));
  });
  const last = course.visits.length - 1;
  const values = course.visits.map((visit, position) => {
    const attributes = position === last ? { x: x(days[position]) - 9, "text-anchor": "end" } : { x: x(days[position]) + 9 };
    return [{ ...attributes, y: y(visit.value) - 8, class: "value-text" }, shown(visit.value, decimals)];
  });
  const visitNames = course.visits.map((visit, position) => {
    const anchor = position === 0 ? "start" : position === last ? "end" : "middle";
    const name = visit.visit.length > 14 ? `${visit.visit.slice(0, 13)}…` : visit.visit;
    return [{ x: x(days[position]) + { start: -12, end: 12, middle: 0 }[anchor], y: HEIGHT - BOTTOM + 20, "text-anchor": anchor }, name];
  });
  svg.append(...[values, visitNames].flatMap(withoutOverlap).map(([attributes, text]) => draw("text", attributes, text)));
  return svg;
}

// The texts that overlap no other, those at both ends before those between; the table below has all of them.
function withoutOverlap(texts) {
  const kept = [];
  for (const [attributes, text] of [texts[0], texts.at(-1), ...texts.slice(1, -1)]) {
    const width = 7.5 * text.length + 4;
    const left = attributes.x - ({ end: width, middle: width / 2 }[attributes["text-anchor"]] ?? 0);
    const fits = kept.every((other) => left >= other.right || left + width <= other.left || Math.abs(attributes.y - other.y) >= 15);
    if (fits) kept.push({ left, right: left + width, y: attributes.y, drawn: [attributes, text] });
  }
  return kept.map((text) => text.drawn);
}

function ticks(low, high) {
  const rough = (high - low || 1) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const values = [];
  for (let value = Math.ceil(low / step) * step; value <= high + 1e-9; value += step) values.push(Number(value.toFixed(6)));
  return values;
}

const described = (course, decimals) => `${course.title}: ${course.visits.map((visit) => `${visit.visit} ${shown(visit.value, decimals)}${visit.flagged ? ` (${FLAGGED})` : ""}`).join(", ")}.`;
