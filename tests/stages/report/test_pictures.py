"""Pictures of clips: PNGs that any decoder reads, transparent where there is silence."""

import io
import math

import matplotlib.image
import numpy as np
import pytest

from stages.report.pictures import HEIGHT, WIDTH, spectrogram_png


def decoded(data: bytes) -> np.ndarray:
    """Red, green, blue and opacity, [height, width, 4]."""
    return matplotlib.image.imread(io.BytesIO(data), format="png")


def sine(hertz: float, seconds: float = 3.0, sample_rate: int = 16_000) -> np.ndarray:
    return np.sin(2 * math.pi * hertz * np.arange(round(seconds * sample_rate)) / sample_rate).astype(np.float32)


@pytest.mark.parametrize(("seconds", "sample_rate"), [(0.05, 16_000), (3.0, 16_000), (3.3, 44_100), (60.0, 8_000)])
def test_a_picture_has_the_same_size_for_every_clip(seconds: float, sample_rate: int) -> None:
    png = spectrogram_png(sine(440, seconds, sample_rate)[None], sample_rate)
    assert decoded(png).shape == (HEIGHT, WIDTH, 4)
    assert len(png) < 12_000


def test_high_tones_are_above_low_ones_and_time_runs_to_the_right() -> None:
    picture = decoded(spectrogram_png(np.concatenate([sine(200), sine(3000)])[None], 16_000))[..., 3]
    left, right = (picture[:, part].mean(1).argmax() for part in (slice(20, 140), slice(180, 300)))
    assert right < left


def test_silence_is_transparent_and_channels_are_mixed() -> None:
    assert decoded(spectrogram_png(np.zeros((2, 16_000), np.float32), 16_000))[..., 3].max() == 0
    one = np.stack([sine(440), np.zeros(48_000, np.float32)])
    assert decoded(spectrogram_png(one, 16_000))[..., 3].max() == 1.0
