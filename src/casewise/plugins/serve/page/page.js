// The page of a model: images in, results out. Nothing is stored but the token, until this tab is closed.
import { drawTrajectory } from "./trajectory.js";
import { element, figure, get } from "./elements.js";
import { courseOf, showVisit } from "./results.js";

const TOKEN = "casewise-token";
const VIEWABLE = ["image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp"];
let model = null;
let visits = [];
let counter = 0;
// What is on the page, both ended by any change: the request that runs, and the answer with what was sent for it.
let running = new AbortController();
let current = null;
// Files that are being read into memory, so that what is sent and shown is what they were when they were chosen.
const reads = new Set();

async function call(path, options = {}) {
  const token = sessionStorage.getItem(TOKEN);
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new Error("The service does not answer, or a chosen file was changed or removed. Check both, then try again.");
  }
  let body = null;
  try {
    body = await response.json();
  } catch {
    throw new Error(`The service gave an answer that cannot be read (status ${response.status}). Try again.`);
  }
  if (response.status === 401 && !options.signal?.aborted) askForToken();
  if (!response.ok) throw new Error(body.error.message);
  return body;
}

function askForToken() {
  get("token-form").hidden = false;
  get("token").value = "";
  get("token").focus();
}

function status(text, busy = false) {
  get("status").textContent = text;
  get("status").classList.toggle("busy", busy);
}

function problem(text) {
  get("problem").hidden = !text;
  get("problem").textContent = text;
  if (text) {
    status("");
    get("problem").focus();
    get("problem").scrollIntoView({ block: "nearest" });
  }
}

async function start() {
  try {
    model = await call("api/model");
  } catch (error) {
    get("title").textContent = "casewise";
    const asked = !get("token-form").hidden;
    if (!asked || sessionStorage.getItem(TOKEN)) problem(error.message);
    return;
  }
  describeModel();
  clear();
}

function describeModel() {
  document.title = `${model.title} – casewise`;
  get("title").textContent = model.title;
  get("version").textContent = model.casewise;
  const images = model.sequences.length ? "scans" : model.noun.plural;
  get("lead").textContent = `Predicts ${listed(model.targets.filter((t) => t.primary || !model.targets.some((o) => o.primary)).map((t) => t.says))} from ${images}.` +
    (model.synthetic ? " The model was trained on synthetic images." : "");
  get("notice").textContent = model.notice;
  showSource(model.source);
  const kept = "Images are removed as soon as the answer is there; only numbers such as their brightness are kept, without names.";
  const all = model.slots.length ? ` ${model.visits ? "For each visit" : "Needed"}: ${listed(model.slots)}.` : "";
  get("hint").textContent = [`Choose or drop ${images} of one ${model.visits ? "subject" : "case"}.${all}`, model.several, kept].filter(Boolean).join(" ");
  get("add-visit").hidden = !model.visits;
  get("footer").textContent = `${model.notice} ${kept}`;
  const coverage = model.coverage ? `meant to hold the true value in ${Math.round(100 * model.coverage)} % of new ${model.unit}s like those of the study` : "not calibrated";
  const facts = [
    ["Model", model.name], ["Predicted by", `${model.learner_title} (${model.networks} trained ${model.networks === 1 ? "model" : "models"})`],
    ["Targets", listed(model.targets.map((t) => t.title))], ["Intervals and sets", coverage],
    ["Limits", `${model.limits.max_files} files and ${Math.round(model.limits.max_bytes / 2 ** 20)} MiB at a time`],
  ];
  listFacts("facts", facts);
  get("card").textContent = model.card;
  get("card-fold").hidden = !model.card;
  options(get("saliency-target"), model.explained_targets.map((name) => [name, titleOf(name)]));
  options(get("saliency-learner"), model.explained_learners.map((name) => [name, model.explained_titles[name]]));
  get("learner-choice").hidden = model.explained_learners.length < 2;
  get("saliency").hidden = !model.explained_learners.length;
  get("images").hidden = get("about").hidden = false;
}

// Whether the images that the service has read lately are like the training images, as its last answer states it.
function showSource(source) {
  const { by, reason, at } = source.confirmed;
  const before = source.before ? ` Before this was noticed (${source.since}), ${source.before} of them were answered with confidence.` : "";
  const words = by ? `Confirmed by ${by} (${at}): ${reason}.` : "Probabilities, intervals and sets are withheld until somebody confirms that the model may be used for their source.";
  get("source").textContent = source.warning ? `${source.warning}${before} ${source.withheld || by ? words : ""}` : "";
  get("source").hidden = !source.warning;
}

function listFacts(id, facts) {
  get(id).replaceChildren(...facts.flatMap(([name, text]) => [element("dt", name), element("dd", text)]));
}

function options(select, pairs) {
  select.replaceChildren(...pairs.map(([value, text]) => {
    const option = element("option", text);
    option.value = value;
    return option;
  }));
}

const listed = (names) => (names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`);
const titleOf = (name) => (model.targets.find((target) => target.name === name) || { title: name }).title;

function addVisit() {
  const visit = { id: ++counter, files: new Map(), node: element("fieldset", "", "visit") };
  for (const slot of model.slots.length ? model.slots : [""]) visit.files.set(slot, []);
  visits.push(visit);
  const head = visitHead(visit);
  head.hidden = !model.visits;
  visit.node.append(element("legend"), head, covariateFields(visit), visitSlots(visit));
  get("visits").append(visit.node);
  visit.node.addEventListener("dragover", (event) => event.preventDefault());
  visit.node.addEventListener("drop", (event) => {
    event.preventDefault();
    byName(visit, [...event.dataTransfer.files]);
  });
  number();
  return visit;
}

function visitHead(visit) {
  const head = element("div", "", "row");
  const name = labelled(`visit-${visit.id}`, "Name", "text");
  visit.name = name.querySelector("input");
  visit.name.maxLength = 80;
  visit.name.placeholder = "such as week 4";
  const day = labelled(`day-${visit.id}`, "Day (optional)", "text"); // a number field would turn 3,5 into 35
  visit.day = day.querySelector("input");
  Object.assign(visit.day, { className: "day", inputMode: "decimal", maxLength: 20, placeholder: "such as 28" });
  const remove = element("button", "", "small remove-visit");
  remove.type = "button";
  remove.addEventListener("click", () => {
    visits = visits.filter((other) => other !== visit);
    visit.node.remove();
    number();
    get("add-visit").focus();
  });
  visit.remove = remove;
  head.append(name, day, remove);
  return head;
}

// Typed fields of what the model reads besides images: categories as in training, numbers with their range there.
function covariateFields(visit) {
  const row = element("div", "", "row");
  visit.covariates = new Map();
  for (const { name, levels, range, optional } of model.covariates) {
    const id = `covariate-${visit.id}-${visit.covariates.size}`;
    const span = labelled(id, `${name}${optional ? " (may be empty)" : ""}`, "text");
    let input = span.querySelector("input");
    if (levels.length) {
      input.replaceWith(input = element("select"));
      input.id = id;
      options(input, [["", optional ? "missing" : "choose"], ...levels.map((level) => [level, level])]);
    } else Object.assign(input, { inputMode: "decimal", maxLength: 20, placeholder: range ? `${range[0]} to ${range[1]}` : "" });
    input.required = !optional;
    visit.covariates.set(name, input);
    row.append(span);
  }
  row.hidden = !visit.covariates.size;
  return row;
}

function labelled(id, text, type) {
  const span = element("span");
  const label = element("label", text);
  label.htmlFor = id;
  const input = element("input");
  Object.assign(input, { id, type, autocomplete: "off" });
  span.append(label, input);
  return span;
}

function number() {
  visits.forEach((visit, position) => {
    visit.node.querySelector("legend").textContent = model.visits ? `Visit ${position + 1}` : "Case";
    visit.remove.hidden = visits.length < 2;
    visit.remove.textContent = `Remove visit ${position + 1}`;
    visit.node.querySelectorAll("[type=file]").forEach((input) => input.setAttribute("aria-label", `Choose files of ${input.dataset.title}${model.visits ? `, visit ${position + 1}` : ""}`));
  });
  invalidate();
}

function visitSlots(visit) {
  const grid = element("div", "", "slots");
  for (const slot of visit.files.keys()) grid.append(slotNode(visit, slot));
  return grid;
}

function slotNode(visit, slot) {
  const node = element("div", "", "slot");
  const title = slot || (model.noun.plural[0].toUpperCase() + model.noun.plural.slice(1));
  const list = element("ul", "", "files");
  list.setAttribute("aria-label", `Files of ${title}`);
  const choose = element("label", "Choose files", "choose");
  const input = element("input");
  Object.assign(input, { type: "file", multiple: true, accept: model.endings.join(",") + (model.sequences.length ? "" : ",image/*") });
  input.dataset.title = title;
  input.addEventListener("change", () => {
    put(visit, slot, [...input.files]);
    input.value = "";
  });
  choose.append(input);
  node.append(element("h3", title), list, choose, element("p", "or drop them here", "note"));
  node.addEventListener("dragover", (event) => {
    event.preventDefault();
    node.classList.add("over");
  });
  node.addEventListener("dragleave", () => node.classList.remove("over"));
  node.addEventListener("drop", (event) => {
    event.preventDefault();
    event.stopPropagation();
    node.classList.remove("over");
    put(visit, slot, [...event.dataTransfer.files]);
  });
  visit.redraw = { ...visit.redraw, [slot]: () => drawFiles(visit, slot, node, list) };
  return node;
}

function byName(visit, files) {
  invalidate();
  const slots = [...visit.files.keys()];
  const lost = [];
  for (const file of files) {
    const slot = slots.length === 1 ? slots[0] : slots.find((name) => file.name.toLowerCase().includes(name.toLowerCase()));
    if (slot === undefined) lost.push(file.name);
    else put(visit, slot, [file]);
  }
  problem(lost.length ? `The names of these files do not say where they belong: ${lost.join(", ")}. Drop them on their place (${listed(slots)}).` : "");
}

function put(visit, slot, files) {
  const read = Promise.allSettled(files.map(inMemory));
  reads.add(read);
  invalidate(); // Predict waits for the files
  status("Reading files …");
  read.then((results) => {
    const waited = reads.delete(read); // not after Start again
    if (!visits.includes(visit)) return waited && stop(); // the visit was removed meanwhile
    const readable = results.filter((each) => each.status === "fulfilled").map((each) => each.value);
    visit.files.get(slot).push(...readable);
    visit.redraw[slot]();
    status(`${readable.length} ${readable.length === 1 ? "file" : "files"} added${slot ? ` to ${slot}` : ""}.`);
    const unread = files.filter((_, position) => results[position].status === "rejected").map((file) => file.name);
    if (unread.length) problem(`Not added: ${unread.join(", ")}. A folder, a file that is too large, or one that was changed or removed cannot be read.`);
  });
}

async function inMemory(file) {
  if (file.size > model.limits.max_bytes) throw new Error("too large");
  return new File([await file.arrayBuffer()], file.name, { type: file.type, lastModified: file.lastModified });
}

function drawFiles(visit, slot, node, list) {
  invalidate();
  const files = visit.files.get(slot);
  node.classList.toggle("filled", files.length > 0);
  list.querySelectorAll("img").forEach((image) => URL.revokeObjectURL(image.src));
  list.replaceChildren(...files.slice(0, 12).map((file) => {
    const item = element("li");
    const remove = element("button", "Remove", "small");
    remove.type = "button";
    remove.setAttribute("aria-label", `Remove ${file.name}`);
    remove.addEventListener("click", () => {
      visit.files.set(slot, files.filter((other) => other !== file));
      status(`${file.name} removed.`);
      visit.redraw[slot]();
      node.querySelector("input").focus();
    });
    item.append(thumbnail(file), element("span", file.name), remove);
    return item;
  }));
  if (files.length > 12) list.append(element("li", `and ${files.length - 12} more`));
}

function thumbnail(file) {
  if (!VIEWABLE.includes(file.type)) return element("span", file.name.split(".").pop().slice(0, 5), "type");
  const image = element("img");
  image.alt = "";
  image.src = URL.createObjectURL(file);
  return image;
}

function form() {
  const data = new FormData();
  visits.forEach((visit, position) => {
    const prefix = `${position + 1}.`;
    data.append(`${prefix}visit`, visit.name.value.trim() || (model.visits ? `Visit ${position + 1}` : "case"));
    if (visit.day.value.trim()) data.append(`${prefix}day`, visit.day.value);
    for (const [name, input] of visit.covariates) if (input.value.trim()) data.append(`${prefix}${name}`, input.value);
    for (const [slot, files] of visit.files) for (const file of files) data.append(`${prefix}${slot || "image"}`, file, file.name);
  });
  return data;
}

// The running request is ended, with everything that only it would have shown; its answer can no longer appear.
function stop() {
  running.abort();
  if (get("status").classList.contains("busy")) status("");
  get("predict").disabled = reads.size > 0;
  get("explain").disabled = false;
  get("maps").replaceChildren();
}

// Something that was sent is no longer what is on the page: no result may stay beside it.
function invalidate() {
  const lost = current || get("status").classList.contains("busy");
  stop();
  current = null;
  get("results").hidden = get("save").disabled = get("print").disabled = true;
  for (const id of ["record", "trajectory", "answers"]) get(id).replaceChildren();
  if (lost) status("Images or fields changed: there are no results for them yet. Predict again.");
}

async function ask(button, text, path, body, show) {
  stop();
  const { signal } = (running = new AbortController());
  button.disabled = true;
  problem("");
  status(text, true);
  try {
    const answer = await call(path, { method: "POST", body, signal });
    signal.throwIfAborted();
    if (Object.entries(answer.model).some(([key, value]) => model[key] !== value)) throw new Error("The service now runs another model than the one on this page. Load the page again.");
    button.disabled = false;
    show(answer);
  } catch (error) {
    if (signal.aborted) return;
    invalidate();
    problem(error.message);
  }
}

function predict() {
  invalidate();
  const sent = { label: get("label").value.trim(), date: new Date(), form: form() };
  return ask(get("predict"), "Predicting …", "api/predict", sent.form, (answer) => {
    current = { ...sent, answer };
    showSource(answer.source);
    showRecord();
    const doubts = element("ul");
    doubts.append(...model.doubts.map((text) => element("li", text)));
    get("known").replaceChildren(element("strong", model.audited), model.known.slice(model.audited.length), ...(model.doubts.length ? [" Against it, in the report of its study:", doubts] : []));
    get("answers").replaceChildren(...answer.visits.map((visit) => showVisit(visit, model, answer.visits.length > 1)));
    get("results").hidden = get("save").disabled = get("print").disabled = false;
    drawTrajectory(get("trajectory"), courseOf(answer), model);
    status(model.visits ? `Results for ${answer.visits.length} ${answer.visits.length === 1 ? "visit" : "visits"}.` : "The results are below.");
    get("results-title").focus();
  });
}

function showRecord() {
  const { label, answer } = current;
  const date = current.date.toLocaleString("en-GB", { dateStyle: "long", timeStyle: "long" });
  listFacts("record", [
    ["Name", label || "none"], ["Date", date],
    ...answer.visits.map((visit) => [`Images${model.visits ? `, ${visit.visit}` : ""}${visit.day === null ? "" : ` (day ${visit.day})`}`, filesOf(visit)]),
    ["Model", `${model.title}, ${model.learner_title}`], ["Checksum of the bundle", answer.model.checksum || "none: the model is a run folder"],
  ]);
  get("results").style.setProperty("--stamp", cssText(`${label || "no label"} · ${date}`));
}

// A text as a string of CSS, whose escapes are not those of JSON.
const cssText = (text) => `"${text.replace(/["\\\p{Cc}]/gu, (sign) => `\\${sign.codePointAt(0).toString(16)} `)}"`;

function filesOf(visit) {
  const lists = new Map();
  for (const { file, region } of visit.images) lists.set(region, [...(lists.get(region) || []), file]);
  return [...lists].map(([region, files]) => (region ? `${region}: ` : "") + (files.length > 12 ? `${files.length} files, ${files[0]} to ${files.at(-1)}` : files.join(", "))).join("; ");
}

function explain() {
  const { form, answer } = current;
  form.set("target", get("saliency-target").value);
  form.set("learner", get("saliency-learner").value);
  return ask(get("explain"), "Computing saliency maps …", "api/explain", form, (maps) => {
    const legend = element("p", "", "influence");
    const ends = maps.signed ? ["against", "in favour"] : ["little influence", "much"];
    legend.append(element("span", ends[0]), element("i", "", maps.signed ? "signed" : ""), element("span", ends[1]));
    const intro = element("p", `${maps.title}, ${maps.learner_title}: ${maps.meaning}. A map shows what the model used, not whether that is right.`, "note");
    const grid = element("div", "", "maps");
    grid.append(...maps.maps.map((map) => mapFigure(map, answer.visits)));
    get("maps").replaceChildren(intro, legend, grid);
    status(`${maps.maps.length} saliency ${maps.maps.length === 1 ? "map" : "maps"} shown.`);
    get("maps").focus(); // the button was disabled meanwhile, and so lost the focus
  });
}

function mapFigure(map, sent) {
  const about = [sent.length > 1 ? sent[map.visit - 1].visit : "", map.region, map.file].filter(Boolean).join(", ");
  const of = map.explained_class ? `class: ${map.explained_class}` : "";
  const notes = [map.note, map.empty ? "no pixel has any influence" : map.flat ? "the map is nearly uniform" : ""].filter(Boolean);
  return figure([
    [map.original, `Original image: ${about}`, map.width, map.height], [map.overlay, `Saliency map over ${about}`, map.width, map.height],
  ], [about, of, ...notes].filter(Boolean).join("; "));
}

function save() {
  const { label, date, answer } = current;
  const blob = new Blob([JSON.stringify({ label, date, ...answer }, null, 1)], { type: "application/json" });
  const link = element("a");
  link.href = URL.createObjectURL(blob);
  link.download = `casewise-results-${date.toISOString().slice(0, 19).replaceAll(":", "-")}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  status(`Saved as ${link.download}.`);
}

function clear() {
  reads.clear();
  get("visits").replaceChildren();
  visits = [];
  get("label").value = "";
  problem("");
  addVisit();
}

get("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (get("token-form").hidden) return; // Enter was pressed twice
  sessionStorage.setItem(TOKEN, get("token").value.trim());
  get("token-form").hidden = true;
  start();
});
get("add-visit").addEventListener("click", () => addVisit().name.focus());
get("predict").addEventListener("click", predict);
get("explain").addEventListener("click", explain);
get("save").addEventListener("click", save);
get("print").addEventListener("click", () => window.print());
get("clear").addEventListener("click", () => {
  clear();
  status("The label, all images and all results were removed.");
});
get("images").addEventListener("input", invalidate);
get("saliency-choice").addEventListener("input", stop);
window.addEventListener("resize", () => current && drawTrajectory(get("trajectory"), courseOf(current.answer), model));
window.addEventListener("pageshow", (event) => event.persisted && location.reload());
start();
