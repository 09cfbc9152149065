// The interface, and entries that stay in this tab until the server has confirmed them.
const TOKEN = "casewise-token", WAITING = "casewise-entries";
const LONGEST_WAIT = 15000;
const REFUSED = 422; // by the form; whatever else goes wrong, entries are kept and sent again

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

if (location.hash.length > 1) {
  // a link with a token, which never leaves the browser and does not stay in its address
  sessionStorage.setItem(TOKEN, location.hash.slice(1));
  history.replaceState(null, "", location.pathname);
}
const token = sessionStorage.getItem(TOKEN) || "";

// The page of a reader is never that of another: a token, also a link that is opened in this tab, loads it again.
export function setToken(text) {
  sessionStorage.setItem(TOKEN, text);
  location.reload();
}
window.addEventListener("hashchange", () => location.reload());

export async function request(path, options = {}) {
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
    this.key = token ? `${WAITING} ${token}` : WAITING; // other readers of this tab neither see nor send them
    this.waiting = JSON.parse(sessionStorage.getItem(this.key) || "[]");
    this.sending = null;
    this.trouble = ""; // why entries cannot be saved now
    window.addEventListener("online", () => this.wake?.());
  }

  add(entry) {
    this.waiting.push(entry);
    this.keep();
    if (this.trouble) this.on.state("retrying", this.trouble);
    return this.send();
  }

  keep() {
    sessionStorage.setItem(this.key, JSON.stringify(this.waiting));
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

  // Sends what is waiting; false if another window or a missing token prevents it, which `on` shows.
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
      if (error?.status === 409 || error?.status === 401) {
        (error.status === 409 ? this.on.taken : this.on.token)();
        return false;
      }
      if (error && error.status !== REFUSED) {
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
    return true;
  }
}
