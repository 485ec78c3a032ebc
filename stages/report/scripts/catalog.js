"use strict";
// The catalog: what the page says of all clips, and the clips themselves, in blocks of JSON that lie in the page. The
// first stands before these scripts, the others after them: they are read once the page is there.
const FACTS = JSON.parse(document.getElementById("catalog").textContent);
const COLUMNS = new Map(FACTS.columns.map((column) => [column.name, column]));
const clips = new Array(FACTS.clips); // in the order of the requests; undefined until its block is read

const element = (id) => document.getElementById(id);
const keyOf = (clip) => `${clip.id}/${clip.take}`;
const takeName = (clip) => (clip.takes > 1 ? ` · take ${clip.take}` : "");

// In small letters and without accents, as people search.
const plain = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();

function receiveClips(start, received) {
  received.forEach((clip, offset) => {
    clip.number = start + offset;
    clip.key = keyOf(clip);
    const noted = Object.values(clip.scores).map((score) => score[1]);
    const told = [clip.title, clip.description, ...clip.facts.map((fact) => fact[1]), ...noted];
    clip.words = plain(told.join(" \n "));
    clip.ids = clip.lineage.map((fact) => fact[1]).join(" \n ").toLowerCase();
    clips[clip.number] = clip;
  });
}

// Reads all blocks in order, and calls `progress` after each; between them the page can answer.
async function readCatalog(progress) {
  let start = 0;
  const read = (block) => {
    const received = JSON.parse(block.textContent);
    block.remove();
    receiveClips(start, received);
    start += received.length;
    progress(start === FACTS.clips);
  };
  const first = document.querySelector(".clips-block");
  if (first) read(first);
  await new Promise((done) => document.addEventListener("DOMContentLoaded", done));
  for (const block of document.querySelectorAll(".clips-block")) {
    await new Promise((done) => setTimeout(done));
    read(block);
  }
}

// Writes a value of a column as the score card does; a difference with its sign, of shares in percentage points.
function written(column, value, signed = false) {
  if (value === undefined) return "–";
  const sign = signed && value > 0 ? "+" : signed && value === 0 ? "±" : "";
  const decimalsOf = (number, digits) => sign + number.toFixed(digits).replace("-", "−");
  const decimals = (digits) => decimalsOf(value, digits);
  switch (column.unit) {
    case "share":
      if (signed) return decimalsOf(100 * value, 0);
      return `${sign}${(100 * value).toFixed(Math.abs(value) < 0.0995 && value ? 1 : 0).replace("-", "−")} %`;
    case "right":
      return signed ? decimals(0) : value ? "right" : "wrong";
    case "Hz":
      return `${decimals(0)} Hz`;
    case "LUFS":
    case "dBTP":
      return `${decimals(1)} ${column.unit}`;
    case "s":
      return `${decimals(2)} s`;
    case "full scale":
      return decimals(4);
    default:
      return decimals(2);
  }
}

const clock = (seconds) => {
  const whole = Math.max(0, Math.floor(seconds || 0));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
};

// A page on a disk knows where its store is; one on a server does not, and names places as they are inside it.
const storeFolder = () => {
  if (location.protocol !== "file:") return null;
  return decodeURIComponent(location.pathname).replace(/\/report\/[^/]*$/, "");
};
const quoted = (text) => (/^[\w./=:@+-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`);
const renderCommand = (clip) => {
  const store = storeFolder();
  const file = store === null ? clip.path : `${store}/${clip.path}`;
  return `segue verify --render --store ${quoted(store ?? ".")} ${quoted(file)}`;
};
