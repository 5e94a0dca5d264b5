// Each map: point, tap or move with the arrow keys, and read "it -> animal 0.677".
for (const cells of document.querySelectorAll(".cells")) {
  const table = cells.querySelector("table"), say = cells.parentElement.querySelector("output");
  const heads = table.tHead.rows[0].cells, rows = table.tBodies[0].rows;
  const chosen = Math.max(0, [...rows].findIndex(row => row.className === "chosen"));
  let marked = [], row = chosen, column = 1;

  function show(toRow, toColumn) {
    row = Math.min(Math.max(toRow, 0), rows.length - 1);
    column = Math.min(Math.max(toColumn, 1), heads.length - 1);
    for (const cell of marked) cell.classList.remove("at");
    marked = [rows[row].cells[column], rows[row].cells[0], heads[column]];
    for (const cell of marked) cell.classList.add("at");
    const [weight, from, to] = marked.map(cell => cell.textContent);
    say.textContent = `${from} -> ${to} ${weight}`;
  }

  function point(event) {
    const cell = event.target.closest("tbody td");
    if (cell) show(cell.parentElement.sectionRowIndex, cell.cellIndex);
  }
  table.addEventListener("pointerover", point);
  table.addEventListener("click", point);
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  cells.addEventListener("keydown", event => {
    if (!(event.key in steps)) return;
    event.preventDefault();
    show(row + steps[event.key][0], column + steps[event.key][1]);
    marked[0].scrollIntoView({ block: "nearest", inline: "nearest" });
  });

  const weights = [...rows[chosen].cells].slice(1).map(cell => Number(cell.textContent));
  show(chosen, 1 + weights.indexOf(Math.max(...weights)));
}
