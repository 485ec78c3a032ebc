"use strict";
// The player: one sound for the whole page, so that only what is heard is loaded. It plays a clip, or one of the sounds
// that the clip is compared with, at the same moment of it. The codec's pairs have players of their own.
const audio = element("audio");
let playing = null; // the clip that is in the player
let soundNumber = 0; // which of its sounds: 0 is the clip itself

const soundsOf = (clip) => [
  { role: "Clip", title: clip.title + takeName(clip), audio: clip.audio, picture: clip.picture, drawn: clip.drawn },
  ...(clip.twin ? [{ role: "Other checkpoint", title: clip.twin.checkpoint, ...clip.twin }] : []),
  ...clip.sounds,
];

const isPlaying = (clip, number = null) =>
  playing === clip && !audio.paused && (number === null || number === soundNumber);

const tell = (words) => {
  element("status").textContent = words;
};

// Puts a sound of a clip into the player. `at` is the moment to begin at, in seconds.
function loadSound(clip, number = 0, at = 0) {
  const sounds = soundsOf(clip);
  if (playing !== clip) {
    const options = sounds.map((sound, place) => {
      const name = place ? `${sound.role}: ${sound.title}` : "This clip";
      return Object.assign(document.createElement("option"), { value: String(place), textContent: name });
    });
    element("sounds").replaceChildren(...options);
    element("sounds").closest("label").hidden = sounds.length < 2;
  }
  playing = clip;
  soundNumber = number;
  audio.src = sounds[number].audio;
  audio.dataset.at = String(at);
  element("sounds").value = String(number);
  element("now-title").textContent = clip.title + takeName(clip);
  element("now-what").textContent = number ? `${sounds[number].role}: ${sounds[number].title}` : clip.description;
}

function play(clip, number = 0, at = null) {
  if (playing !== clip || soundNumber !== number) loadSound(clip, number, at ?? 0);
  else if (at !== null) audio.currentTime = at;
  audio.play().catch((error) => {
    if (error.name !== "AbortError") tell(`This sound cannot be played: ${error.message}`);
  });
  const sound = soundsOf(clip)[number];
  tell(`Playing ${number ? `${sound.role.toLowerCase()}, ${sound.title}` : sound.title}`);
}

function togglePlay(clip, number = 0) {
  if (isPlaying(clip, number)) audio.pause();
  else play(clip, number);
}

// Goes to another sound of the clip in the player, and plays on at the same moment.
function switchSound(number) {
  if (!playing) return;
  const count = soundsOf(playing).length;
  play(playing, (number + count) % count, audio.currentTime);
}

const drawPlaying = () => {
  const share = audio.duration > 0 ? audio.currentTime / audio.duration : 0;
  for (const bar of document.querySelectorAll(".is-playing .played")) bar.style.transform = `scaleX(${share})`;
  if (document.activeElement !== element("position") || !audio.paused) element("position").value = String(1000 * share);
  element("position").setAttribute("aria-valuetext", `${clock(audio.currentTime)} of ${clock(audio.duration)}`);
  element("time").textContent = `${clock(audio.currentTime)} / ${clock(audio.duration)}`;
};

audio.addEventListener("loadedmetadata", () => {
  const at = Number(audio.dataset.at);
  if (at > 0) audio.currentTime = Math.min(at, audio.duration);
  drawPlaying();
});
audio.addEventListener("timeupdate", drawPlaying);
audio.addEventListener("error", () => {
  if (audio.getAttribute("src")) tell("This sound cannot be played: its file is gone or damaged");
});
