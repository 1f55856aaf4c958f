// One machine in full, beside the rows: steps with durations and evidence, log, layout.

import { picture } from "./picture.js";
import { counted, left, proof } from "./row.js";
import { age, amount, clock, duration, element } from "./words.js";

const PAUSE = 2000; // between two loads while the machine goes on
const LOSSES = 400; // lines of evidence shown of one step

export class Detail {
  constructor(place, live, close) {
    this.place = place;
    this.live = live;
    this.close = close;
    this.id = "";
    this.loaded = 0;
    this.timer = 0;
  }

  show(id) {
    if (id === this.id) return;
    this.id = id;
    this.place.hidden = !id;
    this.place.replaceChildren();
    this.place.scrollTop = 0;
    clearTimeout(this.timer);
    this.timer = 0;
    if (id) this.load();
  }

  changed(changed) {
    if (!this.id || !changed.has(this.id) || this.timer) return;
    this.timer = setTimeout(
      () => {
        this.timer = 0;
        this.load();
      },
      Math.max(0, this.loaded + PAUSE - performance.now()),
    );
  }

  async load() {
    const id = this.id;
    this.loaded = performance.now();
    try {
      const answer = await fetch(`v1/fleet/${encodeURIComponent(id)}`);
      const found = answer.ok ? await answer.json() : null;
      if (id === this.id) this.render(found, answer.ok ? "" : await answer.text());
    } catch (error) {
      if (id === this.id && !this.place.children.length) this.render(null, String(error));
    }
  }

  render(found, problem) {
    const opened = new Set([...this.place.querySelectorAll("details[open]")].map((each) => each.dataset.key));
    const focused = this.place.querySelector(":focus")?.closest("[data-key]")?.dataset.key;
    const scrolled = this.place.scrollTop;
    this.place.replaceChildren(...(found ? this.parts(found) : [this.head({ name: this.id }), element("p", "why", problem)]));
    for (const each of this.place.querySelectorAll("details")) {
      if (opened.has(each.dataset.key)) each.open = true;
      if (focused && each.dataset.key === focused) each.querySelector("summary").focus({ preventScroll: true });
    }
    this.place.scrollTop = scrolled;
  }

  age(now) {
    if (!this.id) return;
    const machine = this.live.machines.get(this.id);
    for (const each of this.place.querySelectorAll("[data-age]")) {
      const text = each.dataset.age === "eta" ? left(machine, now) : heard(machine, now);
      if (machine && each.textContent !== text) each.textContent = text;
    }
  }

  *parts(found) {
    const run = found.runs.find((each) => each.steps.some((step) => step.name !== "seal")) ?? found.runs[0];
    yield this.head(found);
    yield this.facts(found);
    if (found.state === "failed") yield failure(found, run);
    else if (found.message) yield element("p", "why", found.message);
    if (run) yield steps(run, found.runs.filter((each) => each !== run && sealing(each)));
    else yield element("p", "quiet", "Nothing was heard of this machine yet.");
    const drawing = picture(found.layout);
    if (drawing || found.picture.length) yield layout(drawing, found.picture);
    if (found.log.length) yield section("Log", element("pre", "log", found.log.join("\n")));
    if (found.state === "installed" && run && Object.keys(run.report).length) {
      yield section("Report", evidence(run.report));
    }
    if (found.latest.length) yield latest(found.latest);
    const others = found.runs.filter((each) => each !== run && !sealing(each));
    for (const other of others) yield earlier(other);
  }

  head(found) {
    const close = element("button", "close", "×");
    close.type = "button";
    close.title = "Close (Esc)";
    close.setAttribute("aria-label", "Close");
    close.addEventListener("click", this.close);
    const badge = element("span", `badge ${found.state ?? ""}`, found.state ?? "");
    const title = element("h2", "", found.name, " ", badge);
    const id = element("p", "id", [found.machine, found.id].filter(Boolean).join(" · "));
    if (found.runs?.length) {
      const link = element("a", "", "events");
      link.href = `v1/events?plan=${encodeURIComponent(found.id)}`;
      id.append(" · ", link);
    }
    return element("header", "", close, title, id);
  }

  facts(found) {
    const now = this.live.now();
    const list = element("dl", "facts");
    const add = (name, text, age = "") => {
      if (!text) return;
      const value = element("dd", "", text);
      if (age) value.dataset.age = age;
      list.append(element("div", "", element("dt", "", name), value));
      return value;
    };
    add("Step", ["running", "silent"].includes(found.state) ? found.step : "");
    add("Progress", counted(found));
    add("Rate", found.rate ? `${amount(found.rate, found.unit)}/s` : "");
    add("Began", found.began ? clock(found.began) : "");
    add(found.ended ? "Ended" : "Time left", left(found, now), "eta");
    add("Heard", heard(found, now), "heard");
    for (const name of ["mirror", "unlock", "seal"]) {
      const value = add(name[0].toUpperCase() + name.slice(1), found[name]);
      if (value) proof(value, found[name]);
    }
    add("Policy", found.policy);
    return list;
  }
}

const sealing = (run) => run.steps.length > 0 && run.steps.every((step) => step.name === "seal");
const heard = (machine, now) => (machine && machine.heard !== null ? age(now - machine.heard) : "");

function failure(found, run) {
  const box = section("Why", element("pre", "why", run?.message || found.message));
  box.classList.add("failure");
  if (run?.advice.length) {
    box.append(element("h3", "", "What to do next"));
    box.append(element("ul", "", ...run.advice.map((each) => element("li", "", each))));
  }
  return box;
}

const SEAL = "Seal to this machine's TPM, by its first boot";
const MARKS = { started: "▸", progress: "▸", finished: "✓", failed: "✗", "": "·" };

function steps(run, after) {
  const all = run.steps.concat(after.flatMap((each) => each.steps));
  const longest = Math.max(1, ...all.map((step) => step.seconds ?? 0));
  const list = element("ol", "steps");
  for (const step of all) list.append(line(step, longest));
  return section("Steps", list);
}

function line(step, longest) {
  const took = step.seconds === null ? "" : duration(step.seconds);
  const fill = element("i");
  fill.style.width = `${(((step.seconds ?? 0) / longest) * 100).toFixed(1)}%`;
  const title = step.name === "seal" && step.title === step.name ? SEAL : step.title || step.name;
  const name = element("span", "what", title);
  const parts = [element("span", "mark", MARKS[step.state] ?? "·"), name];
  if (step.done !== null && step.state !== "finished") name.append(" ", element("small", "", counted({ ...step, steps: 0 })));
  if (step.state === "failed" && step.message) name.append(element("em", "", step.message));
  parts.push(element("span", "took", took), element("span", "long", fill));
  const shown = Object.keys(step.evidence).length ? unfolding(`step ${step.name}`, parts, evidence(step.evidence)) : element("div", "plain", ...parts);
  return element("li", step.state || "to-come", shown);
}

function unfolding(key, summary, ...inside) {
  const made = element("details", "", element("summary", "", ...summary), ...inside);
  made.dataset.key = key;
  return made;
}

function layout(drawing, lines) {
  const text = element("pre", "picture", lines.join("\n"));
  const parts = [drawing, drawing && lines.length ? unfolding("layout", ["as text"], text) : text];
  return section("Layout", ...parts.filter(Boolean));
}

function latest(events) {
  const rows = [...events].reverse().map((event) =>
    element("tr", event.state, element("td", "", clock(event.time)), element("td", "", event.step), element("td", "", event.state), element("td", "", event.message)),
  );
  return section("", unfolding("latest", [`Latest ${events.length} events, by the machine's clock`], element("table", "", element("tbody", "", ...rows))));
}

function earlier(run) {
  const title = `Earlier run, began ${clock(run.began)}${run.state ? `, ${run.state}` : ""}`;
  return section("", unfolding(`run ${run.run}`, [title], run.message ? element("pre", "why", run.message) : "", steps(run, [])));
}

function section(title, ...inside) {
  return element("section", "", ...(title ? [element("h3", "", title)] : []), ...inside);
}

// Every leaf with its path, a line each.
function evidence(value) {
  const list = element("table", "evidence");
  const lines = [...flat(value)];
  for (const [path, text] of lines.slice(0, LOSSES)) {
    list.append(element("tr", "", element("th", "", path), element("td", "", text)));
  }
  if (lines.length > LOSSES) list.append(element("tr", "", element("th"), element("td", "", `${lines.length - LOSSES} more`)));
  return list;
}

function* flat(value, path = "") {
  const plainList = Array.isArray(value) && value.every((each) => typeof each !== "object" || each === null);
  if (plainList) {
    yield [path, value.length ? value.join("\n") : "none"];
  } else if (typeof value === "object" && value !== null) {
    for (const [key, inner] of Object.entries(value)) {
      const place = Array.isArray(value) ? `${path}[${key}]` : path ? `${path}.${key}` : key;
      yield* flat(inner, place);
    }
  } else if (typeof value === "number" && /(^|[._])(size|bytes|stored|written|zeroed)$/.test(path) && value >= 1024) {
    yield [path, `${value} (${amount(value, "bytes")})`];
  } else {
    yield [path, value === null ? "–" : value === true ? "yes" : value === false ? "no" : String(value)];
  }
}
