(() => {
  const data = content;
  const colour = (c) => `var(--${data.groupNames[data.groups[c]]})`;
  const onPage = data.names.map(() => 0);
  for (const image of data.images) for (const c of image.positive) onPage[c] += 1;

  // ---- filters: a group or a property of the image, and one class --------------------------------------------------
  const state = { kind: "all", chosen: null };
  const kinds = [["all", "all", () => true]];
  data.groupNames.forEach((name, group) => kinds.push([name, name, (image) => image.positive.some((c) => data.groups[c] === group)]));
  kinds.push(["unknown", "with unknown labels", (image) => image.unknowns > 0]);
  kinds.push(["none", "without a label", (image) => !image.positive.length]);
  kinds.push(["error", "unreadable", (image) => Boolean(image.error)]);
  const buttons = new Map();
  for (const [key, title, test] of kinds) {
    const count = data.images.filter(test).length;
    if (!count) continue;
    const button = filterButton(() => { state.kind = key; update(); });
    if (data.groupNames.includes(key)) {
      const dot = make("span", { className: "dot" });
      dot.style.setProperty("--c", `var(--${key})`);
      button.append(dot);
    }
    button.append(`${title} ${number(count)}`);
    buttons.set(key, button);
  }
  const single = make("button", { type: "button", hidden: true });
  single.onclick = () => choose(null);
  byId("filters").prepend(single);
  const choose = (c) => { state.chosen = state.chosen === c ? null : c; update(); };

  // ---- classes -----------------------------------------------------------------------------------------------------
  const most = Math.max(1, ...data.counts);
  const LISTED = 240;
  let rarest = false;
  let log = false;
  const listClasses = () => {
    const text = byId("search").value.trim().toLowerCase();
    const order = data.names.map((_, c) => c).filter((c) => data.names[c].toLowerCase().includes(text));
    order.sort((a, b) => (rarest ? data.counts[a] - data.counts[b] : data.counts[b] - data.counts[a]) || a - b);
    byId("axis").textContent = `bars: ${log ? "logarithmic" : "linear"} scale, 0 to ${number(most)} images`;
    byId("class-count").textContent = order.length > LISTED ? `${LISTED} of ${number(order.length)} shown` : `${number(order.length)} classes`;
    byId("class-list").replaceChildren(...order.slice(0, LISTED).map((c) => {
      const bar = make("i");
      bar.style.width = `${100 * (log ? Math.log1p(data.counts[c]) / Math.log1p(most) : data.counts[c] / most)}%`;
      const button = make("button", { type: "button", title: `${data.names[c]}: ${number(data.counts[c])} images, ${number(onPage[c])} on this page` },
        make("span", { className: "name" }, make("span", { className: "dot" }), data.names[c]),
        make("span", { className: "track" }, bar), make("span", { className: "number", textContent: number(data.counts[c]) }));
      button.style.setProperty("--c", colour(c));
      press(button, state.chosen === c);
      button.onclick = () => choose(c);
      return make("li", {}, button);
    }));
  };
  byId("search").oninput = listClasses;
  byId("scale").onclick = () => {
    log = !log;
    press(byId("scale"), log);
    listClasses();
  };
  byId("order").onclick = () => {
    rarest = !rarest;
    press(byId("order"), rarest);
    listClasses();
  };

  // ---- images ------------------------------------------------------------------------------------------------------
  const listed = (classes) => classes.map((c) => data.names[c]).join(", ");
  const card = (image) => {
    const item = make("article", { className: "item" });
    if (image.error) item.append(make("div", { className: "error", textContent: image.error }));
    else {
      const row = make("div", { className: "row" });
      image.pictures.forEach((picture, k) => {
        const what = k === 0 ? "file" : image.pictures.length > 2 ? `transformed ${k}` : "transformed";
        row.append(make("figure", {}, make("button", { type: "button", className: "enlarge", title: "enlarge" }, make("img", { alt: `${what}, ${image.file}: ${listed(image.positive) || "no label"}`, src: `data:image/jpeg;base64,${picture}` })),
          make("figcaption", { textContent: k === 0 ? `file ${image.size[0]} × ${image.size[1]}` : what })));
      });
      item.append(row);
    }
    const labels = make("div", { className: "words" });
    for (const c of image.positive) {
      const button = make("button", { type: "button", textContent: data.names[c] });
      button.style.setProperty("--c", colour(c));
      press(button, state.chosen === c);
      button.onclick = () => choose(c);
      labels.append(button);
    }
    if (!image.positive.length) labels.append(make("span", { className: "muted", textContent: "no label" }));
    const text = make("div", { className: "text" }, labels);
    if (image.negative.length) text.append(make("div", { className: "other", textContent: `known to be absent: ${listed(image.negative)}` }));
    if (image.unknowns) {
      const named = image.unknown.length ? `: ${listed(image.unknown)}` : "";
      text.append(make("div", { className: "other unknown", textContent: `${number(image.unknowns)} unknown${named}` }));
    }
    text.append(make("div", { className: "file", textContent: image.file }));
    item.append(text);
    return item;
  };
  const update = () => {
    const test = kinds.find(([key]) => key === state.kind)[2];
    const found = data.images.filter((image) => test(image) && (state.chosen === null || image.positive.includes(state.chosen)));
    for (const [key, button] of buttons) press(button, key === state.kind);
    single.hidden = state.chosen === null;
    if (state.chosen !== null) {
      single.textContent = `${data.names[state.chosen]} ✕`;
      press(single, true);
    }
    byId("count").textContent = found.length === data.images.length ? `${number(found.length)} images` : `${number(found.length)} of ${number(data.images.length)} images`;
    fill(found, card, "None on this page. It shows a sample: the tool's options classes=[...] and images=... choose another.");
    listClasses();
  };
  const widest = Math.max(2, ...data.images.map((image) => image.pictures.length));
  byId("shelf").style.setProperty("--card-width", `${Math.min(760, 190 * widest)}px`);
  if (innerWidth < 640) byId("classes").open = false;
  update();
})();
