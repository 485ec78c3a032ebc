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
    """Everything made and trained on this machine in minutes: a demo corpus, codec, separator, CLAP, language model."""
    return {
        "chroma": {"separator": "checkpoint:separator"},
        "clap": {"model": "checkpoint:clap"},
        "tokenize": {"codec": "checkpoint:codec"},
        "train": {"text_encoder": "checkpoint:text_encoder"},
        "requests": {"default_set": "demo"},
        "generate": {
            "codec": "checkpoint:codec",
            "separator": "checkpoint:separator",
            "clap": "checkpoint:clap",
            "vocabulary": None,
        },
        "decode": {"codec": "checkpoint:codec"},
        "evaluate": {"codec": "checkpoint:codec", "clap": "checkpoint:clap"},
    }


def musicgen_small() -> Difference:
    """MusicGen-small: 1024 wide, 24 layers, 16 heads; text by cross-attention; published weights around it."""
    return _published(width=1024, layers=24, heads=16)


def musicgen_medium() -> Difference:
    """MusicGen-medium: 1536 wide, 48 layers, 24 heads; text by cross-attention; published weights around it."""
    return _published(width=1536, layers=48, heads=24)


def musicgen_large() -> Difference:
    """MusicGen-large: 2048 wide, 48 layers, 32 heads; text by cross-attention; published weights around it."""
    return _published(width=2048, layers=48, heads=32)


def musicgen_melody() -> Difference:
    """MusicGen-melody: 1536 wide, 48 layers, 24 heads; chroma and text prepended; published weights around it."""
    difference = _published(width=1536, layers=48, heads=24)
    model = difference["train"]["model"]
    model["language_model"] |= {"cross": (), "prepend": ("description", "chroma")}
    model["chroma"] = {}
    return difference


def _published(width: int, layers: int, heads: int) -> Difference:
    """The published sizes (arXiv:2306.05284, 4.1) and the published weights."""
    return {
        "chroma": {"separator": SEPARATOR},
        "clap": {"model": CLAP},
        "tokenize": {"codec": ENCODEC},
        "train": {
            "model": {"language_model": {"width": width, "layers": layers, "heads": heads}},
            "text_encoder": TEXT_ENCODER,
        },
        "generate": {"codec": ENCODEC, "separator": SEPARATOR, "clap": CLAP},
        "decode": {"codec": ENCODEC},
        "evaluate": {"codec": ENCODEC, "clap": CLAP},
    }


PRESETS: Mapping[str, Callable[[], Difference]] = {
    "miniature": miniature,
    "musicgen-small": musicgen_small,
    "musicgen-medium": musicgen_medium,
    "musicgen-large": musicgen_large,
    "musicgen-melody": musicgen_melody,
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
