// Sizes, times and words as people read them; the same as the server and the consoles write.

const PREFIXES = ["KiB", "MiB", "GiB", "TiB"];

export function amount(number, unit) {
  if (unit !== "bytes") {
    const text = number < 10000 ? String(Number(number.toPrecision(4))) : number.toFixed(0);
    return unit ? `${text} ${unit}` : text;
  }
  if (Math.abs(number) < 1024) return `${number.toFixed(0)} B`;
  let at = -1;
  do {
    number /= 1024;
    at += 1;
  } while (Math.abs(number) >= 1024 && at < PREFIXES.length - 1);
  return `${number.toFixed(1)} ${PREFIXES[at]}`;
}

export function progress(done, total, unit) {
  if (!total) return amount(done, unit);
  return `${amount(done, unit === "bytes" ? unit : "")} of ${amount(total, unit)}`;
}

export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  if (whole < 86400 * 2) return `${Math.floor(whole / 3600)} h ${two(Math.floor((whole % 3600) / 60))} min`;
  return `${Math.floor(whole / 86400)} days`;
}

// How long ago, as short as it can be said.
export function age(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s ago`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ago`;
  return whole < 86400 * 2 ? `${Math.floor(whole / 3600)} h ago` : `${Math.floor(whole / 86400)} days ago`;
}

// A time of day; of another day only where it could be taken for today's.
export function clock(seconds) {
  const at = new Date(seconds * 1000);
  const time = `${two(at.getHours())}:${two(at.getMinutes())}`;
  if (Math.abs(Date.now() - at) < 18 * 3600 * 1000) return `${time}:${two(at.getSeconds())}`;
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${time}`;
}

// Control and direction characters as escapes, so that a text cannot pretend to be another one.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;

export function plain(text) {
  return String(text).replace(HIDDEN, (each) => `\\u${each.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

// An element with a class and text; children may be elements or text, and text stays text.
export function element(name, className = "", ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children.map((each) => (each instanceof Node ? each : plain(each))));
  return made;
}

const SVG = "http://www.w3.org/2000/svg";

export function shape(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.map((each) => (each instanceof Node ? each : plain(each))));
  return made;
}

function two(number) {
  return String(number).padStart(2, "0");
}
