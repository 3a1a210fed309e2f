// Draws the charts with uPlot: an element with data-plot becomes one. The tables beside them have the same numbers.
// data-plot is JSON: `x` (the axis' name), `xs`, and `series`, each with `label`, `values` and optionally `kind`: line,
// low and high (the ends of an interval), floor (a bound), dots (no line), or other (a second model's). `shown` is how many of the
// newest are in view at first.
"use strict";

const COLOURS = { line: "--blue", other: "--floor", floor: "--floor", low: "--soft", high: "--soft", dots: "--blue" };

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function series({ label, values, kind = "line" }) {
  const isBound = kind === "low" || kind === "high";
  return {
    label,
    stroke: colour(COLOURS[kind]),
    width: isBound || kind === "dots" ? 0 : 2,
    dash: kind === "floor" ? [6, 5] : kind === "other" ? [2, 3] : undefined,
    points: { show: !isBound && kind !== "floor" && values.length <= 200, size: 6, ...(kind === "dots" ? { fill: colour("--blue") } : {}) },
    spanGaps: true,
    value: (_, value) => (value == null ? "-" : value.toFixed(4)),
  };
}

const STEPS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000];

function draw(element) {
  const plot = JSON.parse(element.dataset.plot);
  const parts = plot.xs.every(Number.isInteger) ? [] : [0.1, 0.2, 0.5]; // versions and epochs are whole
  const kinds = plot.series.map((each) => each.kind || "line");
  const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
  const last = plot.xs.length - 1;
  const first = plot.shown && last >= plot.shown ? last - plot.shown + 1 : 0;
  const chart = new uPlot(
    {
      width: element.clientWidth,
      hooks: { ready: [(chart) => chart.setLegend({ idx: last })] },
      height: 260,
      scales: { x: { time: false, range: (_, low, high) => (low === high ? [low - 1, high + 1] : [low, high]) } },
      axes: [
        { ...axis, label: plot.x, labelSize: 20, size: 30, incrs: [...parts, ...STEPS] },
        { ...axis, size: 64 },
      ],
      series: [{ label: plot.x, value: (_, value) => (value == null ? "-" : String(+value.toFixed(2))) }, ...plot.series.map(series)],
      bands: kinds.includes("low")
        ? [{ series: [kinds.indexOf("high") + 1, kinds.indexOf("low") + 1], fill: `${colour("--blue")}22` }]
        : [],
    },
    [plot.xs, ...plot.series.map((each) => each.values)],
    element,
  );
  element.querySelector(".u-legend").setAttribute("aria-live", "polite");
  if (first) {
    chart.setScale("x", { min: plot.xs[first], max: plot.xs[last] });
  }
  let index = last;
  element.onkeydown = (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) {
      return;
    }
    event.preventDefault();
    index = Math.min(last, Math.max(0, index + step));
    if (plot.xs[index] < chart.scales.x.min || plot.xs[index] > chart.scales.x.max) {
      chart.setScale("x", { min: plot.xs[0], max: plot.xs[last] });
    }
    chart.setCursor({ left: chart.valToPos(plot.xs[index], "x"), top: 20 });
  };
  return chart;
}

const charts = new Map();

function redraw() {
  for (const element of document.querySelectorAll("[data-plot]")) {
    charts.get(element)?.destroy();
    charts.set(element, draw(element));
  }
}

document.addEventListener("DOMContentLoaded", () => {
  redraw();
  new MutationObserver(redraw).observe(document.documentElement, { attributeFilter: ["class"] });
  let width = document.documentElement.clientWidth;
  window.addEventListener("resize", () => {
    if (document.documentElement.clientWidth !== width) {
      width = document.documentElement.clientWidth;
      redraw();
    }
  });
});
