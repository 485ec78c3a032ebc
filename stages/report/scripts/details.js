"use strict";
// The details of the chosen clip: its spectrogram with beats and chords, the sounds to compare it with, every score,
// what was asked for and where it comes from, and what can be done with it.
let chosenClip = null;

const pairs = (entries, className = "") => {
  const list = make("dl", `pairs ${className}`);
  for (const [name, value] of entries) {
    const line = make("div");
    const said = make("dd");
    if (name === "Checkpoint") {
      const link = make("a", "", value);
      link.href = `#model-${encodeURIComponent(value)}`;
      said.append(link);
    } else {
      said.append(make("bdi", "", value));
    }
    line.append(make("dt", "", name), said);
    list.append(line);
  }
  return list;
};

function copyButton(words, text) {
  const button = make("button", "", words);
  button.type = "button";
  button.dataset.copy = text;
  return button;
}

async function copyText(button) {
  const text = button.dataset.copy;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Browsers refuse the clipboard to pages on a disk: the old way still works there.
    const field = make("textarea", "unseen", text);
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
    button.focus();
  }
  tell(`Copied: ${text}`);
  button.classList.add("done");
  setTimeout(() => button.classList.remove("done"), 1200);
}

function largePicture(clip, number) {
  const sound = soundsOf(clip)[number];
  const figure = make("figure", "large");
  const node = fromTemplate("tile-template");
  fillSound(node, clip, number);
  const picture = node.querySelector(".picture");
  picture.classList.add("tall");
  figure.dataset.key = clip.key;
  figure.dataset.sound = String(number);
  figure.append(picture);
  if (sound.drawn) {
    picture.append(...drawChords(sound.drawn));
    picture.setAttribute("role", "img");
    picture.setAttribute("aria-label", `Spectrogram; ${sound.drawn.words}`);
  }
  return figure;
}

function soundList(clip) {
  const list = make("ul", "compared");
  soundsOf(clip).forEach((sound, number) => {
    const line = make("li");
    line.dataset.key = clip.key;
    line.dataset.sound = String(number);
    const button = fromTemplate("tile-template").querySelector(".play");
    button.setAttribute("aria-label", `Play ${number ? `${sound.role}, ${sound.title}` : sound.title}`);
    const words = make("span");
    words.append(make("b", "", number ? sound.role : "This clip"));
    if (number) words.append(" ", make("small", "", sound.title));
    line.append(button, words);
    list.append(line);
  });
  return list;
}

function scoreList(clip) {
  const list = make("dl", "score-list");
  const line = (column, value, note, verdict) => {
    const row = make("div", verdict);
    const said = make("dd");
    const name = make("dt", "", column.words);
    name.title = column.about;
    said.append(make("b", "", value));
    if (verdict) said.append(verdictMark(verdict));
    row.append(name, said);
    if (note) row.append(make("dd", "note", note));
    list.append(row);
  };
  const told = FACTS.columns.filter((column) => clip.scores[column.name]);
  for (const column of told) line(column, ...clip.scores[column.name]);
  return list;
}

const otherScores = (clip) => {
  const rest = FACTS.columns.filter((column) => !clip.scores[column.name] && clip.values[column.name] !== undefined);
  return rest.map((column) => [column.words, written(column, clip.values[column.name])]);
};

function disclosure(words, ...content) {
  const node = make("details");
  node.append(make("summary", "", words), ...content);
  return node;
}

function drawDetails(clip) {
  const panel = element("details");
  const close = Object.assign(make("button", "close", "Close"), { type: "button", id: "close-details" });
  const title = make("h3", "", clip.title + takeName(clip));
  title.dir = "auto";
  const head = make("div", "head");
  const marks = marksOf(clip);
  head.append(title, close);
  const description = make("p", "", clip.description);
  description.dir = "auto";
  const number = playing === clip ? soundNumber : 0;
  const verdicts = make("div", "actions");
  verdicts.dataset.key = clip.key;
  verdicts.dataset.sound = "0";
  for (const [verdict, words] of [["pick", "Pick"], ["refuse", "Refuse"]]) {
    const button = Object.assign(make("button", `verdict-${verdict}`, words), { type: "button" });
    button.dataset.do = verdict;
    verdicts.append(button);
  }
  const download = make("a", "button", "Download");
  download.href = clip.audio;
  download.download = clip.path.split("/").pop();
  verdicts.append(download);
  const copies = make("div", "actions");
  copies.append(copyButton("Copy id", clip.id), copyButton("Copy seed", clip.seed), copyButton("Copy command", renderCommand(clip)));
  const command = make("code", "command", renderCommand(clip));
  const sentences = clip.marks.map(([, sentence]) => make("p", "warning", sentence));
  panel.replaceChildren(
    head,
    ...(marks.length ? [Object.assign(make("p", "marks"), {})] : []),
    ...(clip.description ? [description] : []),
    largePicture(clip, number),
    soundList(clip),
    verdicts,
    ...sentences,
    scoreList(clip),
    disclosure("The sound itself", pairs(otherScores(clip), "numbers")),
    disclosure("Request and lineage", pairs(clip.facts), pairs([...clip.lineage, ["Tables", FACTS.versions]])),
    disclosure("Make it again", make("p", "hint", "Decodes the clip’s codes again and compares every sample."), command),
    copies,
  );
  panel.querySelector(".marks")?.append(...marks);
  drawStates(panel);
}

// Chooses a clip: it is shown in the details, and the list brings it onto the screen if it is asked to.
function choose(clip, { scroll = false, open = false } = {}) {
  const before = rowOfChosen;
  chosenClip = clip;
  rowOfChosen = rowOfClip(clip);
  if (audio.paused && playing !== clip) loadSound(clip);
  drawDetails(clip);
  if (scroll && rowOfChosen !== before) scrollToRow(rowOfChosen);
  if (open) element("workbench").classList.add("details-open");
  drawVisible();
  drawStates(list);
}
