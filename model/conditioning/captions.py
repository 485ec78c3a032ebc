"""The sentence that a track is trained with: its description, at times with other metadata merged into it.

AudioCraft's augmentation (`augment_music_info_description` and paraphrases), so that a model follows "genre: jazz. bpm:
92" as well as prose, and prose in other words. Unlike there, `drop_other` is the probability of leaving a field out.
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
"""What a drawn text holds of a track's description: all of it alone, all of it beside other metadata, some of its
words, none (other metadata stands in its place), or nothing at all. A paraphrase counts as the description."""


@dataclass(frozen=True)
class Caption:
    """The text of one training example, and what became of the description in it."""

    text: str | None
    kind: CaptionKind


def plain_caption(track: Mapping[str, Any]) -> str | None:
    """Return the text of a track as it is: its description, else its other metadata, else None."""
    return _description(track) or _joined("", _fields(track)) or None


def drawn_caption(track: Mapping[str, Any], config: CaptionConfig, random: np.random.Generator) -> str | None:
    """Draw the text of one training example as `draw_caption` does; None where nothing is left of it."""
    return draw_caption(track, config, random).text


def draw_caption(track: Mapping[str, Any], config: CaptionConfig, random: np.random.Generator) -> Caption:
    """Draw the text of one training example, and tell what it holds.

    Args:
        track: a row of `tracks`.
        random: where the draws come from; the same state gives the same text.
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
    """Return the text of a request: its description, followed by the key and the tempo that it names in the form in
    which training merges them."""
    return _joined((description or "").strip(), _fields(dict.fromkeys(MERGED) | {"key": key, "bpm": bpm})) or None


def _description(track: Mapping[str, Any]) -> str:
    return (track["description"] or "").strip()


def _joined(description: str, fields: Sequence[str]) -> str:
    return ". ".join([description.rstrip("."), *fields]) if description and fields else description or ". ".join(fields)


def _fields(track: Mapping[str, Any]) -> list[str]:
    """Return the other metadata of a track that has a value, each as `name: value`."""
    fields = []
    for name in MERGED:
        value = track[name]
        text = ", ".join(value) if isinstance(value, list) else f"{value:g}" if isinstance(value, float) else value
        if text:
            fields.append(f"{name}: {text}")
    return fields
