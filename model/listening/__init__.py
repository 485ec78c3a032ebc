"""Listening: what plain signal processing hears in a clip - its key, its tempo, its melody, a picture of it.

No model and no randomness: the same samples always give the same answer."""

from model.listening.key import KeyEstimate, estimate_key, parse_key, pitch_class_profile
from model.listening.melody import agreement_with, expected_agreement
from model.listening.picture import log_spectrogram
from model.listening.tempo import estimate_tempo, onset_strength, tempo_is_correct

__all__ = [
    "KeyEstimate",
    "agreement_with",
    "estimate_key",
    "estimate_tempo",
    "expected_agreement",
    "log_spectrogram",
    "onset_strength",
    "parse_key",
    "pitch_class_profile",
    "tempo_is_correct",
]
