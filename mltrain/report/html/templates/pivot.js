// ---- a table of means over two settings that the reader chooses -------------------------------------------------------------
const pivotRows = ({ rows }, down, across, figure) => {
  const values = (key) => [...new Set(rows.map((row) => row.settings[key] ?? ""))].sort(new Intl.Collator("en", { numeric: true }).compare);
  const mean = (found) => found.reduce((sum, value) => sum + value, 0) / found.length;
  const at = (x, y) => {
    const found = rows.filter((row) => (row.settings[down] ?? "") === x && (row.settings[across] ?? "") === y && row.figures[figure]);
    if (!found.length) return null;
    const [{ figures }] = found;
    return { mean: mean(found.map((row) => row.figures[figure][0])), std: found.length === 1 ? figures[figure][1] : null, count: found.length };
  };
  const [downs, acrosses] = [values(down), values(across)];
  const cells = downs.map((x) => acrosses.map((y) => at(x, y)));
  const whole = cells.every((line) => line.every(Boolean)); // means of margins compare only where no cell is empty
  const means = (lines) => (whole ? lines.map((line) => mean(line.map((cell) => cell.mean))) : []);
  return { downs, acrosses, cells, ends: means(cells), foot: means(acrosses.map((_, k) => cells.map((line) => line[k]))) };
};
const startPivot = (box) => {
  const spec = content.pivots[box.dataset.pivot];
  const choice = (label, options, value) => {
    const list = make("select", { ariaLabel: label }, ...options.map(([key, text]) => make("option", { value: key, textContent: text })));
    list.value = value;
    list.onchange = () => show();
    box.querySelector(".tools").append(make("label", {}, `${label} `, list));
    return list;
  };
  const keys = spec.columns.map((key) => [key, key]);
  const [down, across] = [choice("rows", keys, spec.columns[0]), choice("columns", keys, spec.columns[1])];
  const figure = choice("figure", Object.entries(spec.figures), Object.keys(spec.figures)[0]);
  const digits = (value) => value.toFixed(2);
  const text = (cell) => (cell ? digits(cell.mean) + (cell.std === null ? "" : ` ± ${digits(cell.std)}`) : "–");
  let was = [down.value, across.value];
  const show = () => {
    if (down.value === across.value) { // the two change places
      if (down.value === was[0]) down.value = was[1]; else across.value = was[0];
    }
    was = [down.value, across.value];
    const { downs, acrosses, cells, ends, foot } = pivotRows(spec, down.value, across.value, figure.value);
    const best = Math.max(...cells.flat().filter(Boolean).map((cell) => cell.mean));
    const td = (cell) => make("td", {
      className: cell && cell.mean === best ? "best" : "", textContent: text(cell),
      title: cell && cell.count > 1 ? `mean of ${cell.count} settings` : "",
    });
    const headRow = make("tr", {}, make("th", { className: "left", textContent: `${down.value} \\ ${across.value}` }),
      ...acrosses.map((name) => make("th", { scope: "col", textContent: name || "–" })), ...(ends.length ? [make("th", { textContent: "mean" })] : []));
    const lines = cells.map((line, k) => make("tr", {}, make("th", { className: "left", scope: "row", textContent: downs[k] || "–" }), ...line.map(td),
      ...(ends.length ? [make("td", { className: "muted", textContent: digits(ends[k]) })] : [])));
    const means = foot.length ? [make("tr", {}, make("th", { className: "left muted", textContent: "mean" }), ...foot.map((cell) => make("td", { className: "muted", textContent: digits(cell) })), make("td"))] : [];
    box.querySelector("thead").replaceChildren(headRow);
    box.querySelector("tbody").replaceChildren(...lines, ...means);
  };
  box.querySelector(".save").append(quietButton("csv", "save the table as a csv file", () => {
    const { downs, acrosses, cells } = pivotRows(spec, down.value, across.value, figure.value);
    const rows = cells.map((line, k) => [downs[k], ...line.map((cell) => cell && +cell.mean.toFixed(4))]);
    saveFile(fileName(`${figure.value} ${down.value} ${across.value}`, "csv"), [csvText([[down.value, ...acrosses], ...rows])], "text/csv");
  }));
  show();
};
