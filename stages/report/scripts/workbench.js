"use strict";
// The workbench: what happens where something is clicked, typed or pressed.
const tools = element("tools");
let shownClips = 0;

function refresh({ toTop = false } = {}) {
  const chosen = choice();
  const found = rowsOf(chosen);
  shownClips = found.reduce((count, row) => count + row.clips.length, 0);
  showRows(found, chosen.mode, chosen.sort);
  const filters = filtersSet(chosen);
  element("filters-count").hidden = !filters;
  element("filters-count").textContent = String(filters);
  element("empty").hidden = shownClips > 0 || !isLoaded;
  const unit = COLUMNS.get(chosen.column)?.unit;
  element("range-unit").textContent = unit === "share" ? "%" : ["right", "cosine"].includes(unit) ? "" : (unit ?? "");
  count();
  if (toTop && tools.getBoundingClientRect().top <= 0) scrollTo(0, element("workbench").offsetTop);
}

function count() {
  const verdicts = [...picks.values()];
  const picked = verdicts.filter((verdict) => verdict === "pick").length;
  const all = FACTS.clips.toLocaleString("en");
  const shown = shownClips === FACTS.clips ? `${all} clips` : `${shownClips.toLocaleString("en")} of ${all} clips`;
  const requests = drawMode === "requests" ? ` of ${rows.length.toLocaleString("en")} requests` : "";
  const decided = verdicts.length ? ` · ${picked} picked, ${verdicts.length - picked} refused` : "";
  element("count").textContent = shown + requests + decided;
  element("picks-count").textContent = String(verdicts.length);
  element("picks-words").textContent = verdicts.length
    ? `${picked} picked, ${verdicts.length - picked} refused`
    : "Nothing is picked yet.";
}

let isLoaded = false;
function loaded(isLast) {
  for (const clip of clips) if (clip && !clipOf.has(clip.key)) clipOf.set(clip.key, clip);
  element("loading").textContent = isLast ? "" : " · loading …";
  const wasEmpty = !chosenClip;
  isLoaded = isLast;
  if (isLast) element("words").append(...wordFilters());
  // The first block fills the screen; of the others the list only grows, once they are all there.
  if (isLast || wasEmpty) refresh();
  if (wasEmpty && clips[0]) choose(clips[0]);
  if (isLast) goToTarget();
}

// A link to a clip shows it, however far down it is.
function goToTarget() {
  const anchor = anchorOf();
  const target = anchor.startsWith("clip-") ? clips.find((clip) => clip?.anchor === anchor) : null;
  if (target) choose(target, { scroll: true, open: true });
}

function decide(clip, verdict) {
  judge(clip, verdict);
  const now = picks.get(clip.key);
  tell(`${clip.title}${takeName(clip)}: ${now === "pick" ? "picked" : now === "refuse" ? "refused" : "undecided"}`);
  drawStates();
  count();
}

// Goes on by a clip, in the order that is shown.
function step(by) {
  const order = rows.flatMap((row) => row.clips);
  const place = order.indexOf(chosenClip);
  const next = order[place < 0 ? 0 : Math.min(order.length - 1, Math.max(0, place + by))];
  if (!next) return;
  const wasPlaying = !audio.paused;
  const inside = list.contains(document.activeElement);
  choose(next, { scroll: true });
  if (wasPlaying) play(next);
  else tell(next.title + takeName(next));
  if (inside) list.querySelector(`[data-key="${CSS.escape(next.key)}"] [data-do="choose"]`)?.focus({ preventScroll: true });
}

document.addEventListener("click", (event) => {
  const acting = event.target.closest("[data-do]");
  const node = acting?.closest("[data-key]");
  if (!node) {
    const row = event.target.closest(".list [data-key]");
    if (row) choose(clipOf.get(row.dataset.key));
    return;
  }
  const clip = clipOf.get(node.dataset.key);
  const number = Number(node.dataset.sound);
  if (acting.dataset.do === "pick" || acting.dataset.do === "refuse") return decide(clip, acting.dataset.do);
  if (acting.dataset.do === "play") togglePlay(clip, number);
  if (acting.dataset.do === "seek") {
    const box = acting.getBoundingClientRect();
    const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    const length = playing === clip && soundNumber === number && audio.duration ? audio.duration : clip.values.seconds;
    play(clip, number, share * length);
  }
  if (chosenClip !== clip || acting.dataset.do === "choose") choose(clip, { open: acting.dataset.do === "choose" });
  if (acting.dataset.do === "choose" && getComputedStyle(element("details")).position === "fixed") element("details").focus();
});

element("details").addEventListener("click", (event) => {
  if (event.target.dataset.copy) copyText(event.target);
  if (event.target.id === "close-details") closeDetails();
});

function closeDetails() {
  if (!element("workbench").classList.contains("details-open")) return;
  element("workbench").classList.remove("details-open");
  list.querySelector('.is-chosen [data-do="choose"]')?.focus({ preventScroll: true });
}

// A playing sound that is switched changes the picture in the details.
for (const name of ["play", "pause", "ended"]) {
  audio.addEventListener(name, () => {
    drawStates();
  });
}
audio.addEventListener("loadstart", () => {
  const large = element("details").querySelector(".large");
  if (playing && playing === chosenClip && large) large.replaceWith(largePicture(playing, soundNumber));
  drawStates();
});

const togglePlayer = () => {
  if (playing) togglePlay(playing, soundNumber);
  else if (chosenClip) play(chosenClip);
};
element("toggle").addEventListener("click", togglePlayer);
element("previous").addEventListener("click", () => step(-1));
element("next").addEventListener("click", () => step(1));
element("sounds").addEventListener("change", () => switchSound(Number(element("sounds").value)));
element("position").addEventListener("input", () => {
  if (audio.duration) audio.currentTime = (Number(element("position").value) / 1000) * audio.duration;
});

let waiting = 0;
const soon = () => {
  clearTimeout(waiting);
  waiting = setTimeout(() => refresh({ toTop: true }), 80);
};
for (const id of ["find", "range-low", "range-high"]) element(id).addEventListener("input", soon);
for (const id of ["sort", "kind", "drums", "words", "verdict", "marks", "takes", "range-column"]) {
  element(id).addEventListener("change", () => refresh({ toTop: true }));
}
for (const mode of document.querySelectorAll('input[name="mode"]')) {
  mode.addEventListener("change", () => refresh({ toTop: true }));
}
function setDirection(lowest) {
  element("direction").setAttribute("aria-pressed", String(lowest));
}
element("direction").addEventListener("click", () => {
  setDirection(!isLowestFirst());
  refresh({ toTop: true });
});
element("heads").addEventListener("click", (event) => {
  const name = event.target.dataset.sort;
  if (!name) return;
  setDirection(element("sort").value === name && !isLowestFirst());
  element("sort").value = name;
  refresh({ toTop: true });
  element("heads").querySelector(`[data-sort="${name}"]`)?.focus();
});
tools.addEventListener("submit", (event) => event.preventDefault());
element("filters-button").addEventListener("click", () => {
  element("filters").hidden = !element("filters").hidden;
  element("filters-button").setAttribute("aria-expanded", String(!element("filters").hidden));
  drawSoon();
});
function clearFilters() {
  for (const id of ["find", "kind", "drums", "words", "verdict", "marks", "takes", "range-low", "range-high"]) {
    element(id).value = "";
  }
  refresh();
  element("find").focus();
}
element("clear").addEventListener("click", clearFilters);
element("clear-too").addEventListener("click", clearFilters);

// Picks: to a file, from a file, and the best of each request at once.
element("save-json").addEventListener("click", () => {
  saveFile("picks.json", "application/json", `${JSON.stringify(picksDocument(), null, 2)}\n`);
});
element("save-csv").addEventListener("click", () => saveFile("picks.csv", "text/csv", picksAsCsv()));
element("load-picks").addEventListener("change", async () => {
  const [file] = element("load-picks").files;
  if (!file) return;
  let words;
  try {
    const found = readPicks(await file.text());
    const isOther = found.store && found.store !== FACTS.store;
    for (const pick of found.picks) picks.set(`${pick.request_id}/${pick.take}`, pick.verdict);
    const absent = found.picks.filter((pick) => !clipOf.has(`${pick.request_id}/${pick.take}`)).length;
    words = `${found.picks.length} picks loaded`;
    if (absent) words += `, ${absent} of them of clips that are not on this page`;
    if (isOther) words += "; the file is of another store";
    keepPicks();
  } catch (error) {
    words = `${file.name}: ${error.message}`;
  }
  element("load-picks").value = "";
  refresh();
  drawStates();
  element("picks-words").textContent = words;
  tell(words);
});
element("pick-best").addEventListener("click", () => {
  const chosen = choice();
  const groups = byRequest(rows.flatMap((row) => row.clips));
  for (const takes of groups) {
    for (const clip of takes) if (picks.get(clip.key) === "pick") picks.delete(clip.key);
    picks.set(bestOf(takes, chosen.sort, chosen.lowestFirst).key, "pick");
  }
  keepPicks();
  drawStates();
  count();
  const column = COLUMNS.get(chosen.sort || defaultColumn());
  tell(`Picked the best take of ${groups.length} requests by ${column?.words}`);
});
element("clear-picks").addEventListener("click", () => {
  if (picks.size && !confirm(`Forget ${picks.size} picks and refusals?`)) return;
  picks.clear();
  keepPicks();
  refresh();
  drawStates();
});

// Keys of one letter, which can be turned off. They never act inside a field, and every one has a button.
const KEYS = {
  j: () => step(1),
  k: () => step(-1),
  p: () => chosenClip && decide(chosenClip, "pick"),
  x: () => chosenClip && decide(chosenClip, "refuse"),
  a: () => {
    if (playing !== chosenClip && chosenClip) play(chosenClip);
    else switchSound(soundNumber + 1);
  },
  g: () => {
    const modes = [...document.querySelectorAll('input[name="mode"]:enabled')];
    modes[(modes.findIndex((mode) => mode.checked) + 1) % modes.length].click();
  },
  "/": () => element("find").focus(),
  "?": () => element("help").showModal(),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || element("help").open) return;
  if (document.documentElement.dataset.view !== "clips") return;
  if (event.key === "Escape") {
    element("picks-menu").open = false;
    return closeDetails();
  }
  if (event.target.closest("input, select, textarea, audio")) return;
  const inside = list.contains(event.target) || event.target === list;
  let act = element("keys-on").checked ? KEYS[event.key.toLowerCase()] : undefined;
  if (inside && event.key === "ArrowDown") act = () => step(1);
  if (inside && event.key === "ArrowUp") act = () => step(-1);
  if (playing && (event.key === "ArrowLeft" || event.key === "ArrowRight")) {
    act = () => (audio.currentTime += event.key === "ArrowLeft" ? -1 : 1);
  }
  // The space bar presses a button that has the focus; else it plays.
  if (event.key === " " && chosenClip && !event.target.closest("button, a, summary, dialog")) {
    act = () => togglePlay(chosenClip, playing === chosenClip ? soundNumber : 0);
  }
  if (!act) return;
  event.preventDefault();
  act();
});

element("help-button").addEventListener("click", () => element("help").showModal());
element("keys-on").addEventListener("change", () => {
  try {
    localStorage.setItem("segue-keys", element("keys-on").checked ? "on" : "off");
  } catch {
    // Not kept, then: it lasts as long as the page.
  }
});
document.addEventListener("click", (event) => {
  if (!event.target.closest("#picks-menu")) element("picks-menu").open = false;
});

function begin() {
  if (!element("workbench")) return;
  const options = FACTS.columns.map((column) => new Option(column.words, column.name));
  element("sort").append(...options);
  element("range-column").append(...options.map((option) => option.cloneNode(true)));
  element("compare-mode").hidden = !FACTS.twins.length;
  element("compare-mode").querySelector("input").disabled = !FACTS.twins.length;
  try {
    element("keys-on").checked = localStorage.getItem("segue-keys") !== "off";
  } catch {
    // As it stands.
  }
  recallPicks();
  element("workbench").hidden = false;
  element("loading").textContent = " · loading …";
  count();
  // What stays at the top below the tools must know how high they are.
  new ResizeObserver(() => {
    const height = getComputedStyle(tools).position === "sticky" ? tools.offsetHeight : 0;
    document.documentElement.style.setProperty("--tools", `${height}px`);
  }).observe(tools);
  new ResizeObserver(() => {
    if (list.clientWidth !== Number(list.dataset.width)) {
      list.dataset.width = String(list.clientWidth);
      layOut();
    }
  }).observe(list);
  addEventListener("hashchange", goToTarget);
  readCatalog(loaded);
}
begin();
