"""Columns of a requests file under the names that people use: other spellings and the words of other tools.

A heading with another name is read as the column that it means, and a note says so. A heading that is close to no
column is left as it is, and lines that use it are rejected.
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stages.requests.lines import COLUMNS

OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "name": ("id", "request", "request_name"),
    "title": ("clip_title",),
    "description": ("text", "caption", "text_prompt", "words"),
    "melody": ("melody_reference", "tune"),
    "clap": ("clap_reference", "sounds_like"),
    "prompt": ("audio_prompt", "continuation", "continue_from"),
    "prompt_seconds": ("prompt_duration", "prompt_length"),
    "seconds": ("duration", "length", "duration_seconds", "length_seconds", "secs", "sec"),
    "takes": ("count", "n", "copies", "variations", "num_samples", "num_return_sequences"),
    "seed": ("random_seed",),
    "guidance": ("cfg", "cfg_coef", "cfg_scale", "guidance_scale"),
    "guidance_text": ("cfg_coef_beta",),
    "temperature": ("temp",),
    "top_k": ("topk",),
    "top_p": ("topp",),
    "bpm": ("tempo",),
    "meter": ("metre", "time_signature", "time_sig", "timesig"),
    "chords": ("chord", "chord_progression", "progression", "changes", "text_chords"),
    "adapters": ("adapter", "lora", "loras"),
    "genre": ("genres",),
    "moods": ("mood",),
    "keywords": ("tags", "keyword"),
    "instrument": ("instruments",),
}
"""Column -> its names in spreadsheets and in other generators (AudioCraft, transformers, diffusers)."""

REFERENCE = re.compile(r"\s*(track|title|file)\s*:", re.IGNORECASE)
"""The beginning of a cell that names a recording to continue, rather than describes what a clip should sound like."""

_COLUMN_OF = {other: column for column, others in OTHER_NAMES.items() for other in others} | {
    column: column for column in COLUMNS
}


def plain_name(name: str) -> str:
    """Return a heading in lower case, without a unit in brackets, with its words joined by underscores."""
    without_unit = re.sub(r"[(\[][^)\]]*[)\]]\s*$", "", name)
    return re.sub(r"[\s\-]+", "_", without_unit.strip().lower())


def known_column(name: str) -> str | None:
    """Return the column that a heading means; None if it means none."""
    return _COLUMN_OF.get(plain_name(name))


def nearest_column(name: str) -> str | None:
    """Return the column with a name that is spelled most like a heading; None if none is similar."""
    nearest = difflib.get_close_matches(plain_name(name), _COLUMN_OF, n=1, cutoff=0.7)
    return _COLUMN_OF[nearest[0]] if nearest else None


def columns_of(names: Iterable[str], prompts: Sequence[Any]) -> dict[str, str]:
    """Return the column that each heading of a file means; a heading that means none stands for itself.

    A column `prompt` is a recording to continue if one of its cells names one (`track:`, `title:`, `file:`), or if
    another column is the description. Otherwise it is what other generators call a prompt: the description.

    Args:
        names: the headings.
        prompts: the cells of the column `prompt`; empty if there is none.
    """
    columns = {name: known_column(name) or name for name in names}
    refers = any(isinstance(cell, str) and REFERENCE.match(cell) for cell in prompts)
    if prompts and not refers and "description" not in columns.values():
        columns |= {name: "description" for name in columns if plain_name(name) == "prompt"}
    return columns
