// The report's tables: sorting by any column, one table at a time, finding cases.

const collator = new Intl.Collator(undefined, { numeric: true });

// Numbers first come the worst first; cells without a number stay last whichever way.
function sortBy(head) {
  const table = head.closest("table");
  const kind = head.dataset.kind;
  const before = head.getAttribute("aria-sort");
  const first = kind === "high" ? "descending" : "ascending";
  const second = kind === "high" ? "ascending" : "descending";
  const order = before === first ? second : first;
  for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  const key = (row) => row.children[head.cellIndex].dataset.sort;
  const body = table.tBodies[0];
  const rows = [...body.rows].sort((one, other) => {
    const [a, b] = [key(one), key(other)];
    if (a === "" || b === "") return (a === "") - (b === "");
    return sign * (kind === "text" ? collator.compare(a, b) : a - b);
  });
  body.append(...rows);
}

for (const head of document.querySelectorAll("table.sortable th[data-kind]"))
  head.querySelector("button").addEventListener("click", () => sortBy(head));

const scores = document.getElementById("scores");
if (scores) {
  for (const tab of scores.querySelectorAll("[data-table]"))
    tab.addEventListener("click", () => {
      for (const one of scores.querySelectorAll("[data-table]")) one.setAttribute("aria-pressed", String(one === tab));
      for (const box of scores.querySelectorAll("[data-of]")) box.hidden = box.dataset.of !== tab.dataset.table;
    });

  const search = document.getElementById("filter");
  const faulty = document.getElementById("faulty");
  const narrow = () => {
    const wanted = search.value.trim().toLowerCase();
    const shown = new Set();
    const all = new Set();
    for (const row of scores.querySelectorAll("[data-case]")) {
      const name = row.dataset.case;
      row.hidden = !name.toLowerCase().includes(wanted) || (faulty.checked && row.dataset.faulty === undefined);
      all.add(name);
      if (!row.hidden) shown.add(name);
    }
    const text = shown.size === all.size ? `${all.size} cases` : `${shown.size} of ${all.size} cases`;
    document.getElementById("shown").textContent = text;
  };
  search.addEventListener("input", narrow);
  faulty.addEventListener("change", narrow);
}
