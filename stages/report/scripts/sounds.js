"use strict";
// One sound of the page plays at a time, and the picture beside a player shows how far it is. Media events do not bubble, but they can be caught on their way down.
document.addEventListener(
  "play",
  (event) => {
    for (const other of document.querySelectorAll("audio")) if (other !== event.target) other.pause();
    event.target.closest(".plays")?.classList.add("is-playing");
  },
  true,
);
for (const end of ["pause", "ended"]) {
  document.addEventListener(end, (event) => event.target.closest(".plays")?.classList.remove("is-playing"), true);
}
document.addEventListener(
  "timeupdate",
  (event) => {
    const bar = event.target.closest(".plays")?.querySelector(".played");
    if (bar) bar.style.transform = `scaleX(${event.target.currentTime / (event.target.duration || 1)})`;
  },
  true,
);
document.addEventListener("click", (event) => {
  const picture = event.target.closest(".plays .picture");
  const own = picture?.parentElement.querySelector("audio");
  if (!own) return;
  const share = (event.clientX - picture.getBoundingClientRect().left) / picture.clientWidth;
  const go = () => (own.currentTime = Math.max(0, share) * own.duration);
  if (own.readyState > 0) go();
  else own.addEventListener("loadedmetadata", go, { once: true });
  own.play();
});
