"use strict";
// The list: of thousands of rows only those near the screen are in the page. Every row's height is known beforehand, so
// the scroll bar is right from the start and nothing moves when rows come and go. The chosen row always stays, so that
// the keyboard's focus is never lost.
const list = element("list");
const BEYOND = 600; // pixels above and below the screen that are drawn too
let rows = [];
let tops = [0]; // where each row begins, pixels from the list's top; the last is the list's height
let columnsShown = [];
let drawMode = "list";
let sortedBy = "";
const drawn = new Map(); // number of the row -> its node
const drawnAs = new WeakMap(); // node -> what it was drawn of, in words: where that is the same it stays
const clipOf = new Map(); // "request/take" -> the clip

const rem = () => parseFloat(getComputedStyle(document.documentElement).fontSize);
const isNarrow = () => list.clientWidth < 40 * rem();

// Sizes in rem; workbench.css draws rows of these heights.
const SIZES = { row: 4.5, narrowRow: 9, head: 3.9, tile: 8.9, tileWidth: 14, gap: 0.75, line: 1.7, space: 1.5 };

function measure() {
  const unit = rem();
  const width = list.clientWidth / unit;
  const columns = Math.max(1, Math.floor((width + SIZES.gap) / (SIZES.tileWidth + SIZES.gap)));
  list.style.setProperty("--tiles", String(columns));
  const tableHeight = SIZES.line * (DIFFERENCES + 1);
  const heightOf = (row) => {
    if (drawMode === "list") return isNarrow() ? SIZES.narrowRow : SIZES.row;
    if (drawMode === "compare") {
      const tile = SIZES.tile - 2.2;
      return SIZES.head + SIZES.space + (isNarrow() ? tile + SIZES.gap + tableHeight : Math.max(tile, tableHeight));
    }
    const lines = Math.ceil(row.clips.length / columns);
    return SIZES.head + lines * SIZES.tile + (lines - 1) * SIZES.gap + SIZES.space;
  };
  tops = [0];
  for (const row of rows) tops.push(tops[tops.length - 1] + heightOf(row) * unit);
  list.style.height = `${tops[tops.length - 1]}px`;
}

// Returns the row at a height, by halving.
function rowAt(height) {
  let [low, high] = [0, rows.length - 1];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (tops[middle] <= height) low = middle;
    else high = middle - 1;
  }
  return low;
}

const rowOfClip = (clip) => rows.findIndex((row) => row.clips.includes(clip));

function drawNode(row) {
  if (drawMode === "list") return drawRow(row.clips[0], columnsShown);
  if (drawMode === "compare") return drawComparison(row.clips[0], columnsShown);
  return drawGroup(row, columnsShown, COLUMNS.get(sortedBy || defaultColumn()));
}

const signature = (row) =>
  [drawMode, isNarrow(), sortedBy, row.best.key, ...columnsShown.map((column) => column.name), ...row.clips.map((clip) => clip.key)].join(" ");

function place(node, number) {
  node.setAttribute("role", "listitem");
  node.setAttribute("aria-posinset", String(number + 1));
  node.setAttribute("aria-setsize", String(rows.length));
  node.style.top = `${tops[number]}px`;
  node.style.height = `${tops[number + 1] - tops[number]}px`;
}

function drawVisible() {
  if (!rows.length) {
    list.replaceChildren();
    drawn.clear();
    return;
  }
  const top = list.getBoundingClientRect().top;
  const wanted = new Set();
  const last = rowAt(innerHeight - top + BEYOND);
  for (let number = rowAt(Math.max(0, -top - BEYOND)); number <= last; number++) wanted.add(number);
  const chosen = chosenClip ? rowOfChosen : -1;
  if (chosen >= 0) wanted.add(chosen);
  for (const [number, node] of drawn) {
    if (!wanted.has(number)) {
      node.remove();
      drawn.delete(number);
    }
  }
  const missing = [...wanted].filter((number) => !drawn.has(number)).sort((one, other) => one - other);
  for (const number of missing) {
    const node = drawNode(rows[number]);
    drawnAs.set(node, signature(rows[number]));
    place(node, number);
    drawn.set(number, node);
    // Rows stand in the page in their order, for readers and for the Tab key.
    const after = [...drawn.keys()].filter((other) => other > number).sort((one, other) => one - other)[0];
    list.insertBefore(node, after === undefined ? null : drawn.get(after));
  }
  if (missing.length) drawStates(list);
}

let rowOfChosen = -1;
let drawingSoon = 0;
const drawSoon = () => {
  drawingSoon ||= requestAnimationFrame(() => {
    drawingSoon = 0;
    drawVisible();
  });
};

// Shows other rows, from the beginning.
function showRows(newRows, mode, sort) {
  [rows, drawMode, sortedBy] = [newRows, mode, sort];
  list.dataset.mode = mode;
  list.setAttribute("role", "list");
  layOut();
}

// Lays the same rows out anew, as after a change of the window's width.
function layOut() {
  const width = list.clientWidth / rem();
  const room = drawMode === "list" ? (isNarrow() ? 4 : Math.min(7, Math.floor((width - 30) / 5))) : drawMode === "compare" ? DIFFERENCES : 3;
  columnsShown = shownColumns(room, sortedBy);
  list.style.setProperty("--columns", String(columnsShown.length));
  list.classList.toggle("narrow", isNarrow());
  rowOfChosen = chosenClip ? rowOfClip(chosenClip) : -1;
  measure();
  for (const [number, node] of drawn) {
    if (rows[number] && drawnAs.get(node) === signature(rows[number])) {
      place(node, number);
    } else {
      node.remove();
      drawn.delete(number);
    }
  }
  drawVisible();
  drawHeads();
}

// The heads of the columns, which sort by them.
function drawHeads() {
  const heads = element("heads");
  heads.hidden = drawMode !== "list" || isNarrow();
  heads.style.setProperty("--columns", String(columnsShown.length));
  const lowest = isLowestFirst();
  const buttons = columnsShown.map((column) => {
    const button = make("button", column.name === sortedBy ? `sorted ${lowest ? "up" : "down"}` : "", column.words);
    button.type = "button";
    button.title = column.about;
    button.dataset.sort = column.name;
    button.setAttribute("aria-pressed", String(column.name === sortedBy));
    return button;
  });
  heads.replaceChildren(make("span", "", ""), ...buttons);
}

// Brings a row onto the screen, under the tools that stay at its top and above the player.
function scrollToRow(number) {
  if (number < 0) return;
  const box = list.getBoundingClientRect();
  const above = Math.max(0, element("tools").getBoundingClientRect().bottom) + element("heads").offsetHeight;
  const below = innerHeight - element("player").offsetHeight;
  const [from, to] = [box.top + tops[number], box.top + tops[number + 1]];
  if (from < above) scrollBy(0, from - above - 8);
  else if (to > below) scrollBy(0, to - below + 8);
}

addEventListener("scroll", drawSoon, { passive: true });
