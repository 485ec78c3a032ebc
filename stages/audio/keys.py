"""Musical keys: parsing the names that people and programs write into one spelling, `A minor`, with sharps.

It reads names in English, German and the Romance languages, with flats and sharps (`Am`, `Bb maj`, `Es-Dur`, `la
mineur`), the Camelot wheel (`8A`) and Open Key (`1m`). Both wheels number the circle of fifths: each step is a fifth
up.
"""

import re
import unicodedata

from model.conditioning.config import PITCH_NAMES

LETTERS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
"""Semitones above C of each natural tone."""

GERMAN = {"H": 11, "B": 10}
"""German names with a meaning of their own: H is B, and B is B flat. The others are letters, with `is` or `es`."""

SYLLABLES = {"do": 0, "re": 2, "mi": 4, "fa": 5, "sol": 7, "la": 9, "si": 11}

MAJOR, MINOR = "major", "minor"
ENGLISH_MODES = {"major": MAJOR, "maj": MAJOR, "ionian": MAJOR, "minor": MINOR, "min": MINOR, "aeolian": MINOR}
GERMAN_MODES = {"dur": MAJOR, "moll": MINOR}
ROMANCE_MODES = {"majeur": MAJOR, "maggiore": MAJOR, "mayor": MAJOR, "maior": MAJOR}
ROMANCE_MODES |= {"mineur": MINOR, "minore": MINOR, "menor": MINOR}

CAMELOT = re.compile(r"0?([1-9]|1[0-2])([AB])", re.IGNORECASE)
OPEN_KEY = re.compile(r"0?([1-9]|1[0-2])([MD])", re.IGNORECASE)


def parse_key(text: str) -> str | None:
    """Return the key that a text names, such as `A minor` or `F# major`; None if it names no key, or several.

    A single letter is a major key; a single letter followed by a small `m` is a minor key. If a text has several parts
    (`8A / Am`, `Am (8A)`), all parts that are keys must agree."""
    plain = " ".join(unicodedata.normalize("NFKC", text).replace("♯", "#").replace("♭", "b").split())
    key = _parse_one(plain)
    if key is None:
        keys = {_parse_one(part.strip()) for part in re.split(r"[/|,;()\[\]]| - ", plain)[:16]} - {None}
        key = keys.pop() if len(keys) == 1 else None
    return key


def _parse_one(text: str) -> str | None:
    return _wheel(text) or _english(text) or _german(text) or _romance(text)


def _spelled(tonic: int, mode: str) -> str:
    return f"{PITCH_NAMES[tonic % 12]} {mode}"


def _wheel(text: str) -> str | None:
    if match := CAMELOT.fullmatch(text):
        steps = int(match[1]) - 8
        return _spelled(7 * steps, MAJOR) if match[2].upper() == "B" else _spelled(9 + 7 * steps, MINOR)
    if match := OPEN_KEY.fullmatch(text):
        steps = int(match[1]) - 1
        return _spelled(7 * steps, MAJOR) if match[2].upper() == "D" else _spelled(9 + 7 * steps, MINOR)
    return None


def _english(text: str) -> str | None:
    plain = re.sub(r"[\s-]*\bsharp\b", "#", re.sub(r"[\s-]*\bflat\b", "b", text, flags=re.I), flags=re.I)
    match = re.fullmatch(r"([A-Ga-g])\s?([#b]?)[\s_-]*([A-Za-z]*)\.?", plain)
    if not match:
        return None
    letter, accidental, mode = match[1].upper(), match[2], match[3]
    known = {"": MAJOR, "M": MAJOR, "m": MINOR}.get(mode) or ENGLISH_MODES.get(mode.lower())
    return known and _spelled(LETTERS[letter] + {"#": 1, "b": -1}.get(accidental, 0), known)


def _german(text: str) -> str | None:
    match = re.fullmatch(r"([A-Ha-h])(is|es|s)?[\s_-]*(dur|moll)", text, flags=re.I)
    if not match:
        return None
    letter, accidental = match[1].upper(), (match[2] or "").lower()
    if accidental == "s" and letter not in "AE":
        return None
    tonic = GERMAN.get(letter, LETTERS.get(letter, 0)) + {"is": 1, "es": -1, "s": -1}.get(accidental, 0)
    return _spelled(tonic, GERMAN_MODES[match[3].lower()])


def _romance(text: str) -> str | None:
    plain = "".join(sign for sign in unicodedata.normalize("NFD", text.lower()) if not unicodedata.combining(sign))
    match = re.fullmatch(r"(do|re|mi|fa|sol|la|si)\s?(#|b|diese|diesis|bemol|bemolle|sostenido)?[\s_-]*([a-z]+)", plain)
    if not match or match[3] not in ROMANCE_MODES:
        return None
    sharps = {"#": 1, "diese": 1, "diesis": 1, "sostenido": 1}
    return _spelled(SYLLABLES[match[1]] + (sharps.get(match[2], -1) if match[2] else 0), ROMANCE_MODES[match[3]])
