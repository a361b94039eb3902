"use strict";
// Draws the figures, in the colours of the page.

const root = document.documentElement;
const darkly = window.matchMedia("(prefers-color-scheme: dark)");
const narrow = window.matchMedia("(max-width: 40rem)");
const PRINTED = { autosize: false, width: 680, height: 400 }; // pixels, on A4 and on letter
const BAR = { displaylogo: false, modeBarButtons: [["toImage", "pan2d", "zoom2d", "resetScale2d"]] };
const plots = Array.from(document.querySelectorAll("script.figure"), (data) => ({
  place: document.getElementById(data.dataset.plot),
  figure: JSON.parse(data.textContent),
}));

function colours() {
  const style = getComputedStyle(root);
  return (name) => style.getPropertyValue(`--${name}`).trim();
}

function layoutOf(figure, size) {
  const colour = colours();
  const axis = (own) => ({
    gridcolor: colour("line"), linecolor: colour("line"), zerolinecolor: colour("line"), automargin: true, ...own,
  });
  const isNarrow = narrow.matches || size !== null;
  return {
    ...figure.layout,
    ...(size ?? { autosize: true }),
    xaxis: axis(figure.layout.xaxis),
    yaxis: axis(figure.layout.yaxis),
    paper_bgcolor: colour("ground"),
    plot_bgcolor: colour("ground"),
    font: { color: colour("ink"), family: getComputedStyle(document.body).fontFamily, size: 13 },
    hoverlabel: { bgcolor: colour("raised"), bordercolor: colour("line"), font: { color: colour("ink") }, align: "left" },
    legend: isNarrow
      ? { orientation: "h", yref: "container", y: 0, yanchor: "bottom", font: { size: 11 } }
      : { font: { size: 12 } },
    margin: isNarrow ? { l: 10, r: 10, t: 20, b: 10 } : { l: 20, r: 20, t: 20, b: 20 },
    hovermode: "closest",
    uirevision: "kept", // what was toggled or zoomed stays so
  };
}

function draw(size = null) {
  return Promise.all(plots.map(({ place, figure }) =>
    Plotly.react(place, figure.data, layoutOf(figure, size), { ...BAR, responsive: size === null })));
}

const preferred = () => (darkly.matches ? "dark" : "light");
let chosen = null;

function show() {
  root.dataset.theme = chosen ?? preferred();
  return draw();
}

function showPrinted() {
  document.querySelectorAll("details").forEach((each) => { each.open = true; });
  root.dataset.theme = "light";
  return draw(PRINTED);
}

document.getElementById("theme").addEventListener("click", () => {
  chosen = root.dataset.theme === "dark" ? "light" : "dark";
  show();
});
darkly.addEventListener("change", show);
narrow.addEventListener("change", show);
window.addEventListener("beforeprint", showPrinted);
window.addEventListener("afterprint", show);
show();
