"use strict";
// Without this script the tables are complete, and in the order of the report.
for (const table of document.querySelectorAll("table.searched")) {
  const body = table.tBodies[0];
  const label = document.createElement("label");
  const box = document.createElement("input");
  box.type = "search";
  label.className = "filter";
  label.append("Only rows with ", box);
  table.parentElement.before(label); // above what scrolls
  box.addEventListener("input", () => {
    const words = box.value.toLowerCase().split(/\s+/);
    for (const row of body.rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
  });
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const isDown = head.getAttribute("aria-sort") !== "descending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", isDown ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent;
      const order = (a, b) =>
        head.classList.contains("n") ? parseFloat(key(a).replace("inf", "Infinity")) - parseFloat(key(b).replace("inf", "Infinity")) || 0 : key(a).localeCompare(key(b));
      body.append(...[...body.rows].sort((a, b) => (isDown ? order(b, a) : order(a, b))));
    });
  });
}
