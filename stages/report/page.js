"use strict";
// One sound plays at a time, and its picture shows how far it is. Search, filter, sort and paging over the cards that are
// in the page already: without this script every card is there, in the order of the requests.
(() => {
  // Media events do not bubble, but they can be caught on their way down.
  document.addEventListener(
    "play",
    (event) => {
      for (const other of document.querySelectorAll(".plays.playing audio")) if (other !== event.target) other.pause();
      event.target.closest(".plays").classList.add("playing");
    },
    true,
  );
  for (const end of ["pause", "ended"]) {
    document.addEventListener(end, (event) => event.target.closest(".plays").classList.remove("playing"), true);
  }
  document.addEventListener(
    "timeupdate",
    (event) => {
      const audio = event.target;
      const share = audio.duration > 0 ? audio.currentTime / audio.duration : 0;
      audio.closest(".plays").querySelector(".played").style.transform = `scaleX(${share})`;
    },
    true,
  );
  document.addEventListener("click", (event) => {
    const picture = event.target.closest(".picture");
    if (!picture) return;
    const audio = picture.parentElement.querySelector("audio");
    const share = (event.clientX - picture.getBoundingClientRect().left) / picture.clientWidth;
    const go = () => {
      audio.currentTime = Math.max(0, share) * audio.duration;
    };
    if (audio.readyState > 0) go();
    else audio.addEventListener("loadedmetadata", go, { once: true });
    audio.play();
  });

  const list = document.getElementById("cards");
  if (!list) return;
  const cards = Array.from(list.children);
  const first = Number(list.dataset.first);
  const find = document.getElementById("find");
  const kind = document.getElementById("kind");
  const sort = document.getElementById("sort");
  const count = document.getElementById("count");
  const more = document.querySelector(".more");
  const empty = document.getElementById("empty");
  let limit = first;
  let texts = null;

  // What a card's words are, in small letters and without accents, read when the first search needs it. Scores are
  // left out and identities kept apart: a short word such as "33" stands in many of them by accident.
  const plain = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
  const said = (card) => {
    const words = card.querySelectorAll("h3, .description, .scores small, .pairs:not(.ids)");
    const text = Array.from(words, (node) => node.textContent).join(" ");
    return { words: plain(text), ids: card.querySelector(".ids").textContent.toLowerCase() };
  };
  const read = () => texts || (texts = new Map(cards.map((card) => [card, said(card)])));
  const says = (card, word) => {
    const text = read().get(card);
    return text.words.includes(word) || (word.length >= 6 && text.ids.includes(word));
  };

  const value = (card, name) => {
    const text = card.dataset[name];
    return text === undefined ? null : Number(text);
  };

  const ordered = () => {
    if (!sort.value) return cards;
    const up = sort.value.startsWith("-");
    const name = up ? sort.value.slice(1) : sort.value;
    const rated = cards.filter((card) => value(card, name) !== null);
    const rest = cards.filter((card) => value(card, name) === null);
    rated.sort((one, other) => (up ? 1 : -1) * (value(one, name) - value(other, name)));
    return rated.concat(rest);
  };

  // Of many cards only those that are shown have a player; the others hold a link to their clip until then.
  const player = (card) => {
    const link = card.querySelector(".listen");
    if (!link) return;
    const audio = document.createElement("audio");
    audio.controls = true;
    audio.preload = "none";
    audio.src = link.getAttribute("href");
    audio.setAttribute("aria-label", card.querySelector("h3").textContent);
    link.replaceWith(audio);
  };

  const draw = () => {
    const words = plain(find.value).split(/\s+/).filter(Boolean);
    const shown = [];
    let matching = 0;
    for (const card of ordered()) {
      const fits =
        (!kind.value || card.dataset.kinds.split(" ").includes(kind.value)) &&
        words.every((word) => says(card, word));
      if (fits) matching += 1;
      const show = fits && matching <= limit;
      if (card.hidden === show) card.hidden = !show;
      if (show) shown.push(card);
    }
    shown.forEach(player);
    // Hidden cards may lie in any order behind those that are shown.
    if (shown.some((card, place) => list.children[place] !== card)) list.prepend(...shown);
    count.textContent = `${shown.length} of ${shown.length < matching ? matching : cards.length} clips`;
    more.hidden = shown.length === matching;
    empty.hidden = matching > 0;
  };

  const restart = () => {
    limit = first;
    draw();
  };
  let waiting = 0;
  find.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(restart, cards.length > 500 ? 150 : 0);
  });
  kind.addEventListener("change", restart);
  sort.addEventListener("change", restart);
  document.getElementById("more").addEventListener("click", () => {
    limit += first;
    draw();
  });
  document.getElementById("all").addEventListener("click", () => {
    limit = cards.length;
    draw();
  });
  document.getElementById("clear").addEventListener("click", () => {
    find.value = "";
    kind.value = "";
    restart();
    find.focus();
  });
  find.form.addEventListener("submit", (event) => event.preventDefault());
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, select, textarea, audio");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      find.focus();
    }
  });

  // A link to a clip shows it, however far down it is.
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target && cards.includes(target)) limit = Math.max(limit, cards.indexOf(target) + 1);
  find.form.hidden = false;
  draw();
  if (target) target.scrollIntoView();
})();
