(() => {
  const content = JSON.parse(document.getElementById("data").textContent);

  // ---- plots -------------------------------------------------------------------------------------------------------
  const COLOURS = new Set(["color", "bgcolor", "bordercolor", "fillcolor", "gridcolor", "linecolor", "colorscale", "colors"]);
  const resolve = (value, css, key) => {
    if (typeof value === "string") return COLOURS.has(key) && value.startsWith("--") ? css.getPropertyValue(value).trim() : value;
    if (Array.isArray(value)) return value.map((item) => resolve(item, css, key));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, resolve(v, css, k)]));
  };
  const AXIS = { gridcolor: "--grid", linecolor: "--line", zeroline: false, automargin: true, ticks: "", title: { standoff: 8 } };
  const merge = (base, over) => {
    const result = { ...base };
    for (const [key, value] of Object.entries(over)) {
      const plain = value !== null && typeof value === "object" && !Array.isArray(value);
      result[key] = plain ? merge(result[key] ?? {}, value) : value;
    }
    return result;
  };
  const layoutOf = (given, narrow) => {
    const base = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: narrow ? false : "zoom",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: "--muted" },
      margin: { l: 12, r: 14, t: 26, b: 12 }, hoverlabel: { bgcolor: "--hover", bordercolor: "--hover", font: { color: "--hover-text" } },
      legend: { orientation: "h", traceorder: "normal", x: 0, y: 1.02, yanchor: "bottom", font: { color: "--text" } }, showlegend: true,
      xaxis: AXIS, yaxis: AXIS,
    };
    const axes = Object.fromEntries(Object.keys(given).filter((k) => /^[xy]axis\d+$/.test(k)).map((k) => [k, AXIS]));
    return merge({ ...base, ...axes }, given);
  };
  const chosen = {};
  const draw = (div) => {
    const name = div.dataset.figure;
    const figure = content.figures[name];
    const view = figure.views ? figure.views[chosen[name] ?? Object.keys(figure.views)[0]] : figure;
    const css = getComputedStyle(root);
    const narrow = innerWidth < 700;
    const layout = resolve(layoutOf(view.layout ?? {}, narrow), css);
    // A long legend has one column on a phone: the plot keeps its height below it.
    const names = layout.showlegend ? view.data.filter((trace) => trace.name && trace.showlegend !== false).length : 0;
    div.style.height = `${+div.dataset.height + (narrow && names > 4 ? 19 * names : 0)}px`;
    const data = resolve(view.data, css);
    for (const trace of narrow ? data : []) { // a phone has no room for names at points; a tap shows them
      if (trace.type === "bar") trace.textfont = { size: 9 };
      if (trace.mode === "markers+text") trace.mode = "markers";
    }
    const config = { responsive: true, displaylogo: false, displayModeBar: false, scrollZoom: false };
    return window.Plotly.react(div, data, layout, config).then(() => { div.dataset.drawn = "1"; });
  };
  for (const box of document.querySelectorAll("[data-views]")) {
    const name = box.dataset.views;
    const views = Object.keys(content.figures[name].views ?? {});
    for (const view of views.length > 1 ? views : []) {
      const button = make("button", { type: "button", textContent: view });
      button.setAttribute("aria-pressed", String(!box.children.length));
      button.onclick = () => {
        chosen[name] = view;
        for (const other of box.children) other.setAttribute("aria-pressed", String(other === button));
        const div = document.querySelector(`[data-figure="${name}"]`);
        if (window.Plotly) draw(div);
      };
      box.append(button);
    }
  }
  const unpack = async (id) => {
    const text = atob(document.getElementById(id).textContent);
    const bytes = Uint8Array.from(text, (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  };
  const divs = [...document.querySelectorAll("[data-figure]")];
  const redraw = () => { if (window.Plotly) for (const div of divs) if (div.dataset.drawn) draw(div); };
  const startPlots = async () => {
    if (!divs.length) return;
    try {
      // An element, not eval: the script is unpacked from this very file.
      document.head.append(make("script", { textContent: await unpack("plotly") }));
    } catch (error) {
      for (const div of divs) { div.style.height = "auto"; div.textContent = "This browser is too old to unpack the plots (it has no DecompressionStream)."; }
      return;
    }
    const watch = new IntersectionObserver((entries) => {
      for (const entry of entries) if (entry.isIntersecting) { watch.unobserve(entry.target); draw(entry.target); }
    }, { rootMargin: "500px" });
    divs.forEach((div) => watch.observe(div));
    addEventListener("beforeprint", () => divs.forEach((div) => draw(div)));
  };

  // ---- light and dark ----------------------------------------------------------------------------------------------
  root.addEventListener("theme", redraw);
  prefersDark.addEventListener("change", redraw);

  // ---- tables: sorted, searched, by pages; only the rows of a page are ever in the document --------------------------
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
  const startTable = (box) => {
    const { columns, page, ...start } = content.tables[box.dataset.table];
    const total = columns[0].values.length;
    const texts = columns.filter((column) => column.kind === "text" || column.kind === "link");
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
        dot.style.setProperty("--c", `var(--${value})`);
        td.append(dot, text);
      } else if (column.kind === "link" && value[1]) {
        td.append(make("a", { href: value[1], textContent: text }));
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
      if (count) count.textContent = rows.length === total ? `${total.toLocaleString("en-US")} rows` : `${rows.length.toLocaleString("en-US")} of ${total.toLocaleString("en-US")}`;
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
    if (chips && group) {
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
    show();
  };
  document.querySelectorAll("[data-table]").forEach(startTable);

  // ---- the section in view is marked in the navigation ---------------------------------------------------------------
  const links = new Map([...document.querySelectorAll(".top nav a")].map((a) => [a.hash.slice(1), a]));
  const inView = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      links.forEach((link) => link.classList.remove("here"));
      const link = links.get(entry.target.id);
      if (!link) continue;
      link.classList.add("here");
      link.parentElement.scrollTo({ left: link.offsetLeft - link.parentElement.clientWidth / 2, behavior: "auto" });
    }
  }, { rootMargin: "-25% 0px -70% 0px" });
  document.querySelectorAll("main > section").forEach((section) => inView.observe(section));

  startPlots().then(() => { root.dataset.ready = "1"; });
})();
