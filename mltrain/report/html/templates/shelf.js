// A shelf that fills as the reader scrolls: fill(items, card) shows items from the first, STEP at a time.
const STEP = 36;
const fill = (() => {
  let left = [];
  let make_ = null;
  const more = () => byId("shelf").append(...left.splice(0, STEP).map(make_));
  new IntersectionObserver((seen) => { if (seen.some((entry) => entry.isIntersecting) && left.length) more(); }, { rootMargin: "900px" }).observe(byId("end"));
  return (items, card, none) => {
    [left, make_] = [[...items], card];
    byId("shelf").replaceChildren();
    if (left.length) more(); else byId("shelf").append(make("p", { className: "muted", textContent: none }));
  };
})();
const filterButton = (onclick, ...children) => {
  const button = make("button", { type: "button", onclick }, ...children);
  byId("filters").append(button);
  return button;
};
const press = (button, on) => button.setAttribute("aria-pressed", String(on));
byId("shelf").dataset.strip = "";
