"""Levelling: a file is as loud as asked, and after decoding it keeps the peak limit in every format."""

import io

import numpy as np
import pytest
import soundfile

from stages.audio import AudioFormat, SourceType, measure_audio
from stages.audio.levelling import encode_at_level

RATE = 16_000


def bursts(hertz: float) -> np.ndarray:
    """Short high tones over a steady one, whose peaks differ after each lossy encoder: float32 [1, N]."""
    time = np.arange(2 * RATE) / RATE
    sound = np.sin(2 * np.pi * hertz * time) * (time * 3 % 1 < 0.1) + 0.3 * np.sin(2 * np.pi * 7_000 * time)
    return (0.3 * sound / np.abs(sound).max()).astype(np.float32)[None]


@pytest.mark.parametrize("format", ["flac", "wav", "mp3", "ogg"])
@pytest.mark.parametrize("hertz", [3_150, 3_550, 4_950])
def test_the_decoded_file_keeps_the_peak_limit_however_loud_it_should_be(format: AudioFormat, hertz: float) -> None:
    """With a lower limiter alone, four times, four of these six lossy files stayed above the limit."""
    file = encode_at_level(bursts(hertz), RATE, format, {}, loudness=-8.0, true_peak=-1.0, source=SourceType.TRAINED)
    heard, rate = soundfile.read(io.BytesIO(file.data), dtype="float32", always_2d=True)
    assert file.measures == measure_audio(heard.T, rate)
    assert file.measures.true_peak is not None
    assert -4.0 < file.measures.true_peak <= -1.0
    assert file.seconds == len(heard) / rate


def test_sound_that_needs_no_limiter_gets_the_asked_loudness_or_keeps_its_own() -> None:
    time = np.arange(2 * RATE) / RATE
    tone = (0.2 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)[None]
    asked = encode_at_level(tone, RATE, "flac", {}, loudness=-23.0, true_peak=-1.0, source=None)
    assert asked.measures.loudness == pytest.approx(-23.0, abs=0.01)
    own = encode_at_level(tone, RATE, "flac", {}, loudness=None, true_peak=-1.0, source=None)
    assert own.measures.loudness == pytest.approx(measure_audio(tone, RATE).loudness, abs=0.01)


def test_silence_stays_silence() -> None:
    file = encode_at_level(
        np.zeros((1, RATE), np.float32), RATE, "mp3", {}, loudness=-16.0, true_peak=-1.0, source=None
    )
    assert (file.measures.loudness, file.measures.true_peak) == (None, None)
