(() => {
  const data = content;
  const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
  const SIGN = { missing: "+", wrong: "−", unknown: "+" };

  // ---- ticks: kept in the browser, by the fingerprint of the candidates ---------------------------------------------
  const key = `mltrain-label-errors-${data.fingerprint}`;
  const ticks = new Set();
  try { for (const k of JSON.parse(localStorage.getItem(key) || "[]")) if (data.candidates[k]) ticks.add(k); }
  catch (error) { /* a file may have no storage */ }
  const tally = () => {
    byId("save").disabled = byId("clear").disabled = !ticks.size;
    byId("ticked").textContent = `${plural(ticks.size, "correction")} ticked`;
    try { localStorage.setItem(key, JSON.stringify([...ticks])); } catch (error) { /* see above */ }
    for (const [name, button, test] of buttons) {
      const count = data.candidates.filter((c, k) => test(c, k)).length;
      button.hidden = !count && name !== "ticked";
      button.textContent = `${name} ${number(count)}`;
    }
  };
  byId("save").onclick = () => {
    const rows = [...ticks].sort((a, b) => a - b).map((k) => data.candidates[k].row);
    saveFile("corrections.csv", [data.header, ...rows], "text/csv");
  };
  byId("clear").onclick = () => { ticks.clear(); update(); };

  // ---- filters -----------------------------------------------------------------------------------------------------
  let kind = "all";
  const kinds = [
    ["all", () => true], ["missing", (c) => c.kind === "missing"], ["wrong", (c) => c.kind === "wrong"],
    ["unknown", (c) => c.kind === "unknown"], ["ticked", (c, k) => ticks.has(k)],
  ];
  const buttons = kinds.map(([name, test]) => {
    return [name, filterButton(() => { kind = name; update(); }), test];
  });
  const classes = new Map();
  for (const c of data.candidates) classes.set(c.label, (classes.get(c.label) || 0) + 1);
  byId("class").append(make("option", { value: "", textContent: "all classes" }));
  for (const c of [...classes.keys()].sort((a, b) => classes.get(b) - classes.get(a) || a - b)) {
    byId("class").append(make("option", { value: String(c), textContent: `${data.names[c]} (${number(classes.get(c))})` }));
  }
  byId("class").onchange = () => update();

  // ---- candidates --------------------------------------------------------------------------------------------------
  const card = ([c, k]) => {
    const image = data.images[c.image];
    const box = make("input", { type: "checkbox", checked: ticks.has(k) });
    const item = make("label", { className: "item" });
    box.onchange = () => {
      if (box.checked) ticks.add(k); else ticks.delete(k);
      item.classList.toggle("ticked", box.checked);
      tally();
    };
    item.classList.toggle("ticked", box.checked);
    const labels = image.labels.map((l) => data.names[l]).join(", ") || "no label";
    const enlarge = { type: "button", className: "enlarge", title: "enlarge", ariaLabel: "enlarge", textContent: "⤢" };
    const picture = image.picture ? make("img", { src: image.picture, alt: `${image.file}: ${labels}` }) : "no picture";
    item.append(make("div", { className: "picture" }, picture), make("div", { className: "text" },
      make("div", { className: `what ${c.kind}` }, box, make("span", { textContent: `${SIGN[c.kind]} ${data.names[c.label]}` })),
      make("div", { className: "value", textContent: `${c.kind} · probability ${c.probability}` }),
      make("div", { className: "other", textContent: `labels: ${labels}${image.more ? `, and ${number(image.more)} more` : ""}` }),
      make("div", { className: "file", textContent: image.file })));
    if (image.picture) item.append(make("button", enlarge)); // last: a click on the card is one on its first control, the box
    return item;
  };
  const update = () => {
    const test = kinds.find(([name]) => name === kind)[1];
    const chosen = byId("class").value;
    const left = data.candidates.map((c, k) => [c, k]).filter(([c, k]) => test(c, k) && (chosen === "" || String(c.label) === chosen));
    byId("count").textContent = left.length === data.candidates.length ? plural(left.length, "candidate") : `${number(left.length)} of ${plural(data.candidates.length, "candidate")}`;
    fill(left, card, "No candidate of this kind.");
    for (const [name, button] of buttons) press(button, name === kind);
    tally();
  };
  update();
  root.dataset.ready = "";
})();
