"""Reading: every format is read as it was written, by its content, and headers are checked against the file."""

import os
import resource
import struct
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest

from stages.audio import AudioError, read_audio, resample, to_mono
from stages.audio.locations import locate, open_binary, uri_of
from stages.audio.reading import decode
from tests.worlds.recordings import RATE, encoded, encoded_by_ffmpeg, tones, without_first_mpeg_frame, write

BY_LIBSNDFILE = {"wav": "WAV", "flac": "FLAC", "ogg": "OGG", "mp3": "MP3", "aiff": "AIFF", "caf": "CAF", "au": "AU"}
BY_FFMPEG = {
    "m4a": ("mp4", "aac"),
    "m4a lossless": ("mp4", "alac"),
    "aac": ("adts", "aac"),
    "wma": ("asf", "wmav2"),
    "matroska": ("webm", "libopus"),
}


def _similar(samples: np.ndarray, original: np.ndarray) -> float:
    """The correlation of two recordings at their best alignment, since lossy formats add a delay."""
    a, b = samples[0].astype(np.float64), original[0].astype(np.float64)
    cross = np.fft.irfft(np.fft.rfft(a, 2**18) * np.conj(np.fft.rfft(b, 2**18)))
    return float(cross.max() / np.sqrt((a**2).sum() * (b**2).sum()))


@pytest.mark.parametrize("name", BY_LIBSNDFILE)
def test_files_written_by_libsndfile_are_read_back(name, tmp_path):
    original = tones()
    recording = read_audio(write(tmp_path / f"x.{name}", encoded(BY_LIBSNDFILE[name], original)))
    assert recording.format == name
    assert recording.sample_rate == RATE
    assert recording.samples.shape == original.shape
    assert recording.samples.dtype == np.float32
    assert recording.samples.flags.c_contiguous
    assert _similar(recording.samples, original) > 0.999


@pytest.mark.parametrize("name", BY_FFMPEG)
def test_files_that_libsndfile_cannot_read_are_read_by_ffmpeg(name, tmp_path):
    rate = 48_000 if name == "matroska" else RATE
    original = tones(sample_rate=rate)
    recording = read_audio(write(tmp_path / "x.bin", encoded_by_ffmpeg(*BY_FFMPEG[name], original, rate)))
    assert recording.format == name.split()[0]
    assert recording.sample_rate == rate
    assert recording.samples.shape[0] == 2
    assert abs(recording.seconds - 2.0) < 0.08
    assert _similar(recording.samples, original) > 0.99


def test_the_format_is_found_by_the_content_and_not_by_the_name(tmp_path):
    flac, m4a = encoded("FLAC", tones()), encoded_by_ffmpeg("mp4", "aac", tones())
    for name in ("x.mp3", "x.raw", "x", "x.m4a"):
        assert read_audio(write(tmp_path / name, flac)).format == "flac"
        assert read_audio(write(tmp_path / name, m4a)).format == "m4a"


def test_a_variable_rate_mp3_without_its_length_is_read_to_its_end(tmp_path):
    noise = np.random.default_rng(0).standard_normal((2, 4 * RATE)).astype(np.float32) * 0.1
    noise[:, : 2 * RATE] *= 1e-3
    path = write(tmp_path / "x.mp3", without_first_mpeg_frame(encoded("MP3", noise)))
    assert abs(read_audio(path).seconds - 4.0) < 0.1


@pytest.mark.parametrize("name", ["electronic/electro_1.mp3", "orchestral/defeat2.ogg"])
def test_blocks_together_are_the_whole_recording(name, corpus):
    whole = read_audio(str(corpus / name))
    with open_binary(str(corpus / name)) as file:
        blocks = decode(file, lambda stream: list(stream.blocks)).value
    assert len(blocks) > 1
    assert np.array_equal(np.concatenate(blocks, axis=1), whole.samples)


@pytest.mark.parametrize("form", ["wav", "aiff", "flac", "mp3", "ogg", "caf", "au", "wma", "matroska", "m4a"])
def test_a_file_cut_in_half_is_refused(form, tmp_path):
    rate = 48_000 if form == "matroska" else RATE
    sound = tones(3.0, sample_rate=rate)
    data = (
        encoded(BY_LIBSNDFILE[form], sound)
        if form in BY_LIBSNDFILE
        else encoded_by_ffmpeg(*BY_FFMPEG[form], sound, rate)
    )
    with pytest.raises(AudioError) as caught:
        read_audio(write(tmp_path / "x", data[: len(data) // 2]))
    assert caught.value.kind in ("truncated", "unreadable")
    assert "cut short" in str(caught.value)


def test_impossible_headers_are_refused_before_anything_is_allocated(tmp_path):
    wav = encoded("WAV", tones(0.5), subtype="PCM_16")
    channels = wav[:22] + struct.pack("<H", 999) + wav[24:]
    with pytest.raises(AudioError, match="999") as caught:
        read_audio(write(tmp_path / "channels.wav", channels))
    assert caught.value.kind == "too many channels"
    for rate in (0, 3_000_000_000):
        with pytest.raises(AudioError):
            read_audio(write(tmp_path / "rate.wav", wav[:24] + struct.pack("<I", rate) + wav[28:]))
    flac = bytearray(encoded("FLAC", tones(0.5)))
    flac[21:26] = bytes([flac[21] | 0x0F, 255, 255, 255, 255])  # 2^36 - 1 samples: 18 days
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(AudioError) as caught:
        read_audio(write(tmp_path / "long.flac", bytes(flac)))
    assert caught.value.kind == "truncated"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "empty"),
        (b"hello\n" * 100, "unreadable"),
        (b"\x89PNG\r\n\x1a\n" + bytes(500), "unreadable"),
        (b"#EXTM3U\n/etc/passwd\n", "unreadable"),
        (b"OggS" + bytes(100), "unreadable"),
        (b"\x00\x00\x00\x18ftypM4A " + bytes(200), "truncated"),
        (b"fLaC", "truncated"),
        (b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f" + bytes(100), "unreadable"),
    ],
)
def test_files_that_are_not_audio_are_refused_with_their_kind(data, kind, tmp_path):
    with pytest.raises(AudioError) as caught:
        read_audio(write(tmp_path / "x.mp3", data))
    assert caught.value.kind == kind
    assert "expected" in str(caught.value)


def test_a_recording_without_samples_or_with_infinite_ones_is_refused(tmp_path):
    cases = {"empty": np.zeros((1, 0), np.float32), "not finite": np.array([[0.1, np.nan, 0.2]], np.float32)}
    cases["infinite"] = np.array([[0.1, -np.inf]], np.float32)
    for name, samples in cases.items():
        with pytest.raises(AudioError) as caught:
            read_audio(write(tmp_path / "x.wav", encoded("WAV", samples, subtype="FLOAT")))
        assert caught.value.kind == ("empty" if name == "empty" else "not finite")


def test_a_recording_longer_than_allowed_is_refused(tmp_path):
    path = write(tmp_path / "x.flac", encoded("FLAC", tones(2.0)))
    with pytest.raises(AudioError) as caught:
        read_audio(path, max_seconds=1.0)
    assert caught.value.kind == "too long"


def test_pipes_and_missing_files_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    for name, kind in (("pipe.wav", "not a file"), ("", "not a file"), ("nowhere.wav", "missing")):
        with pytest.raises(AudioError) as caught:
            read_audio(str(tmp_path / name))
        assert caught.value.kind == kind


ODD_NAMES = [
    "a b.wav",
    "-rf.wav",
    "ünï–✓.wav",
    "new\nline.wav",
    "a::b.wav",
    "100%41.wav",
    "~.wav",
    "x#?*[1].wav",
    "b\udcff.wav",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_files_with_odd_names_are_found_again_by_their_uri(name, tmp_path):
    path = str(tmp_path / name)
    with open(path, "wb") as file:
        file.write(encoded("WAV", tones(0.5)))
    filesystem, _ = locate(str(tmp_path))
    uri = uri_of(filesystem, path, str(tmp_path))
    uri.encode()  # the URI goes into a table of UTF-8
    assert locate(uri)[1] == path
    assert read_audio(uri).seconds == 0.5


def test_files_in_other_filesystems_and_chains_of_them_are_read(tmp_path):
    data = encoded("FLAC", tones(0.5))
    for name in ("a b.flac", "a::b.flac"):
        fsspec.filesystem("memory").pipe_file(f"/music/{name}", data)
        assert read_audio(f"memory://music/{name}").seconds == 0.5
    import zipfile

    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("in/x.flac", data)
    source = f"zip://::file://{tmp_path}/x.zip"
    filesystem, root = locate(source)
    [path] = filesystem.find(root)
    assert read_audio(uri_of(filesystem, path, source)).seconds == 0.5


def test_a_disk_error_in_the_middle_is_not_taken_for_the_end_of_the_file(tmp_path):
    class Failing:
        def __init__(self, data: bytes) -> None:
            self.data, self.position = data, 0

        def seek(self, offset, whence=0):
            self.position = {0: 0, 1: self.position, 2: len(self.data)}[whence] + offset
            return self.position

        def tell(self):
            return self.position

        def read(self, count=-1):
            if self.position > len(self.data) // 2:
                raise OSError("the network is gone")
            part = self.data[self.position : self.position + count]
            self.position += len(part)
            return part

    for data in (encoded("WAV", tones(30.0)), encoded_by_ffmpeg("adts", "aac", tones(30.0))):
        with pytest.raises(OSError, match="network"):
            decode(Failing(data), lambda stream: list(stream.blocks))


def test_resampling_keeps_a_tone_and_its_length():
    for rate in (16_000, 32_000, 48_000):
        time = np.arange(RATE) / RATE
        tone = np.sin(2 * np.pi * 440 * time, dtype=np.float64)[None].astype(np.float32)
        resampled = resample(tone, RATE, rate)
        assert resampled.shape == (1, rate)
        assert resampled.dtype == np.float32
        expected = np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
        assert np.abs(resampled[0] - expected)[rate // 10 : -rate // 10].max() < 1e-4
    assert resample(tone, RATE, RATE) is tone


def test_mono_is_the_mean_of_the_channels():
    stereo = tones()
    assert np.allclose(to_mono(stereo), stereo.mean(axis=0, keepdims=True))
    assert to_mono(stereo[:1]).shape == stereo[:1].shape


def test_reading_does_not_import_torch():
    code = "import sys, stages.audio; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=False).returncode == 0
