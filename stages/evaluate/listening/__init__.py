"""Listening: what plain signal processing hears in a clip - its key, its tempo, its melody, a picture of it.

No model and no randomness: the same samples always give the same answer."""

from stages.evaluate.listening.key import KeyEstimate, estimate_key, parse_key, pitch_class_profile
from stages.evaluate.listening.melody import agreement_with, expected_agreement
from stages.evaluate.listening.tempo import estimate_tempo, onset_strength, tempo_is_correct

__all__ = [
    "KeyEstimate",
    "agreement_with",
    "estimate_key",
    "estimate_tempo",
    "expected_agreement",
    "onset_strength",
    "parse_key",
    "pitch_class_profile",
    "tempo_is_correct",
]
