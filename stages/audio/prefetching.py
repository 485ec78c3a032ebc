"""Recordings one after another for a stage whose model works on each: the next ones are read, mixed and resampled in
processes of their own while it does.

Processes, not threads: FFmpeg's decoders hand every frame to Python, which two threads do no faster than one, and what
lets another thread run for a moment also keeps the model's thread waiting for its turn to launch the next kernel.
Where the model itself works on the processors, it is better to leave it most of them, and all of a few.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa

from stages.audio.locations import AudioError
from stages.audio.reading import Waveform, read_waveform
from stages.pipeline.contract import Context, Reject
from stages.pipeline.workers import Call, WorkerDied, WorkerPool, WorkerTimeout, map_in_order

CORES_A_READER = 4
"""Of a machine whose model works on the processors: one in so many is taken from it to read ahead."""

RECORDINGS_A_READER = 8
"""A further process is worth its start from so many recordings on."""

WAITING = 2
"""Recordings that are read ahead for each process."""

MOST_SECONDS = 1800.0
"""Sound that is in hand at a time, that which the model has included: 0.7 GB of stereo at 48 kHz. A longer recording is
in hand alone."""

BASE_SECONDS, SECONDS_PER_SECOND = 300.0, 0.5
"""How long a process may take for a recording, and for each second of it: only a decoder that hangs meets it."""


@dataclass(frozen=True)
class PrefetchItem:
    """A recording to be read."""

    key: str
    """Of its row, for a person who reads that it was refused."""
    uri: str
    seconds: float


def prefetch_items(tracks: pa.Table) -> list[PrefetchItem]:
    """The recordings of rows of `tracks`."""
    rows = tracks.select(["track_id", "uri", "seconds"]).to_pylist()
    return [PrefetchItem(row["track_id"], row["uri"], row["seconds"] or 0.0) for row in rows]


@contextmanager
def prefetch(
    context: Context, sources: Sequence[PrefetchItem], sample_rate: int | None = None, channels: int | None = None
) -> Iterator[Iterator[tuple[PrefetchItem, Waveform | Reject]]]:
    """Within it, each recording as `read_waveform` gives it, or why it is refused, in the order given.

    Between recordings it asks whether the run was to stop, and raises what `Context.check_stopped` does; OSError where
    the disk or the network failed.
    """
    readers = _readers(context, sources)
    if not readers:
        yield (_read_here(context, source, sample_rate, channels) for source in sources)
        return
    pool = WorkerPool(["stages.audio.reading", "soxr"])

    def read(source: PrefetchItem) -> Waveform | Reject:
        try:
            limit = BASE_SECONDS + SECONDS_PER_SECOND * source.seconds
            found = pool.run(Call(read_waveform, (source.uri, sample_rate, channels)), limit)
        except WorkerTimeout as limit:
            found = AudioError("timeout", f"expected a file that is read in {limit}, got one that is not")
        except WorkerDied as end:
            found = AudioError("crash", f"expected a file that can be decoded, got one that {end}")
        return _or_reject(source, found)

    try:
        yield map_in_order(
            read,
            sources,
            readers,
            WAITING * readers,
            context.check_stopped,
            lambda source: source.seconds,
            MOST_SECONDS,
        )
    finally:
        pool.close()


def _readers(context: Context, sources: Sequence[PrefetchItem]) -> int:
    """How many processes read; none where the recordings are better read by turns with the model's work."""
    if context.settings.workers == 1 or any(source.uri.startswith("memory://") for source in sources):
        return 0
    wanted = context.settings.workers or os.cpu_count() or 1
    if context.device == "cpu":
        wanted //= CORES_A_READER
    return min(wanted, -(-len(sources) // RECORDINGS_A_READER))


def _read_here(
    context: Context, source: PrefetchItem, sample_rate: int | None, channels: int | None
) -> tuple[PrefetchItem, Waveform | Reject]:
    context.check_stopped()
    return source, _or_reject(source, read_waveform(source.uri, sample_rate, channels))


def _or_reject(source: PrefetchItem, found: Waveform | AudioError) -> Waveform | Reject:
    if isinstance(found, AudioError):
        return Reject(source.key, source.uri, found.kind, str(found))
    return found
