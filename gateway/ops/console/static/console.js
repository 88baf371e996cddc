// Keeps the numbers of a page current, draws its charts from the tables beside them, and shows times where the reader is.
// Without this script, every page shows the same facts as they were when it was loaded.
"use strict";

const SILENCE_MS = 5000; // The stream sends every second.
const RETRY_MS = 5000;

const start = () => {
  localise();
  draw();
  // The content was fetched again.
  document.body.addEventListener("htmx:after:swap", () => { localise(); draw(); });
  document.body.addEventListener("htmx:after:request", leaveWithoutSession);
  setInterval(localise, 10000);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  addEventListener("resize", resize);
  if (document.querySelector("[data-live]")) follow();
};

// --- live numbers ---------------------------------------------------------------------------------------------------

let stream = null;
let heardAt = Date.now();
const states = {};

// An element says in data-live which number it shows, as "overview.waiting" or "queues.bulk.waiting".
const follow = () => {
  const address = document.querySelector("[data-stream]").dataset.stream;
  const open = () => {
    // A browser opens few connections to one site: tabs that nobody sees use none.
    if (stream !== null || document.hidden) return;
    stream = new EventSource(address);
    stream.addEventListener("overview", event => hear("overview", JSON.parse(event.data)));
    stream.addEventListener("queues", event =>
      hear("queues", Object.fromEntries(JSON.parse(event.data).map(queue => [queue.name, queue]))));
    stream.addEventListener("error", () => { if (stream?.readyState === EventSource.CLOSED) stop(); });
  };
  const stop = () => { stream?.close(); stream = null; };
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return stop();
    heardAt = Date.now();
    open();
    htmx.trigger(document.body, "stale");
  });
  addEventListener("pagehide", stop);
  setInterval(open, RETRY_MS);
  setInterval(tellIfLost, 1000);
  open();
};

const hear = (name, facts) => {
  heardAt = Date.now();
  for (const element of document.querySelectorAll(`[data-live^="${name}."]`)) {
    const value = element.dataset.live.split(".").slice(1).reduce((part, key) => part?.[key], facts);
    const text = FORMATS[element.dataset.format ?? "number"](value ?? null);
    if (element.textContent !== text) element.textContent = text;
  }
  noticeChange(name, facts);
  tellIfLost();
};

// What appears and disappears is fetched, not built here.
const noticeChange = (name, facts) => {
  const now = JSON.stringify(SHAPES[name](facts));
  if (states[name] !== undefined && states[name] !== now) htmx.trigger(document.body, "stale");
  states[name] = now;
};

const SHAPES = {
  overview: overview => [overview.broker.status, overview.attention.map(each => [each.kind, each.link])],
  queues: queues => Object.values(queues).map(each => [each.state, each.hold?.id, each.consumers === null]),
};

const tellIfLost = () => {
  const lost = document.getElementById("lost");
  const isLost = !document.hidden && Date.now() - heardAt > SILENCE_MS;
  if (isLost === !lost.hidden) return;
  lost.hidden = !isLost;
  lost.textContent = isLost
    ? `These numbers are from ${clock(heardAt)}: the connection to tocsin, or from tocsin to its database, is lost. Trying again.`
    : "";
  document.body.classList.toggle("lost", isLost);
};

const leaveWithoutSession = event => {
  if (event.detail.ctx.response?.raw?.url?.includes("/ops/login/")) location.reload();
};

// --- numbers and times, as formats.py shows them --------------------------------------------------------------------

const UNITS = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];

const number = value => value === null ? "–" : Math.round(value).toLocaleString("en-US");

const duration = seconds => {
  if (seconds === null) return "–";
  if (seconds < 10) return seconds === 0 ? "0 s" : `${seconds.toFixed(1)} s`;
  const rest = Math.floor(seconds);
  const index = UNITS.findIndex(([, size]) => rest >= size);
  const [unit, size] = UNITS[index];
  if (size === 1) return `${rest} s`;
  const [smaller, smallerSize] = UNITS[index + 1];
  const second = Math.floor(rest % size / smallerSize);
  return `${Math.floor(rest / size)} ${unit}${second ? ` ${second} ${smaller}` : ""}`;
};

const milliseconds = value => {
  if (value === null) return "–";
  if (value >= 1000) return duration(value / 1000);
  return `${value >= 10 ? value.toFixed(0) : value.toFixed(1)} ms`;
};

// What is held does not drain, and neither does what is empty.
const drain = seconds => duration(seconds || null);

const FORMATS = { number, duration, milliseconds, drain };

const ZONED = new Intl.DateTimeFormat("en-GB", {
  day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", timeZoneName: "short",
});
const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const clock = moment => CLOCK.format(moment);
const PRECISE = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3 });
const DATE = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric", timeZoneName: "short" });

const ago = moment => {
  const seconds = (Date.now() - moment) / 1000;
  const size = Math.abs(seconds);
  if (size < 1) return "now";
  const words = duration(size < 60 ? size : Math.floor(size / 60) * 60);
  return seconds >= 0 ? `${words} ago` : `in ${words}`;
};

const TIMES = {
  ago: moment => ago(moment),
  at: moment => ZONED.format(moment),
  clock: moment => PRECISE.format(moment),
  day: moment => DATE.format(moment),
};

const localise = () => {
  for (const element of document.querySelectorAll("time.ago, time.at, time.clock, time.day")) {
    const moment = Date.parse(element.dateTime);
    element.title = `${ZONED.format(moment)}, ${element.dateTime}`;
    element.textContent = TIMES[element.className](moment);
  }
};

// --- charts ---------------------------------------------------------------------------------------------------------

const plots = new Map();
const COLOURS = ["--accent", "--resolved", "--critical", "--warning"];

const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

const draw = () => {
  for (const figure of document.querySelectorAll(".chart")) {
    const table = figure.querySelector("details table");
    const place = figure.querySelector(".plot");
    if (!table) continue;
    const data = read(table);
    const known = plots.get(place);
    if (known) { known.setData(data); continue; }
    const names = [...table.tHead.rows[0].cells].slice(1).map(cell => cell.textContent);
    plots.set(place, new uPlot(options(place, names, FORMATS[figure.dataset.format ?? "number"]), data, place));
  }
};

const read = table => {
  const rows = [...table.tBodies[0].rows].reverse();
  const columns = [rows.map(row => Date.parse(row.querySelector("time").dateTime) / 1000)];
  for (let index = 1; index < table.tHead.rows[0].cells.length; index++)
    columns.push(rows.map(row => row.cells[index].dataset.value === "" ? null : Number(row.cells[index].dataset.value)));
  return columns;
};

const options = (place, names, format) => {
  const axis = { stroke: colour("--muted"), grid: { stroke: colour("--border"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
  return {
    width: place.clientWidth,
    height: 180,
    cursor: { y: false, drag: { x: false, y: false } },
    scales: { y: { range: (_, low, high) => [0, Math.max(high ?? 0, 1) * 1.05] } },
    axes: [
      { ...axis, size: 28, values: (_, moments, __, ___, step) => moments.map(moment => tick(moment, step)) },
      { ...axis, size: 64, values: (_, values) => values.map(value => Number.isInteger(value) ? format(value) : "") },
    ],
    series: [
      { label: "Time", value: (_, moment) => moment === null ? "" : ZONED.format(moment * 1000) },
      ...names.map((label, index) => ({
        label, stroke: colour(COLOURS[index]), width: 1.5, points: { show: false }, dash: index ? [6, 3] : undefined,
        value: (_, value, __, index) => index === null ? "" : format(value),
      })),
    ],
  };
};

const HOUR = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const tick = (moment, step) => (step >= 86400 ? DAY : HOUR).format(moment * 1000);

const resize = () => plots.forEach((plot, place) => plot.setSize({ width: place.clientWidth, height: 180 }));

const redraw = () => {
  plots.forEach(plot => plot.destroy());
  plots.clear();
  draw();
};

// Deferred scripts run in order, after the page was read.
start();
