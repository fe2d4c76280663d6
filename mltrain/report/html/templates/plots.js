// ---- plots -----------------------------------------------------------------------------------------------------------
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
const viewOf = (name) => {
  const figure = content.figures[name];
  return figure.views ? figure.views[chosen[name] ?? Object.keys(figure.views)[0]] : figure;
};
const draw = (div) => {
  const view = viewOf(div.dataset.figure);
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
  return window.Plotly.react(div, data, layout, config).then(() => {
    div.dataset.drawn = "1";
    div.removeAllListeners("plotly_click");
    if (view.opens) div.on("plotly_click", ({ points }) => { if (points[0].id !== undefined) openClass(points[0].id); });
  });
};

// ---- saving: a plot as SVG, in the light colours; its data, and tables, as csv --------------------------------------------
const fileName = (name, kind) => `${`${content.title} ${name}`.replace(/[^\w.-]+/g, "-").replace(/^-+|-+$/g, "")}.${kind}`;
const plain = (text) => String(text).replace(/<br>/g, " ").replace(/&#36;/g, "$").replace(/&lt;/g, "<").replace(/&gt;/g, ">").replace(/&amp;/g, "&");
const cellText = (value) => {
  if (value === null || value === undefined) return "";
  // A spreadsheet would run text that begins so as a formula (OWASP, CSV Injection): a quote goes before it.
  const safe = typeof value === "string" && /^'*[=+@\t\r-]/.test(value) && !/^[+-]?[0-9.]+(e[+-]?[0-9]+)?$/.test(value) ? `'${value}` : String(value);
  return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
};
const csvText = (rows) => rows.map((row) => `${row.map(cellText).join(",")}\r\n`).join("");
const plotRows = (view) => {
  const title = (key) => plain(view.layout?.[`${key[0]}axis${key.slice(1)}`]?.title?.text ?? key[0]);
  const traces = view.data.filter((trace) => trace.hoverinfo !== "skip" && (trace.name || trace.type === "heatmap" || trace.ids));
  if (traces[0]?.type === "heatmap") {
    const [trace] = traces;
    const rows = [];
    trace.z.forEach((values, i) => values.forEach((value, j) => rows.push([...trace.customdata[i][j].map(plain), value])));
    return [[title("y"), title("x"), "%"], ...rows];
  }
  const labels = traces.some((trace) => trace.ids || trace.meta?.name);
  const bars = traces.some((trace) => trace.error_x || trace.error_y);
  const extra = [...new Set(traces.flatMap((trace) => trace.meta?.columns ?? []))];
  const header = ["series", ...(labels ? ["name"] : []), title("x"), title("y"), ...(bars ? ["low", "high"] : []), ...extra];
  const places = ["x", "y"].map((key) => new Set(view.layout?.[`${key}axis`]?.ticktext && labels ? [key] : []));
  const rows = traces.flatMap((trace) => trace.x.map((x, k) => {
    if (x === null || trace.y[k] === null) return null;
    const [error, value] = trace.error_x ? [trace.error_x, x] : [trace.error_y, trace.y[k]];
    const above = error?.array?.[k] ?? null;
    const below = error?.arrayminus?.[k] ?? above;
    const own = trace.meta?.columns ? extra.map((name) => [trace.customdata[k]].flat()[trace.meta.columns.indexOf(name)] ?? "") : extra.map(() => "");
    return [plain(trace.name ?? ""), ...(labels ? [trace.meta?.name ?? trace.ids?.[k] ?? ""] : []), x, trace.y[k],
      ...(bars ? [below === null ? "" : +(value - below).toFixed(6), above === null ? "" : +(value + above).toFixed(6)] : []), ...own];
  })).filter((row) => row);
  // Places of rows on an axis that has names say nothing: the names do.
  const kept = header.map((_, c) => !(labels && ((c === 2 && places[0].size && view.layout.xaxis.type !== "log") || (c === 3 && places[1].size))));
  return [header, ...rows].map((row) => row.filter((_, c) => kept[c]));
};
const saveSvg = async (name) => {
  const [theme, div, view] = [root.dataset.theme, document.querySelector(`[data-figure="${name}"]`), viewOf(name)];
  root.dataset.theme = "light";
  const css = getComputedStyle(root);
  const figure = { data: resolve(view.data, css), layout: resolve(merge(layoutOf(view.layout ?? {}, false), { paper_bgcolor: "#ffffff" }), css) };
  if (theme) root.dataset.theme = theme; else delete root.dataset.theme;
  const size = { width: Math.max(div.clientWidth, 560), height: +div.dataset.height };
  const svg = await window.Plotly.toImage(figure, { format: "svg", imageDataOnly: true, ...size });
  saveFile(fileName(name, "svg"), [svg], "image/svg+xml");
};
const quietButton = (textContent, title, onclick) => make("button", { type: "button", className: "plain", textContent, title, ariaLabel: title, onclick });
for (const box of document.querySelectorAll("[data-save]")) {
  const name = box.dataset.save;
  box.append(
    quietButton("SVG", "save the plot as an SVG file", () => { if (window.Plotly) saveSvg(name); }),
    quietButton("csv", "save the data of the plot as a csv file", () => saveFile(fileName(name, "csv"), [csvText(plotRows(viewOf(name)))], "text/csv")),
  );
}

// ---- views of a plot, and drawing when it comes into sight -----------------------------------------------------------------
for (const box of document.querySelectorAll("[data-views]")) {
  const name = box.dataset.views;
  const views = Object.keys(content.figures[name]?.views ?? {});
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
  const text = atob(byId(id).textContent);
  const bytes = Uint8Array.from(text, (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
};
const divs = [...document.querySelectorAll("section [data-figure]")];
const redraw = () => { if (window.Plotly) for (const div of document.querySelectorAll("[data-drawn]")) draw(div); };
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
};
root.addEventListener("theme", redraw);
prefersDark.addEventListener("change", redraw);
