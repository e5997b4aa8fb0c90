"use strict";
// Before the first paint: the reader's choice of an earlier visit, else the system's.
(() => {
  let theme = null;
  try { theme = localStorage.getItem("lictor-theme"); } catch { /* storage is switched off */ }
  if (theme !== "light" && theme !== "dark") {
    theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  }
  document.documentElement.dataset.theme = theme;
})();
