"""A second opinion: where a file's header and its bytes disagree, everything present is read, and warnings say so."""

import io
from functools import lru_cache

import numpy as np
import pytest

from stages.audio import AudioError, read_audio
from stages.audio.reading import AudioStream, Decoded, decode, read_waveform
from stages.ingest.probe import AudioProbe, Limits, Refused, probe_recording
from tests.worlds.recordings import (
    RATE,
    as_piped_flac,
    encoded,
    encoded_by_ffmpeg,
    ogg_page,
    ogg_pages,
    patched,
    tones,
    with_garbage,
    with_mpeg_count,
    with_wav_size,
    without_first_mpeg_frame,
    write,
)

TAG = b"ID3\x03\x00\x00\x00\x00\x02\x00" + b"TIT2\x00\x00\x00\x06\x00\x00\x00title" + bytes(240)


def _decode(data: bytes) -> Decoded[np.ndarray]:
    def collect(stream: AudioStream) -> np.ndarray:
        return np.concatenate([np.zeros((stream.channels, 0), np.float32), *stream.blocks], axis=1)

    return decode(io.BytesIO(data), collect)


@lru_cache
def _file(form: str, seconds: float = 2.0, seed: int = 0) -> bytes:
    rate = 48_000 if form in ("opus", "webm") else RATE
    sound = tones(seconds, seed, rate)
    if form in ("m4a", "alac", "aac", "wma", "webm"):
        container, codec = {
            "m4a": ("mp4", "aac"),
            "alac": ("mp4", "alac"),
            "aac": ("adts", "aac"),
            "wma": ("asf", "wmav2"),
            "webm": ("webm", "libopus"),
        }[form]
        return encoded_by_ffmpeg(container, codec, sound, rate)
    container, subtype = {"opus": ("OGG", "OPUS"), "wav": ("WAV", "PCM_16"), "aiff": ("AIFF", "PCM_16")}.get(
        form, (form.upper(), None)
    )
    return encoded(container, sound, rate, subtype)


CLEAN = ("wav", "aiff", "caf", "au", "w64", "rf64", "flac", "mp3", "ogg", "opus", "m4a", "alac", "aac", "wma", "webm")


@pytest.mark.parametrize("form", CLEAN)
def test_a_clean_file_has_no_warnings(form):
    decoded = _decode(_file(form))
    assert decoded.warnings == ()
    assert decoded.damage == 0


@pytest.mark.parametrize("form", CLEAN)
def test_joined_files_are_read_as_one_recording(form):
    first, second = _decode(_file(form)), _decode(_file(form, 1.0, 1))
    joined = _decode(_file(form) + _file(form, 1.0, 1))
    if form in ("aac", "webm"):  # streams without a beginning or a clock of their own: the decoder continues
        assert abs(joined.frames - first.frames - second.frames) < 3000
        return
    assert np.array_equal(joined.value, np.concatenate([first.value, second.value], axis=1))
    [warning] = joined.warnings
    assert "joined" in warning


def test_mp3s_joined_with_their_tags_are_read_as_one_recording():
    first, second = _decode(_file("mp3")), _decode(_file("mp3", 1.0, 1))
    old_tag = b"TAG" + b"title".ljust(125, b"\0")
    joined = _decode(TAG + _file("mp3") + old_tag + TAG + _file("mp3", 1.0, 1) + old_tag)
    assert np.array_equal(joined.value, np.concatenate([first.value, second.value], axis=1))


@pytest.mark.parametrize(("form", "other"), [("wav", 22_050), ("mp3", 22_050), ("ogg", 22_050), ("flac", 22_050)])
def test_joined_files_of_two_rates_are_refused_with_advice(form, other):
    second = encoded(form.upper(), tones(1.0, 1, other), other)
    with pytest.raises(AudioError, match="split") as caught:
        _decode(_file(form) + second)
    assert caught.value.kind == "mixed"


ODD = {
    "header frame counts half": (lambda: with_mpeg_count(_file("mp3"), 40), 2.0, "by its header"),
    "header frame counts one": (lambda: with_mpeg_count(_file("mp3"), 1), 2.0, "by its header"),
    "header frame counts twice": (lambda: with_mpeg_count(_file("mp3"), 160), 2.0, "in the right number of bytes"),
    "zeros before the first frame": (lambda: bytes(2**16) + _file("mp3"), 2.0, "65,536 other bytes first"),
    "zeros after the last frame": (lambda: _file("mp3") + bytes(2**14), 2.0, "16,384 other bytes last"),
    "flac from a pipe": (lambda: as_piped_flac(_file("flac")), 2.0, "into a pipe"),
    "wav from a pipe": (lambda: with_wav_size(_file("wav"), 0xFFFFFFFF), 2.0, "4,294,967,295 bytes"),
    "wav from sox in a pipe": (lambda: with_wav_size(_file("wav"), 0x7FFFF000), 2.0, "into a pipe"),
    "wav of a program that was stopped": (lambda: with_wav_size(_file("wav"), 0), 2.0, "0 bytes"),
    "wav of 36 bytes more": (lambda: with_wav_size(_file("wav"), 8 * RATE + 36), 2.0, "352,836 bytes"),
    "wav of a tenth more": (lambda: with_wav_size(_file("wav"), 8 * RATE + 12_000), 2.0, "by its header"),
    "wav of half": (lambda: with_wav_size(_file("wav"), 4 * RATE), 1.0, "other bytes: ignored"),
    "aiff of fewer samples": (lambda: patched(_file("aiff"), 22, (1000).to_bytes(4, "big")), 2.0, "by its header"),
    "ogg that ends too early": (lambda: _with_early_end(_file("ogg", 6.0)), 6.0, "ends the stream"),
    "ogg without an end": (lambda: _without_end(_file("ogg")), 2.0, "without one"),
    "ogg of an odd stream": (lambda: _file("ogg") + bytes(5000), 2.0, "5,000 other bytes"),
    "aac that ends in a frame": (lambda: _file("aac")[:-3], 2.0, "only a part"),
}


def _with_early_end(data: bytes) -> bytes:
    pages = ogg_pages(data)
    return b"".join(pages[:3]) + ogg_page(pages[3], 4) + b"".join(pages[4:])


def _without_end(data: bytes) -> bytes:
    pages = ogg_pages(data)
    return b"".join(pages[:-1]) + ogg_page(pages[-1], 0)


@pytest.mark.parametrize("name", ODD)
def test_an_odd_file_is_read_whole_with_a_warning(name):
    make, seconds, words = ODD[name]
    decoded = _decode(make())
    assert abs(decoded.frames / RATE - seconds) < 0.05
    assert any(words in warning for warning in decoded.warnings), decoded.warnings
    assert decoded.damage == 0


@pytest.mark.parametrize("name", ODD)
def test_all_readers_get_the_same_samples_of_odd_files(name, tmp_path):
    path = write(tmp_path / "x", ODD[name][0]())
    probe = probe_recording(path, Limits())
    assert isinstance(probe, AudioProbe)
    waveform = read_waveform(path, None, None)
    assert not isinstance(waveform, AudioError)
    assert waveform.samples.shape == (probe.channels, probe.frames)
    assert np.array_equal(waveform.samples, read_audio(path).samples)
    assert '"warnings": ["expected' in probe.tags


@pytest.mark.parametrize("form", ["wav", "aiff", "caf", "flac", "mp3", "ogg", "m4a", "wma"])
def test_a_tag_before_the_file_loses_no_samples(form):
    assert np.array_equal(_decode(TAG + _file(form)).value, _decode(_file(form)).value)


DAMAGED = {
    "mp3": lambda: with_garbage(_file("mp3", 20.0), 60_000, 2000),
    "mp3 without a count": lambda: with_garbage(without_first_mpeg_frame(_file("mp3", 20.0)), 60_000, 2000),
    "mp3 with a hole": lambda: patched(_file("mp3", 20.0), 60_000, bytes(2000)),
    "aac": lambda: with_garbage(_file("aac", 10.0), 90_000, 2000),
    "flac": lambda: with_garbage(_file("flac", 20.0), 100_000, 3000),
    "flac with one bit": lambda: patched(_file("flac", 20.0), 100_000, bytes([_file("flac", 20.0)[100_000] ^ 1])),
    "ogg": lambda: with_garbage(_file("ogg", 20.0), 60_000, 200),
    "opus": lambda: with_garbage(_file("opus", 20.0), 60_000, 200),
    "m4a": lambda: with_garbage(_file("m4a", 10.0), 90_000, 1000),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_loses_only_the_damaged_part_and_later_sound_keeps_its_place(name):
    form = name.split()[0]
    whole = _decode(
        without_first_mpeg_frame(_file("mp3", 20.0))
        if "without" in name
        else _file(form, 20.0 if form not in ("aac", "m4a") else 10.0)
    )
    decoded = _decode(DAMAGED[name]())
    assert 0 < decoded.damage < 0.15
    assert any("damage" in warning for warning in decoded.warnings)
    assert abs(decoded.frames - whole.frames) <= 1152
    last, first = decoded.value[:, -RATE:], decoded.value[:, :RATE]
    assert np.abs(first - whole.value[:, :RATE]).max() < 1e-3
    assert np.abs(last - whole.value[:, -RATE:]).max() < 1e-3


def test_an_mp3_is_accepted_or_refused_by_its_share_of_damage(tmp_path):
    minutes = without_first_mpeg_frame(_file("mp3", 20.0)) * 9
    path = write(tmp_path / "x.mp3", with_garbage(minutes, 500_000, 8192))
    probe = probe_recording(path, Limits())
    assert isinstance(probe, AudioProbe)
    assert abs(probe.frames / RATE - 180.5) < 0.5
    assert "8," in probe.tags
    assert "damaged bytes at" in probe.tags
    refused = probe_recording(path, Limits(max_damage=0.001))
    assert isinstance(refused, Refused)
    assert refused.kind == "damaged"
    assert "of it is lost" in refused.message


@pytest.mark.parametrize("form", CLEAN)
def test_every_refusal_says_what_was_expected_and_found(form):
    messages = []
    for size in range(1, 2000, 37):
        try:
            _decode(_file(form)[:size])
        except AudioError as error:
            messages.append(error.message)
    assert len(messages) > 5
    for message in messages:
        assert message.startswith("expected ")
        assert ", got " in message
        assert "libsndfile" not in message.split("(")[0]
        assert "FFmpeg:" not in message.split("(")[0]
