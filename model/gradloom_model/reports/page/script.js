"use strict";
(function () {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const narrow = window.matchMedia("(max-width: 40rem)");
  const PRINTED = 660;
  let printing = false;

  function colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  function theme(layout) {
    const light = printing;
    const text = light ? "#000000" : colour("--text");
    const line = light ? "#dddddd" : colour("--line");
    const ground = light ? "#ffffff" : colour("--ground");
    const found = {
      ...layout,
      paper_bgcolor: ground, plot_bgcolor: ground,
      font: {family: getComputedStyle(document.body).fontFamily, size: narrow.matches ? 11 : 13,
             color: text},
      margin: {l: 10, r: 12, t: 10, b: 10},
      legend: {orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom",
               traceorder: "normal",
               font: {size: narrow.matches ? 11 : 12}},
      hoverlabel: {bgcolor: light ? "#ffffff" : colour("--raised"), font: {color: text},
                   bordercolor: line, align: "left"},
      dragmode: narrow.matches ? false : "zoom",
    };
    for (const key of Object.keys(layout)) {
      if (/^[xy]axis/.test(key)) {
        found[key] = {gridcolor: line, zerolinecolor: line, linecolor: line, ...layout[key]};
      }
    }
    return found;
  }

  const options = {displaylogo: false, displayModeBar: false, responsive: true};

  function draw(chart) {
    const box = document.getElementById("chart-" + chart.name);
    const height = chart.height + (narrow.matches && chart.data.length > 1 ? 70 : 0);
    box.style.height = height + "px";
    box.style.minWidth = printing ? "0" : chart.width + "px";
    const list = document.getElementById("choice-" + chart.name);
    if (list) {
      for (const trace of chart.data) {
        trace.visible = trace.meta === list.value;
      }
    }
    const layout = theme(chart.layout);
    if (printing) {
      layout.width = PRINTED;
      layout.height = height;
    }
    return Plotly.react(box, chart.data, layout, options);
  }

  function all() {
    charts.forEach(draw);
  }

  for (const chart of charts) {
    const list = document.getElementById("choice-" + chart.name);
    if (list) {
      list.addEventListener("change", function () { draw(chart); });
    }
  }
  dark.addEventListener("change", all);
  narrow.addEventListener("change", all);
  window.addEventListener("beforeprint", function () { printing = true; all(); });
  window.addEventListener("afterprint", function () { printing = false; all(); });
  all();
})();
