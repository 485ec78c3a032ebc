"use strict";
// How clips are drawn from the page's templates. All text of the data is written by textContent and as attributes of
// addresses that the report made itself: none of it is ever read as HTML.
const SVG = "http://www.w3.org/2000/svg";

const make = (tag, className, text) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
};

const fromTemplate = (id) => element(id).content.firstElementChild.cloneNode(true);

// Scores whose difference is told of two checkpoints' clips; the list's heights count on it.
const DIFFERENCES = 5;

// Returns the columns that have room in a row: those of what was asked for, and that which is sorted by.
function shownColumns(room, sort) {
  const columns = FACTS.columns.filter((column) => column.headline);
  const others = columns.slice(0, room);
  if (sort && room > 0 && !others.some((column) => column.name === sort)) others.splice(room - 1, 1, COLUMNS.get(sort));
  return others;
}

// What the report says of a score, or else its number.
const valueInWords = (clip, column) => clip.scores[column.name]?.[0] ?? written(column, clip.values[column.name]);

// A value with its name, for a row or tile; `name` is read to those who do not see the column's head.
function cell(clip, column) {
  const value = valueInWords(clip, column);
  const verdict = clip.scores[column.name]?.[2] ?? "";
  const node = make("span", `cell ${verdict}${value === "–" ? "absent" : ""}`);
  node.append(make("span", "label", `${column.words} `), make("b", "", value));
  if (verdict) node.append(verdictMark(verdict));
  return node;
}

function verdictMark(verdict) {
  const mark = make("span", "tick", verdict === "right" ? "✓" : "✗");
  mark.setAttribute("role", "img");
  mark.setAttribute("aria-label", verdict);
  return mark;
}

function marksOf(clip) {
  return clip.marks.map(([word, sentence]) => {
    const mark = make("span", "mark", word);
    mark.title = sentence;
    return mark;
  });
}

// Fills what rows, tiles and the details share: the picture with its beats, and the buttons.
function fillSound(node, clip, number = 0) {
  const sound = soundsOf(clip)[number];
  node.dataset.key = clip.key;
  node.dataset.sound = String(number);
  node.querySelector("img").src = sound.picture;
  const beats = node.querySelector(".beats");
  if (sound.drawn) {
    beats.querySelector(".asked").setAttribute("d", sound.drawn.asked);
    beats.querySelector(".heard").setAttribute("d", sound.drawn.heard);
  } else {
    beats.remove();
  }
  const name = number ? `${sound.role}, ${clip.title}${takeName(clip)}` : clip.title + takeName(clip);
  const says = { play: `Play ${name}`, pick: `Pick ${name}`, refuse: `Refuse ${name}` };
  for (const [act, words] of Object.entries(says)) {
    node.querySelector(`button[data-do="${act}"]`)?.setAttribute("aria-label", words);
  }
}

function drawRow(clip, columns) {
  const node = fromTemplate("row-template");
  fillSound(node, clip);
  const title = node.querySelector("h3 button");
  title.textContent = clip.title;
  title.setAttribute("aria-label", `Details of ${clip.title}${takeName(clip)}`);
  const take = clip.takes > 1 ? [make("span", "take", `take ${clip.take}`)] : [];
  node.querySelector("p").append(...marksOf(clip), ...take, clip.description);
  node.querySelector(".cells").append(...columns.map((column) => cell(clip, column)));
  node.querySelector(".length").textContent = clip.length;
  return node;
}

function drawTile(clip, columns, title, number = 0) {
  const node = fromTemplate("tile-template");
  fillSound(node, clip, number);
  node.querySelector("h4 button").textContent = title;
  const source = number ? clip.twin : clip;
  node.querySelector(".cells").append(...columns.map((column) => cell(source, column)));
  if (number) node.querySelector(".verdicts").remove();
  return node;
}

function drawGroup(row, columns, best) {
  const node = fromTemplate("group-template");
  const [first] = row.clips;
  node.querySelector("h3").textContent = first.title;
  const shown = row.clips.length < first.takes ? `${row.clips.length} of ${first.takes} takes` : takesInWords(first.takes);
  node.querySelector("header p").append(make("small", "", shown), first.description);
  for (const clip of row.clips) {
    const tile = drawTile(clip, columns, `Take ${clip.take}`);
    const heading = tile.querySelector("h4");
    if (row.clips.length > 1 && clip === row.best && clip.values[best?.name] !== undefined) {
      heading.append(Object.assign(make("small", "best", "best"), { title: `by ${best.words}` }));
    }
    heading.append(...marksOf(clip));
    node.querySelector(".tiles").append(tile);
  }
  return node;
}

const takesInWords = (count) => (count === 1 ? "1 take" : `${count} takes`);

function drawComparison(clip, columns) {
  const node = fromTemplate("group-template");
  node.classList.add("comparison");
  node.querySelector("h3").textContent = clip.title + takeName(clip);
  node.querySelector("header p").append(make("small", "", `seed ${clip.seed}`), clip.description);
  const table = make("table", "differences");
  const caption = make("caption", "unseen", `Scores of both checkpoints for ${clip.title}`);
  const head = make("tr");
  for (const words of ["", "here", "other", "difference"]) {
    const name = make("th", "", words);
    name.scope = "col";
    head.append(name);
  }
  table.append(caption, head);
  const isTold = (column) => [clip, clip.twin].some((side) => side.values[column.name] !== undefined);
  for (const column of [...columns, ...FACTS.columns.filter((column) => !columns.includes(column))]
    .filter(isTold)
    .slice(0, DIFFERENCES)) {
    const [own, other] = [clip.values[column.name], clip.twin.values[column.name]];
    const difference = own === undefined || other === undefined ? undefined : own - other;
    const line = make("tr");
    const name = make("th", "", column.words);
    name.scope = "row";
    line.append(name, ...[clip, clip.twin].map((side) => make("td", "", valueInWords(side, column))));
    const tendency = !difference || !column.headline ? "" : difference > 0 ? "more" : "less";
    line.append(make("td", tendency, written(column, difference, true)));
    table.append(line);
  }
  const own = drawTile(clip, [], `Here · ${clip.checkpoint.slice(0, 8)}`);
  const other = drawTile(clip, [], `Other · ${clip.twin.checkpoint.slice(0, 8)}`, 1);
  own.querySelector("h4").append(...marksOf(clip));
  node.querySelector(".tiles").append(own, table, other);
  return node;
}

// Chords in a lane over the spectrogram: as asked above, as heard below.
function drawChords(drawn) {
  const width = 320;
  const lane = 20;
  const boxes = drawn.lanes.map(([name, chords]) => {
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${width} ${lane}`);
    svg.setAttribute("class", `chords ${name}`);
    svg.setAttribute("aria-hidden", "true");
    for (const [x, wide, text, whole] of chords) {
      const box = document.createElementNS(SVG, "rect");
      for (const [attribute, value] of Object.entries({ x, y: 1, width: wide, height: lane - 2 })) box.setAttribute(attribute, value);
      const title = document.createElementNS(SVG, "title");
      title.textContent = whole;
      box.append(title);
      svg.append(box);
      if (text) {
        const words = document.createElementNS(SVG, "text");
        words.setAttribute("x", x + wide / 2);
        words.setAttribute("y", 14);
        words.textContent = text;
        svg.append(words);
      }
    }
    return svg;
  });
  return boxes;
}

// Shows on what is drawn which clip is chosen, which plays, and what was decided.
function drawStates(root = document) {
  for (const node of root.querySelectorAll("[data-key]")) {
    const clip = clipOf.get(node.dataset.key);
    const verdict = picks.get(clip.key);
    const plays = isPlaying(clip, Number(node.dataset.sound));
    node.classList.toggle("is-playing", playing === clip && soundNumber === Number(node.dataset.sound));
    node.classList.toggle("plays-now", plays);
    node.classList.toggle("is-chosen", chosenClip === clip);
    if (chosenClip === clip) node.setAttribute("aria-current", "true");
    else node.removeAttribute("aria-current");
    node.classList.toggle("is-refused", verdict === "refuse");
    // The Tab key goes through the chosen row and on: thousands of rows would be a trap. Arrows go from row to row.
    if (list.contains(node)) for (const each of node.querySelectorAll("button")) each.tabIndex = chosenClip === clip ? 0 : -1;
    const button = node.querySelector('[data-do="play"]');
    if (button) button.setAttribute("aria-label", button.getAttribute("aria-label").replace(/^(Play|Pause)/, plays ? "Pause" : "Play"));
    for (const name of VERDICTS) {
      node.querySelector(`[data-do="${name}"]`)?.setAttribute("aria-pressed", String(verdict === name));
    }
  }
  element("player").classList.toggle("plays-now", !audio.paused);
  element("toggle").setAttribute("aria-label", audio.paused ? "Play" : "Pause");
}
