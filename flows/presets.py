"""Presets: a preset is a function that returns its difference from the stages' own defaults, which are the published
values of MusicGen (arXiv:2306.05284) for 32 kHz mono.

Weights stand by name; what the first download of a name got is recorded in the store and held to from then on.
"""

from collections.abc import Callable, Mapping
from typing import Any

Difference = dict[str, Any]
"""A nested mapping of stage, field and value."""

ENCODEC = "facebook/encodec_32khz"
TEXT_ENCODER = "google-t5/t5-base"
SEPARATOR = "demucs:htdemucs"
CLAP = "lukewys/laion_clap/music_audioset_epoch_15_esc_90.14.pt"


def miniature() -> Difference:
    """Everything made and trained on this machine in minutes: demo corpus, codec, separator, CLAP, language model."""
    return {}


PRESETS: Mapping[str, Callable[[], Difference]] = {
    "miniature": miniature,
}


def preset_difference(name: str) -> Difference:
    """The difference of a preset.

    Raises:
        ValueError: there is no such preset.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; allowed: {', '.join(PRESETS)}")
    return PRESETS[name]()


def about(name: str) -> str:
    """What a preset is, in one line."""
    return " ".join((PRESETS[name].__doc__ or "").split())
