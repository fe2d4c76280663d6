"use strict";
const root = document.documentElement;
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
document.getElementById("theme").onclick = () => {
  const isDark = root.dataset.theme ? root.dataset.theme === "dark" : prefersDark.matches;
  root.dataset.theme = isDark ? "light" : "dark";
  try { localStorage.setItem("mltrain-theme", root.dataset.theme); } catch (error) { /* a file may have no storage */ }
  root.dispatchEvent(new Event("theme"));
};
