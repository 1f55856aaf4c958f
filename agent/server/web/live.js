// The live stream: the fleet as the server sees it, kept by id. Reconnects by itself and says so.

const SILENCE = 30000; // three beats: the connection is dead, whatever the browser believes

export class Live {
  // `told(changed, whole)` gets a Map id -> the fields that changed; `state(word)` the connection.
  constructor(url, told, state) {
    this.url = url;
    this.told = told;
    this.state = state;
    this.machines = new Map();
    this.skew = 0; // the server's clock less ours, in seconds
    this.last = "";
    this.pause = 1000;
    this.connect();
    setInterval(() => this.watch(), 5000);
    addEventListener("online", () => this.again(0));
  }

  now() {
    return Date.now() / 1000 + this.skew;
  }

  connect() {
    clearTimeout(this.timer);
    this.timer = 0;
    this.source?.close();
    const source = new EventSource(this.last ? `${this.url}?last=${encodeURIComponent(this.last)}` : this.url);
    this.source = source;
    this.heard = Date.now();
    source.addEventListener("fleet", (event) => this.take(event, true));
    source.addEventListener("change", (event) => this.take(event, false));
    source.addEventListener("beat", (event) => this.alive(JSON.parse(event.data).now));
    source.onopen = () => this.alive();
    source.onerror = () => {
      if (source !== this.source) return;
      this.state("lost");
      // The browser comes back by itself, except after an answer that was no stream.
      if (source.readyState === EventSource.CLOSED) this.refused();
    };
  }

  // An answer that was no stream: the server is starting, or our session has ended.
  async refused() {
    try {
      const page = await fetch("./", { headers: { accept: "text/html" }, redirect: "manual", method: "GET" });
      if (page.type === "opaqueredirect") location.reload();
    } catch {
      // Nobody is there.
    }
    this.again(this.pause);
  }

  again(pause) {
    if (this.timer) return;
    this.pause = Math.min(this.pause * 2, 30000);
    this.timer = setTimeout(() => this.connect(), pause);
  }

  watch() {
    if (Date.now() - this.heard > SILENCE && !this.timer) {
      this.state("lost");
      this.source.close();
      this.again(0);
    }
  }

  alive(now) {
    this.heard = Date.now();
    this.pause = 1000;
    if (now) this.skew = now - Date.now() / 1000;
    this.state("live");
  }

  take(event, whole) {
    const told = JSON.parse(event.data);
    this.last = event.lastEventId;
    this.alive(told.now);
    const changed = new Map();
    if (whole) {
      const here = new Set(told.machines.map((each) => each.id));
      for (const id of this.machines.keys()) if (!here.has(id)) changed.set(id, null);
    }
    for (const id of told.gone ?? []) changed.set(id, null);
    for (const fields of told.machines) changed.set(fields.id, fields);
    for (const [id, fields] of changed) {
      if (fields === null) this.machines.delete(id);
      else this.machines.set(id, { ...this.machines.get(id), ...fields });
    }
    this.told(changed, whole);
  }
}
