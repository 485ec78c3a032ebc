"use strict";
// Picks: which clips a person wants and which not. They stay in this browser under the store's identity, and go to a
// file and back as `segue export --picks` reads them.
const PICKS_FORMAT = "segue-picks-2";
const PICKS_KEY = `${PICKS_FORMAT}/${FACTS.store}`;
const VERDICTS = ["pick", "refuse"];
const picks = new Map(); // "request/take" -> "pick" or "refuse"

const picksDocument = () => ({
  format: PICKS_FORMAT,
  store: FACTS.store,
  picks: [...picks].map(([key, verdict]) => {
    const [request_id, take] = key.split("/");
    return { request_id, take: Number(take), verdict };
  }),
});

// localStorage is refused in some private windows; the picks then last as long as the page.
function keepPicks() {
  try {
    localStorage.setItem(PICKS_KEY, JSON.stringify(picksDocument()));
  } catch {
    element("picks-menu").dataset.forgetful = "true";
  }
}

function recallPicks() {
  try {
    const text = localStorage.getItem(PICKS_KEY);
    if (text) for (const pick of readPicks(text).picks) picks.set(`${pick.request_id}/${pick.take}`, pick.verdict);
  } catch {
    // Nothing was kept, or something else under that name: begin with none.
  }
}

const isPick = (pick) =>
  typeof pick?.request_id === "string" &&
  !/[/,\s]/.test(pick.request_id) &&
  Number.isInteger(pick.take) &&
  pick.take >= 1 &&
  VERDICTS.includes(pick.verdict);

// Reads a file of picks, JSON or CSV. Throws an Error whose message says what was expected and what came.
function readPicks(text) {
  const found = text.trimStart().startsWith("{") ? JSON.parse(text) : picksOfCsv(text);
  if (found.format !== PICKS_FORMAT) {
    throw new Error(`expected a file of the format ${PICKS_FORMAT}, got ${String(found.format).slice(0, 40)}`);
  }
  if (!Array.isArray(found.picks)) throw new Error("expected a list of picks, got none");
  const wrong = found.picks.findIndex((pick) => !isPick(pick));
  if (wrong >= 0) throw new Error(`expected request_id, take (from 1) and verdict (pick or refuse), got others in pick ${wrong + 1}`);
  return found;
}

function picksOfCsv(text) {
  const [head, ...lines] = text.replace(/^\ufeff/, "").split(/\r?\n/).filter((line) => line.trim());
  const names = (head ?? "").split(",").map((name) => name.trim().replaceAll('"', ""));
  const columns = ["request_id", "take", "verdict"].map((name) => names.indexOf(name));
  if (columns.includes(-1)) throw new Error("expected the columns request_id,take,verdict, got others");
  const rows = lines.map((line) => {
    const cells = line.split(",").map((cell) => cell.trim().replaceAll('"', ""));
    const [request_id, take, verdict] = columns.map((column) => cells[column]);
    return { request_id, take: take === "" ? NaN : Number(take), verdict };
  });
  return { format: PICKS_FORMAT, store: FACTS.store, picks: rows };
}

const picksAsCsv = () => {
  const rows = picksDocument().picks.map((pick) => `${pick.request_id},${pick.take},${pick.verdict}`);
  return ["request_id,take,verdict", ...rows, ""].join("\n");
};

function saveFile(name, type, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// Gives a clip a verdict, or takes the same one back.
function judge(clip, verdict) {
  if (picks.get(clip.key) === verdict) picks.delete(clip.key);
  else picks.set(clip.key, verdict);
  keepPicks();
}
