"use strict";
const player = document.querySelector("audio"), footer = document.querySelector("footer"), now = document.querySelector("#now");
const rows = [...document.querySelectorAll("tbody tr")];
const words = rows.map((row) => row.textContent.toLowerCase());
let current = null;

function play(row) {
  if (!row) return;
  if (current) current.removeAttribute("aria-current");
  current = row;
  row.setAttribute("aria-current", "true");
  const link = row.querySelector("a.play");
  footer.hidden = false;
  now.textContent = link.textContent;
  player.src = link.href;
  player.play().catch(() => {});
}

document.querySelector("tbody").addEventListener("click", (event) => {
  const link = event.target.closest("a.play");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  play(link.closest("tr"));
});
player.addEventListener("ended", () => {
  const shown = rows.filter((row) => !row.hidden);
  play(shown[shown.indexOf(current) + 1]);
});
document.querySelector("#find").addEventListener("input", (event) => {
  const wanted = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  rows.forEach((row, index) => {
    row.hidden = !wanted.every((word) => words[index].includes(word));
    shown += !row.hidden;
  });
  document.querySelector("#count").textContent = `${shown} of ${rows.length} clips`;
});
