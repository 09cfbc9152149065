// The page of a model: images in, results out. Nothing is stored but the token, until this tab is closed.
import { drawTrajectory } from "./trajectory.js";
import { element, figure, get } from "./elements.js";
import { showVisit } from "./results.js";

const TOKEN = "casewise-token";
const VIEWABLE = ["image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp"];
let model = null;
let visits = [];
let answer = null;
let counter = 0;

async function call(path, options = {}) {
  const token = sessionStorage.getItem(TOKEN);
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new Error("The service does not answer. Check that it is running, then try again.");
  }
  let body = null;
  try {
    body = await response.json();
  } catch {
    throw new Error(`The service gave an answer that cannot be read (status ${response.status}). Try again.`);
  }
  if (response.status === 401) askForToken();
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
  get("token-form").hidden = true;
  problem("");
  describeModel();
  visits = [];
  addVisit();
}

function describeModel() {
  document.title = `${model.title} – casewise`;
  get("title").textContent = model.title;
  get("version").textContent = model.casewise;
  const images = model.sequences.length ? "scans" : model.noun.plural;
  get("lead").textContent = `Predicts ${listed(model.targets.filter((t) => t.primary || !model.targets.some((o) => o.primary)).map((t) => t.title))} from ${images}.` +
    (model.synthetic ? " The model was trained on synthetic images." : "");
  get("notice").textContent = model.notice;
  const kept = model.limits.kept ? "Images and results are kept on the computer that runs this service." : "Images are removed as soon as the answer is there; nothing is kept.";
  const all = model.slots.length ? ` For each visit: ${listed(model.slots)}.` : "";
  get("hint").textContent = `Choose or drop ${images}.${all} ${kept}`;
  get("footer").textContent = `${model.notice} ${kept}`;
  const coverage = model.coverage ? `${Math.round(100 * model.coverage)} % of cases of new subjects` : "not calibrated";
  const facts = [
    ["Model", model.name], ["Predicted by", `${model.learner_title} (${model.networks} networks)`],
    ["Targets", listed(model.targets.map((t) => t.title))], ["Intervals and sets", coverage],
    ["Limits", `${model.limits.max_files} files, ${Math.round(model.limits.max_bytes / 2 ** 20)} MiB`],
  ];
  get("facts").replaceChildren(...facts.flatMap(([name, text]) => [element("dt", name), element("dd", text)]));
  get("card").textContent = model.card;
  get("card-fold").hidden = !model.card;
  options("saliency-target", model.explained_targets.map((name) => [name, titleOf(name)]));
  options("saliency-learner", model.explained_learners.map((name) => [name, model.explained_titles[name]]));
  get("learner-choice").hidden = model.explained_learners.length < 2;
  get("saliency").hidden = !model.explained_learners.length;
  get("images").hidden = get("about").hidden = false;
}

function options(id, pairs) {
  get(id).replaceChildren(...pairs.map(([value, text]) => {
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
  visit.node.append(element("legend"), visitHead(visit), visitSlots(visit));
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
  const day = labelled(`day-${visit.id}`, "Day", "number");
  visit.day = day.querySelector("input");
  visit.day.placeholder = "optional";
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
    visit.node.querySelector("legend").textContent = `Visit ${position + 1}`;
    visit.remove.hidden = visits.length < 2;
    visit.remove.textContent = `Remove visit ${position + 1}`;
  });
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
  input.setAttribute("aria-label", `Choose files of ${title}, visit ${visits.length}`);
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
  visit.files.get(slot).push(...files);
  visit.redraw[slot]();
  status(`${files.length} ${files.length === 1 ? "file" : "files"} added${slot ? ` to ${slot}` : ""}.`);
}

function drawFiles(visit, slot, node, list) {
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
      visit.redraw[slot]();
      status(`${file.name} removed.`);
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
    data.append(`${prefix}visit`, visit.name.value.trim() || `Visit ${position + 1}`);
    if (visit.day.value !== "") data.append(`${prefix}day`, visit.day.value);
    for (const [slot, files] of visit.files) for (const file of files) data.append(`${prefix}${slot || "image"}`, file, file.name);
  });
  return data;
}

async function busy(button, text, work) {
  button.disabled = true;
  problem("");
  status(text, true);
  try {
    await work();
  } catch (error) {
    problem(error.message);
  } finally {
    button.disabled = false;
    get("status").classList.remove("busy");
  }
}

function predict() {
  return busy(get("predict"), "Predicting …", async () => {
    answer = await call("api/predict", { method: "POST", body: form() });
    get("maps").replaceChildren();
    get("answers").replaceChildren(...answer.visits.map((visit) => showVisit(visit, model, answer.visits.length > 1)));
    drawTrajectory(get("trajectory"), answer.trajectory, model);
    get("results").hidden = false;
    status(`Results for ${answer.visits.length} ${answer.visits.length === 1 ? "visit" : "visits"}.`);
    get("results-title").focus();
  });
}

function explain() {
  return busy(get("explain"), "Computing saliency maps …", async () => {
    const data = form();
    data.append("target", get("saliency-target").value);
    data.append("learner", get("saliency-learner").value);
    const maps = await call("api/explain", { method: "POST", body: data });
    const legend = element("p", "", "influence");
    const ends = maps.signed ? ["against", "in favour"] : ["little influence", "much"];
    legend.append(element("span", ends[0]), element("i", "", maps.signed ? "signed" : ""), element("span", ends[1]));
    const intro = element("p", `${maps.title}, ${maps.learner_title}: ${maps.meaning}. A map shows what the model used, not whether that is right.`, "note");
    const grid = element("div", "", "maps");
    grid.append(...maps.maps.map((map) => mapFigure(map)));
    get("maps").replaceChildren(intro, legend, grid);
    status(`${maps.maps.length} saliency ${maps.maps.length === 1 ? "map" : "maps"} shown.`);
  });
}

function mapFigure(map) {
  const about = [visits.length > 1 ? answer.visits[map.visit - 1].visit : "", map.region, map.file].filter(Boolean).join(", ");
  const of = map.explained_class ? `class: ${map.explained_class}` : "";
  const notes = [map.note, map.empty ? "no pixel has any influence" : map.flat ? "the map is nearly uniform" : ""].filter(Boolean);
  return figure([
    [map.original, `Original image: ${about}`, map.width, map.height], [map.overlay, `Saliency map over ${about}`, map.width, map.height],
  ], [about, of, ...notes].filter(Boolean).join("; "));
}

function save() {
  const label = get("label").value.trim();
  const blob = new Blob([JSON.stringify({ label, ...answer }, null, 1)], { type: "application/json" });
  const link = element("a");
  link.href = URL.createObjectURL(blob);
  link.download = "casewise-results.json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  status("Saved as casewise-results.json.");
}

get("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, get("token").value.trim());
  start();
});
get("add-visit").addEventListener("click", () => addVisit().name.focus());
get("predict").addEventListener("click", predict);
get("explain").addEventListener("click", explain);
get("save").addEventListener("click", save);
get("print").addEventListener("click", () => window.print());
get("clear").addEventListener("click", () => {
  get("visits").replaceChildren();
  visits = [];
  answer = null;
  get("results").hidden = true;
  problem("");
  addVisit();
  status("All images and results were removed.");
});
window.addEventListener("resize", () => answer && drawTrajectory(get("trajectory"), answer.trajectory, model));
start();
