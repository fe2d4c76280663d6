document.querySelectorAll("[data-table]").forEach(startTable);
document.querySelectorAll("[data-pivot]").forEach(startPivot);

// ---- a table or plot that is wider than its place says so -------------------------------------------------------------------
const wide = (box) => box.classList.toggle("more", box.scrollWidth - box.clientWidth - box.scrollLeft > 4);
const sized = new ResizeObserver((entries) => entries.forEach((entry) => wide(entry.target.closest(".scroll"))));
for (const box of document.querySelectorAll(".scroll")) {
  box.after(make("p", { className: "hint", textContent: "more to the right: scroll →" }));
  box.addEventListener("scroll", () => wide(box), { passive: true });
  sized.observe(box);
  sized.observe(box.firstElementChild);
}

// ---- sections: a link to one, or to something in it, opens it ---------------------------------------------------------------
const sections = [...document.querySelectorAll("details.whole")];
const follow = () => {
  const name = decodeURIComponent(location.hash.slice(1));
  if (name.startsWith("class=")) return openClass(name.slice("class=".length));
  const target = byId(name);
  const box = target?.matches("section") ? target.querySelector("details.whole") : target?.closest("details.whole");
  if (!box || box.open) return true;
  box.open = true;
  return target.scrollIntoView();
};
addEventListener("hashchange", follow);
const toggle = byId("open-all");
const naming = () => { toggle.textContent = sections.every((box) => box.open) ? "close all" : "open all"; };
toggle.onclick = () => {
  const open = toggle.textContent === "open all";
  sections.forEach((box) => { box.open = open; });
};
sections.forEach((box) => box.addEventListener("toggle", naming));
naming();
addEventListener("beforeprint", () => {
  sections.forEach((box) => { box.open = true; });
  if (window.Plotly) divs.forEach((div) => draw(div));
});

// ---- the section in view is marked in the navigation ------------------------------------------------------------------------
const links = new Map([...document.querySelectorAll(".top nav a")].map((a) => [a.hash.slice(1), a]));
for (const [name, link] of links) link.onclick = () => { byId(name).querySelector("details.whole").open = true; };
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

startPlots().then(() => { root.dataset.ready = "1"; follow(); });
