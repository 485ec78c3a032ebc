"use strict";
// Which part of the page is shown: clips, findings, codec, models or tables. It runs in the head, before the body is
// there, so that nothing is painted that is hidden a moment later. Without scripts all parts are shown.
const VIEWS = ["clips", "findings", "codec", "models", "tables"];

const viewOf = (anchor) => {
  if (VIEWS.includes(anchor)) return anchor;
  if (anchor.startsWith("clip-")) return "clips";
  const target = anchor ? document.getElementById(anchor) : null;
  return target?.closest("[data-view]")?.dataset.view ?? (anchor.startsWith("model-") ? "models" : "clips");
};

const anchorOf = () => {
  try {
    return decodeURIComponent(location.hash.slice(1));
  } catch {
    return "";
  }
};

const showView = () => {
  document.documentElement.dataset.view = viewOf(anchorOf());
  for (const link of document.querySelectorAll("#sections a")) {
    if (link.hash === `#${document.documentElement.dataset.view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
};

document.documentElement.classList.add("scripted");
showView();
document.addEventListener("DOMContentLoaded", showView);
addEventListener("hashchange", () => {
  showView();
  const anchor = anchorOf();
  if (VIEWS.includes(anchor)) scrollTo(0, 0);
  else document.getElementById(anchor)?.scrollIntoView();
});
