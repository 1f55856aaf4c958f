// The fleet page: rows patched one by one as the server tells of changes; filter, sort, keys.

import { Detail } from "./detail.js";
import { Live } from "./live.js";
import { Row, STATES, sorters } from "./row.js";
import { timeline } from "./timeline.js";
import { element } from "./words.js";

const $ = (id) => document.getElementById(id);
const body = $("rows");
const rows = new Map();
const view = { by: "state", down: false, text: [], states: new Set() };
let order = []; // ids as shown, the filtered ones left out
let chosen = "";
let pointed = 0; // when the pointer last moved over the table
let first = true;
let later = 0;

const live = new Live(
  "v1/fleet/stream",
  (changed, whole) => take(changed, whole),
  (word) => {
    $("link").textContent = word === "live" ? "live" : "connection lost, trying again";
    $("link").className = word;
    document.body.classList.toggle("stale", word !== "live");
  },
);
const detail = new Detail($("detail"), live, () => open(""));

function take(changed, whole) {
  const began = performance.now();
  if (first) body.replaceChildren();
  const fresh = document.createDocumentFragment();
  for (const [id, fields] of changed) {
    if (fields === null) {
      rows.get(id)?.line.remove();
      rows.delete(id);
      continue;
    }
    let row = rows.get(id);
    if (!row) {
      row = new Row(id);
      rows.set(id, row);
      fresh.append(row.line);
    }
    row.update(live.machines.get(id), live.now());
    row.line.hidden = !wanted(row);
  }
  body.append(fresh);
  arrange(whole || first);
  counts();
  detail.changed(changed);
  if (first) {
    first = false;
    for (const id of ["roll-out", "find"]) $(id).hidden = false;
    reopen();
    performance.mark("bedplate-first-rows");
  }
  performance.measure(whole ? "bedplate-fleet" : "bedplate-change", { start: began });
}

function wanted(row) {
  if (view.states.size && !view.states.has(row.machine.state)) return false;
  return view.text.every((word) => row.words.includes(word));
}

// Brings the rows into their order, moving only those that are out of it.
function arrange(now = true) {
  if (!now && order.length && performance.now() - pointed < 1500) {
    // Nothing jumps away from under a pointer that is about to press.
    later ||= setTimeout(arrange, 1500);
    return;
  }
  clearTimeout(later);
  later = 0;
  const compare = sorters[view.by];
  const sign = view.down ? -1 : 1;
  const sorted = [...rows.values()].sort(
    (a, b) => sign * compare(a.machine, b.machine) || sorters.name(a.machine, b.machine),
  );
  let at = body.firstChild;
  for (const row of sorted) {
    if (at === row.line) {
      at = at.nextSibling;
    } else if (at && at.nextSibling === row.line) {
      at = row.line.nextSibling;
    } else {
      body.insertBefore(row.line, at);
    }
  }
  order = sorted.filter((row) => !row.line.hidden).map((row) => row.id);
  mark();
}

function filter() {
  for (const row of rows.values()) row.line.hidden = !wanted(row);
  arrange();
  counts();
}

function counts() {
  const count = Object.fromEntries(STATES.map((state) => [state, 0]));
  for (const machine of live.machines.values()) count[machine.state] += 1;
  const all = live.machines.size;
  for (const button of $("totals").children) {
    const state = button.dataset.state;
    const number = state ? count[state] : all;
    const text = String(number);
    if (button.firstChild.textContent !== text) button.firstChild.textContent = text;
    button.classList.toggle("none", number === 0);
    button.setAttribute("aria-pressed", String(state ? view.states.has(state) : !view.states.size));
  }
  const told = [...STATES].reverse().filter((state) => count[state]);
  $("sentence").textContent =
    `${all} machine${all === 1 ? "" : "s"}` +
    (told.length ? `: ${told.map((state) => `${count[state]} ${state}`).join(", ")}.` : ".");
  document.title = `${count.failed ? `(${count.failed} failed) ` : ""}Bedplate: ${count.installed} of ${all} installed`;
  const filtered = view.text.length || view.states.size;
  $("shown").textContent = filtered ? `${order.length} of ${all} shown` : "";
  $("nothing").hidden = order.length > 0;
  $("nothing").textContent = filtered
    ? "No machine is like that. Esc clears the filter."
    : "No plans yet. Machines appear here as soon as their plans do, or their first event.";
  draw();
}

let drawn = 0;
function draw() {
  if (drawn) return;
  drawn = setTimeout(
    () => {
      drawn = 0;
      timeline($("timeline"), [...live.machines.values()], live.now());
    },
    first ? 0 : 1000,
  );
}

// Ages go on by themselves; rows that are done or hidden need none.
setInterval(() => {
  const now = live.now();
  for (const row of rows.values()) if (!row.line.hidden) row.age(now);
  detail.age(now);
}, 1000);

function sortBy(by) {
  view.down = view.by === by ? !view.down : false;
  view.by = by;
  heads();
  arrange();
}

function heads() {
  for (const head of document.querySelectorAll("#fleet th")) {
    const mine = head.dataset.by === view.by;
    head.setAttribute("aria-sort", mine ? (view.down ? "descending" : "ascending") : "none");
  }
  $("order").value = view.by;
}

function choose(id, { focus = true } = {}) {
  rows.get(chosen)?.choose(false);
  chosen = id;
  const row = rows.get(id);
  row?.choose(true, focus);
}

function mark() {
  if (chosen && !rows.has(chosen)) chosen = "";
  // One row at least can be reached with Tab.
  if (!chosen && order.length) rows.get(order[0]).link.tabIndex = 0;
}

function step(by) {
  if (!order.length) return;
  const at = order.indexOf(chosen);
  const next = at < 0 ? (by > 0 ? 0 : order.length - 1) : at + by;
  const id = order[Math.max(0, Math.min(order.length - 1, next))];
  choose(id);
  if (detail.id) open(id);
}

function open(id) {
  const hash = id ? `#${encodeURIComponent(id)}` : "";
  if (location.hash !== hash) {
    // Going from machine to machine is one step of the history: Back closes the detail.
    if (id && detail.id) history.replaceState(null, "", hash);
    else history.pushState(null, "", hash || location.pathname + location.search);
  }
  reopen();
}

function reopen() {
  let id = "";
  try {
    id = decodeURIComponent(location.hash.slice(1));
  } catch {
    // A hash that somebody typed.
  }
  document.body.classList.toggle("open", Boolean(id));
  detail.show(id);
  if (id && rows.has(id)) choose(id, { focus: false });
}

for (const head of document.querySelectorAll("#fleet th")) {
  const button = element("button", "", head.textContent);
  button.type = "button";
  button.addEventListener("click", () => sortBy(head.dataset.by));
  $("order").append(new Option(head.textContent, head.dataset.by));
  head.replaceChildren(button);
}
for (const state of ["", ...STATES]) {
  const button = element("button", state || "all", element("b", "", "0"), element("span", "", state || "machines"));
  button.type = "button";
  button.dataset.state = state;
  button.addEventListener("click", () => {
    if (!state) view.states.clear();
    else if (!view.states.delete(state)) view.states.add(state);
    filter();
  });
  $("totals").append(button);
}
heads();

$("order").addEventListener("change", () => {
  view.by = $("order").value;
  view.down = false;
  heads();
  arrange();
});
$("find").addEventListener("submit", (event) => event.preventDefault());
$("filter").addEventListener("input", () => {
  view.text = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  filter();
});
body.addEventListener("click", (event) => {
  const line = event.target.closest("tr");
  if (!line?.dataset.id || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  choose(line.dataset.id);
  open(line.dataset.id);
});
body.addEventListener("pointermove", (event) => {
  if (event.pointerType === "mouse") pointed = performance.now();
});
addEventListener("hashchange", reopen);
addEventListener("popstate", reopen);
addEventListener("resize", draw);

const PAGE = 15;
const KEYS = {
  ArrowDown: () => step(1),
  ArrowUp: () => step(-1),
  PageDown: () => step(PAGE),
  PageUp: () => step(-PAGE),
  Home: () => step(-rows.size),
  End: () => step(rows.size),
  Enter: () => chosen && open(chosen),
  "/": () => $("filter").focus(),
};

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const typing = event.target === $("filter");
  if (event.key === "Escape") {
    escape(typing);
  } else if (event.target.closest?.("select, #detail") || (typing && !["ArrowDown", "Enter"].includes(event.key))) {
    return;
  } else if (event.key === "Enter" && event.target.closest?.("button")) {
    return;
  } else if (KEYS[event.key]) {
    if (typing) choose("");
    if (typing && event.key === "Enter") step(1);
    KEYS[event.key]();
  } else {
    return;
  }
  event.preventDefault();
});

function escape(typing) {
  if (typing && $("filter").value) {
    $("filter").value = "";
    view.text = [];
    filter();
  } else if (typing) {
    $("filter").blur();
  } else if (detail.id) {
    const id = detail.id;
    open("");
    choose(id);
  } else if (view.text.length || view.states.size) {
    $("filter").value = "";
    view.text = [];
    view.states.clear();
    filter();
  }
}
