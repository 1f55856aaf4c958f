// A layout drawn to scale: disks, their partitions, mirrors, LUKS, volumes, one above the other.
// What it is drawn from was sent by a machine: whatever is not as expected is left out.

import { amount, shape } from "./words.js";

const WIDTH = 640;
const ROW = 50;
const BAR = 26;
const NARROWEST = 3;
const LETTER = 6.6;

export function picture(layout) {
  const parts = [layout, ...list(layout.data)];
  const rows = parts.flatMap((each) => [...drawn(each)]).filter((row) => row.bars.length);
  const ends = rows.flatMap((row) => row.bars.map((each) => each.start + each.size));
  const largest = Math.max(0, ...ends);
  if (!largest) return null;
  const height = rows.length * ROW + 2;
  const scale = WIDTH / largest;
  const svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "img", class: "layout" });
  svg.append(shape("title", {}, "Layout of the disks, to scale"));
  rows.forEach((row, at) => {
    const top = at * ROW;
    svg.append(shape("text", { class: "row", x: 0, y: top + 13 }, row.title));
    for (const bar of row.bars) svg.append(box(bar, top + 18, scale));
  });
  return svg;
}

function box(bar, top, scale) {
  const left = Math.min(WIDTH - NARROWEST, bar.start * scale);
  const width = Math.max(NARROWEST, Math.min(WIDTH - left, bar.size * scale));
  const told = `${bar.name}${bar.name ? ", " : ""}${amount(bar.size, "bytes")}${bar.more ? `, ${bar.more}` : ""}`;
  const group = shape("g", { class: `bar ${bar.kind}` }, shape("title", {}, told));
  group.append(shape("rect", { x: left.toFixed(1), y: top, width: width.toFixed(1), height: BAR, rx: 2 }));
  if (bar.name.length * LETTER < width - 8) {
    group.append(shape("text", { x: (left + 5).toFixed(1), y: top + 17 }, bar.name));
  }
  return group;
}

function* drawn(layout) {
  const disks = list(layout.disks);
  for (const disk of disks) {
    const name = [disk.path, disk.model, disk.serial && `serial ${disk.serial}`].filter(Boolean).join(", ");
    const bars = list(disk.partitions).map((each) => bar(each.start, each.size, role(each.role), each.role));
    yield {
      title: `${name}, ${amount(bytes(disk.size), "bytes")}`,
      bars: [bar(0, disk.size, "disk", "", "whole disk"), ...bars],
    };
  }
  const partitions = new Map(list(disks[0]?.partitions).map((each) => [each.role, each]));
  // A disk of data has one partition. A RAID of more than a mirror is larger than it.
  const root = partitions.get("root") ?? partitions.get("data") ?? { start: 0, size: 0 };
  const built = Math.max(bytes(root.size), bytes(layout.volume_group?.size));
  const arrays = list(layout.arrays).map((each) => {
    const under = partitions.get(each.name) ?? { start: root.start, size: layout.image?.size ?? built };
    const members = `${list(each.members).length} members`;
    const what = layout.level ? "" : " mirror";
    return bar(under.start, under.size, role(each.name), `${each.name}${what}`, `${members}, metadata ${each.metadata}`);
  });
  yield { title: `${String(layout.level ?? "raid1").toUpperCase()} over ${disks.length} disks`, bars: arrays };
  if (layout.luks) {
    const what = `${layout.luks.cipher} ${layout.luks.key_size} bit`;
    yield { title: `LUKS2, ${what}`, bars: [bar(root.start, built, "luks", "LUKS2", `UUID ${layout.luks.uuid}`)] };
  }
  yield { title: `volume group ${layout.volume_group?.name ?? ""}`, bars: [...volumes(layout, bytes(root.start))] };
  if (layout.image) {
    yield { title: "image of a whole disk", bars: [bar(0, layout.image.size, "root", "image", layout.image.device)] };
  }
}

function* volumes(layout, start) {
  let at = start;
  let odd = false;
  for (const each of list(layout.volumes)) {
    const more = `${each.kind ?? ""}, ${list(each.options).join(",")}`;
    yield bar(at, each.size, odd ? "volume odd" : "volume", each.mount || each.name, more);
    at += bytes(each.size);
    odd = !odd;
  }
  const free = bytes(layout.volume_group?.free);
  if (free) yield bar(at, free, "free", "free");
}

function bar(start, size, kind, name, more = "") {
  return { start: bytes(start), size: bytes(size), kind, name: String(name ?? ""), more: String(more) };
}

const ROLES = new Set(["esp", "boot", "root", "image"]);
const role = (name) => (ROLES.has(name) ? name : "root");
const list = (value) => (Array.isArray(value) ? value.filter((each) => each !== null).slice(0, 100) : []);
const bytes = (value) => (Number.isFinite(value) && value > 0 ? value : 0);
