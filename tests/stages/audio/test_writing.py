"""Writing: samples and tags are read back, files are reproducible, and a limit is kept without clipping."""

import io
import math
import subprocess
import sys
from pathlib import Path

import mutagen
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from stages.audio import encode_audio, limit_true_peak, measure_audio, normalise_loudness, read_audio
from stages.ingest.tags import read_tags
from tests.worlds.recordings import RATE, tones, write

TAGS = {"title": 'Ein Stück – "1"', "artist": "Segue", "description": "generated", "request": "r 1", "bpm": "120"}


@pytest.mark.parametrize("format", ["flac", "wav", "mp3", "ogg"])
def test_samples_and_tags_are_read_back(format, tmp_path):
    sound = tones(3.0)
    path = write(tmp_path / "x", encode_audio(sound, RATE, format, TAGS))
    recording = read_audio(path)
    assert recording.format == format
    assert recording.sample_rate == RATE
    assert recording.samples.shape == sound.shape
    error = np.abs(recording.samples - sound).max()
    assert error < (4e-5 if format in ("flac", "wav") else 0.05)
    with open(path, "rb") as file:
        tags = read_tags(file).values
    assert tags["title"] == TAGS["title"]
    assert tags["artist"] == "Segue"
    assert tags["description"] == "generated"
    assert tags["bpm"] == 120
    assert "r 1" in str(dict(mutagen.File(path).tags))


def test_the_same_clip_becomes_the_same_file_in_every_process():
    code = (
        "import hashlib, numpy as np; from stages.audio import encode_audio;"
        "x = np.sin(np.arange(20000) / 50)[None].astype('float32') / 2;"
        "tags = {'title': 'a', 'artist': 'b', 'z': 'c'};"
        "print([hashlib.sha256(encode_audio(x, 16000, f, tags)).hexdigest() for f in ('flac', 'wav', 'mp3', 'ogg')])"
    )
    root = Path(__file__).parents[3]
    runs = [subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, check=True) for _ in range(2)]
    assert runs[0].stdout == runs[1].stdout
    assert len(runs[0].stdout) > 200


def test_minutes_of_ogg_are_written():
    data = encode_audio(np.tile(tones(10.0), 12), RATE, "ogg")
    assert len(data) > 100_000


@pytest.mark.parametrize("peak", [1.0001, math.inf, math.nan])
def test_samples_that_would_clip_are_refused(peak):
    sound = tones(0.1)
    sound[0, 100] = peak
    with pytest.raises(ValueError, match="expected samples in"):
        encode_audio(sound, RATE, "flac")


def test_sound_that_a_format_cannot_hold_is_refused():
    with pytest.raises(ValueError, match="MP3"):
        encode_audio(tones(0.1), 96_000, "mp3")
    with pytest.raises(ValueError, match="flac, wav, mp3, ogg"):
        encode_audio(tones(0.1), RATE, "m4a")
    with pytest.raises(ValueError, match="shape"):
        encode_audio(tones(0.1)[0], RATE, "wav")


def test_full_scale_fits_into_16_bits():
    sound = np.array([[1.0, -1.0, 0.0, 0.5] * 100], np.float32)
    samples = np.frombuffer(encode_audio(sound, 16_000, "wav")[-800:], np.int16)
    assert samples[:4].tolist() == [32_767, -32_767, 0, 16_384]


def test_loudness_reaches_its_target_if_no_limit_prevents_it():
    sound = 0.1 * tones(4.0)
    normalised, gain = normalise_loudness(sound, RATE, -23.0, -1.0)
    assert measure_audio(normalised, RATE).loudness == pytest.approx(-23.0, abs=0.01)
    assert np.allclose(normalised, sound * 10 ** (gain / 20), atol=1e-6)


def test_a_real_recording_is_limited_with_a_smooth_gain(corpus):
    recording = read_audio(str(corpus / "electronic" / "electro_1.mp3"))
    sound = recording.samples[:, : 6 * recording.sample_rate]
    normalised, gain = normalise_loudness(sound, recording.sample_rate, -10.0, -1.0)
    before, after = measure_audio(sound, recording.sample_rate), measure_audio(normalised, recording.sample_rate)
    assert before.true_peak + gain > 1.0
    assert after.true_peak <= -1.0
    assert after.clipping == 0
    assert after.loudness == pytest.approx(-10.0, abs=0.1)
    # The gain that was applied is a smooth curve: it moves by less than a hundredth of a dB between two samples.
    loud = np.abs(sound).max(axis=0) > 0.05
    curve = 20 * np.log10((np.abs(normalised).max(axis=0) / np.abs(sound).max(axis=0))[loud])
    steps = np.abs(np.diff(curve))[np.diff(np.flatnonzero(loud)) == 1]
    assert steps.max() < 0.01


@pytest.mark.parametrize("name", ["electronic/electro_1.mp3", "orchestral/battle-epic.ogg"])
def test_loudness_that_the_limiter_removes_is_made_up_for(corpus, name):
    recording = read_audio(str(corpus / name))
    sound = recording.samples[:, : 6 * recording.sample_rate]
    normalised, gain = normalise_loudness(sound, recording.sample_rate, -12.0, -1.0)
    before, after = measure_audio(sound, recording.sample_rate), measure_audio(normalised, recording.sample_rate)
    assert gain > -12.0 - before.loudness + 0.1
    assert after.loudness == pytest.approx(-12.0, abs=0.1)
    assert after.true_peak <= -1.0


def test_a_clip_of_few_high_peaks_stays_below_its_loudness_instead_of_being_squashed():
    sound = 0.01 * tones(4.0)
    sound[:, :: RATE // 4] = 0.9
    normalised, gain = normalise_loudness(sound, RATE, -6.0, -1.0)
    before, after = measure_audio(sound, RATE), measure_audio(normalised, RATE)
    assert gain == pytest.approx(-6.0 - before.loudness + 6.0)
    assert after.loudness < -9.0
    assert after.true_peak <= -1.0


@settings(max_examples=25, deadline=None)
@given(
    some.integers(0, 1000),
    some.floats(-30, 20),
    some.floats(-6, 0),
    some.sampled_from([8_000, 16_000, 44_100]),
    some.sampled_from(["noise", "tones", "click"]),
)
def test_no_true_peak_exceeds_the_limit(seed, gain, limit, rate, kind):
    draw = np.random.default_rng(seed)
    sound = {
        "noise": lambda: draw.standard_normal((2, rate // 2)),
        "tones": lambda: tones(0.5, seed, rate),
        "click": lambda: np.eye(1, rate // 2, seed % (rate // 2)),
    }[kind]()
    louder = (sound * 10 ** (gain / 20)).astype(np.float32)
    limited = limit_true_peak(louder, rate, limit)
    assert limited.shape == louder.shape
    assert measure_audio(limited, rate).true_peak <= limit
    assert np.isfinite(limited).all()
    assert (np.abs(limited) <= np.abs(louder)).all()
    assert (np.sign(limited) * np.sign(louder) >= 0).all()


def test_silence_gets_no_gain_and_bad_samples_are_refused():
    silence = np.zeros((1, RATE), np.float32)
    normalised, gain = normalise_loudness(silence, RATE, -14.0, -1.0)
    assert gain == 0
    assert not normalised.any()
    with pytest.raises(ValueError, match="finite"):
        normalise_loudness(np.full((1, RATE), np.nan, np.float32), RATE, -14.0, -1.0)
    with pytest.raises(ValueError, match="0 dBTP"):
        normalise_loudness(silence, RATE, -14.0, 1.0)


def test_an_empty_tag_set_writes_no_tags():
    assert encode_audio(tones(0.2), RATE, "wav") == encode_audio(tones(0.2), RATE, "wav", {})
    assert mutagen.File(io.BytesIO(encode_audio(tones(0.2), RATE, "flac"))).tags in (None, [])
