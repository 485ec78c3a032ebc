"""Recordings that are broken at random, and the results of ingest and of FFmpeg for them."""

import io
import json
from dataclasses import dataclass
from functools import lru_cache

import av
import fsspec
import numpy as np

from stages.audio.containers import DEMUXERS, container_of
from stages.ingest.config import Limits
from stages.ingest.probe import AudioProbe, probe_recording
from tests.worlds.recordings import encoded, encoded_by_ffmpeg, tones

RATE = 16_000
FORMATS = ("wav", "aiff", "flac", "mp3", "ogg", "opus", "m4a", "aac", "wma", "webm")
MUTATIONS = ("flipped bits", "overwritten", "cut at the end", "cut out", "joined", "inserted", "header rewritten")
HEADER_BYTES = 200
"""Length of the header within which bytes are changed."""

LIMITS = Limits(min_seconds=0.001, silent="keep", min_sample_rate=4_000, max_damage=1)
"""Limits that accept nearly everything that can be decoded, so that the comparison is about decoding."""


@dataclass(frozen=True)
class Comparison:
    """The results for a file: `kind` is `track`, or the kind of its refusal."""

    kind: str
    message: str
    seconds: float
    ffmpeg_seconds: float
    warnings: int

    @property
    def is_loss(self) -> bool:
        """Whether a track is shorter than what FFmpeg reads, without reporting it."""
        return self.kind == "track" and not self.warnings and self.seconds < self.ffmpeg_seconds - 0.05


@lru_cache
def small_file(form: str, seed: int) -> bytes:
    """A second of sound; three seconds if one second is a single page."""
    rate = 48_000 if form in ("opus", "webm") else RATE
    sound = tones(3.0 if form in ("ogg", "opus") else 1.0, seed, rate, channels=1 + seed % 2)
    by_ffmpeg = {"m4a": ("mp4", "aac"), "aac": ("adts", "aac"), "wma": ("asf", "wmav2"), "webm": ("webm", "libopus")}
    if form in by_ffmpeg:
        return encoded_by_ffmpeg(*by_ffmpeg[form], sound, rate)
    return encoded("OGG" if form == "opus" else form.upper(), sound, rate, "OPUS" if form == "opus" else None)


def mutated(number: int) -> bytes:
    """The file of a number: the formats in turn, broken one to three times in ways seeded by the number."""
    random = np.random.default_rng(number)
    form, data = FORMATS[number % len(FORMATS)], small_file(FORMATS[number % len(FORMATS)], int(random.integers(2)))
    for _ in range(random.integers(1, 4)):
        data = _mutated_once(data, form, MUTATIONS[random.integers(len(MUTATIONS))], random)
    return data


def _mutated_once(data: bytes, form: str, mutation: str, random: np.random.Generator) -> bytes:
    if len(data) < 16:
        return data
    place, count = int(random.integers(len(data))), int(2 ** random.uniform(0, 11))
    if mutation == "flipped bits":
        flipped = bytearray(data)
        for each in random.integers(len(data), size=random.integers(1, 9)):
            flipped[each] ^= 1 << int(random.integers(8))
        return bytes(flipped)
    if mutation == "overwritten":
        filling = random.bytes(count) if random.random() < 0.7 else bytes(count)
        return (data[:place] + filling + data[place + count :])[: len(data)]
    if mutation == "cut at the end":
        return data[:place] if random.random() < 0.5 else data[:-count]
    if mutation == "cut out":
        return data[:place] + data[place + count :]
    if mutation == "joined":
        other = form if random.random() < 0.8 else FORMATS[random.integers(len(FORMATS))]
        return data + small_file(other, int(random.integers(2)))
    if mutation == "inserted":
        filling = random.bytes(count) if random.random() < 0.5 else bytes(count)
        place = 0 if random.random() < 0.2 else place
        return data[:place] + filling + data[place:]
    place = int(random.integers(min(HEADER_BYTES, len(data) - 4)))
    value = int(random.choice([0, 1, 2, 0x7FFFFFFF, 0xFFFFFFFF, int(random.integers(2**32)), len(data)]))
    size, order = int(random.choice([1, 2, 4])), "little" if random.random() < 0.5 else "big"
    return data[:place] + (value % 256**size).to_bytes(size, order) + data[place + size :]


def compare(number: int) -> Comparison:
    """Probe the file of a number, and decode it with FFmpeg's own program."""
    data = mutated(number)
    fsspec.filesystem("memory").pipe_file("/fuzzed", data)
    result, by_ffmpeg = probe_recording("memory:///fuzzed", LIMITS), ffmpeg_seconds(data)
    if isinstance(result, AudioProbe):
        warnings = sum("tags:" not in each for each in json.loads(result.tags)["warnings"])
        return Comparison("track", "", result.frames / result.sample_rate, by_ffmpeg, warnings)
    return Comparison(result.kind, result.message, 0.0, by_ffmpeg, 0)


def ffmpeg_seconds(data: bytes) -> float:
    """Seconds of the sound that FFmpeg decodes, skipping what it cannot; 0 if it cannot open the file."""
    container, seconds = container_of(io.BytesIO(data)), 0.0
    if container not in DEMUXERS:
        return seconds
    try:
        with av.open(io.BytesIO(data), format=DEMUXERS[container], metadata_errors="ignore") as opened:
            for packet in opened.demux(opened.streams.audio[0]):
                try:
                    seconds += sum(frame.samples / frame.sample_rate for frame in packet.decode())
                except av.FFmpegError:
                    continue
    except (av.FFmpegError, ValueError, IndexError, OverflowError):
        return seconds
    return seconds
