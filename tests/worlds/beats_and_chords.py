"""A tiny model that reads only beat and chords, and items that have both."""

import numpy as np
import torch

from model.conditioning.config import BeatConfig, MusicModelConfig
from model.conditioning.frame_wise import beat_vectors, chord_vectors, frame_times
from model.music_model import Attributes, MusicModel


def config(**changes: object) -> MusicModelConfig:
    sizes = {"codebooks": 3, "cardinality": 24, "width": 16, "heads": 2, "layers": 1, "cross": ()}
    values = {"language_model": sizes | {"sum": ("beat", "chords")}, "description": None, "beat": {}, "chords": {}}
    return MusicModelConfig.model_validate(values | changes)


def music_model(settings: MusicModelConfig | None = None) -> MusicModel:
    torch.manual_seed(0)
    return MusicModel(settings or config()).eval()


def item(frames: int = 7, seed: int = 0) -> Attributes:
    """Beats at a random pace, and a random chord every three frames."""
    random = np.random.default_rng(seed)
    times = frame_times(0, frames, 10.0)
    beats = np.cumsum(random.uniform(0.2, 0.3, size=frames)) - 0.3
    starts = 0.3 * np.arange(frames)
    roots = random.integers(12, size=frames)
    chords = np.stack([starts, starts + 0.3, roots, random.integers(14, size=frames), roots], axis=1)
    return Attributes(
        beat=torch.from_numpy(beat_vectors(beats, beats[::4], times, BeatConfig())),
        chords=torch.from_numpy(chord_vectors(chords, times)),
    )
