// Sorts a table by the column whose heading is pressed. Without scripts the page reads the same, in the order measured.
"use strict";
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th");
    const column = [...heading.parentElement.children].indexOf(heading);
    const ascending = heading.getAttribute("aria-sort") !== "ascending";
    for (const other of heading.parentElement.children) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const body = heading.closest("table").tBodies[0];
    const numeric = heading.dataset.kind === "number";
    const key = (row) => row.children[column].dataset.order;
    const compare = (a, b) => {
      const [left, right] = [key(a), key(b)];
      if (left === "" || right === "") return (left === "") - (right === ""); // not measured: last, either way
      const order = numeric ? Number(left) - Number(right) : left.localeCompare(right);
      return ascending ? order : -order;
    };
    body.append(...[...body.rows].sort(compare));
  });
}
