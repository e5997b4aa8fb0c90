"use strict";
// The charts: figures come ready from the data; here they get the theme's colours.

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const RATE_TICKS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50];
const narrow = matchMedia("(max-width: 40rem), (pointer: coarse)").matches;
const CONFIG = {
  displayModeBar: narrow ? false : "hover",
  displaylogo: false,
  responsive: true,
  showSendToCloud: false,
  showLink: false,
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
};

function themed(figure) {
  const { data, layout } = structuredClone(figure);
  for (const trace of data) {
    const colour = css(`--curve-${trace.meta}`);
    trace.visible = !state.hidden.has(trace.meta);
    trace.marker.color = colour;
    if (trace.marker.symbol.endsWith("-open")) trace.marker.line = { color: colour, width: 1.6 };
    if (trace.line) trace.line.color = colour;
    if (trace.error_x) trace.error_x.color = colour;
  }
  const axis = {
    gridcolor: css("--grid"), linecolor: css("--line-strong"), tickcolor: css("--line-strong"),
    zeroline: false, showline: true, ticks: "outside", ticklen: 4, automargin: true,
  };
  const title = { font: { size: 13, color: css("--text") }, standoff: 10 };
  for (const name of ["xaxis", "yaxis"]) {
    layout[name] = { ...axis, ...layout[name] };
    if (layout[name].title) layout[name].title = { ...title, ...layout[name].title };
    if (layout[name].type === "log") Object.assign(layout[name], { tickformat: "~g", dtick: 1, minor: { dtick: "D1", ticks: "outside", ticklen: 2 } });
  }
  return [data, {
    ...layout,
    font: { family: css("--font"), size: 12.5, color: css("--muted") },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 56, r: 14, t: 30, b: 48 },
    showlegend: false,
    hovermode: "closest",
    dragmode: narrow ? false : "zoom",
    hoverlabel: { bgcolor: css("--panel"), bordercolor: css("--line-strong"), align: "left",
      font: { family: css("--font"), size: 13, color: css("--text") } },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--muted"), activecolor: css("--accent") },
  }];
}

function showRd() {
  const figure = structuredClone(report.rd[state.view.key]);
  if (document.querySelector("[name=rate-axis]:checked").value === "log") {
    Object.assign(figure.layout.xaxis, { type: "log", rangemode: "normal" });
  }
  const [data, layout] = themed(figure);
  if (layout.xaxis.type === "log") Object.assign(layout.xaxis, { dtick: null, minor: {}, tickvals: RATE_TICKS, ticktext: RATE_TICKS.map(String) });
  Plotly.react("rd-chart", data, layout, CONFIG);
  const shown = new Set(figure.data.map((trace) => trace.meta));
  const missing = report.curves.filter((_, i) => !shown.has(i)).map((curve) => curve.name);
  byId("rd-note").textContent = missing.length ? `Not known in this measure: ${missing.join(", ")}.` : "";
  byId("rd-note").hidden = !missing.length;
}

function showPoints() {
  const figure = report.rd[state.view.key];
  const rows = figure.data.flatMap((trace) => trace.x.map((bpp, i) => ({
    curve: trace.meta, setting: report.curves[trace.meta].points[state.view.key][i], bpp, quality: trace.y[i],
  })));
  const name = (row) => report.curves[row.curve].name;
  const columns = [
    ["Codec", "text", (row) => element("span", { class: "named" }, swatchOf(row.curve), name(row)), name],
    ["Setting", "text", (row) => row.setting],
    [report.unit, "number", (row) => number(row.bpp, 4), (row) => row.bpp],
    [state.view.label, "number", (row) => number(row.quality, state.view.digits), (row) => row.quality],
  ];
  fill(byId("points"), table(columns, rows, "Points of all curves"));
}

// A log axis over less than two decades needs more labels than its powers of ten.
function niceLog(axis, values) {
  const low = Math.min(...values) / 1.6, high = Math.max(...values) * 1.6;
  const ticks = [];
  const room = byId("time-chart").clientWidth < 600 ? 1.5 : 3.2; // decades
  const steps = Math.log10(high / low) > room ? [1] : [1, 2, 5];
  for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); e++) {
    for (const step of steps) ticks.push(Number((step * 10 ** e).toPrecision(3)));
  }
  const text = (t) => t >= 1 ? `${t} s` : t >= 0.001 ? `${Number((t * 1000).toPrecision(3))} ms` : `${Number((t * 1e6).toPrecision(3))} µs`;
  Object.assign(axis, { range: [Math.log10(low), Math.log10(high)], dtick: null, minor: {}, tickvals: ticks, ticktext: ticks.map(text) });
}

function showTimes() {
  if (!byId("time-chart")) return;
  const figure = structuredClone(report.times[byId("time-unit").value]);
  const against = byId("time-kind").value === "bd";
  if (against) {
    figure.data = figure.data.filter((trace) => trace.meta === state.anchor || bdOf(trace.meta)?.rate != null);
    for (const trace of figure.data) {
      const rate = trace.meta === state.anchor ? 0 : bdOf(trace.meta).rate;
      trace.y = [rate];
      if (!trace.marker.symbol.endsWith("-open")) {
        Object.assign(trace, { mode: "markers+text", text: [trace.name], textposition: "top center", cliponaxis: false });
      }
      trace.hovertemplate = trace.hovertemplate.replace("<extra>", `<br>BD-rate ${signed(rate, 1)} %<extra>`);
    }
    const rates = figure.data.map((trace) => trace.y[0]);
    const room = 0.12 * Math.max(10, Math.max(...rates) - Math.min(...rates));
    figure.layout.yaxis = { title: { text: "BD-rate, lower is better" }, ticksuffix: " %", range: [Math.min(...rates) - room, Math.max(...rates) + 1.4 * room] };
  }
  const short = (name) => (byId("time-chart").clientWidth < 500 && name.length > 12 ? `${name.slice(0, 11)}…` : name);
  if (!against) figure.layout.yaxis.ticktext = figure.layout.yaxis.ticktext.map((name) => short(name));
  const [data, layout] = themed(figure);
  const values = figure.data.flatMap((trace) => [trace.x[0] - trace.error_x.arrayminus[0], trace.x[0] + trace.error_x.array[0]]);
  if (values.length) niceLog(layout.xaxis, values);
  const codecs = new Set(figure.data.map((trace) => trace.meta)).size;
  const height = against ? 384 : 100 + 48 * codecs;
  byId("time-chart").style.height = `${height}px`;
  layout.height = height;
  Plotly.react("time-chart", data, layout, CONFIG);
}

for (const radio of document.querySelectorAll("[name=rate-axis]")) radio.addEventListener("change", showRd);
byId("time-kind").addEventListener("change", showTimes);
byId("time-unit").addEventListener("change", showTimes);
onChange((what) => {
  if (what !== "anchor") showRd();
  if (what === "view") showPoints();
  showTimes();
});

chooseView();
setTheme(document.documentElement.dataset.theme, false);
changed("view");
