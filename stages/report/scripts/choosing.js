"use strict";
// What is shown, and in which order: search, filters, sorting, and the best take of each request.
const isLowestFirst = () => element("direction").getAttribute("aria-pressed") === "true";

const choice = () => {
  const of = (id) => element(id).value;
  const number = (id) => (of(id) === "" ? null : Number(of(id)));
  return {
    words: plain(of("find")).split(/\s+/).filter(Boolean),
    ...{ kind: of("kind"), drums: of("drums"), field: of("words"), verdict: of("verdict"), marks: of("marks") },
    ...{ bestOnly: of("takes") === "best", sort: of("sort"), lowestFirst: isLowestFirst() },
    ...{ column: of("range-column"), low: number("range-low"), high: number("range-high") },
    mode: document.querySelector('input[name="mode"]:checked').value,
  };
};

// How many filters are set, besides search and sorting.
const filtersSet = (chosen) =>
  ["kind", "drums", "field", "verdict", "marks", "bestOnly"].filter((name) => chosen[name]).length +
  (chosen.low !== null || chosen.high !== null ? 1 : 0);

// A short word such as "33" stands in many identities by accident, so those take six letters.
const hasWord = (clip, word) => clip.words.includes(word) || (word.length >= 6 && clip.ids.includes(word));

function fits(clip, chosen) {
  if (chosen.kind && !clip.kinds.includes(chosen.kind)) return false;
  if (chosen.drums && !clip.kinds.includes(chosen.drums)) return false;
  if (chosen.field && !hasField(clip, chosen.field)) return false;
  if (chosen.verdict && (picks.get(clip.key) ?? "none") !== chosen.verdict) return false;
  if (chosen.marks && (chosen.marks === "unmarked" ? clip.marks.length > 0 : !clip.kinds.includes(chosen.marks))) {
    return false;
  }
  if (chosen.low !== null || chosen.high !== null) {
    const scale = COLUMNS.get(chosen.column)?.unit === "share" ? 100 : 1;
    const value = clip.values[chosen.column];
    if (value === undefined) return false;
    if (chosen.low !== null && scale * value < chosen.low - 1e-9) return false;
    if (chosen.high !== null && scale * value > chosen.high + 1e-9) return false;
  }
  return chosen.words.every((word) => hasWord(clip, word));
}

const hasField = (clip, chosen) => {
  if (chosen.startsWith("word:")) return clip.descriptionWords.has(chosen.slice(5));
  return clip.fields.some(([name, value]) => `field:${name}:${value}` === chosen);
};

// Sorts by a column; what has no value comes last either way, and equals keep the order of the requests.
function sorted(found, column, lowestFirst, valueOf = (clip) => clip.values[column]) {
  if (!column) return lowestFirst ? found.toReversed() : found;
  const rated = found.filter((each) => valueOf(each) !== undefined);
  const rest = found.filter((each) => valueOf(each) === undefined);
  rated.sort((one, other) => (lowestFirst ? 1 : -1) * (valueOf(one) - valueOf(other)));
  return rated.concat(rest);
}

// What best means where nothing is chosen to sort by: the first score of what was asked for.
const defaultColumn = () => FACTS.columns[0]?.name ?? "";

// Returns the best of some takes by a column, or the first where none has it.
function bestOf(takes, column, lowestFirst) {
  return sorted(takes, column || defaultColumn(), column ? lowestFirst : false)[0];
}

function byRequest(found) {
  const groups = new Map();
  for (const clip of found) {
    if (!groups.has(clip.id)) groups.set(clip.id, []);
    groups.get(clip.id).push(clip);
  }
  return [...groups.values()];
}

// Returns the rows of the list: { clips, best } each, one clip in the modes "list" and "compare", the takes of a request
// in the mode "requests".
function rowsOf(chosen) {
  let found = clips.filter((clip) => clip && fits(clip, chosen));
  if (chosen.mode === "compare") found = found.filter((clip) => clip.twin);
  if (chosen.bestOnly) found = byRequest(found).map((takes) => bestOf(takes, chosen.sort, chosen.lowestFirst));
  if (chosen.mode === "requests") {
    const groups = byRequest(found).map((takes) => ({ clips: takes, best: bestOf(takes, chosen.sort, chosen.lowestFirst) }));
    return sorted(groups, chosen.sort, chosen.lowestFirst, (group) => group.best.values[chosen.sort]);
  }
  const difference = (clip) =>
    clip.twin.values[chosen.sort] === undefined || clip.values[chosen.sort] === undefined
      ? undefined
      : clip.values[chosen.sort] - clip.twin.values[chosen.sort];
  const valueOf = chosen.mode === "compare" ? difference : (clip) => clip.values[chosen.sort];
  return sorted(found, chosen.sort, chosen.lowestFirst, valueOf).map((clip) => ({ clips: [clip], best: clip }));
}

// Words that many descriptions share, to choose from: fields of the requests first, then words of descriptions.
const COMMON_WORDS = 40;
const STOP_WORDS = new Set(["with", "over", "and", "the", "for", "from", "into", "number", "piece", "melody"]);

function wordFilters() {
  const fields = new Map();
  const words = new Map();
  for (const clip of clips) {
    for (const [name, value] of clip.fields) {
      const counts = fields.get(name) ?? fields.set(name, new Map()).get(name);
      counts.set(value, (counts.get(value) ?? 0) + 1);
    }
    clip.descriptionWords = new Set(plain(clip.description || clip.title).match(/\p{L}{3,}/gu) ?? []);
    for (const word of clip.descriptionWords) if (!STOP_WORDS.has(word)) words.set(word, (words.get(word) ?? 0) + 1);
  }
  const group = (label, prefix, counts) => {
    const options = counts.map(([value, count]) =>
      Object.assign(document.createElement("option"), { value: prefix + value, textContent: `${value} (${count})` }),
    );
    const optgroup = Object.assign(document.createElement("optgroup"), { label });
    optgroup.append(...options);
    return optgroup;
  };
  const common = (counts) => [...counts].sort((one, other) => other[1] - one[1]).slice(0, COMMON_WORDS);
  const shared = common([...words].filter(([, count]) => count > 1 && count < clips.length));
  const groups = [...fields].map(([name, counts]) => group(name, `field:${name}:`, common(counts)));
  return [...groups, ...(shared.length ? [group("in descriptions", "word:", shared)] : [])];
}
