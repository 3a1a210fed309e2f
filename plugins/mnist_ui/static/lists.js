// Makes the table of versions searchable and sortable, opens the form for a rollback, and remembers what was opened.
// Without this script the whole table is there.
"use strict";

const SHOWN = 50;

function makeList(table) {
  const rows = [...table.tBodies[0].rows];
  const controls = document.getElementById(table.dataset.list);
  const [search, status, recipe] = ["search", "status", "recipe"].map((name) => controls.querySelector(`[name=${name}]`));
  const more = controls.querySelector("button");
  const count = controls.querySelector("[role=status]");
  let all = false;

  function update() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = rows.filter(
      (row) =>
        words.every((word) => `${row.textContent} ${row.dataset.run}`.toLowerCase().includes(word)) &&
        (!status.value || row.dataset.status === status.value) &&
        (!recipe.value || row.dataset.recipe === recipe.value),
    );
    const shown = new Set(all ? found : found.slice(0, SHOWN));
    rows.forEach((row) => {
      row.hidden = !shown.has(row);
    });
    count.textContent = `${shown.size} of ${rows.length} versions`;
    more.hidden = shown.size === found.length;
    more.textContent = `Show all ${found.length}`;
  }

  function sortBy(column, header) {
    const descending = header.getAttribute("aria-sort") !== "descending";
    const key = (row) => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      return x !== "" && y !== "" && !isNaN(x) && !isNaN(y) ? x - y : x.localeCompare(y);
    };
    rows.sort((a, b) => (descending ? compare(b, a) : compare(a, b)));
    table.tBodies[0].append(...rows);
    for (const each of table.tHead.rows[0].cells) {
      each.removeAttribute("aria-sort");
    }
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    update();
  }

  [...table.tHead.rows[0].cells].forEach((header, column) => {
    if (header.dataset.sortable === undefined) {
      return;
    }
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => sortBy(column, header));
  });
  [search, status, recipe].forEach((field) => field.addEventListener("input", update));
  more.addEventListener("click", () => {
    all = true;
    update();
  });
  controls.hidden = false;
  update();
}

function offerRollback(dialog) {
  const [form, message] = [dialog.querySelector("form"), dialog.querySelector("[role=alert]")];
  for (const button of document.querySelectorAll("button[data-rollback]")) {
    button.hidden = false;
    button.addEventListener("click", () => {
      form.version.value = button.dataset.rollback;
      dialog.querySelector("[data-number]").textContent = button.dataset.rollback;
      message.textContent = "";
      dialog.showModal();
    });
  }
  dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const conf = { version: Number(form.version.value), reason: form.reason.value };
    const answer = await fetch(form.dataset.url, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ logical_date: null, conf }),
    });
    const body = await answer.json().catch(() => ({}));
    if (!answer.ok) {
      const detail = typeof body.detail === "string" ? body.detail : body.detail?.reason || answer.statusText;
      message.textContent = `Not triggered: ${detail}`;
      return;
    }
    const link = document.createElement("a");
    link.href = `${form.dataset.runs}/${encodeURIComponent(body.dag_run_id)}/plugin/mnist-run`;
    link.dataset.top = "";
    document.body.append(link);
    link.click();
  });
}

// A page that follows a run loads itself again: sections that a person has opened stay open.
function keepOpen() {
  const key = `open:${location.pathname}`;
  const sections = [...document.querySelectorAll("details")];
  const name = (section) => section.querySelector("summary").textContent.replace(/\d+/g, "");
  const changed = JSON.parse(sessionStorage.getItem(key) || "{}");
  for (const section of sections) {
    section.open = changed[name(section)] ?? section.open;
    section.addEventListener("toggle", () => {
      changed[name(section)] = section.open;
      sessionStorage.setItem(key, JSON.stringify(changed));
    });
  }
}

document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll("table[data-list]").forEach(makeList);
  document.querySelectorAll("dialog").forEach(offerRollback);
  keepOpen();
});
