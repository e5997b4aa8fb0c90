"use strict";
// State, theme, legend and tables. Text of results only ever enters as text, never as markup.

const report = JSON.parse(document.getElementById("report-data").textContent);
const byId = (id) => document.getElementById(id);
const state = { view: null, anchor: report.anchor, hidden: new Set() };
const listeners = [];
const onChange = (listener) => listeners.push(listener);
const changed = (what) => listeners.forEach((listener) => listener(what));

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(key, "");
    else if (value !== false && value != null) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

function number(value, digits) {
  if (value == null) return "–";
  if (value === "inf") return "∞";
  return value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

function signed(value, digits) {
  if (value == null) return "–";
  const text = number(Math.abs(value), digits);
  if (Number(text.replace(/,/g, "")) === 0) return text;
  return (value > 0 ? "+" : "−") + text;
}

const swatchOf = (index) => document.querySelector(`.legend [data-curve="${index}"] .swatch`).cloneNode(true);

// ------------------------------------------------------------------------------------------ theme

function setTheme(theme, keep) {
  document.documentElement.dataset.theme = theme;
  byId("theme").setAttribute("aria-pressed", String(theme === "dark"));
  byId("theme").textContent = theme === "dark" ? "Light" : "Dark";
  byId("theme").setAttribute("aria-label", `Switch to ${theme === "dark" ? "light" : "dark"} colours`);
  if (keep) {
    try { localStorage.setItem("lictor-theme", theme); } catch { /* then only for this visit */ }
  }
  changed("theme");
}

byId("theme").addEventListener("click", () => {
  setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark", true);
});
let screenTheme = null;
addEventListener("beforeprint", () => {
  screenTheme = document.documentElement.dataset.theme;
  setTheme("light", false);
});
addEventListener("afterprint", () => setTheme(screenTheme ?? "light", false));

// -------------------------------------------------------------------------- metric, anchor, legend

function chooseView() {
  const metric = byId("metric").value;
  const known = report.views.filter((view) => view.metric === metric);
  const wanted = byId("aggregation").value;
  state.view = known.find((view) => view.aggregation === wanted) ?? known[0];
  const choices = new Set(known.map((view) => view.aggregation));
  byId("aggregation").parentElement.hidden = !metric.startsWith("psnr");
  for (const option of byId("aggregation").options) option.disabled = !choices.has(option.value);
  byId("aggregation").value = state.view.aggregation;
}

byId("metric").addEventListener("change", () => { chooseView(); changed("view"); });
byId("aggregation").addEventListener("change", () => { chooseView(); changed("view"); });
byId("anchor").addEventListener("change", () => {
  state.anchor = Number(byId("anchor").value);
  changed("anchor");
});

function toggleCurves() {
  for (const button of document.querySelectorAll(".legend [data-curve]")) {
    button.setAttribute("aria-pressed", String(!state.hidden.has(Number(button.dataset.curve))));
  }
  changed("legend");
}

document.querySelector(".legend").addEventListener("click", (event) => {
  const button = event.target.closest("[data-curve]");
  if (!button) return;
  const index = Number(button.dataset.curve);
  if (!state.hidden.delete(index)) state.hidden.add(index);
  toggleCurves();
});
document.querySelector(".legend").addEventListener("dblclick", (event) => {
  const button = event.target.closest("[data-curve]");
  if (!button) return;
  const index = Number(button.dataset.curve);
  const others = report.curves.map((_, i) => i).filter((i) => i !== index);
  const alone = others.every((i) => state.hidden.has(i));
  state.hidden = new Set(alone ? [] : others);
  toggleCurves();
});

// ----------------------------------------------------------------------------------------- tables

// A column is [title, kind, text of a cell, value to sort by]; kind is "text" or "number".
function table(columns, rows, caption) {
  const head = element("tr");
  for (const [title, kind] of columns) {
    head.append(element("th", { scope: "col", class: kind }, element("button", { type: "button" }, title)));
  }
  const body = element("tbody");
  for (const row of rows) {
    const line = element("tr");
    columns.forEach(([, kind, text, value], i) => {
      const shown = text(row);
      const sort = value ? value(row) : shown;
      const cell = element(i ? "td" : "th", { class: kind, scope: i ? null : "row" }, shown);
      cell.dataset.value = sort == null ? "" : sort === "inf" ? "Infinity" : String(sort);
      line.append(cell);
    });
    body.append(line);
  }
  return element("table", { class: "sortable" }, element("caption", { class: "unseen" }, caption),
    element("thead", {}, head), body);
}

function sortBy(header) {
  const sorted = header.closest("table");
  const headers = [...header.parentElement.children];
  const column = headers.indexOf(header);
  const rising = header.getAttribute("aria-sort") !== "ascending";
  headers.forEach((other) => other.removeAttribute("aria-sort"));
  header.setAttribute("aria-sort", rising ? "ascending" : "descending");
  const numbers = header.classList.contains("number");
  const key = (row) => row.cells[column]?.dataset.value ?? row.cells[column]?.textContent ?? "";
  for (const body of sorted.tBodies) {
    const rows = [...body.rows].map((row) => [key(row), row]);
    rows.sort(([a], [b]) => {
      if (a === "" || b === "") return (a === "") - (b === ""); // what is missing comes last
      const order = numbers ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true });
      return rising ? order : -order;
    });
    body.append(...rows.map(([, row]) => row));
  }
}

document.addEventListener("click", (event) => {
  const header = event.target.closest?.(".sortable th[scope=col]");
  if (header && event.target.closest("button")) sortBy(header);
});

function fill(box, made) {
  const old = box.querySelector("th[aria-sort]");
  const column = old && [...old.parentElement.children].indexOf(old);
  const order = old?.getAttribute("aria-sort");
  const title = old?.textContent;
  box.replaceChildren(made);
  const again = old && made.tHead?.rows[0].cells[column];
  if (again && again.textContent === title) {
    sortBy(again);
    if (order === "descending") sortBy(again);
  }
}

// --------------------------------------------------------------------------------------- BD tables

function showBd() {
  for (const body of document.querySelectorAll("#bd-rate [data-view]")) {
    body.hidden = body.dataset.view !== state.view.key || Number(body.dataset.anchor) !== state.anchor;
  }
  for (const name of document.querySelectorAll(".anchor-name")) name.textContent = report.curves[state.anchor].name;
  for (const name of document.querySelectorAll(".metric-name")) name.textContent = state.view.label;
}

const bdOf = (curve) => report.bd[state.view.key]?.[state.anchor]?.[curve] ?? null;

// --------------------------------------------------------------------------------- tables of rows

const ROW_COLUMNS = [
  ["bytes", "Bytes", 0], ["bpp", "bpp", 4], ["psnr", "PSNR dB", 2], ["psnr_y", "PSNR-Y dB", 2],
  ["ms_ssim", "MS-SSIM", 4], ["lpips", "LPIPS", 4], ["encode_s", "Encode s", 4], ["decode_s", "Decode s", 4],
];

function pictureName(name) {
  if (!report.pictures.some((picture) => picture.name === name)) return name;
  const link = element("a", { href: "#pictures" }, name);
  link.addEventListener("click", () => document.dispatchEvent(new CustomEvent("show-picture", { detail: name })));
  return link;
}

const capital = (word) => word[0].toUpperCase() + word.slice(1);

// Rows of signals keep the last axis and the product of the others.
function size(row) {
  return row.height === 1 ? number(row.width, 0) : `${row.width} × ${row.height}`;
}

function showPictureRates() {
  const box = byId("picture-rates");
  if (!box) return;
  const curves = report.curves.map((_, i) => i).filter((i) => i !== state.anchor && bdOf(i)?.per_image);
  const names = report.images.filter((_, n) => curves.some((i) => bdOf(i).per_image[n] != null));
  byId("picture-rates-none").hidden = names.length > 0;
  if (!names.length) return box.replaceChildren();
  const columns = [[capital(report.words.one), "text", pictureName, (name) => name]];
  for (const i of curves) {
    const value = (name) => bdOf(i).per_image[report.images.indexOf(name)];
    columns.push([report.curves[i].name, "number", (name) => signed(value(name), 1), value]);
  }
  fill(box, table(columns, names, `BD-rate in per cent of each ${report.words.one}`));
}

function showRows() {
  const curve = report.curves[Number(byId("rows-curve").value)];
  const rows = curve.rows[byId("rows-setting").value] ?? [];
  const known = ROW_COLUMNS.filter(([key]) => rows.some((row) => row[key] != null));
  const columns = [
    [capital(report.words.one), "text", (row) => pictureName(report.images[row.image]), (row) => report.images[row.image]],
    [report.words.size, "number", size, (row) => row.width * row.height],
    ...known.map(([key, title, digits]) => {
      const isRate = key === "bpp";
      const value = isRate ? (row) => row.bpp * curve.unit.per_bpp : (row) => row[key];
      return [isRate ? curve.unit.name : title, "number", (row) => number(value(row), digits), value];
    }),
  ];
  fill(byId("rows"), table(columns, rows, `Measurements of ${curve.name}`));
}

function listSettings() {
  const curve = report.curves[Number(byId("rows-curve").value)];
  const settings = curve.settings.filter((setting) => curve.rows[setting]);
  byId("rows-setting").replaceChildren(...settings.map((setting) => element("option", { value: setting }, setting)));
  byId("rows-setting").selectedIndex = Math.floor(settings.length / 2);
}

if (byId("rows-curve")) {
  byId("rows-curve").addEventListener("change", () => { listSettings(); showRows(); });
  byId("rows-setting").addEventListener("change", showRows);
  listSettings();
  showRows();
}

onChange((what) => {
  if (what !== "view" && what !== "anchor") return;
  showBd();
  showPictureRates();
});
