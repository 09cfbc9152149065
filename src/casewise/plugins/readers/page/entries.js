// The interface, and entries that stay in this tab until the server has confirmed them.
const TOKEN = "casewise-token", WAITING = "casewise-entries";
const LONGEST_WAIT = 15000;
const PASSING = [0, 408, 429, 500, 502, 503, 504, 507];

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const setToken = (token) => sessionStorage.setItem(TOKEN, token);

export async function request(path, options = {}) {
  const token = sessionStorage.getItem(TOKEN);
  let response;
  try {
    response = await fetch(path, { ...options, headers: token ? { Authorization: `Bearer ${token}` } : {} });
  } catch {
    throw new Refused(0, "The service does not answer.");
  }
  if (response.ok) return response;
  const answer = await response.json().catch(() => null);
  throw new Refused(response.status, answer?.error?.message || `The service answers with status ${response.status}.`);
}

export const call = async (path, body) => (await request(path, body && { method: "POST", body: JSON.stringify(body) })).json();

export class Entries {
  // `on`: state(kind, message), saved(answer), refused(entry, message), taken(), token()
  constructor(on) {
    this.on = on;
    this.waiting = JSON.parse(sessionStorage.getItem(WAITING) || "[]");
    this.sending = null;
    this.trouble = ""; // why entries cannot be saved now
    window.addEventListener("online", () => this.wake?.());
    window.addEventListener("beforeunload", (event) => this.waiting.length && event.preventDefault());
  }

  add(entry) {
    const last = this.waiting.length > 1 ? this.waiting.at(-1) : null; // the first one is on its way
    if (last && last.field === "comment" && entry.field === "comment" && last.position === entry.position) this.waiting.pop();
    this.waiting.push(entry);
    this.keep();
    if (this.trouble) this.on.state("retrying", this.trouble);
    return this.send();
  }

  keep() {
    sessionStorage.setItem(WAITING, JSON.stringify(this.waiting));
  }

  // Values of a case as they are in this tab, also those that are not confirmed yet.
  of(position) {
    return this.waiting.filter((entry) => entry.position === position);
  }

  // What cannot be saved because another window has taken over; no longer kept.
  drop() {
    const dropped = this.waiting;
    this.waiting = [];
    this.keep();
    return dropped;
  }

  send() {
    this.sending ||= this.run().finally(() => (this.sending = null));
    return this.sending;
  }

  async run() {
    for (let pause = 1000; this.waiting.length; ) {
      if (!this.trouble) this.on.state("saving");
      let answer = null, error = null;
      try {
        answer = await call("api/entry", this.waiting[0]);
      } catch (refused) {
        error = refused;
      }
      if (error?.status === 409) return this.on.taken();
      if (error?.status === 401) return this.on.token();
      if (error && PASSING.includes(error.status)) {
        this.trouble = error.message;
        this.on.state("retrying", this.trouble);
        await new Promise((resolve) => {
          this.wake = resolve;
          setTimeout(resolve, pause);
        });
        pause = Math.min(2 * pause, LONGEST_WAIT);
        continue;
      }
      const entry = this.waiting.shift();
      this.keep();
      pause = 1000;
      this.trouble = "";
      if (error) await this.on.refused(entry, error.message);
      else this.on.saved(answer);
    }
    this.on.state("saved");
  }
}
