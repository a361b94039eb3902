"use strict";
// Draw the plots in the colours of the page.

const root = document.documentElement;
const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
const narrow = window.matchMedia("(max-width: 40rem)");
const PRINT_SIZE = { autosize: false, width: 680, height: 400 }; // pixels; fits A4 and US letter
const TOOLBAR = { displaylogo: false, modeBarButtons: [["toImage", "pan2d", "zoom2d", "resetScale2d"]] };
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
  const axis = (settings) => ({
    gridcolor: colour("line"), linecolor: colour("line"), zerolinecolor: colour("line"), automargin: true, ...settings,
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
    uirevision: "kept", // keep what the reader hid or zoomed
  };
}

function draw(size = null) {
  return Promise.all(plots.map(({ place, figure }) =>
    Plotly.react(place, figure.data, layoutOf(figure, size), { ...TOOLBAR, responsive: size === null })));
}

const preferredTheme = () => (prefersDark.matches ? "dark" : "light");
let chosenTheme = null;

function show() {
  root.dataset.theme = chosenTheme ?? preferredTheme();
  return draw();
}

function showPrinted() {
  document.querySelectorAll("details").forEach((each) => { each.open = true; });
  root.dataset.theme = "light";
  return draw(PRINT_SIZE);
}

document.getElementById("theme").addEventListener("click", () => {
  chosenTheme = root.dataset.theme === "dark" ? "light" : "dark";
  show();
});
prefersDark.addEventListener("change", show);
narrow.addEventListener("change", show);
window.addEventListener("beforeprint", showPrinted);
window.addEventListener("afterprint", show);
show();
