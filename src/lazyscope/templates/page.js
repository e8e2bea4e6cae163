"use strict";
// The page works without this script; with it: dark and light, a filter of claims, surfaces and the explorer.
const root = document.documentElement, toggle = document.getElementById("theme");
function paint(dark) { root.dataset.theme = dark ? "dark" : "light"; toggle.setAttribute("aria-pressed", String(dark)); }
toggle.hidden = false;
toggle.addEventListener("click", () => paint(root.dataset.theme !== "dark"));
paint(matchMedia("(prefers-color-scheme: dark)").matches);
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(d => { d.dataset.was = d.open; d.open = true; }));
addEventListener("afterprint", () => document.querySelectorAll("details").forEach(d => { d.open = d.dataset.was === "true"; }));

const filters = document.querySelector(".filters");
if (filters) filters.hidden = false;  // a page of diagnoses has no claims
filters?.addEventListener("click", event => {
  const wanted = event.target.dataset.outcome;
  if (!wanted) return;
  for (const b of filters.children) b.setAttribute("aria-pressed", String(b === event.target));
  for (const e of document.querySelectorAll("tr[data-outcome], article[data-outcome]"))
    e.hidden = wanted !== "all" && e.dataset.outcome !== wanted;
});

function payload(name) { return JSON.parse(document.getElementById("data-" + name).textContent); }

let library = null;
function plotly() {
  if (library === null) {
    library = document.createElement("script");
    library.textContent = document.getElementById("plotly").textContent;
    document.head.append(library);
  }
  return window.Plotly;
}
const watcher = new IntersectionObserver(seen => {
  for (const one of seen.filter(s => s.isIntersecting)) {
    watcher.unobserve(one.target);
    const figure = payload(one.target.id.slice("surface-".length));
    plotly().newPlot(one.target, figure.data, figure.layout, {responsive: true, displaylogo: false});
  }
}, {rootMargin: "200px"});
document.querySelectorAll(".surface").forEach(place => watcher.observe(place));

// Panels of curves on logarithmic axes, as SVG.
const W = 330, H = 250, LEFT = 52, BOTTOM = 38, TOP = 34, RIGHT = 10;
function draw(title, xlabel, x, series, {mark = null, level = null} = {}) {
  const values = series.flatMap(s => s.y).concat(level === null ? [] : [level]).filter(v => v > 0);
  const span = (v) => [Math.floor(Math.log10(Math.min(...v)) + 1e-9), Math.ceil(Math.log10(Math.max(...v)) - 1e-9)];
  const [x0, x1] = span(x.filter(v => v > 0)), [y0, y1] = span(values);
  const px = v => LEFT + (W - LEFT - RIGHT) * (Math.log10(v) - x0) / Math.max(x1 - x0, 1);
  const py = v => H - BOTTOM - (H - BOTTOM - TOP) * (Math.log10(v) - y0) / Math.max(y1 - y0, 1);
  const parts = [`<svg viewBox="0 0 ${W} ${H}" role="img" aria-label="${title} against ${xlabel}">`, `<text x="${LEFT}" y="14" font-weight="700">${title}</text>`];
  const every = n => Math.max(1, Math.ceil(n / 5));
  for (let d = y0; d <= y1; d += every(y1 - y0))
    parts.push(`<line class="grid" x1="${LEFT}" x2="${W - RIGHT}" y1="${py(10 ** d)}" y2="${py(10 ** d)}"/><text x="${LEFT - 5}" y="${py(10 ** d) + 4}" text-anchor="end">1e${d}</text>`);
  for (let d = x0; d <= x1; d += every(x1 - x0))
    parts.push(`<text x="${px(10 ** d)}" y="${H - BOTTOM + 16}" text-anchor="middle">1e${d}</text>`);
  parts.push(`<line class="axis" x1="${LEFT}" x2="${W - RIGHT}" y1="${H - BOTTOM}" y2="${H - BOTTOM}"/><text x="${(W + LEFT) / 2}" y="${H - 5}" text-anchor="middle">${xlabel}</text>`);
  if (level !== null) parts.push(`<path d="M${LEFT} ${py(level)}H${W - RIGHT}" stroke="var(--grey)" stroke-dasharray="3 3"/>`);
  let at = LEFT;
  for (const s of series) {
    const points = s.y.map((v, i) => v > 0 && x[i] > 0 ? `${px(x[i]).toFixed(1)} ${py(v).toFixed(1)}` : null).filter(p => p);
    parts.push(`<path data-name="${s.name}" d="M${points.join("L")}" stroke="var(--${s.color})" ${s.dash ? 'stroke-dasharray="6 4"' : ""}/>`);
    parts.push(`<text x="${at}" y="28" style="fill:var(--${s.color})">${s.dash ? "- - " : "— "}${s.name}</text>`);
    at += 7 * s.name.length + 26;
    if (mark !== null && s.y[mark] > 0) parts.push(`<circle cx="${px(x[mark])}" cy="${py(s.y[mark])}" r="5" fill="var(--${s.color})"/>`);
  }
  return parts.join("") + "</svg>";
}

function explore(place) {
  const data = payload(place.id.slice("explorer-".length)), starts = Object.keys(data.runs);
  const half = data.scales.map(v => Math.round(2 * Math.log10(v)));  // half decades
  const tau = place.querySelector(".tau"), alpha = place.querySelector(".alpha"), box = place.querySelector("fieldset");
  Object.assign(tau, {min: half[0], max: half[half.length - 1], step: 1, value: 0});
  Object.assign(alpha, {min: -2, max: 4, step: 1, value: 0});
  for (const [i, start] of starts.entries()) {
    const label = document.createElement("label"), radio = document.createElement("input");
    Object.assign(radio, {type: "radio", name: place.id, value: start, checked: i === 0});
    label.append(radio, " " + start);
    box.append(label);
  }
  const near = v => v === null || v === undefined ? "not finite" : Number(v.toPrecision(3)).toString();
  function show() {
    const start = box.querySelector("input:checked").value, run = data.runs[start];
    const scale = Number(tau.value) + Number(alpha.value), i = half.indexOf(scale);
    place.querySelector(".tau-value").textContent = near(10 ** (tau.value / 2));
    place.querySelector(".alpha-value").textContent = near(10 ** alpha.value);
    const reading = place.querySelector(".reading"), plots = place.querySelector(".plots");
    if (i < 0) {
      reading.textContent = `No run is stored at tau·√alpha = ${near(10 ** (scale / 2))}: stored are ${near(data.scales[0])} to ${near(data.scales[data.scales.length - 1])}.`;
      plots.replaceChildren();
      return;
    }
    const g = run.gap[i], j = run.differential_change[i], lazy = g <= data.lazy.gap && j <= data.lazy.differential_change;
    reading.textContent = `tau·√alpha = ${near(data.scales[i])}, ${start}: ${lazy ? "lazy" : "not (yet) lazy"}. Gap g = ${near(g)}, change of the differential j = ${near(j)}, ` +
      `movement = ${near(run.movement[i])}, test loss at the end = ${near(run.end_test_loss[i])}.`;
    const steps = data.steps.map(s => s + 1);
    plots.innerHTML = draw("Loss", "step + 1", steps, [
      {name: "train", y: run.train_loss[i], color: "grey"}, {name: "test", y: run.test_loss[i], color: "blue"},
      {name: "linearised, test", y: run.linear_test_loss[i], color: "orange", dash: true}]) +
      draw("Gap g, differential j, movement", "tau·√alpha", data.scales, [
        {name: "g", y: run.gap, color: "blue"}, {name: "j", y: run.differential_change, color: "orange"}, {name: "movement", y: run.movement, color: "grey"}],
        {mark: i, level: data.lazy.gap}) +
      draw("Test loss at the end", "tau·√alpha", data.scales, starts.map((s, j) => (
        {name: s, y: data.runs[s].end_test_loss, color: ["blue", "orange"][j], dash: s !== start})), {mark: i});
  }
  for (const control of [tau, alpha, box]) control.addEventListener("input", show);
  place.hidden = false;
  show();
}
document.querySelectorAll(".explorer").forEach(explore);
