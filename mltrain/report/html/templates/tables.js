// ---- tables: sorted, searched, by pages; only the rows of a page are ever in the document -------------------------------
const format = (value, column, k) => {
  if (value === null || value === undefined || value === "") return "–";
  if (column.kind === "number") {
    const digits = { minimumFractionDigits: column.digits, maximumFractionDigits: column.digits };
    const spread = column.spread?.[k] ?? null;
    const sign = column.sign && value > 0 ? "+" : "";
    return sign + value.toLocaleString("en-US", digits) + (spread === null ? "" : ` ± ${spread.toFixed(column.digits)}`);
  }
  return Array.isArray(value) ? value[0] : value;
};
const tableRows = (columns) => {
  const parts = columns.flatMap((column) => {
    const own = [column.title, (k) => (Array.isArray(column.values[k]) ? column.values[k][0] : column.values[k])];
    return column.spread ? [own, [`${column.title} ±`, (k) => column.spread[k]]] : [own];
  });
  return [parts.map(([title]) => title), ...columns[0].values.map((_, k) => parts.map(([, value]) => value(k)))];
};
const startTable = (box) => {
  const { columns, page, opens, ...start } = content.tables[box.dataset.table];
  const total = columns[0].values.length;
  const texts = columns.filter((column) => ["text", "link", "code"].includes(column.kind));
  const group = columns.find((column) => column.kind === "group");
  const best = columns.map((column) => {
    const known = column.best ? column.values.filter((value) => value !== null) : [];
    return new Set(known).size > 1 ? Math.max(...known) : null;
  });
  const haystack = Array.from({ length: total }, (_, k) => texts.map((c) => String(format(c.values[k], c))).join("\n").toLowerCase());
  const state = { sort: start.sort, descending: start.descending, query: "", group: null, page: 0 };
  const [head, body, pager] = ["thead", "tbody", ".pager"].map((name) => box.querySelector(name));
  const count = box.querySelector(".count");
  const left = (column) => column.kind !== "number";

  const rowsShown = () => {
    const words = state.query.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = [];
    for (let k = 0; k < total; k++) {
      if (state.group !== null && group.values[k] !== state.group) continue;
      if (words.every((word) => haystack[k].includes(word))) rows.push(k);
    }
    if (state.sort === null) return rows;
    const column = columns[state.sort];
    const key = (k) => (column.kind === "link" ? column.values[k][0] : column.values[k]);
    const sign = state.descending ? -1 : 1;
    const order = new Intl.Collator("en", { numeric: true });
    return rows.sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === null || y === null) return (x === null) - (y === null) || a - b; // unknown values come last
      return sign * (typeof x === "number" ? x - y : order.compare(x, y)) || a - b;
    });
  };
  const cell = (column, k, c) => {
    const value = column.values[k];
    const td = make("td", { className: left(column) ? "left" : "" });
    const text = format(value, column, k);
    if (column.kind === "group" && value) {
      const dot = make("span", { className: "dot" });
      dot.style.setProperty("--c", `var(--${value === "all" ? "text" : value})`);
      td.append(dot, text);
    } else if (column.kind === "link" && value[1]) {
      td.append(make("a", { href: value[1], textContent: text }));
    } else if (column.kind === "code" && value) {
      const code = make("code", { textContent: text });
      const copy = quietButton("copy", "copy the command", async () => {
        getSelection().selectAllChildren(code);
        if (navigator.clipboard) await navigator.clipboard.writeText(value); else document.execCommand("copy"); // a page from http
        copy.textContent = "copied";
      });
      td.append(copy, code);
    } else if (opens && c === 0 && content.classes.views[value]) {
      td.append(make("button", { type: "button", className: "row", textContent: text, title: "show the class", onclick: () => openClass(value) }));
    } else td.textContent = text;
    if (left(column)) td.title = text;
    if (best[c] !== null && value === best[c]) td.classList.add("best");
    return td;
  };
  const show = () => {
    const rows = rowsShown();
    const pages = Math.max(1, Math.ceil(rows.length / page));
    state.page = Math.min(state.page, pages - 1);
    const from = state.page * page;
    head.replaceChildren(make("tr", {}, ...columns.map((column, c) => {
      const button = make("button", { type: "button", textContent: column.title, title: column.hint });
      button.onclick = () => {
        state.descending = state.sort === c ? !state.descending : column.kind === "number";
        Object.assign(state, { sort: c, page: 0 });
        show();
      };
      const th = make("th", { className: left(column) ? "left" : "", scope: "col" }, button);
      if (state.sort === c) th.setAttribute("aria-sort", state.descending ? "descending" : "ascending");
      return th;
    })));
    const shown = rows.slice(from, from + page).map((k) => make("tr", {}, ...columns.map((column, c) => cell(column, k, c))));
    body.replaceChildren(...shown);
    if (!rows.length) body.append(make("tr", {}, make("td", { className: "none", colSpan: columns.length, textContent: "no match" })));
    if (count) count.textContent = rows.length === total ? `${number(total)} rows` : `${number(rows.length)} of ${number(total)}`;
    if (pages === 1) return pager.replaceChildren();
    const step = (text, by) => {
      const button = make("button", { type: "button", textContent: text, disabled: state.page + by < 0 || state.page + by >= pages });
      button.onclick = () => { state.page += by; show(); };
      return button;
    };
    return pager.replaceChildren(step("‹ back", -1), make("span", { className: "muted", textContent: `${state.page + 1} / ${pages}` }), step("next ›", 1));
  };
  const search = box.querySelector("input");
  if (search) search.oninput = () => { Object.assign(state, { query: search.value, page: 0 }); show(); };
  const chips = box.querySelector(".chips");
  if (search && group) {
    const names = ["head", "medium", "tail", "unseen"].filter((name) => group.values.includes(name));
    for (const name of names.length > 1 ? names : []) {
      const button = make("button", { type: "button", textContent: name });
      button.setAttribute("aria-pressed", "false");
      button.onclick = () => {
        Object.assign(state, { group: state.group === name ? null : name, page: 0 });
        for (const other of chips.children) other.setAttribute("aria-pressed", String(other.textContent === state.group));
        show();
      };
      chips.append(button);
    }
  }
  box.querySelector(".save").append(quietButton("csv", "save the table as a csv file",
    () => saveFile(fileName(`${box.dataset.table} table`, "csv"), [csvText(tableRows(columns))], "text/csv")));
  show();
};
