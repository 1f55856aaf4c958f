// How the roll-out goes: machines installed and failed over time, and where it will end.

import { clock, duration, element, shape } from "./words.js";

const HEIGHT = 84;
const QUIET = 12 * 3600; // a pause this long separates two roll-outs

export function timeline(place, machines, now) {
  const ends = machines
    .filter((each) => each.ended !== null && (each.state === "installed" || each.state === "failed"))
    .map((each) => ({ at: Math.min(each.ended, now), good: each.state === "installed" }))
    .sort((a, b) => a.at - b.at);
  const etas = machines.filter((each) => each.eta !== null && each.eta_of === "run").map((each) => each.eta);
  const running = machines.filter((each) => each.state === "running");
  const began = machines.filter((each) => each.began !== null).map((each) => each.began);
  const start = Math.max(beginning(ends.map((each) => each.at), began, now), now - 7 * 86400);
  const until = etas.length ? Math.max(now, ...etas) : now;
  place.replaceChildren();
  if (!began.length) return;

  const width = Math.max(240, place.clientWidth);
  const long = Math.max(60, until - start);
  const x = (at) => (((Math.max(start, at) - start) / long) * width).toFixed(1);
  const y = (count) => (HEIGHT - 3 - (count / Math.max(1, machines.length)) * (HEIGHT - 8)).toFixed(1);
  const svg = shape("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", width, height: HEIGHT });
  const before = ends.filter((each) => each.at < start);
  for (const good of [true, false]) {
    const mine = ends.filter((each) => each.good === good && each.at >= start);
    let count = before.filter((each) => each.good === good).length;
    if (!count && !mine.length) continue;
    let path = `M0 ${y(count)}`;
    for (const each of mine) {
      path += `H${x(each.at)}`;
      count += 1;
      path += `V${y(count)}`;
    }
    path += `H${x(now)}`;
    const name = good ? "installed" : "failed";
    if (good) svg.append(shape("path", { class: "area", d: `${path}V${HEIGHT}H0Z` }));
    svg.append(shape("path", { class: name, d: path }));
    if (good && etas.length) svg.append(projected(etas, count, x, y, now));
  }
  svg.append(shape("line", { class: "now", x1: x(now), x2: x(now), y1: 0, y2: HEIGHT }));
  const done = ends.filter((each) => each.good).length;
  svg.prepend(shape("title", {}, `${done} of ${machines.length} installed`));
  const waiting = machines.filter((each) => each.state === "waiting").length;
  place.append(svg, legend(start, until, now, etas, running.length, waiting));
}

function projected(etas, count, x, y, now) {
  let path = `M${x(now)} ${y(count)}`;
  for (const eta of [...etas].sort((a, b) => a - b)) {
    path += `H${x(Math.max(now, eta))}`;
    count += 1;
    path += `V${y(count)}`;
  }
  return shape("path", { class: "projected", d: path });
}

// The first moment after the last long pause.
function beginning(ends, began, now) {
  const times = [...began, ...ends].filter((each) => each <= now).sort((a, b) => b - a);
  let start = now;
  for (const each of times) {
    if (start - each > QUIET) break;
    start = each;
  }
  return start;
}

function legend(start, until, now, etas, running, waiting) {
  const words = [element("span", "", clock(start))];
  if (until > now + 1) {
    const rest = waiting ? `; ${waiting} not begun` : "";
    const of = etas.length < running ? `${etas.length} of ${running} running` : "all running";
    words.push(element("span", "projection", `${of} done by ${clock(until)}, in ${duration(until - now)}${rest}`));
  } else {
    words.push(element("span", "", `${duration(now - start)} ago until now`));
  }
  return element("figcaption", "", ...words);
}
