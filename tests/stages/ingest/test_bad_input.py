"""Bad input: each bad file is one reject with the reason, or a clean track with a warning; the run continues."""

import os
import struct

import numpy as np
import pytest

from tests.worlds.ingest_world import RATE, World
from tests.worlds.recordings import encoded, encoded_by_ffmpeg, tones, write

GOOD = encoded("WAV", tones(0.6, sample_rate=RATE), RATE, "PCM_16")


def _patched(data: bytes, offset: int, value: bytes) -> bytes:
    return data[:offset] + value + data[offset + len(value) :]


def _float_wav(value: float) -> bytes:
    sound = tones(0.6, sample_rate=RATE)
    sound[0, 5000] = value
    return encoded("WAV", sound, RATE, "FLOAT")


BAD_FILES = {
    "zero bytes.wav": (lambda: b"", "empty", "zero bytes"),
    "no samples.wav": (lambda: encoded("WAV", np.zeros((1, 0), np.float32), RATE), "empty", "no samples"),
    "one sample.wav": (lambda: encoded("WAV", np.full((1, 1), 0.5, np.float32), RATE), "too short", "1 samples"),
    "text.mp3": (lambda: b"This is no music.\n" * 50, "unreadable", "in no known audio format"),
    "picture.flac": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(3000), "unreadable", "in no known audio format"),
    "playlist.mp3": (lambda: b"#EXTM3U\n#EXTINF:1,x\nfile:///etc/passwd\n", "unreadable", "in no known audio format"),
    "cut.wav": (lambda: GOOD[: len(GOOD) // 2], "truncated", "cut short"),
    "cut.flac": (lambda: (data := encoded("FLAC", tones(2.0)))[: len(data) // 2], "truncated", "cut short"),
    "cut.mp3": (lambda: (data := encoded("MP3", tones(2.0)))[: len(data) // 2], "truncated", "by its header"),
    "cut.ogg": (lambda: (data := encoded("OGG", tones(2.0)))[: len(data) // 2], "truncated", "Ogg"),
    "cut.m4a": (lambda: (data := encoded_by_ffmpeg("mp4", "aac", tones(2.0)))[: len(data) // 2], "truncated", "bytes"),
    "three gigabytes.wav": (
        lambda: _patched(GOOD, GOOD.index(b"data") + 4, struct.pack("<I", 3_000_000_000)),
        "truncated",
        "cut short",
    ),
    "zero hertz.wav": (lambda: _patched(GOOD, 24, struct.pack("<I", 0)), "unreadable", ""),
    "one hertz.wav": (lambda: _patched(GOOD, 24, struct.pack("<I", 1)), "sample rate", "1 Hz"),
    "999 channels.wav": (lambda: _patched(GOOD, 22, struct.pack("<H", 999)), "too many channels", "999"),
    "nan.wav": (lambda: _float_wav(np.nan), "not finite", "NaN or infinity"),
    "infinite.wav": (lambda: _float_wav(np.inf), "not finite", "NaN or infinity"),
    "integers as floats.wav": (
        lambda: encoded("WAV", 32_768 * tones(0.6, sample_rate=RATE), RATE, "FLOAT"),
        "not scaled",
        "a peak of +84.3 dBFS",
    ),
    "silent.flac": (lambda: encoded("FLAC", np.zeros((2, RATE), np.float32), RATE), "silent", "all zeros"),
    "garbage in frames.flac": (
        lambda: _patched(encoded("FLAC", tones(2.0)), 9000, np.random.default_rng(0).bytes(4000)),
        "damaged",
        "of it is lost",
    ),
    "no audio.mp4": (lambda: b"\x00\x00\x00\x18ftypisom" + bytes(12) + b"\x00\x00\x00\x08moov", "no audio", "mp4"),
}


def test_every_bad_file_is_one_reject_with_the_reason_and_good_ones_are_ingested(tmp_path):
    world = World(tmp_path)
    world.add("good.flac", 3)
    write(world.music / "mislabelled.mp3", encoded("FLAC", tones(0.7, 4)))
    for name, (make, _, _) in BAD_FILES.items():
        write(world.music / name, make())
    world.run()
    assert sorted(world.rows()) == ["good.flac", "mislabelled.mp3"]
    assert world.rows()["mislabelled.mp3"]["format"] == "flac"
    rejects = world.rejects()
    assert set(rejects) == set(BAD_FILES)
    for name, (_, kind, words) in BAD_FILES.items():
        assert rejects[name]["kind"] == kind, rejects[name]
        assert words in rejects[name]["message"], rejects[name]
        assert rejects[name]["message"].startswith("expected ")
        assert rejects[name]["stage"] == "ingest"


def test_an_odd_file_is_a_complete_track_with_a_warning_in_its_row(tmp_path):
    world = World(tmp_path)
    write(world.music / "joined.ogg", encoded("OGG", tones(2.0)) + encoded("OGG", tones(1.0, 1)))
    write(world.music / "piped.wav", _patched(GOOD, GOOD.index(b"data") + 4, b"\xff\xff\xff\xff"))
    world.add("good.flac", 3)
    world.run()
    rows = world.rows()
    assert rows["joined.ogg"]["frames"] == 3 * 44_100
    assert "joined in one file" in rows["joined.ogg"]["warnings"][0]
    assert rows["piped.wav"]["seconds"] == 0.6
    assert "4,294,967,295 bytes" in rows["piped.wav"]["warnings"][0]
    assert rows["good.flac"]["warnings"] == []
    assert world.rejects() == {}


def test_limits_come_from_the_configuration(tmp_path):
    limits = {
        "min_seconds": 1,
        "max_seconds": 2,
        "max_channels": 2,
        "min_sample_rate": 16_000,
        "max_sample_rate": 32_000,
    }
    world = World(tmp_path, limits=limits)
    for seconds in (0.9, 1.5, 2.1):
        world.add(f"{seconds}.flac", 1, seconds)
    write(world.music / "4.wav", encoded("WAV", tones(1.5, channels=4, sample_rate=RATE), RATE))
    write(world.music / "low.wav", encoded("WAV", tones(1.5, sample_rate=8_000), 8_000))
    write(world.music / "high.wav", encoded("WAV", tones(1.5), 44_100))
    world.run()
    assert list(world.rows()) == ["1.5.flac"]
    expected = {"0.9.flac": "too short", "2.1.flac": "too long", "4.wav": "too many channels"}
    assert {name: row["kind"] for name, row in world.rejects().items()} == {
        **expected,
        "low.wav": "sample rate",
        "high.wav": "sample rate",
    }


def test_odd_names_are_ingested_odd_files_are_rejects_and_nothing_hangs(tmp_path):
    world = World(tmp_path)
    names = [
        "a b.wav",
        "-rf.wav",
        "ünï–✓.wav",
        "new\nline.wav",
        "a::b.wav",
        "100%41.wav",
        "b\udcff.wav",
        "'; DROP TABLE.wav",
    ]
    for number, name in enumerate(names):
        data = encoded("WAV", tones(0.6, number, RATE), RATE)
        write(world.music / "first.wav", data)
        os.rename(world.music / "first.wav", os.fsencode(world.music / name))
    os.mkfifo(world.music / "pipe.wav")
    os.symlink(world.music, world.music / "loop")
    os.symlink("/dev/zero", world.music / "zero.wav")
    counts = world.run()
    assert counts.made == len(names)
    kinds = {name: row["kind"] for name, row in world.rejects().items()}
    assert kinds == {"pipe.wav": "not a file", "loop": "link loop", "zero.wav": "not a file"}


HOSTILE = {
    "title": "'; DROP TABLE tracks; --",
    "artist": "../../../etc/passwd",
    "description": "<script>alert(1)</script>",
}


@pytest.mark.parametrize(
    ("sidecar", "warned"),
    [
        (b"{broken", "expected JSON"),
        (b"\xff\xfe\x00", "expected UTF-8"),
        (b'{"title": 5, "bpm": [], "moods": {"a": 1}, "artist": true}', "so it was dropped"),
        (b'{"description": "' + b"x" * 1_000_000 + b'"}', "1,000,000"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a": ' * 90_000 + b"1" + b"}" * 90_000, "nested too deeply"),
    ],
)
def test_bad_metadata_loses_no_track_and_gives_a_warning(sidecar, warned, tmp_path):
    world = World(tmp_path)
    world.add("a.flac", 1)
    write(world.music / "a.json", sidecar)
    assert world.run().made == 1
    row = world.rows()["a.flac"]
    assert any(warned in warning for warning in row["warnings"]), row["warnings"]
    assert world.rejects() == {}


def test_hostile_metadata_stays_text_and_writes_nothing_outside_the_store(tmp_path):
    import json

    world = World(tmp_path)
    world.add("a.flac", 1)
    write(world.music / "a.json", json.dumps(HOSTILE).encode())
    write(world.music / "metadata.csv", b"file_name,genre\n../../outside.wav,x\n/etc/passwd,y\na.flac,=1+1\n")
    before = sorted(tmp_path.rglob("*"))
    world.run()
    row = world.rows()["a.flac"]
    assert {name: row[name] for name in HOSTILE} == HOSTILE
    assert row["genre"] == "=1+1"
    new = [path for path in tmp_path.rglob("*") if path not in before]
    assert all(path.is_relative_to(tmp_path / "store") for path in new)
