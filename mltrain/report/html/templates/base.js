"use strict";
const root = document.documentElement;
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const content = JSON.parse(document.getElementById("data").textContent);
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
const byId = (id) => document.getElementById(id);
const number = (value) => value.toLocaleString("en-US");
const saveFile = (name, parts, type) => {
  const address = URL.createObjectURL(new Blob(parts, { type: `${type};charset=utf-8` }));
  make("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
};
byId("theme").onclick = () => {
  const isDark = root.dataset.theme ? root.dataset.theme === "dark" : prefersDark.matches;
  root.dataset.theme = isDark ? "light" : "dark";
  try { localStorage.setItem("mltrain-theme", root.dataset.theme); } catch (error) { /* a file may have no storage */ }
  root.dispatchEvent(new Event("theme"));
};

// ---- pictures in large: a click on button.enlarge; Esc closes, arrow keys go to its neighbours in [data-strip] -----------
const lightbox = (() => {
  const picture = make("img");
  const text = make("div", { className: "text" });
  const step = (by, textContent, title) => make("button", { type: "button", className: "quiet", textContent, title, ariaLabel: title, onclick: () => go(by) });
  const close = make("button", { type: "button", className: "quiet close", textContent: "✕", title: "close", ariaLabel: "close", onclick: () => dialog.close() });
  const dialog = make("dialog", { className: "lightbox" }, close, make("div", { className: "below" }, step(-1, "‹", "back"), text, step(1, "›", "next")));
  let all = [];
  let at = 0;
  const go = (by) => {
    at = (at + by + all.length) % all.length;
    const [image, words] = [all[at].querySelector("img") ?? all[at].parentElement.querySelector("img"), all[at].parentElement.querySelector(".text")];
    close.after(picture);
    Object.assign(picture, { src: image.src, alt: image.alt });
    picture.style.width = `min(92vw, ${Math.max(3 * image.naturalWidth, 280)}px)`;
    text.replaceChildren(...(words ? [words.cloneNode(true)] : [image.alt]));
    for (const input of text.querySelectorAll("input, button")) input.disabled = true;
  };
  document.body.append(dialog);
  dialog.onclick = (event) => { if (event.target === dialog) dialog.close(); };
  dialog.onkeydown = (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by) { event.preventDefault(); go(by); }
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("button.enlarge");
    if (!button) return;
    event.preventDefault();
    all = [...button.closest("[data-strip]").querySelectorAll("button.enlarge")];
    at = all.indexOf(button);
    go(0);
    dialog.showModal();
  });
  return dialog;
})();
