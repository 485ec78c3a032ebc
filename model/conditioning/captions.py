"""The text that a track is trained with: its description, sometimes with other metadata merged into it.

This is AudioCraft's augmentation (`augment_music_info_description` and paraphrases). With it a model follows "genre:
jazz. bpm: 92" as well as prose, and prose in other words. Unlike AudioCraft's `drop_other_p`, `drop_other` is the
probability that a field is left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field

from schemas import Config

MERGED = ("genre", "moods", "keywords", "instrument", "key", "bpm")
"""The columns of `tracks` that may be merged into a description."""


class CaptionConfig(Config):
    """How the text of a training example is made."""

    paraphrase: float = Field(default=0.0, ge=0, le=1)
    """Probability that the description is replaced by one of the track's paraphrases, each as likely as the others
    (AudioCraft's `paraphrase_p`)."""
    merge: float = Field(default=0.25, ge=0, le=1)
    """Probability that other metadata is merged into the description (AudioCraft's `merge_text_p`)."""
    drop_description: float = Field(default=0.5, ge=0, le=1)
    """Probability that the description is left out where other metadata is merged (AudioCraft's `drop_desc_p`)."""
    drop_other: float = Field(default=0.5, ge=0, le=1)
    """Probability that a field is left out of the merged metadata (AudioCraft's `drop_other_p`)."""
    drop_words: float = Field(default=0.2, ge=0, le=1)
    """Probability that a word is left out of the text (AudioCraft's `word_dropout`: 0.2 with melody, 0.3 without)."""


CaptionKind = Literal["whole", "merged", "shortened", "metadata", "none"]
"""What a drawn text holds. `whole`: the description alone. `merged`: the description and other metadata. `shortened`:
the description, alone or with metadata, without some of the words. `metadata`: only other metadata. `none`: there is no
text. A paraphrase counts as the description."""


@dataclass(frozen=True)
class Caption:
    """The text of one training example, and what it holds."""

    text: str | None
    kind: CaptionKind


def plain_caption(track: Mapping[str, Any]) -> str | None:
    """Return the text of a track without random changes: its description, else its other metadata, else None."""
    return _description(track) or _joined("", _fields(track)) or None


def drawn_caption(track: Mapping[str, Any], config: CaptionConfig, random: np.random.Generator) -> str | None:
    """Return the text of one training example, drawn as `draw_caption` does; None if no words are left."""
    return draw_caption(track, config, random).text


def draw_caption(track: Mapping[str, Any], config: CaptionConfig, random: np.random.Generator) -> Caption:
    """Draw the text of one training example at random, and return it with its kind.

    Args:
        track: a row of `tracks`.
        random: the random generator; the same state gives the same text.
    """
    description = _description(track)
    paraphrases = track["paraphrases"] or []
    if description and paraphrases and random.random() < config.paraphrase:
        description = paraphrases[int(random.integers(len(paraphrases)))]
    fields: list[str] = []
    if random.random() < config.merge:
        fields = [field for field in _fields(track) if random.random() >= config.drop_other]
        random.shuffle(fields)
        if fields and random.random() < config.drop_description:
            description = ""
    elif not description:
        fields = _fields(track)
    text = _joined(description, fields)
    words = text.split()
    kept = [word for word, draw in zip(words, random.random(len(words)), strict=True) if draw >= config.drop_words]
    kind: CaptionKind = "merged" if fields else "whole"
    if not kept:
        kind = "none"
    elif not description:
        kind = "metadata"
    elif len(kept) < len(words):
        kind = "shortened"
    return Caption(" ".join(kept) or None, kind)


def request_text(description: str | None, key: str | None, bpm: float | None) -> str | None:
    """Return the text of a request: its description, followed by its key and tempo in the form in which training merges
    them. None if there is nothing."""
    return _joined((description or "").strip(), _fields(dict.fromkeys(MERGED) | {"key": key, "bpm": bpm})) or None


def _description(track: Mapping[str, Any]) -> str:
    return (track["description"] or "").strip()


def _joined(description: str, fields: Sequence[str]) -> str:
    return ". ".join([description.rstrip("."), *fields]) if description and fields else description or ". ".join(fields)


def _fields(track: Mapping[str, Any]) -> list[str]:
    """Return the metadata fields of `MERGED` that have a value, each as `name: value`."""
    fields = []
    for name in MERGED:
        value = track[name]
        text = ", ".join(value) if isinstance(value, list) else f"{value:g}" if isinstance(value, float) else value
        if text:
            fields.append(f"{name}: {text}")
    return fields
