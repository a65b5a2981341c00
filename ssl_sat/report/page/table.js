// Tables that sort and filter. All texts are set by textContent.
"use strict";

function sortable(table) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.className = "sort";
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const next = { none: "ascending", ascending: "descending", descending: "none" }[head.getAttribute("aria-sort")];
      heads.forEach((other) => other.setAttribute("aria-sort", other === head ? next : "none"));
      const rows = next === "none" ? original : inOrder(original, column, next === "ascending" ? 1 : -1);
      body.append(...rows);
    });
  });
}

// Numbers by value, texts by name ("seed10" after "seed9"); cells without a value stay last in both directions.
function inOrder(rows, column, sign) {
  const names = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
  const value = (row) => {
    const cell = row.cells[column];
    if (cell.hasAttribute("data-none")) return null;
    return cell.hasAttribute("data-v") ? Number(cell.getAttribute("data-v")) : cell.textContent;
  };
  const compare = (a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === null || y === null) return (x === null) - (y === null);
    if (typeof x === "number" && typeof y === "number") return sign * (x - y);
    return sign * names.compare(String(x), String(y));
  };
  return [...rows].sort(compare);
}

function filterable(table, place) {
  const rows = [...table.tBodies[0].rows];
  if (rows.length < 5) return;
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const label = document.createElement("label");
  const input = document.createElement("input");
  const count = document.createElement("output");
  input.type = "search";
  input.placeholder = "words, all of them";
  label.append("Filter ", input);
  place.append(label, count);
  const apply = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, n) => {
      row.hidden = !words.every((word) => texts[n].includes(word));
      shown += !row.hidden;
    });
    count.textContent = words.length ? `${shown} of ${rows.length} rows` : `${rows.length} rows`;
  };
  input.addEventListener("input", apply);
  apply();
}

function zoomable(image, dialog) {
  image.tabIndex = 0;
  image.setAttribute("role", "button");
  image.setAttribute("aria-label", `Enlarge: ${image.alt}`);
  const open = () => {
    const copy = new Image();
    copy.src = image.src;
    copy.alt = image.alt;
    dialog.replaceChildren(copy);
    dialog.showModal();
  };
  image.addEventListener("click", open);
  image.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); open(); }
  });
}
