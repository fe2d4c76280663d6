(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const number = (value) => value.toLocaleString("en-US");
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
    const address = URL.createObjectURL(new Blob([data.header, ...rows], { type: "text/csv;charset=utf-8" }));
    make("a", { href: address, download: "corrections.csv" }).click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  };
  byId("clear").onclick = () => { ticks.clear(); update(); };

  // ---- filters -----------------------------------------------------------------------------------------------------
  let kind = "all";
  const kinds = [
    ["all", () => true], ["missing", (c) => c.kind === "missing"], ["wrong", (c) => c.kind === "wrong"],
    ["unknown", (c) => c.kind === "unknown"], ["ticked", (c, k) => ticks.has(k)],
  ];
  const buttons = kinds.map(([name, test]) => {
    const button = make("button", { type: "button" });
    button.onclick = () => { kind = name; update(); };
    byId("filters").append(button);
    return [name, button, test];
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
    const picture = image.picture ? make("img", { src: image.picture, alt: labels }) : "no picture";
    item.append(make("div", { className: "picture" }, picture), make("div", { className: "text" },
      make("div", { className: `what ${c.kind}` }, box, make("span", { textContent: `${SIGN[c.kind]} ${data.names[c.label]}` })),
      make("div", { className: "value", textContent: `${c.kind} · probability ${c.probability}` }),
      make("div", { className: "other", textContent: `labels: ${labels}${image.more ? `, and ${number(image.more)} more` : ""}` }),
      make("div", { className: "file", textContent: image.file })));
    return item;
  };
  let left = [];
  const STEP = 60;
  const more = () => byId("shelf").append(...left.splice(0, STEP).map(card));
  new IntersectionObserver((seen) => { if (seen.some((entry) => entry.isIntersecting) && left.length) more(); }, { rootMargin: "900px" }).observe(byId("end"));
  const update = () => {
    const test = kinds.find(([name]) => name === kind)[1];
    const chosen = byId("class").value;
    left = data.candidates.map((c, k) => [c, k]).filter(([c, k]) => test(c, k) && (chosen === "" || String(c.label) === chosen));
    byId("count").textContent = left.length === data.candidates.length ? plural(left.length, "candidate") : `${number(left.length)} of ${plural(data.candidates.length, "candidate")}`;
    byId("shelf").replaceChildren();
    if (left.length) more();
    else byId("shelf").append(make("p", { className: "muted", textContent: "No candidate of this kind." }));
    for (const [name, button] of buttons) button.setAttribute("aria-pressed", String(name === kind));
    tally();
  };
  update();
  root.dataset.ready = "";
})();
