"""The published weights around MusicGen, by the names that they are fetched by: the defaults of the stages."""

from schemas import WeightsRef

ENCODEC_32KHZ = WeightsRef("facebook/encodec_32khz")
"""MusicGen's codec (arXiv:2306.05284, 3.1)."""

HTDEMUCS = WeightsRef("demucs:htdemucs")
"""Hybrid Transformer Demucs (arXiv:2211.08553)."""

LAION_CLAP = WeightsRef("lukewys/laion_clap/music_audioset_epoch_15_esc_90.14.pt")
"""LAION's CLAP for music (arXiv:2211.06687), which AudioCraft's `clap` conditioner uses."""

ROBERTA_VOCABULARY = WeightsRef("FacebookAI/roberta-base/tokenizer.json")
"""RoBERTa's vocabulary, with which LAION's checkpoints read words; the checkpoints do not include it."""

MELODY_MODELS = frozenset(
    f"facebook/musicgen-{name}" for name in ("melody", "melody-large", "stereo-melody", "stereo-melody-large")
)
"""Published models that read melodies. Their names are known here, so that a plan can say before they are fetched which
other weights they need."""

TEXT_MODELS = frozenset(
    f"facebook/musicgen-{name}"
    for name in ("small", "medium", "large", "stereo-small", "stereo-medium", "stereo-large")
)
"""Published models that read only descriptions, and need no other weights."""

T5_BASE = WeightsRef("google-t5/t5-base")
"""The T5 that reads descriptions (arXiv:2306.05284, 3.1)."""

AUDIOSEAL_GENERATOR = WeightsRef("facebook/audioseal/generator_base.pth")
"""AudioSeal's network that makes watermarks of 16 bits (arXiv:2401.17264)."""

AUDIOSEAL_DETECTOR = WeightsRef("facebook/audioseal/detector_base.pth")
"""AudioSeal's network that detects these watermarks."""
