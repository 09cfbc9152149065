// The results of one visit: the primary outcome on its scale, the components, classes with probabilities, flags.
import { digits, element, shown, table } from "./elements.js";

const isUnconfirmed = (visit) => visit.flags.some((flag) => flag.code === "unconfirmed");
const isUnlike = (visit) => visit.flags.some((flag) => flag.code !== "problem");

// The course over the visits, without the intervals of those whose images are unlike the training.
export function courseOf(answer) {
  const shownAt = (visit) => (visit.flagged ? { ...visit, low: null, high: null } : visit);
  return answer.trajectory && { ...answer.trajectory, visits: answer.trajectory.visits.map(shownAt) };
}

export function showVisit(visit, model, several) {
  const node = element("article", "", "answer");
  node.append(element("h3", several ? visit.visit : "Prediction"));
  const facts = Object.entries(visit.covariates || {}).map(([name, value]) => `${name} ${value || "missing"}`);
  if (facts.length) node.append(element("p", `With ${facts.join(", ")}.`, "note"));
  const unlike = isUnlike(visit);
  if (visit.flags.length) {
    const flags = element("ul", "", "flags");
    flags.setAttribute("aria-label", "Flags");
    flags.append(...visit.flags.map((flag) => element("li", flag.message)));
    node.append(flags);
    if (unlike) node.classList.add("unlike");
  }
  // what holds for nine of ten cases like the training does not hold for one that is unlike them
  const results = unlike ? visit.results.map((result) => withoutInterval(result, model)) : visit.results;
  const targetOf = (result) => model.targets.find((target) => target.name === result.target);
  const first = results.filter((result) => targetOf(result).primary);
  const headline = first.length === 1 ? first : [];
  const shownAs = isUnconfirmed(visit) ? unconfirmed : outcome;
  for (const result of headline) node.append(...shownAs(result, targetOf(result), model));
  const rest = results.filter((result) => !headline.includes(result));
  const numbers = rest.filter((result) => targetOf(result).range);
  if (numbers.length) node.append(components(numbers, targetOf, model, headline.length > 0));
  for (const result of rest.filter((other) => !targetOf(other).range)) {
    const title = [result.title, result.region, result.image].filter(Boolean).join(", ");
    node.append(element("h4", title), ...(isUnconfirmed(visit) ? [predictedClass(result)] : classes(result, model)));
  }
  return node;
}

// A prediction of a source that nobody has confirmed: not in the large type, and without a scale or bars.
function unconfirmed(result, target) {
  const value = target.range ? shown(result.prediction, digits(target.range)) : result.prediction || "–";
  const beside = `prediction: ${value}${result.band ? ` (${result.band})` : ""}`;
  return [headlineOf(result, result.title, "source not confirmed", beside)];
}

const predictedClass = (result) => element("p", `prediction: ${result.prediction || "–"}`, "note");

function withoutInterval(result, model) {
  if (result.prediction_low === null && !(result.prediction_set || []).length) return result;
  const note = `no ${percent(model)} ${result.prediction_low === null ? "set" : "interval"}: the images are unlike the training`;
  const bands = result.band ? [result.band] : [];
  return { ...result, prediction_low: null, prediction_high: null, prediction_set: [], bands, interval_note: note };
}

function outcome(result, target, model) {
  return target.range ? number(result, target, model) : [headlineOf(result, result.title, result.prediction || "–", ""), ...classes(result, model)];
}

function headlineOf(result, what, value, beside) {
  const line = element("p", "", "headline");
  line.append(element("span", what, "what"), element("span", value, "value"), element("span", beside));
  return line;
}

const percent = (model) => `${Math.round(100 * model.coverage)} %`;

function interval(result, decimals) {
  return result.prediction_low === null ? "" : `${shown(result.prediction_low, decimals)} to ${shown(result.prediction_high, decimals)}`;
}

// The band of the value, and those that its interval touches if there are several.
function bandText(result) {
  const bands = result.bands || [];
  return (result.band || "") + (bands.length > 1 ? ` (interval: ${bands[0]} to ${bands.at(-1)})` : "");
}

function number(result, target, model) {
  const decimals = digits(target.range);
  const range = interval(result, decimals);
  const beside = [range && `${percent(model)} interval ${range}`, bandText(result)].filter(Boolean).join(" · ");
  const nodes = [headlineOf(result, result.title, shown(result.prediction, decimals), beside)];
  if (result.prediction !== null) nodes.push(...scale(result, target, decimals, range, model));
  const notes = [result.interval_note, result.spread === null ? "" : `standard deviation over the networks: ${shown(result.spread, decimals)}`].filter(Boolean);
  if (notes.length) nodes.push(element("p", `${notes.join("; ")}.`, "note"));
  return nodes;
}

export function bandsOf(target) {
  const names = Object.keys(target.bands);
  return names.map((name, position) => ({
    name, shade: Math.round((position * 5) / Math.max(5, names.length - 1)),
    low: position ? target.bands[name] : Math.min(target.bands[name], target.range[0]),
    high: position + 1 < names.length ? target.bands[names[position + 1]] : target.range[1],
  }));
}

function scale(result, target, decimals, range, model) {
  const [low, high] = target.range;
  const at = (value) => `${(100 * (Math.min(Math.max(value, low), high) - low)) / (high - low)}%`;
  const bar = element("div", "", "scale");
  bar.setAttribute("role", "img");
  bar.setAttribute("aria-label", `${result.title} ${shown(result.prediction, decimals)} on a scale from ${low} to ${high}` +
    `${range ? `, interval ${range}` : ""}${result.band ? `, band ${bandText(result)}` : ""}.`);
  const bands = bandsOf(target);
  for (const band of bands) {
    const part = element("span", "", `band shade${band.shade}`);
    part.style.left = at(band.low);
    part.style.width = `calc(${at(band.high)} - ${at(band.low)})`;
    bar.append(part);
  }
  if (range) {
    const within = element("span", "", "within");
    within.style.left = at(result.prediction_low);
    within.style.width = `calc(${at(result.prediction_high)} - ${at(result.prediction_low)})`;
    bar.append(within);
  }
  const mark = element("span", "", "mark");
  mark.style.left = at(result.prediction);
  mark.dataset.value = shown(result.prediction, decimals);
  bar.append(mark);
  const ends = element("p", "", "ends");
  ends.append(element("span", String(low)), element("span", String(high)));
  const nodes = [bar, ends];
  if (bands.length) {
    const key = element("ul", "", "key");
    for (const band of bands) {
      const item = element("li", "", result.bands.length === 1 && band.name === result.bands[0] ? "here" : "");
      item.append(element("i", "", `shade${band.shade}`), `${band.name} ${band.low}–${band.high}`);
      key.append(item);
    }
    nodes.push(key);
  }
  return nodes;
}

function components(results, targetOf, model, below) {
  const node = element("div");
  const decimals = (result) => digits(targetOf(result).range);
  const cell = (result) => (result ? [shown(result.prediction, decimals(result)), interval(result, decimals(result))] : "");
  const columns = [...new Set(results.map((result) => result.image || result.region))];
  const titles = [...new Set(results.map((result) => result.title))];
  const small = results.some((result) => result.prediction_low !== null) ? `below: the ${percent(model)} interval` : "no intervals";
  const rows = titles.map((title) => {
    const own = results.filter((result) => result.title === title);
    const [low, high] = targetOf(own[0]).range;
    return [`${title} (${low}–${high})`, ...columns.map((column) => cell(own.find((result) => (result.image || result.region) === column)))];
  });
  const name = below ? "Components" : "Predictions";
  node.append(table(`${name}; ${small}`, ["", ...columns.map((column) => column || "value")], rows));
  return node;
}

function classes(result, model) {
  const list = element("ul", "", "chances");
  for (const [name, value] of Object.entries(result.probabilities || {})) {
    const item = element("li", "", name === result.prediction ? "predicted" : "");
    const bar = element("i");
    bar.style.width = `${100 * (value || 0)}%`;
    item.append(element("span", name + (name === result.prediction ? " (predicted)" : "")), element("span", value === null ? "–" : `${(100 * value).toFixed(0)} %`), bar);
    list.append(item);
  }
  const set = result.prediction_set && result.prediction_set.length ? `${percent(model)} prediction set: ${result.prediction_set.join(", ")}` : "";
  const notes = [set, result.interval_note].filter(Boolean).join("; ");
  return notes ? [list, element("p", `${notes}.`, "note")] : [list];
}
