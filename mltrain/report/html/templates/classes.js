// ---- images with their labels ------------------------------------------------------------------------------------------
const SIGNS = { hit: "✓ ", wrong: "✗ ", missed: "○ " };
const imageCard = ({ image, caption, kind, labels }) => {
  const { file, picture } = content.pictures[image];
  const item = make("div", { className: "card" });
  if (picture) item.append(make("button", { type: "button", className: "enlarge", title: "enlarge" }, make("img", { src: picture, alt: file, loading: "lazy" })));
  item.append(make("div", { className: "text" },
    make("div", { className: `what ${kind}`, textContent: caption }),
    make("ul", { className: "labels" }, ...labels.map(([name, value, of]) => make("li", {},
      make("span", { className: of, textContent: (SIGNS[of] ?? "") + name }), make("span", { className: "value", textContent: value })))),
    make("div", { className: "file", textContent: file })));
  return item;
};
for (const box of document.querySelectorAll("[data-cards]")) box.append(...content.cards[box.dataset.cards].map(imageCard));

// ---- the view of a class: its curve, its figures, its images --------------------------------------------------------------
const openClass = (() => {
  const dialog = byId("class-view");
  if (!dialog) return () => false;
  const [name, facts, plot] = ["h2", "dl", "[data-figure]"].map((selector) => dialog.querySelector(selector));
  const line = (x, y, title, color, more = {}) => ({ type: "scatter", mode: "lines", x, y, name: title, line: { color, width: 2 }, ...more });
  dialog.querySelector(".close").onclick = () => dialog.close();
  dialog.onclick = (event) => { if (event.target === dialog) dialog.close(); };
  dialog.onclose = () => { if (location.hash.startsWith("#class=")) history.replaceState(null, "", "#classes"); };
  return (key) => {
    const view = content.classes.views[key];
    if (!view) return false;
    const { columns } = content.tables.classes;
    const row = columns[0].values.indexOf(key);
    const group = columns.find((column) => column.kind === "group").values[row];
    const dot = make("span", { className: "dot" });
    dot.style.setProperty("--c", `var(--${group})`);
    name.replaceChildren(dot, key);
    facts.replaceChildren(...columns.slice(1).flatMap((column) => [make("dt", { textContent: column.title, title: column.hint }), make("dd", { textContent: format(column.values[row], column, row) })]));
    const end = view.recall.at(-1) ?? 100;
    const data = [
      line(view.recall, view.precision, "precision", `--${group}`, { hovertemplate: "recall %{x:.1f}, precision %{y:.1f}<extra></extra>" }),
      line([0, end], [view.chance, view.chance], "chance", "--neutral", { line: { color: "--neutral", width: 1.5, dash: "dot" } }),
    ];
    if (view.at.length) {
      const at = view.threshold === null ? "predicted" : `threshold ${view.threshold}`;
      data.push({ type: "scatter", mode: "markers", x: [view.at[0]], y: [view.at[1]], name: at, marker: { color: "--text", size: 11, symbol: "star" } });
    }
    content.figures["class-view"] = { data, layout: { xaxis: { title: { text: "recall, %" }, range: [0, 102] }, yaxis: { title: { text: "precision, %" }, range: [0, 104] }, hovermode: "closest" } };
    for (const [kind, none] of Object.entries({ best: "none", worst: "no prediction of it is wrong", missed: "none is missed" })) {
      const cards = view.cards[kind];
      dialog.querySelector(`[data-kind="${kind}"]`).replaceChildren(...(cards.length ? cards.map(imageCard) : [make("p", { className: "small", textContent: none })]));
    }
    history.replaceState(null, "", `#class=${encodeURIComponent(key)}`);
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    if (window.Plotly) draw(plot);
    return true;
  };
})();
