"""Prefetching: stages give the same results as when recordings are read one after another, and no process outlives
it."""

import os
import signal
import subprocess
import time
from pathlib import Path

import fsspec
import numpy as np
import pytest

from schemas import WeightsRef
from stages import chroma, clap, tokenize
from stages.audio import prefetching
from stages.audio.prefetching import PrefetchItem, prefetch, prefetch_items
from stages.audio.reading import Waveform, read_waveform
from stages.pipeline.contract import Context, Reject, Stopped
from tests.worlds.parts import put_together
from tests.worlds.recordings import encoded, encoded_by_ffmpeg, tones, write
from tests.worlds.tiny_codec import codec_folder
from tests.worlds.world_of_sound import make_context, save_clap, save_separator, tracks_of

TWO_READERS = 2 * prefetching.CORES_PER_READER
"""Value of `settings.workers` on a CPU with which two processes read."""


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Recordings of several kinds, and some that no stage can use."""
    paths = [
        write(tmp_path / f"{number}.{kind}", encoded(kind.upper(), tones(1.2 + 0.1 * number, number)))
        for number, kind in enumerate(("wav", "flac", "mp3", "wav", "flac", "wav", "mp3", "flac", "wav"))
    ]
    paths.insert(2, write(tmp_path / "bad.wav", b"no sound at all"))
    paths.insert(5, write(tmp_path / "empty.wav", encoded("WAV", np.zeros((1, 0), np.float32))))
    paths.insert(7, write(tmp_path / "a.m4a", encoded_by_ffmpeg("mp4", "aac", tones(1.0))))
    paths.insert(8, str(tmp_path / "missing.wav"))
    paths.insert(9, write(tmp_path / "silent.wav", encoded("WAV", np.zeros((2, 30_000), np.float32))))
    paths.insert(9, write(tmp_path / "brief.wav", encoded("WAV", tones(0.0005))))
    return [Path(path) for path in paths]


def items(files: list[Path]) -> list[PrefetchItem]:
    return prefetch_items(tracks_of(*files))


def processes_of(parent: int) -> set[str]:
    """The processes that read for this one."""
    listed = subprocess.run(["ps", "-ww", "-eo", "ppid=,pid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=2) for line in listed.splitlines()]
    return {row[1] for row in rows if int(row[0]) == parent and "stages.pipeline import workers" in row[2]}


@pytest.fixture
def deadly(monkeypatch):
    """Processes that die of files with a certain name: the real worker, with a real signal."""
    code = (
        "import os; from stages.audio import reading; from stages.pipeline import workers\n"
        "read = reading.read_waveform\n"
        "def read_waveform(uri, sample_rate, channels):\n"
        f"    if uri.endswith('crash.wav'): os.kill(os.getpid(), {int(signal.SIGSEGV)})\n"
        "    return read(uri, sample_rate, channels)\n"
        "reading.read_waveform = read_waveform; workers.serve_calls()"
    )
    start = subprocess.Popen

    def popen(command, **arguments):
        return start([command[0], "-c", code, *command[3:]] if "worker" in command[2] else command, **arguments)

    monkeypatch.setattr(subprocess, "Popen", popen)


def test_prefetched_rows_and_rejects_equal_those_of_recordings_read_one_by_one(tmp_path, files):
    stages = {
        chroma: chroma.Config(separator=WeightsRef(str(save_separator(tmp_path / "separator")))),
        clap: clap.Config(model=WeightsRef(str(save_clap(tmp_path / "clap")))),
        tokenize: tokenize.Config(codec=WeightsRef(str(codec_folder(tmp_path / "codec")))),
    }
    for stage, config in stages.items():
        by_turns, prefetched = (
            put_together(stage.shard(config, make_context(tmp_path, workers=workers), tracks_of(*files)))
            for workers in (1, TWO_READERS)
        )
        assert [row["track_id"] for row in prefetched.rows] == [row["track_id"] for row in by_turns.rows]
        assert len(prefetched.rows) >= 9
        for row, expected in zip(prefetched.rows, by_turns.rows, strict=True):
            for name, value in row.items():
                assert np.array_equal(value, expected[name]), (stage.__name__, name)
        assert prefetched.rejects == by_turns.rejects
        kinds = {reject.key: reject.kind for reject in prefetched.rejects}
        assert kinds.items() >= {"bad.wav": "unreadable", "empty.wav": "empty", "missing.wav": "missing"}.items()
    assert kinds["brief.wav"] == "too short"


def test_recordings_come_in_order_at_the_asked_rate_and_channels(tmp_path, files):
    wanted = items(files)
    with prefetch(make_context(tmp_path, workers=TWO_READERS), wanted, 16_000, 1) as waveforms:
        read = list(waveforms)
    assert [item for item, _ in read] == wanted
    for item, waveform in read:
        expected = read_waveform(item.uri, 16_000, 1)
        if isinstance(waveform, Reject):
            assert (waveform.kind, waveform.message) == (expected.kind, str(expected))
            assert (waveform.key, waveform.uri) == (item.key, item.uri)
        else:
            assert waveform.samples.shape == (1, round(waveform.seconds * 16_000))
            assert np.array_equal(waveform.samples, expected.samples)
            assert (waveform.peak, waveform.sample_rate) == (expected.peak, 16_000)


def test_a_recording_keeps_its_rate_and_channels_where_none_are_asked(tmp_path, files):
    waveform = read_waveform(str(files[0]), None, None)
    assert isinstance(waveform, Waveform)
    assert (waveform.samples.shape[0], waveform.sample_rate) == (2, 44_100)
    assert waveform.peak == np.abs(waveform.samples).max() == pytest.approx(0.5, abs=1e-3)


def test_a_decoder_crash_loses_only_its_own_recording(tmp_path, files, deadly):
    files.insert(4, Path(write(tmp_path / "crash.wav", encoded("WAV", tones(0.6)))))
    with prefetch(make_context(tmp_path, workers=TWO_READERS), items(files), 16_000, 1) as waveforms:
        read = {item.key: waveform for item, waveform in waveforms}
    crashed = read["crash.wav"]
    assert isinstance(crashed, Reject)
    assert (crashed.kind, "SIGSEGV" in crashed.message) == ("crash", True)
    assert sum(isinstance(waveform, Waveform) for waveform in read.values()) == 12


def test_a_disk_error_is_raised_in_the_turn_of_its_recording(tmp_path, files):
    files.insert(4, Path("/proc/self/mem"))  # its first bytes cannot be read: EIO, as of a bad sector
    with prefetch(make_context(tmp_path, workers=TWO_READERS), items(files), 16_000, 1) as waveforms:
        for _ in range(4):
            next(waveforms)
        with pytest.raises(OSError, match="Input/output"):
            next(waveforms)


def test_a_stop_ends_the_reading_and_its_processes(tmp_path, files):
    context = make_context(tmp_path, workers=TWO_READERS)
    before = processes_of(os.getpid())
    with prefetch(context, items(files), 16_000, 1) as waveforms:
        next(waveforms)
        assert processes_of(os.getpid()) - before
        context.stop.set()
        with pytest.raises(Stopped):
            next(waveforms)
    assert processes_of(os.getpid()) == before


def test_reading_processes_end_when_their_user_fails(tmp_path, files):
    before = processes_of(os.getpid())

    def fail() -> None:
        with prefetch(make_context(tmp_path, workers=TWO_READERS), items(files), 16_000, 1) as waveforms:
            next(waveforms)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert processes_of(os.getpid()) == before


def test_no_more_sound_is_read_ahead_than_allowed(tmp_path, files, monkeypatch):
    calls: list[float] = []
    run = prefetching.WorkerPool.run

    def noted(pool, call, seconds):
        calls.append(time.monotonic())
        return run(pool, call, seconds)

    monkeypatch.setattr(prefetching.WorkerPool, "run", noted)
    wanted = [PrefetchItem(path.name, str(path), 1000.0) for path in files]
    with prefetch(make_context(tmp_path, workers=TWO_READERS), wanted, 16_000, 1) as waveforms:
        next(waveforms)
        time.sleep(1.0)
        assert len(calls) == 1  # a second one would exceed half an hour of sound
        next(waveforms)
        assert len(calls) == 2


@pytest.mark.parametrize(
    ("device", "cores", "workers", "recordings", "readers"),
    [
        ("cpu", 2, 0, 100, 0),
        ("cpu", 16, 0, 100, 4),
        ("cpu", 16, 8, 100, 2),
        ("cuda", 16, 0, 100, 13),
        ("cuda", 16, 0, 1000, 16),
        ("cuda", 16, 4, 100, 4),
        ("cuda", 16, 1, 100, 0),
        ("cuda", 16, 0, 3, 1),
        ("cuda", 16, 0, 0, 0),
    ],
)
def test_the_number_of_reading_processes_fits_the_device_and_the_recordings(
    tmp_path, monkeypatch, device, cores, workers, recordings, readers
):
    monkeypatch.setattr(Context, "device", device)
    monkeypatch.setattr(prefetching, "available_cores", lambda: cores)
    wanted = [PrefetchItem(str(number), f"/{number}.wav", 1.0) for number in range(recordings)]
    assert prefetching._readers(make_context(tmp_path, workers=workers), wanted) == readers


def test_recordings_in_memory_are_read_in_the_same_process(tmp_path):
    fsspec.filesystem("memory").pipe_file("/ahead/a.wav", encoded("WAV", tones(0.6)))
    item = PrefetchItem("a", "memory:///ahead/a.wav", 0.6)
    with prefetch(make_context(tmp_path, workers=TWO_READERS), [item], 16_000, 1) as waveforms:
        [(_, waveform)] = waveforms
    assert isinstance(waveform, Waveform)
