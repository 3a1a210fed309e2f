// Inside Airflow's frame: take over its light or dark theme, and let links to Airflow's own pages open in its window.
// The frame's sandbox allows a page neither to navigate the window nor to start a download, but Airflow's document may.
"use strict";

const airflow = window.parent !== window ? window.parent.document : null;

function takeOverTheme() {
  const dark = airflow
    ? airflow.documentElement.classList.contains("dark")
    : window.matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.classList.toggle("dark", dark);
}

takeOverTheme();
if (airflow) {
  new MutationObserver(takeOverTheme).observe(airflow.documentElement, { attributeFilter: ["class"] });
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-top]");
    if (!link) {
      return;
    }
    event.preventDefault();
    const outside = airflow.createElement("a");
    outside.href = link.href;
    if (link.hasAttribute("download")) {
      outside.download = "";
    }
    airflow.body.append(outside);
    outside.click();
    outside.remove();
  });
}
