// The page of a reader: one case at a time, its images and its scores. Names, dates and files are never here.
import { button, capital, counted, element, get } from "./elements.js";
import { Entries, call, setToken } from "./entries.js";
import { ScoreForm } from "./form.js";
import { Viewer, columnsFor, keep, prefetch } from "./viewer.js";

const KEYS = [
  ["0–9, letters", "choose a score and go on; a number that is typed ends with ↵"], ["↵ or →", "next case"], ["←", "previous case"],
  ["↑ ↓", "another score of the case"], ["⌫", "undo the last entry"], ["U", "the case cannot be judged"], ["C", "comment (Esc leaves it)"],
  ["+ −, wheel", "zoom; drag or arrows move an image with the focus"], ["W + arrows, right drag", "window (← →) and level (↑ ↓)", "grey volume"],
  ["[ ], Page ↑ ↓, wheel", "slices of a scan", "volume"], ["F, double click", "image larger, and back"], ["R", "reset zoom and window"], ["?", "these keys"],
];
const TOUCHES = [
  ["Tap", "choose a score and go on"], ["Swipe", "other images of the case"], ["Two fingers", "zoom; then drag"], ["Double tap", "image larger, and back"],
  ["◐, then drag", "window (to the side) and level (up and down)", "grey volume"], ["↺", "reset zoom and window"],
];
const DAY = 86_400_000;
// More images than these: those of the region that is scored are shown large.
const MOST_SIDE_BY_SIDE = 2, NARROW = "(max-width: 760px)";
let desk = null, form = null, current = null, next = 0;
let viewers = [], used = null, windowing = false;
let history = [], finished = 0, loading = 0;
// Milliseconds of the case on the page, and since when it is visible without a dialogue.
let spent = 0, since = performance.now();
let commented = 0;

const entries = new Entries({
  state(kind, message) {
    const texts = { saved: "Saved", saving: "Saving …", retrying: `Not saved yet, trying again (${counted(entries.waiting.length, "entry", "entries")} kept)` };
    const retried = get("state").classList.contains("retrying");
    get("state").textContent = texts[kind];
    get("state").className = `state ${kind}`;
    if (kind === "retrying") problem(`${message} Your entries are kept in this window and sent again; you can go on.`);
    else if (retried) problem("");
  },
  saved(answer) {
    if (!desk) return; // sent again after the page was loaded
    desk.progress = answer.progress;
    next = answer.next;
    showProgress();
  },
  async refused(entry, message) {
    problem(message);
    if (current?.position === entry.position) await open(entry.position);
  },
  taken: takenOver,
  token: askForToken,
});

function announce(text) {
  get("announcement").textContent = text;
}

function problem(text) {
  get("problem").hidden = !text;
  get("problem").textContent = text;
}

// A full page of text with buttons, instead of the case.
function screen(title, texts, ...nodes) {
  stopTime();
  loading += 1; // a case that is still loading does not replace it
  current = null;
  get("title").textContent = "Reading";
  const row = element("p", "", "actions");
  row.append(...nodes.filter((node) => node.tagName === "BUTTON"));
  get("screen").replaceChildren(element("h2", title), ...texts.map((text) => element("p", text)), ...nodes.filter((node) => node.tagName !== "BUTTON"), row);
  get("reading").hidden = true;
  get("screen").hidden = false;
  (get("screen").querySelector("input, button") || get("screen")).focus();
}

function dialog(title, content, closed = () => {}) {
  stopTime();
  const node = get("dialog");
  node.replaceChildren(element("h2", title, "", { id: "dialog-title" }), ...content);
  node.onclose = () => {
    startTime();
    if (document.activeElement !== get("comment")) form?.focus(); // the event may come after the next key
    closed();
  };
  node.showModal();
}

function startTime() {
  if (!get("dialog").open && !document.hidden) since ??= performance.now();
}

function stopTime() {
  if (since !== null) spent += performance.now() - since;
  since = null;
}

const milliseconds = () => Math.min(Math.round(spent + (since === null ? 0 : performance.now() - since)), DAY);

async function start() {
  try {
    // entries of before the page was loaded again belong to the window in which they were made
    if (!(await entries.send())) return;
    desk = await call("api/window", {});
  } catch (error) {
    if (error.status === 401) return askForToken();
    return screen("The reading cannot begin", [error.message], button("Try again", start, { className: "main" }));
  }
  get("state").textContent = "Saved";
  form = new ScoreForm(get("fields"), desk.form, {
    score: (field, value, before) => enter(field.key, value, before),
    open: (field) => mark(field.region),
    full: () => get("next").focus(),
  });
  next = desk.position;
  showProgress();
  if (!next) return finish();
  await open(next);
  if (!desk.progress.done) help();
}

function askForToken() {
  const input = element("input", "", "", { id: "token", type: "password", autocomplete: "off", required: true });
  const row = element("form", "", "row"), waiting = listOf(entries.waiting);
  row.append(element("label", "Token", "", { htmlFor: "token" }), input, element("button", "Continue", "main"));
  row.addEventListener("submit", (event) => {
    event.preventDefault();
    setToken(input.value.trim());
  });
  const texts = ["Each reader of this study has a token, which is the end of the link that the owner of the study sends. This browser forgets it when the tab is closed."];
  if (waiting) texts.push("Not saved, because the service now needs a token (enter it again if it is missing):");
  screen("Your token", texts, ...(waiting ? [waiting] : []), row);
}

// Entries in words; null without any.
function listOf(waiting) {
  const list = element("ul");
  list.append(...waiting.map((entry) => element("li", `Case ${entry.position}, ${entry.field ? titleOf(entry.field) : "cannot be judged"}: ${entry.value ?? "cleared"}`)));
  return waiting.length ? list : null;
}

function takenOver() {
  get("state").className = get("state").textContent = get("left").textContent = "";
  const lost = listOf(entries.drop());
  const texts = ["Everything that you entered before was saved. Only one window of a reader can write at a time."];
  if (lost) texts.push("Not saved, because the other window was already open (enter it there if it is right):");
  screen("This reading goes on in another window", texts, ...(lost ? [lost] : []), button("Go on here instead", start, { className: "main" }));
}

function titleOf(key) {
  if (key === desk?.form.comment) return "comment";
  const field = desk?.form.fields.find((each) => each.key === key);
  return field ? `${field.title}${field.region ? ` (${field.region})` : ""}` : key;
}

function showProgress() {
  const { done, total, seconds_left: seconds } = desk.progress;
  Object.assign(get("progress"), { max: total, value: done });
  const minutes = Math.round(seconds / 60);
  const left = seconds === null || !seconds ? "" : minutes < 1 ? ", less than a minute left" : minutes < 90 ? `, about ${minutes} min left` : `, about ${Math.round(minutes / 60)} h left`;
  get("left").textContent = `${desk.reader === "reader" ? "" : `${desk.reader}: `}${done} of ${total} scored${left}`;
}

const addressOf = (position) => `api/case/${position}?window=${desk.window}`;

async function open(position) {
  completeTyped();
  stopTime();
  const number = ++loading;
  // nothing that is typed before the new case is there may become a score of the old one
  get("reading").inert = true;
  const unconfirmed = entries.of(position); // the answer may be older
  let loaded = null, error = null;
  try {
    loaded = await call(addressOf(position));
  } catch (refused) {
    error = refused;
  }
  if (number !== loading) return; // another case was opened meanwhile
  get("reading").inert = false;
  if (error) {
    if (error.status === 401) return askForToken();
    // entries that are on their way are listed by their own answer
    if (error.status === 409) return (await entries.send()) && takenOver();
    return screen("This case cannot be loaded", [error.message], button("Try again", () => open(position), { className: "main" }));
  }
  for (const entry of unconfirmed) {
    if (entry.field === desk.form.comment) loaded.comment = entry.value;
    else if (entry.field === "") loaded.unreadable = entry.value || "";
    else if (entry.value === null) delete loaded.values[entry.field];
    else loaded.values[entry.field] = entry.value;
  }
  current = loaded;
  history = [];
  get("screen").hidden = true;
  get("reading").hidden = false;
  get("title").textContent = `Case ${position} of ${loaded.total}`;
  get("previous").disabled = position === 1;
  get("next").firstChild.textContent = position === loaded.total ? "Finish " : "Next case ";
  get("comment").value = loaded.comment || "";
  get("hint").textContent = "";
  showImages();
  showUnreadable();
  spent = 0;
  since = null;
  startTime();
  form.fill(loaded.values, loaded.shown);
  announce(`Case ${position} of ${loaded.total}`);
  if (position < loaded.total) fetchAhead(loaded);
}

const imagesOf = (loaded) => [...loaded.images, ...loaded.earlier.flatMap((visit) => visit.images)];

// The images of the next case, once those of this one are on the page.
async function fetchAhead(loaded) {
  await Promise.all(viewers.map((viewer) => viewer.ready));
  const ahead = await call(addressOf(loaded.position + 1)).catch(() => null);
  if (!ahead || current !== loaded) return;
  keep([...imagesOf(loaded), ...imagesOf(ahead)]);
  prefetch(imagesOf(ahead));
}

function showImages() {
  const on = { used: (viewer) => (used = viewer), larger };
  const named = (images) => images.map((image, index) => {
    const same = images.filter((each) => each.region === image.region);
    const number = same.length > 1 ? ` ${same.indexOf(image) + 1}` : "";
    return new Viewer(image, image.region ? `${capital(image.region)}${number}` : images.length > 1 ? `Image ${index + 1}` : "Image", on);
  });
  viewers = named(current.images);
  used = null;
  const grid = get("viewers");
  get("images").classList.remove("single");
  get("others").replaceChildren();
  get("others").hidden = true;
  grid.replaceChildren(...viewers.map((viewer) => viewer.node));
  grid.scrollLeft = 0;
  arrange();
  const visits = current.earlier.map((visit, index) => ({ title: `Earlier visit ${index + 1}`, shown: named(visit.images) }));
  get("earlier").hidden = !visits.length;
  get("earlier").replaceChildren(...visits.map(({ title, shown }) => {
    const node = element("section");
    node.append(element("h2", title), ...shown.map((viewer) => viewer.node));
    node.setAttribute("aria-label", title);
    return node;
  }));
  viewers.push(...visits.flatMap((visit) => visit.shown));
}

function arrange() {
  if (!current) return;
  const grid = get("viewers"), box = grid.getBoundingClientRect();
  const images = viewers.filter((viewer) => viewer.node.parentElement === grid).map((viewer) => viewer.image);
  const aspects = images.map((image) => (image.kind ? (image.width * image.spacing[1]) / (image.height * image.spacing[0]) : 1));
  grid.style.setProperty("--columns", columnsFor(aspects, box.width, box.height, 44));
}

function larger(viewer) {
  const single = !viewer.node.classList.contains("larger");
  document.querySelectorAll(".larger").forEach((node) => node.classList.remove("larger"));
  viewer.node.classList.toggle("larger", single);
  get("images").classList.toggle("single", single);
}

// The images of the region that is scored now: marked, and where there are many, large above the others.
function mark(region) {
  const here = viewers.slice(0, current.images.length);
  const own = here.filter((viewer) => region && viewer.image.region === region);
  for (const viewer of here) viewer.node.classList.toggle("scored-now", own.includes(viewer));
  const apart = own.length && here.length > MOST_SIDE_BY_SIDE && !matchMedia(NARROW).matches ? here.filter((viewer) => !own.includes(viewer)) : [];
  const [grid, rest] = [get("viewers"), get("others")];
  if (rest.childElementCount !== apart.length || apart.some((viewer, index) => rest.children[index] !== viewer.node)) {
    rest.replaceChildren(...apart.map((viewer) => viewer.node));
    grid.replaceChildren(...here.filter((viewer) => !apart.includes(viewer)).map((viewer) => viewer.node));
    rest.hidden = !apart.length;
    arrange();
  }
  if (!own.length || own.includes(used)) return;
  used = own[0];
  if (get("images").classList.contains("single")) larger(own[0]);
  const { node } = own[0];
  grid.scrollTo(node.offsetLeft - grid.offsetLeft - 16, node.offsetTop - grid.offsetTop);
}

function showUnreadable() {
  const reason = current.unreadable, invisible = current.images.every((image) => !image.kind);
  if (invisible && !reason) hint("No image of this case can be shown. State that it cannot be judged (U).");
  get("unreadable").hidden = !reason;
  get("unreadable").firstElementChild.textContent = `Cannot be judged: ${reason}`;
  get("fields").hidden = Boolean(reason) || invisible;
  get("cannot").disabled = Boolean(reason);
}

function send(field, value) {
  if (current) entries.add({ window: desk.window, form: desk.version, position: current.position, field, value, milliseconds: milliseconds() });
}

function enter(field, value, before) {
  history.push([field, before]);
  get("hint").textContent = "";
  if (!entries.trouble) problem("");
  send(field, value);
}

function undo() {
  if (form.erase()) return;
  const last = history.pop();
  if (!last) return hint("There is nothing to undo in this case. ← goes back to the previous one.");
  const [field, before] = last;
  send(field, before);
  if (field === "") {
    current.unreadable = before || "";
    showUnreadable();
    form.focus();
  } else {
    form.set(field, before);
    form.open(form.fields.findIndex((each) => each.key === field));
  }
  announce(`${field ? titleOf(field) : "Cannot be judged"}: ${before ?? "cleared"}`);
}

function hint(text) {
  get("hint").textContent = text;
  announce(text);
}

function saveComment() {
  clearTimeout(commented);
  const text = get("comment").value.trim();
  if (!current || text === (current.comment || "")) return;
  current.comment = text;
  send(desk.form.comment, text || null);
}

// What is typed and not sent yet, before a case or the page is left.
function completeTyped() {
  if (!current) return;
  form.complete();
  saveComment();
}

function cannotJudge() {
  const choose = (reason) => {
    enter("", reason, current.unreadable || null);
    current.unreadable = reason;
    showUnreadable();
    get("dialog").close();
    get("next").focus();
  };
  const list = element("div", "", "options");
  desk.form.reasons.forEach((reason, index) => {
    const node = button("", () => choose(reason));
    node.append(element("kbd", String(index + 1)), element("span", capital(reason)));
    list.append(node);
  });
  get("dialog").onkeydown = (event) => list.children[Number(event.key) - 1]?.click();
  dialog("Why can this case not be judged?", [list, button("Back", () => get("dialog").close())], () => (get("dialog").onkeydown = null));
}

function readable() {
  enter("", null, current.unreadable);
  current.unreadable = "";
  showUnreadable();
  form.focus();
}

function help() {
  const list = element("dl", "", "keys");
  const kinds = current ? imagesOf(current).map((image) => image.kind) : [];
  const useful = (matchMedia("(pointer: coarse)").matches ? TOUCHES : KEYS).filter(([, , needed]) => !needed || kinds.some((kind) => needed.includes(kind)));
  for (const [keys, text] of useful) list.append(element("dt", keys), element("dd", text));
  const intro = `${counted(desk.progress.total, "case")}, one at a time. Every entry is saved at once; you can stop at any time and go on later.`;
  const others = Object.keys(current?.shown || {}).length ? [element("p", "The lines above the scores are what the model predicts, or what the readers A, B, … gave.")] : [];
  dialog("How to score", [element("p", intro), ...others, list, button("Continue", () => get("dialog").close(), { className: "main", autofocus: true })]);
}

// On to the next case, by Enter only if this one has all its scores.
async function forward(anyway = false) {
  completeTyped();
  const missing = current.unreadable ? [] : form.missing;
  if (missing.length && !anyway) {
    form.openNext(-1);
    hint(`${counted(missing.length, "score is", "scores are")} missing. `);
    const skip = button("Go on without ", () => forward(true));
    skip.append(element("kbd", "→"));
    return get("hint").append(skip);
  }
  const { position, total, complete } = current;
  if (!missing.length && !complete) finished += 1;
  current.complete = true;
  if (position === total) return finish();
  await open(position + 1);
  if (finished && finished % desk.form.pause === 0 && !missing.length && !complete) rest();
}

function rest() {
  const text = `You have scored ${finished} cases in this sitting. Everything is saved. Eyes and judgement do better after a few minutes of something else.`;
  dialog("Time for a pause", [element("p", text), button("Go on", () => get("dialog").close(), { className: "main", autofocus: true })]);
}

async function finish() {
  if (!(await entries.send())) return;
  const { done, total } = desk.progress;
  const back = button("Look at the cases again", () => open(1));
  if (!next) return screen("All cases are scored. Thank you.", [`${counted(total, "case")}, all saved. You can close this window.`], back);
  screen("Some cases are not complete", [`${done} of ${total} are scored and saved.`], button("Go to the next one", () => open(next), { className: "main" }), back);
}

function pressed(event) {
  const { key, target } = event;
  if (key.toLowerCase() === "w" && current) windowing = true;
  if (!current || get("reading").inert || get("dialog").open || event.metaKey) return;
  if ((event.ctrlKey || event.altKey) && !event.getModifierState("AltGraph")) return; // brackets need AltGr on some keyboards
  if (target.id === "comment") {
    if (key === "Escape") form.focus();
    return;
  }
  const text = target.matches("input[type=text]") ? target.value : null;
  if (target.matches("input[type=range]") && /^(Arrow|Page|Home|End)/.test(key) && !windowing) return;
  if (text !== null && !windowing && (/^[\d.,−-]$/.test(key) || (text && /^(Backspace|Delete|ArrowLeft|ArrowRight|Home|End)$/.test(key)))) return;
  if (command(key.length === 1 ? key.toLowerCase() : key, target, event.repeat)) event.preventDefault();
}

// What a key does; whether it does anything here.
function command(key, target, repeated) {
  const isButton = target.matches("button, a");
  const viewer = used || viewers[0];
  if (key === "w") return true;
  if (!(key === "-" && form.buffer === "" && form.fields[form.active]?.low < 0) && viewer?.key(key, windowing)) return true;
  const actions = {
    "?": help, u: () => get("cannot").disabled || cannotJudge(), c: () => get("comment").focus(), Backspace: undo,
    ArrowRight: () => repeated || forward(true), ArrowLeft: () => repeated || (current.position > 1 && open(current.position - 1)),
    ArrowUp: () => form.open(form.active - 1), ArrowDown: () => form.open(form.active + 1),
    Escape: () => (get("images").classList.contains("single") ? larger(viewer) : form.focus()),
  };
  if (key === "Enter") {
    if (isButton) return false;
    if (!repeated && (current.unreadable || !form.enter())) forward();
    return true;
  }
  if (actions[key]) {
    actions[key]();
    return true;
  }
  return !current.unreadable && !repeated && form.key(key);
}

document.addEventListener("keydown", pressed);
document.addEventListener("keyup", (event) => event.key.toLowerCase() === "w" && (windowing = false));
document.addEventListener("visibilitychange", () => (document.hidden ? stopTime() : current && startTime()));
window.addEventListener("blur", () => (windowing = false));
window.addEventListener("resize", arrange);
// after a click on a tool, keys are for the scores again
get("images").addEventListener("click", (event) => event.detail && event.target.closest("button") && form.focus());
get("comment").addEventListener("input", () => {
  clearTimeout(commented);
  commented = setTimeout(saveComment, 600);
});
get("comment").addEventListener("change", saveComment);
get("keys").addEventListener("click", () => desk && help());
get("previous").addEventListener("click", () => open(current.position - 1));
get("undo").addEventListener("click", undo);
get("cannot").addEventListener("click", cannotJudge);
get("readable").addEventListener("click", readable);
get("next").addEventListener("click", () => forward());
get("skip").addEventListener("click", (event) => {
  event.preventDefault(); // what follows # in the address is a token
  get("scores").focus();
});
window.addEventListener("pagehide", completeTyped);
window.addEventListener("beforeunload", (event) => {
  completeTyped();
  if (entries.waiting.length) event.preventDefault();
});
start();
