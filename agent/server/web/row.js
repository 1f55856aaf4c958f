// One machine's row: built once, then only what changed is written.

import { age, amount, clock, duration, element, plain, progress } from "./words.js";

export const STATES = ["failed", "silent", "running", "waiting", "installed"];

const collator = new Intl.Collator("en", { numeric: true });
const last = (value) => (value === null || value === undefined ? Infinity : value);
const by = (key) => (a, b) => compare(last(a[key]), last(b[key]));
const words = (key) => (a, b) => collator.compare(a[key], b[key]);
const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);

export const sorters = {
  name: words("name"),
  state: (a, b) => STATES.indexOf(a.state) - STATES.indexOf(b.state),
  step: (a, b) => b.finished - a.finished || collator.compare(a.step, b.step),
  share: (a, b) => compare(b.share ?? -1, a.share ?? -1),
  rate: (a, b) => compare(b.rate ?? -1, a.rate ?? -1),
  eta: by("eta"),
  heard: (a, b) => compare(b.heard ?? -1, a.heard ?? -1),
  mirror: words("mirror"),
  unlock: words("unlock"),
  seal: words("seal"),
};

const GOOD = new Set(["whole", "proven", "sealed"]);
const BAD = new Set(["degraded", "not proven", "failed"]);
const PROOFS = ["mirror", "unlock", "seal"];

export class Row {
  constructor(id) {
    this.id = id;
    this.machine = null;
    this.words = "";
    this.link = element("a");
    this.link.href = `#${encodeURIComponent(id)}`;
    this.link.tabIndex = -1;
    this.serial = element("small");
    this.badge = element("span", "badge");
    this.title = element("span", "title");
    this.why = element("em");
    this.count = element("small");
    this.fill = element("i");
    this.bar = element("div", "bar", this.fill);
    this.percent = element("span", "percent");
    this.cells = {};
    for (const name of ["rate", "eta", "heard", ...PROOFS]) this.cells[name] = element("td", name);
    this.line = element(
      "tr",
      "",
      element("td", "name", this.link, this.serial),
      element("td", "state", this.badge),
      element("td", "step", this.title, this.why, this.count),
      element("td", "share", this.bar, this.percent),
      ...Object.values(this.cells),
    );
    this.line.dataset.id = id;
  }

  update(machine, now) {
    this.machine = machine;
    this.words = [machine.name, machine.machine, machine.id, machine.state, machine.step, machine.message]
      .concat(PROOFS.map((name) => machine[name] && `${name} ${machine[name]}`))
      .join(" ")
      .toLowerCase();
    if (this.state !== machine.state) {
      this.line.classList.remove(this.state);
      this.line.classList.add(machine.state);
      this.state = machine.state;
    }
    write(this.link, machine.name);
    write(this.serial, machine.machine === machine.name ? "" : machine.machine);
    write(this.badge, machine.state);
    write(this.title, machine.step);
    write(this.why, machine.message);
    write(this.count, counted(machine));
    const share = machine.state === "installed" ? 1 : machine.share;
    const width = share === null ? "" : `${(share * 100).toFixed(1)}%`;
    if (this.fill.style.width !== width) this.fill.style.width = width;
    this.bar.hidden = share === null || machine.state === "installed";
    write(this.percent, share === null || this.bar.hidden ? "" : `${Math.floor(share * 100)} %`);
    write(this.cells.rate, machine.rate ? `${amount(machine.rate, machine.unit)}/s` : "");
    for (const name of PROOFS) proof(this.cells[name], machine[name]);
    this.age(now);
  }

  age(now) {
    const machine = this.machine;
    write(this.cells.heard, machine.heard === null ? "" : age(now - machine.heard));
    write(this.cells.eta, left(machine, now));
  }

  choose(yes, focus = false) {
    this.line.classList.toggle("chosen", yes);
    this.line.setAttribute("aria-selected", String(yes));
    this.link.tabIndex = yes ? 0 : -1;
    if (yes && focus) this.link.focus({ preventScroll: true });
    if (yes) this.line.scrollIntoView({ block: "nearest" });
  }
}

export function left(machine, now) {
  if (machine.state === "installed") {
    return machine.took === null ? "" : `took ${duration(machine.took)}`;
  }
  if (machine.state === "failed") return machine.ended ? `at ${clock(machine.ended)}` : "";
  if (machine.eta === null) return "";
  const seconds = machine.eta - now;
  const text = seconds < 1 ? "any moment" : duration(seconds);
  return machine.eta_of === "run" ? text : `step: ${text}`;
}

export function counted(machine) {
  const parts = [];
  if (machine.state === "installed") return "";
  if (machine.steps) parts.push(`${machine.finished} of ${machine.steps} steps`);
  if (machine.done !== null) {
    parts.push(progress(machine.done, machine.total, machine.unit));
  }
  return parts.join(" · ");
}

export function proof(cell, word) {
  write(cell, word);
  cell.classList.toggle("good", GOOD.has(word));
  cell.classList.toggle("bad", BAD.has(word));
}

function write(node, text) {
  const shown = plain(text);
  if (node.shown === shown) return;
  node.shown = shown;
  node.textContent = shown;
  if (node.className === "title") node.title = shown;
}
