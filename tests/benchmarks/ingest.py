"""Ingest against two bare loops on as many processes: `python -m tests.benchmarks.ingest`.

Some hundred files of synthesised music are made first: FLAC, WAV, MP3 and Ogg Vorbis by turns, of 44.1 and 48 kHz,
stereo, 20 to 60 s, every third with a JSON sidecar. Then the sides take turns over all of them, their processes
started anew each time:

- the bare loop (`bare_loop.py`) is what anyone would write to have the sound: each file read and hashed (SHA-256),
  decoded by libsndfile to float32, and resampled by soxr's high quality to 32 kHz, the rate of MusicGen's codec;
- the loop for the same columns, in one round, resamples nothing; it measures loudness by pyloudnorm, true peak by soxr,
  silence and clipping, and finds the peaks by which copies are known by scipy. It compares none and writes nothing;
- ingest, by the runner, fills a fresh store. It decodes and hashes too, measures all that and the quality besides,
  reads tags and sidecars, finds the container by its bytes, checks all that a file claims, writes the table, and
  compares the recordings that may be copies of one another.

That ingest takes every file, with as many samples as the loops decoded, comes before any time.
"""

import argparse
import hashlib
import io
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
import soxr

from schemas import Settings, Store
from schemas.arrow import leave_pandas_out
from schemas.storage.drafts import Drafts
from schemas.tables import TRACKS
from schemas.weights import WeightsLibrary
from stages import ingest
from stages.analysis.prints import SAMPLE_RATE, take_print
from stages.audio.identity import track_identity
from stages.audio.loudness import measure_audio
from stages.audio.reading import read_audio
from stages.audio.writing import encode_audio
from stages.ingest.probe import Limits, probe_recording
from stages.ingest.tags import read_tags
from stages.pipeline.contract import Context
from stages.pipeline.jobs import run_job
from stages.pipeline.plans import EVERYTHING, ConfiguredStage
from tests.benchmarks.bare_loop import RATE
from tests.benchmarks.results import Figure, Report, table
from tests.benchmarks.running import alone, options

FORMATS, RATES = ("flac", "wav", "mp3", "ogg"), (44_100, 48_000)
RATIO_GOAL, COLUMNS_GOAL = 0.8, 1.0


@lru_cache(maxsize=2)
def instruments(rate: int) -> tuple[np.ndarray, np.ndarray]:
    """One second of each of 36 plucked notes [36, N], and of a drum whose noise falls off by 6 dB an octave [N]."""
    places, random = np.arange(rate) / rate, np.random.default_rng(0)
    hertz = 110 * 2 ** (np.arange(36)[:, None] / 12)
    strings = sum(np.sin(2 * np.pi * hertz * order * places) / order**2 for order in range(1, 7))
    noise = np.cumsum(random.standard_normal(rate))
    drum = (noise - np.convolve(noise, np.full(256, 1 / 256), mode="same")) * np.exp(-40 * places)
    return strings * np.minimum(places / 0.005, 1) * np.exp(-3 * places), drum / np.abs(drum).max()


def music(seconds: float, rate: int, seed: int) -> np.ndarray:
    """Four notes a second over a low one and a drum, with a different mix on each side: float32 [2, N], peak 0.9."""
    random = np.random.default_rng(seed)
    notes, drum = instruments(rate)
    sound = np.tile(0.4 * np.sin(2 * np.pi * 55 * np.arange(round(seconds * rate)) / rate), (2, 1))
    for start in range(0, sound.shape[1] - rate, rate // 4):
        mix = random.uniform(0.4, 1, (2, 1))
        sound[:, start : start + rate] += mix * notes[random.integers(36)] + 0.6 * drum
    return (0.9 * sound / np.abs(sound).max()).astype(np.float32)


def make_file(folder: str, number: int, longest: float) -> str:
    """Write one recording, and a sidecar for every third."""
    form, rate = FORMATS[number % 4], RATES[number // 4 % 2]
    seconds = np.random.default_rng(number).uniform(longest / 3, longest)
    path = Path(folder) / f"{number:04d}.{form}"
    tags = {"title": f"Title {number}", "artist": f"Artist {number % 17}", "genre": "rock"}
    path.write_bytes(encode_audio(music(seconds, rate, number), rate, form, tags))
    if number % 3 == 0:
        path.with_suffix(".json").write_text(json.dumps({"title": f"Song {number}", "moods": ["calm"], "bpm": 120}))
    return str(path)


def bare_loop(paths: list[str], processes: int, *what: str) -> int:
    """Total samples a channel of all files; with `columns`, by the loop that computes the columns."""
    command = [sys.executable, "-m", "tests.benchmarks.bare_loop", str(processes), *what]
    done = subprocess.run(command, input="\n".join(paths), check=True, capture_output=True, text=True)
    return int(done.stdout)


def ingested(source: str, files: int, processes: int) -> int:
    """Total samples a channel of the tracks that ingest put into a fresh store; SystemExit if it did not take every
    file."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        settings = Settings(store=store.url, source=source, workers=processes)
        context = Context(store, settings, "run", "ingest", "v", {}, WeightsLibrary(store))
        counts = run_job(ConfiguredStage("ingest", ingest, ingest.Config()), context, EVERYTHING)
        if (counts.made, counts.refused) != (files, 0):
            raise SystemExit(f"expected {files} tracks, got {counts}")
        return sum(Drafts(store, TRACKS, "v").read(columns=["frames"]).column("frames").to_pylist())


def processors_time() -> float:
    """Processor seconds of this process and of its ended children."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def split(paths: list[str]) -> str:
    """A table of one processor's time for a file of each format, in ms a second of sound."""
    rows = []
    for path in paths[: len(FORMATS)]:
        recording, data = read_audio(path), Path(path).read_bytes()
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        mono = soxr.resample(samples.mean(axis=1), rate, SAMPLE_RATE, quality="MQ")
        parts: list[Callable[[], object]] = [
            lambda data=data: hashlib.sha256(data),
            lambda path=path: soundfile.read(path, dtype="float32"),
            lambda samples=samples, rate=rate: soxr.resample(samples, rate, RATE, quality="HQ"),
            lambda data=data: track_identity(io.BytesIO(data)),
            lambda path=path: read_audio(path),
            lambda recording=recording: measure_audio(recording.samples, recording.sample_rate),
            lambda mono=mono: take_print(mono),
            lambda data=data: read_tags(io.BytesIO(data)),
            lambda path=path: probe_recording(path, Limits()),
        ]
        times = [f"{1000 * _least(part) / recording.seconds:.2f}" for part in parts]
        rows.append([Path(path).suffix[1:], *times])
    header = [
        "format",
        "hash",
        "decode",
        "resample",
        "identity",
        "decode, checked",
        "loudness",
        "print",
        "tags",
        "ingest's all",
    ]
    return table(header, rows)


def _least(act: Callable[[], object]) -> float:
    times = []
    for _ in range(5):
        begun = time.thread_time()
        act()
        times.append(time.thread_time() - begun)
    return min(times)


def arguments() -> argparse.ArgumentParser:
    """The options."""
    parser = options(__doc__)
    parser.add_argument("--files", type=int, help="200")
    parser.add_argument("--rounds", type=int, default=3)
    return parser


def measure(args: argparse.Namespace) -> Report:
    """Make the files, and let both sides take turns over them."""
    report = Report("Ingest", peer="bare loop")
    count, longest = args.files or (16 if args.small else 200), 6.0 if args.small else 60.0
    clock = processors_time if args.cpu_time else time.perf_counter
    leave_pandas_out()  # as every command does
    with tempfile.TemporaryDirectory() as folder:
        with ThreadPoolExecutor(args.threads) as threads:  # encoders release Python's lock
            paths = list(threads.map(lambda number: make_file(folder, number, longest), range(count)))
        seconds = sum(soundfile.info(path).duration for path in paths)
        sides: dict[str, Callable[[], int]] = {
            "bare": lambda: bare_loop(paths, args.threads),
            "ingest": lambda: ingested(folder, count, args.threads),
            "columns": lambda: bare_loop(paths, args.threads, "columns"),
        }
        taken: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(args.rounds):
            samples = {}
            for name, act in sides.items():
                if name == "columns" and turn:
                    continue
                begun = clock()
                samples[name] = act()
                taken[name].append(clock() - begun)
            if len(set(samples.values())) > 1:
                raise SystemExit(f"expected all sides to decode as many samples, got {samples}")
        halves = split(paths)
    theirs, columns, ours = (seconds / statistics.median(taken[name]) for name in ("bare", "columns", "ingest"))
    what = "sound taken in" + (", a second of the processors" if args.cpu_time else "")
    checked = f"every sample of {count} files"
    report.add(Figure(what, "s a second", ours, "more", theirs, ratio_goal=RATIO_GOAL, equal=checked))
    same = f"{what}, against a loop for the same columns"
    report.add(Figure(same, "s a second", ours, "more", columns, ratio_goal=COLUMNS_GOAL, equal=checked))
    rounds = "; ".join(f"{a:.1f} and {b:.1f} s" for a, b in zip(taken["bare"], taken["ingest"], strict=True))
    report.say(
        f"{count} files of {seconds:,.0f} s on {args.threads} processes, whose start is counted: "
        f"{count * theirs / seconds:.1f} files a second by the bare loop, {count * ours / seconds:.1f} by ingest. Its "
        f"rounds and ingest's: {rounds}. What one processor takes, in ms a second of sound (the first three columns "
        "are what the bare loop does, the others what ingest does):"
    )
    report.say(halves)
    return report


if __name__ == "__main__":
    alone(arguments(), measure)
