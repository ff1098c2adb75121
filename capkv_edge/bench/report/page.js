"use strict";
// a click on a column's name sorts by the column: numbers by value, words by letters, missing values last
for (const button of document.querySelectorAll("thead button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement, table = head.closest("table"), body = table.tBodies[0];
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const value = row => {
      const text = row.cells[head.cellIndex].textContent.trim();
      const number = head.classList.contains("r") ? parseFloat(text) : NaN;
      return { text, number, none: text === "-" || (head.classList.contains("r") && Number.isNaN(number)) };
    };
    const rows = [...body.rows].map(row => [value(row), row]);
    const byWord = (a, b) => a.text.localeCompare(b.text, "en", { numeric: true });
    const compare = (a, b) => Number.isNaN(a.number) || Number.isNaN(b.number) ? byWord(a, b) : a.number - b.number;
    rows.sort(([a], [b]) => a.none - b.none || (up ? 1 : -1) * compare(a, b));
    body.append(...rows.map(([, row]) => row));
  });
}
// a box hides its series in all tables and plots
const boxes = [...document.querySelectorAll("nav input")];
const show = box => {
  for (const part of document.querySelectorAll("." + box.value)) part.classList.toggle("off", !box.checked);
};
for (const box of boxes) box.addEventListener("change", () => show(box));
document.querySelector("nav button")?.addEventListener("click", () => {
  const all = boxes.every(box => box.checked);
  for (const box of boxes) { box.checked = !all; show(box); }
});
