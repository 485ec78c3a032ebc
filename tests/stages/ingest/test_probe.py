"""Probing many recordings: results come in order, and a decoder that dies or hangs loses only its own file."""

import os
import signal
import subprocess
import threading
import time

import pytest

from stages.audio import SourceType, encode_audio
from stages.ingest import probe
from stages.ingest.listing import File
from stages.ingest.probe import AudioProbe, Limits, Refused, probe_all, probe_recording
from stages.pipeline.contract import Stopped
from tests.worlds.patience import PATIENCE_SECONDS
from tests.worlds.recordings import RATE, encoded, tones, write


def _files(folder, count):
    paths = [
        write(folder / f"{number}.wav", encoded("WAV", tones(0.6, number, 16_000), 16_000)) for number in range(count)
    ]
    return [File(path, os.path.basename(path), "s", os.path.getsize(path)) for path in paths]


def _nothing() -> None:
    pass


@pytest.fixture
def deadly(monkeypatch):
    """Workers with a decoder that is killed by files of a certain name: the real worker, with a real signal."""
    code = (
        "import os, time; from stages.ingest import probe; from stages.pipeline import workers\n"
        "read = probe.probe_recording\n"
        "def probe_recording(uri, limits):\n"
        f"    if uri.endswith('crash.wav'): os.kill(os.getpid(), {int(signal.SIGSEGV)})\n"
        "    if uri.endswith('hang.wav'): time.sleep(600)\n"
        "    return read(uri, limits)\n"
        "probe.probe_recording = probe_recording; workers.serve_calls()"
    )
    start = subprocess.Popen

    def popen(command, **arguments):
        return start([command[0], "-c", code, *command[3:]], **arguments)

    monkeypatch.setattr(subprocess, "Popen", popen)


def test_workers_give_the_same_results_as_one_process_in_the_same_order(tmp_path):
    files = _files(tmp_path, 20)
    files.insert(3, File(write(tmp_path / "bad.wav", b"bad"), "bad.wav", "s", 3))
    here = list(probe_all(files, Limits(), 1, _nothing))
    in_workers = list(probe_all(files, Limits(), 2, _nothing))
    assert here == in_workers
    assert [file for file, _ in in_workers] == files
    assert isinstance(in_workers[3][1], Refused)
    assert isinstance(in_workers[4][1], AudioProbe)
    assert here[0][1] == probe_recording(files[0].uri, Limits())


def test_a_decoder_that_crashes_or_hangs_loses_only_its_own_file(tmp_path, deadly, monkeypatch):
    monkeypatch.setattr(probe, "BASE_SECONDS", 8.0)
    files = _files(tmp_path, 6)
    for position, name in ((1, "crash.wav"), (4, "hang.wav")):
        files.insert(position, File(write(tmp_path / name, encoded("WAV", tones(0.6))), name, "s", 1))
    results = [result for _, result in probe_all(files, Limits(), 2, _nothing)]
    refused = {
        files[position].relative: result for position, result in enumerate(results) if isinstance(result, Refused)
    }
    assert {name: result.kind for name, result in refused.items()} == {"crash.wav": "crash", "hang.wav": "timeout"}
    assert "SIGSEGV" in refused["crash.wav"].message
    assert refused["crash.wav"].lasting


def test_a_stop_ends_the_reading_and_the_workers(tmp_path, deadly):
    files = _files(tmp_path, 8)
    files.append(File(write(tmp_path / "hang.wav", encoded("WAV", tones(0.6))), "hang.wav", "s", 1))
    stop = threading.Event()

    def check() -> None:
        if stop.is_set():
            raise Stopped("asked to")

    reading = probe_all(files, Limits(), 2, check)
    for _ in range(8):
        next(reading)
    stop.set()
    started = time.monotonic()
    with pytest.raises(Stopped):
        next(reading)
    assert time.monotonic() - started < PATIENCE_SECONDS  # the file that hangs takes ten minutes


def test_workers_that_cannot_start_are_an_error_and_not_a_reject(tmp_path, monkeypatch):
    start = subprocess.Popen

    def popen(command, **arguments):
        return start([command[0], "-c", "raise SystemExit(3)", *command[3:]], **arguments)

    monkeypatch.setattr(subprocess, "Popen", popen)
    with pytest.raises(RuntimeError, match="exit code 3"):
        list(probe_all(_files(tmp_path, 9), Limits(), 2, _nothing))


def test_recordings_in_memory_are_read_in_the_same_process():
    import fsspec

    fsspec.filesystem("memory").pipe_file("/probe/a.wav", encoded("WAV", tones(0.6)))
    file = File("memory:///probe/a.wav", "a.wav", "s", 1)
    [(_, result)] = probe_all([file], Limits(), 4, _nothing)
    assert isinstance(result, AudioProbe)


@pytest.mark.parametrize("format", ["flac", "wav", "mp3", "ogg"])
def test_a_generated_clip_is_refused_unless_it_is_allowed(format, tmp_path):
    clip = encode_audio(tones(1.0), RATE, format, {"title": "a"}, source=SourceType.TRAINED)
    refused = probe_recording(write(tmp_path / "clip", clip), Limits())
    assert isinstance(refused, Refused)
    assert (refused.kind, refused.lasting) == ("generated", True)
    assert "marked as trainedAlgorithmicMedia" in refused.message
    kept = probe_recording(write(tmp_path / "clip", clip), Limits(generated="keep"))
    assert "trainedAlgorithmicMedia" in kept.tags


def test_synthetic_sound_without_a_trained_model_is_ingested(tmp_path):
    piece = encode_audio(tones(1.0), RATE, "wav", source=SourceType.ALGORITHMIC)
    probed = probe_recording(write(tmp_path / "piece", piece), Limits())
    plain = probe_recording(write(tmp_path / "plain", encode_audio(tones(1.0), RATE, "wav")), Limits())
    assert probed == plain
