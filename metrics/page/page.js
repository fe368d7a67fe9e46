// The page's own code. It keeps what the events have brought, and draws it; it asks for nothing else.
//
//   /events ─▶ receive ─▶ apply ─▶ History (the last 5 minutes) ─▶ draw: tiles, chart, table
//
// Time is that of the events, never that of this browser: a tab in the background may get its timers late, or not at all.
"use strict";

const SPAN = 300_000; // what the chart shows, in milliseconds
const KEPT = 360; // samples, one a second
const BREAK = 3_500; // milliseconds between two samples, from which on nothing is known of what was between
const LINES = 6; // lines of their own in the chart
const SILENCE = 20_000; // milliseconds without an event, after which the connection is taken for dead

const $ = (id) => document.getElementById(id);

// set writes only what has changed, so that a selection of text stays.
function set(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// figure shows a whole number, and keeps it exact for programs.
function figure(node, value) {
  node.value = value.toString();
  set(node, whole.format(value));
}

// node makes an element, or one of an SVG.
function node(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}
function shape(name, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

// ---- numbers and times for people

const whole = new Intl.NumberFormat("en");
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });

// short is a rate in few digits: 1,234 and 12.3 k packets, 1.23 kB.
function short(value, unit) {
  const bytes = unit === "bytes";
  let prefix = 0;
  if (value >= (bytes ? 999.5 : 9999.5)) while (value >= 999.5 && prefix < 5) (value /= 1000), prefix++;
  const digits = value === 0 || value >= 99.95 ? 0 : value >= 9.95 || !prefix ? 1 : 2;
  const number = prefix ? value.toFixed(digits) : whole.format(value.toFixed(value >= 9.95 ? 0 : digits));
  return number + (prefix || bytes ? " " : "") + ["", "k", "M", "G", "T", "P"][prefix] + (bytes ? "B" : "");
}
const tick = (value, unit) => short(value, unit).replace(/(\.\d*?)0+(?= |$)/, "$1").replace(/\.(?= |$)/, "");
const brief = (value, unit) => short(value, unit) + "/s";
const perSecond = (value, unit) => (unit === "bytes" ? brief(value, unit) : short(value, unit) + " packets/s");

// ---- what is known of the last minutes

// History holds one sample per event: its time, and the rates since the sample before, by key of a protocol and family.
// A protocol without packets is not in there; rates are null where they are not known: behind a gap, and for the first.
class History {
  samples = [];
  last = null; // event

  add(event) {
    const before = this.last;
    const passed = before ? event.time - before.time : 0;
    if (before?.epoch === event.epoch && passed === 0) return; // the latest one again, as after a reconnection
    if (passed < 0) this.samples = []; // the host's clock was set back
    this.samples.push({ time: event.time, rates: this.rates(before, event, passed) });
    this.last = event;
    while (this.samples.length > KEPT || this.samples[0].time < event.time - SPAN) this.samples.shift();
  }

  rates(before, event, passed) {
    if (!before || before.epoch !== event.epoch || passed <= 0 || passed > BREAK) return null;
    const old = before.byKey;
    const rates = new Map();
    for (const [key, p] of event.byKey) {
      const packets = p.packets - (old.get(key)?.packets ?? 0n);
      const bytes = p.bytes - (old.get(key)?.bytes ?? 0n);
      if (packets < 0n || bytes < 0n) return null; // counted anew
      if (packets > 0n) rates.set(key, { packets: (Number(packets) * 1000) / passed, bytes: (Number(bytes) * 1000) / passed });
    }
    for (const key of old.keys()) if (!event.byKey.has(key)) return null;
    return rates;
  }

  get latest() {
    return this.samples.at(-1);
  }

  // rate of one key in a sample whose rates are known.
  static rate(sample, key, unit) {
    return sample.rates.get(key)?.[unit] ?? 0;
  }

  static sum(sample, unit) {
    let sum = 0;
    for (const rate of sample.rates.values()) sum += rate[unit];
    return sum;
  }
}

const past = new History();
const names = new Map(); // key: the latest figures of a protocol and family

// ---- what the reader has chosen

let unit = "packets";
let paused = false;
let waiting = []; // events that came while paused
let cursor = null; // time of a sample, or null for now
let sort = { by: "packets", down: true };

// ---- events

function receive(event) {
  lost = null;
  heard = performance.now();
  if (paused) {
    waiting.push(event);
    if (waiting.length > KEPT) waiting.shift();
    link();
    return;
  }
  apply(event);
  draw();
}

function apply(event) {
  event.byKey = new Map();
  for (const p of event.protocols) {
    const key = `${p.name} ${p.family}`;
    for (const field of ["packets", "bytes", "published"]) p[field] = BigInt(p[field]);
    event.byKey.set(key, p);
    names.set(key, p);
  }
  const before = past.last;
  past.add(event);
  delete event.protocols;
  if (names.size > 2 * event.byKey.size + KEPT) for (const key of names.keys()) if (!event.byKey.has(key)) names.delete(key);
  trouble("");
  if (!before) return;
  if (before.start !== event.start) say("state", event.start ? "counting started" : "counting stopped");
  if (BigInt(event.uncounted) > BigInt(before.uncounted)) say("uncounted", `${whole.format(BigInt(event.uncounted))} packets uncounted`);
}

// trouble shows why there are no figures, if there are none.
function trouble(text) {
  $("trouble").hidden = !text;
  set($("trouble"), text);
}

// ---- the connection

let source = null;
let lost = null; // since when there is none, by this browser's clock
let heard = 0; // when the last event came, by the monotonic clock
let delay = 1000;
let retry = 0;

function connect() {
  clearTimeout(retry);
  retry = 0;
  source?.close();
  heard = performance.now();
  source = new EventSource("events");
  source.onmessage = (message) => {
    delay = 1000;
    receive(JSON.parse(message.data));
  };
  source.addEventListener("trouble", (message) => {
    heard = performance.now();
    trouble(JSON.parse(message.data).error);
  });
  source.onopen = () => {
    lost = null;
    link();
  };
  source.onerror = () => {
    lost ??= Date.now();
    link();
    // The browser tries again by itself, unless the answer was no stream (503, or a proxy's error).
    if (source.readyState === EventSource.CLOSED && !retry) {
      retry = setTimeout(connect, delay);
      delay = Math.min(2 * delay, 30_000);
    }
  };
}

// awake is for a page that may have slept: what has come in the meantime is yet to be delivered.
function awake() {
  heard = performance.now();
  if (source.readyState === EventSource.CLOSED) connect();
  if (!document.hidden) drawNow();
}

// watch takes a connection for dead on which nothing comes, though nobody has closed it.
function watch() {
  if (performance.now() - heard > SILENCE) {
    lost ??= Date.now();
    connect();
    link();
  }
}

function link() {
  const badge = $("link");
  const [state, text] = lost
    ? ["lost", `reconnecting since ${clock.format(lost)}`]
    : paused ? ["wait", "paused"] : source.readyState === EventSource.OPEN ? ["live", "live"] : ["wait", "connecting"];
  if (badge.dataset.state !== state && (state === "lost" || badge.dataset.state === "lost")) {
    say("connection", state === "lost" ? "connection lost" : "connected again");
  }
  badge.dataset.state = state;
  set(badge, text);
}

// say tells a screen reader what is new, the latest of each topic, at most every 5 seconds.
const news = new Map();
let saying = 0;
function say(topic, text) {
  news.set(topic, text);
  saying ||= setTimeout(speak, 200);
}
function speak() {
  set($("status"), [...news.values()].join("; "));
  news.clear();
  saying = setTimeout(() => {
    saying = 0;
    if (news.size) speak();
  }, 5000);
}

// ---- drawing

let asked = 0;
function draw() {
  titled();
  asked ||= requestAnimationFrame(drawNow);
}

function drawNow() {
  cancelAnimationFrame(asked);
  asked = 0;
  link();
  if (!past.last) return;
  titled();
  drawTiles(past.last, past.latest);
  drawChart();
  drawTable(past.last, past.latest);
}

function titled() {
  const rates = past.latest?.rates;
  document.title = (rates ? perSecond(History.sum(past.latest, "packets"), "packets") + " · " : "") + "kstat";
}

function drawTiles(event, latest) {
  const started = $("started");
  started.dataset.on = event.start;
  set(started, event.start ? "started" : "stopped");
  set($("at"), `as of ${clock.format(event.time)}`);
  for (const name of ["nout", "publications", "pending", "counter", "uncounted"]) figure($(name), BigInt(event[name]));
  set($("times"), BigInt(event.publications) === 1n ? "time" : "times");
  $("fill").value = Number(event.pending) / event.counter;
  set($("now-packets"), latest.rates ? short(History.sum(latest, "packets"), "packets") : "–");
  set($("now-bytes"), latest.rates ? perSecond(History.sum(latest, "bytes"), "bytes") : "not known yet");

  const none = BigInt(event.uncounted) === 0n;
  $("uncounted-tile").classList.toggle("alarm", !none);
  set($("uncounted-note"), none ? "every packet was counted" : "packets passed and were not counted");
  const mended = [
    [event.gaps, "gap"], [event.restarts, "worker restart"], [event.repairs, "rule repair"], [event.flushes, "queue flush"],
  ].filter(([n]) => n).map(([n, what]) => `${whole.format(n)} ${what}${n > 1 ? (what.endsWith("h") ? "es" : "s") : ""}`);
  if (event.gap_open) mended.unshift("a gap goes on");
  $("mended-tile").hidden = !mended.length;
  $("mended-tile").classList.toggle("alarm", event.gap_open);
  const list = $("mended");
  if (list.textContent !== mended.join("")) list.replaceChildren(...mended.map((text) => node("span", {}, text)));

  for (const name of ["hook", "engine", "version"]) set($(name), event[name]);
  $("control").hidden = !event.control;
  $("counter-value").placeholder = event.counter;
  set($("start"), event.start ? "Stop counting" : "Start counting");
}

// ---- chart

const slots = new Map(); // key: which of the LINES it has, as long as it is among the busiest

// busiest gives the keys with the most traffic in the chart their lines, and tells whether there are others.
function busiest(samples) {
  const sums = new Map();
  for (const { rates } of samples) {
    if (rates) for (const [key, rate] of rates) sums.set(key, (sums.get(key) ?? 0) + rate[unit]);
  }
  const order = [...sums.keys()].sort((a, b) => sums.get(b) - sums.get(a) || (a < b ? -1 : 1));
  const top = order.slice(0, LINES);
  for (const key of slots.keys()) if (!top.includes(key)) slots.delete(key);
  const free = [...Array(LINES).keys()].filter((slot) => ![...slots.values()].includes(slot));
  for (const key of top) if (!slots.has(key)) slots.set(key, free.shift());
  return { top, others: order.slice(LINES) };
}

// lines lists what is drawn: a class for its look, a name, and the rate in a sample.
function lines(samples) {
  const { top, others } = busiest(samples);
  const list = top.map((key) => ({
    look: `s${slots.get(key)}`, name: names.get(key).name, family: names.get(key).family,
    rate: (sample) => History.rate(sample, key, unit),
  }));
  if (others.length) {
    list.push({ look: "rest", name: `${others.length} others`, family: "",
      rate: (sample) => others.reduce((sum, key) => sum + History.rate(sample, key, unit), 0) });
  }
  return list;
}

// scale returns a round number of at least max, and the steps to it.
function scale(max) {
  if (max <= 0) return { top: 1, step: 0.5 };
  const raw = max / 4;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((n) => n * power).find((n) => n >= raw);
  return { top: Math.ceil(max / step - 1e-9) * step, step };
}

let plot = null; // where the chart is, for the pointer

function drawChart() {
  const box = $("chart");
  const { width, height } = box.getBoundingClientRect();
  if (width < 100 || !past.latest) return;
  const { samples } = past;
  const end = past.latest.time;
  const list = lines(samples);
  const known = samples.filter((sample) => sample.rates);
  const { top, step } = scale(Math.max(0, ...known.map((sample) => Math.max(0, ...list.map((line) => line.rate(sample))))));
  plot = { left: unit === "bytes" ? 62 : 52, right: width - 12, top: 12, bottom: height - 26, end };
  const x = (time) => plot.right - ((end - time) / SPAN) * (plot.right - plot.left);
  const y = (rate) => plot.bottom - (rate / top) * (plot.bottom - plot.top);

  const art = shape("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true", focusable: "false" },
    shape("defs", {}, shape("pattern", { id: "hatch", width: 6, height: 6, patternUnits: "userSpaceOnUse" },
      shape("path", { d: "M-1 7L7 -1M-1 1L1 -1M5 7L7 5" }))));
  for (let value = 0; value <= top * 1.001; value += step) {
    art.append(
      shape("line", { class: "grid", x1: plot.left, x2: plot.right, y1: y(value), y2: y(value) }),
      shape("text", { x: plot.left - 8, y: y(value) + 4, "text-anchor": "end" }, tick(value, unit)));
  }
  for (let minute = 0; minute <= SPAN / 60_000; minute++) {
    if (minute && (width < 500 && minute % 2 === 0 || width < 340 && minute === 1)) continue;
    const at = x(end - minute * 60_000);
    art.append(shape("text", { x: at, y: plot.bottom + 18, "text-anchor": minute === 0 ? "end" : minute === 5 ? "start" : "middle" },
      minute === 0 ? "now" : `−${minute} min`));
  }
  for (let i = 1; i < samples.length; i++) {
    if (samples[i].rates) continue;
    const from = x(samples[i - 1].time);
    art.append(shape("rect", { class: "nodata", x: from, y: plot.top, width: Math.max(2, x(samples[i].time) - from), height: plot.bottom - plot.top }));
  }

  for (const line of list) {
    let path = "";
    let area = "";
    let open = null; // where the piece began
    samples.forEach((sample, i) => {
      if (!sample.rates) {
        open = null;
        return;
      }
      const point = `${x(sample.time).toFixed(1)} ${y(line.rate(sample)).toFixed(1)}`;
      if (open === null) {
        open = x(sample.time).toFixed(1);
        path += `M${point}h0`; // a piece of one point is a dot
        area += `M${open} ${plot.bottom}L${point}`;
      } else {
        path += `L${point}`;
        area += `L${point}`;
      }
      if (!samples[i + 1]?.rates) area += `V${plot.bottom}Z`;
    });
    art.append(shape("path", { class: `area ${line.look}`, d: area }), shape("path", { class: `series ${line.look}`, d: path }));
  }

  const chosen = samples.find((sample) => sample.time === cursor);
  if (!chosen) cursor = null;
  const sample = chosen ?? past.latest;
  if (chosen) {
    art.append(shape("line", { class: "cursor", x1: x(cursor), x2: x(cursor), y1: plot.top, y2: plot.bottom }));
    if (chosen.rates) {
      for (const line of list) art.append(shape("circle", { class: `dot ${line.look}`, cx: x(cursor), cy: y(line.rate(chosen)), r: 5 }));
    }
  }
  box.querySelector("svg")?.remove();
  box.append(art);
  drawLegend(list, sample, chosen);
  describe(box, list, sample, known);
}

function swatch(look) {
  return shape("svg", { class: "swatch", viewBox: "0 0 28 8", "aria-hidden": "true" }, shape("path", { class: `series ${look}`, d: "M2 4H26" }));
}

function drawLegend(list, sample, chosen) {
  set($("when"), chosen ? `at ${clock.format(sample.time)}${sample.rates ? `, ${unit} per second` : ": no data"}` : `now, ${clock.format(sample.time)}, ${unit} per second`);
  $("legend").replaceChildren(...list.map((line) => node("li", {}, swatch(line.look), line.name,
    node("span", { class: "family" }, line.family),
    node("b", {}, sample.rates ? brief(line.rate(sample), unit) : "–"))));
}

// describe is the chart in words: the value of the slider for the point in time, and a summary.
let described = 0;
function describe(box, list, sample, known) {
  const index = past.samples.indexOf(sample);
  const rates = !sample.rates ? "no data" : list.map((line) => `${line.name} ${line.family} ${perSecond(line.rate(sample), unit)}`).join(", ") || "no packets";
  box.setAttribute("aria-valuemax", past.samples.length - 1);
  box.setAttribute("aria-valuenow", index);
  if (cursor !== null || document.activeElement !== box) box.setAttribute("aria-valuetext", `${clock.format(sample.time)}: ${rates}`);
  const end = past.latest.time;
  if (end - described < 10_000 && end >= described) return; // a summary need not be newer
  described = end;
  const lately = list.map((line) => {
    const values = known.map(line.rate);
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
    return `${line.name} ${line.family} ${perSecond(mean, unit)} on average, ${perSecond(Math.max(...values), unit)} at most`;
  });
  set($("chart-text"), `Rates of the last ${Math.round((end - past.samples[0].time) / 1000)} seconds: ${lately.join("; ") || "no packets"}.`);
}

// at puts the cursor on the sample that is nearest to a place of the pointer.
function at(event) {
  if (!plot || !past.latest) return;
  const { left } = $("chart").getBoundingClientRect();
  const time = plot.end - ((plot.right - (event.clientX - left)) / (plot.right - plot.left)) * SPAN;
  cursor = past.samples.reduce((best, sample) => Math.abs(sample.time - time) < Math.abs(best - time) ? sample.time : best, Infinity);
  drawChart();
}

function move(event) {
  const { samples } = past;
  if (!samples.length) return;
  const last = samples.length - 1;
  const here = cursor === null ? last : samples.findIndex((sample) => sample.time === cursor);
  const to = {
    ArrowLeft: here - 1, ArrowDown: here - 1, ArrowRight: here + 1, ArrowUp: here + 1,
    PageDown: here - 10, PageUp: here + 10, Home: 0, End: last, Escape: null,
  }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  cursor = to === null ? null : samples[Math.min(last, Math.max(0, to))].time;
  drawChart();
}

// ---- table

const rate = (unit) => (p, sample) => sample.rates?.get(p.key)?.[unit] ?? (sample.rates ? 0 : null);
const columns = [
  { id: "name", head: "Protocol", text: true, value: (p) => p.name },
  { id: "number", wide: true, head: "No.", value: (p) => p.number ?? 256, show: (cell, p) => set(cell, p.number === null ? "–" : String(p.number)) },
  { id: "family", wide: true, head: "Family", text: true, value: (p) => p.family },
  { id: "packets-rate", head: "Packets/s", value: rate("packets"), show: (cell, p, v) => set(cell, v === null ? "–" : short(v, "packets")) },
  { id: "bytes-rate", head: "Bytes/s", value: rate("bytes"), show: (cell, p, v) => set(cell, v === null ? "–" : short(v, "bytes")) },
  { id: "packets", head: "Packets", value: (p) => p.packets, show: showFigure },
  { id: "bytes", head: "Bytes", value: (p) => p.bytes, show: showFigure },
  { id: "published", head: "Published", value: (p) => p.published, show: showFigure },
  { id: "share", head: "Share of packets", value: (p) => p.packets, show: showShare },
];

function showFigure(cell, p, value) {
  if (!cell.firstChild) cell.append(node("data"));
  figure(cell.firstChild, value);
}

function showShare(cell, p, value, total) {
  if (!cell.firstChild) cell.append(node("span", {}, node("i"), node("data")));
  const [bar, text] = cell.firstChild.children;
  const part = total ? Number((value * 100_000n) / total) / 1000 : 0;
  bar.style.setProperty("--part", `${part}%`);
  text.value = part;
  set(text, `${part < 10 ? part.toFixed(1) : part.toFixed(0)} %`);
}

const look = (column) => [column.text ? "text" : "", column.wide ? "wide" : "", column.id].join(" ").trim();

function makeHeads() {
  $("heads").append(...columns.map((column) => {
    const button = node("button", { type: "button" }, column.head);
    button.onclick = () => {
      sort = { by: column.id, down: sort.by === column.id ? !sort.down : !column.text };
      drawNow();
    };
    return node("th", { scope: "col", class: look(column) }, button);
  }));
}

const rows = new Map(); // key: element

function drawTable(event, sample) {
  $("empty").hidden = event.byKey.size > 0;
  columns.forEach((column, i) => {
    const head = $("heads").children[i];
    if (column.id === sort.by) head.setAttribute("aria-sort", sort.down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  });
  let total = 0n;
  for (const [key, p] of event.byKey) {
    p.key = key;
    total += p.packets;
  }
  for (const [key, row] of rows) {
    if (event.byKey.has(key)) continue;
    row.remove();
    rows.delete(key);
  }
  const { value } = columns.find((column) => column.id === sort.by);
  const direction = sort.down ? -1 : 1;
  const order = [...event.byKey.values()].sort((a, b) => {
    const [left, right] = [value(a, sample), value(b, sample)];
    if (left !== right) return left < right ? -direction : direction;
    return a.key < b.key ? -1 : 1;
  });
  order.forEach((p, i) => {
    const row = rows.get(p.key) ?? makeRow(p);
    columns.forEach((column, i) => column.show?.(row.children[i], p, column.value(p, sample), total));
    row.querySelector(".swatch path").setAttribute("class", `series ${slots.has(p.key) ? `s${slots.get(p.key)}` : "rest"}`);
    if ($("rows").children[i] !== row) $("rows").insertBefore(row, $("rows").children[i] ?? null);
  });
}

function makeRow(p) {
  const row = node("tr", { "data-key": p.key }, node("th", { scope: "row" }, swatch("rest"), p.name,
    node("span", { class: "family narrow" }, p.family)));
  for (const column of columns.slice(1)) row.append(node("td", { class: look(column) }));
  set(row.children[2], p.family);
  rows.set(p.key, row);
  return row;
}

// ---- control

const TOKEN = "kstat-token"; // in sessionStorage, and nowhere else

// store writes to a file of the tree. What the server says against it is one line.
async function store(file, text, token) {
  let answer;
  try {
    answer = await fetch(`control/${file}`, { method: "POST", body: text, headers: { Authorization: `Bearer ${token}` } });
  } catch {
    throw new Error("kstatd cannot be reached: is it running?");
  }
  if (answer.ok) return;
  if (answer.status === 401) unlock(null);
  throw new Error((await answer.text()).trim() || `kstatd answered ${answer.status}`);
}

// attempt runs one write and says how it went.
async function attempt(action, done) {
  try {
    await action();
    said(done, false);
    return true;
  } catch (error) {
    said(error.message, true);
    return false;
  }
}

function said(text, bad) {
  $("said").hidden = !text;
  $("said").classList.toggle("bad", bad);
  set($("said"), text);
}

function unlock(token) {
  if (token === null) sessionStorage.removeItem(TOKEN);
  else sessionStorage.setItem(TOKEN, token);
  const open = token !== null;
  $("token-form").hidden = open;
  $("controls").hidden = $("forget").hidden = !open;
}
const token = () => sessionStorage.getItem(TOKEN) ?? "";

// invalid says what is wrong with an input, and goes there.
function invalid(input, text) {
  input.setAttribute("aria-invalid", "true");
  said(text, true);
  input.focus();
}

$("token-form").onsubmit = async (event) => {
  event.preventDefault();
  const input = $("token");
  const value = input.value.trim();
  if (!/^[\x21-\x7e]+$/.test(value)) return invalid(input, "a token is letters, digits and signs without blanks");
  input.removeAttribute("aria-invalid");
  if (await attempt(() => store("start", "", value), "unlocked")) { // a write of nothing changes nothing
    input.value = "";
    unlock(value);
    $("start").focus();
  }
};

$("start").onclick = () => {
  const on = past.last.start ? "0" : "1";
  attempt(() => store("start", on, token()), on === "1" ? "counting started" : "counting stopped");
};

$("counter-form").onsubmit = async (event) => {
  event.preventDefault();
  const input = $("counter-value");
  const value = input.value.trim();
  if (!/^[0-9]{1,10}$/.test(value) || Number(value) < 1 || Number(value) > 2 ** 32 - 1) {
    return invalid(input, `counter takes a whole number from 1 to 4294967295, not “${value}”`);
  }
  input.removeAttribute("aria-invalid");
  await attempt(() => store("counter", value, token()), `published after every ${whole.format(Number(value))} packets`);
};

$("reset").onclick = () => {
  $("sure").returnValue = "no";
  $("sure").showModal();
};
$("sure").onclose = () => {
  if ($("sure").returnValue === "yes") attempt(() => store("reset", "1", token()), "the figures were set to zero");
};
$("forget").onclick = () => {
  unlock(null);
  said("", false);
  $("token").focus();
};

// ---- theme, pause and the rest

const themes = ["auto", "light", "dark"];
function theme(name) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  set($("theme"), `Theme: ${name}`);
}
function stored() {
  try {
    const name = localStorage.getItem("kstat-theme");
    return themes.includes(name) ? name : "auto";
  } catch {
    return "auto"; // no storage for us
  }
}
$("theme").onclick = () => {
  const next = themes[(themes.indexOf(document.documentElement.dataset.theme ?? "auto") + 1) % themes.length];
  try {
    localStorage.setItem("kstat-theme", next);
  } catch {} // it lasts as long as the page, then
  theme(next);
};

$("pause").onclick = () => {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", paused);
  set($("pause"), paused ? "Resume" : "Pause");
  if (!paused) {
    for (const event of waiting) apply(event);
    waiting = [];
  }
  drawNow();
};

for (const input of document.querySelectorAll("input[name=unit]")) {
  input.onchange = () => {
    unit = input.value;
    described = 0;
    drawNow();
  };
}

const chart = $("chart");
chart.onpointermove = at;
chart.onpointerdown = at;
chart.onpointerleave = () => {
  cursor = null;
  drawChart();
};
chart.onkeydown = move;
chart.onblur = chart.onpointerleave;
new ResizeObserver(drawChart).observe(chart);

document.addEventListener("visibilitychange", awake);
document.addEventListener("resume", awake);
window.addEventListener("pageshow", awake);
window.addEventListener("online", awake);
setInterval(watch, 5000);

theme(stored());
set($("host"), location.host);
unlock(sessionStorage.getItem(TOKEN));
makeHeads();
connect();
