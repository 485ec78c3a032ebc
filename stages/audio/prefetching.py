"""Prefetching recordings for a stage whose model works on one after another: meanwhile the next ones are read, mixed
and resampled in processes of their own.

Processes, not threads: FFmpeg's decoders hand every frame to Python, which two threads do no faster than one, and what
lets another thread run for a moment also keeps the model's thread waiting for its turn to launch the next kernel.
Where the model itself works on the processors, it is better to leave it most of them, and all of a few.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa

from stages.audio.locations import AudioError
from stages.audio.reading import Waveform, read_waveform
from stages.pipeline.contract import Context, Reject
from stages.pipeline.cores import available_cores
from stages.pipeline.workers import Call, WorkerDied, WorkerPool, WorkerTimeout, map_in_order

CORES_PER_READER = 4
"""Where the model works on the processors, one in so many is taken from it to prefetch."""

RECORDINGS_PER_READER = 8
"""A further process is worth its start from so many recordings on."""

WAITING_PER_READER = 2
"""Recordings that are prefetched for each process."""

MAX_SECONDS = 1800.0
"""Sound that is in hand at a time, the model's own recording included: 0.7 GB of stereo at 48 kHz. A recording that is
longer is in hand alone."""

BASE_SECONDS, SECONDS_PER_SECOND = 300.0, 0.5
"""How long a process may take for a recording, and for each second of it: only a decoder that hangs meets it."""


@dataclass(frozen=True)
class PrefetchItem:
    """A recording to be read."""

    key: str
    """The key of its row, for a person who reads that it was refused."""
    uri: str
    seconds: float


def prefetch_items(tracks: pa.Table) -> list[PrefetchItem]:
    """Return the recordings of rows of `tracks`."""
    rows = tracks.select(["track_id", "uri", "seconds"]).to_pylist()
    return [PrefetchItem(row["track_id"], row["uri"], row["seconds"] or 0.0) for row in rows]


@contextmanager
def prefetch(
    context: Context, items: Sequence[PrefetchItem], sample_rate: int | None = None, channels: int | None = None
) -> Iterator[Iterator[tuple[PrefetchItem, Waveform | Reject]]]:
    """Iterate over the waveforms of recordings, or why they are refused, in the order given.

    Args:
        sample_rate: Hz; None leaves the recordings' own rates.
        channels: None leaves the recordings' own.

    Raises:
        Stopped: from the iterator, where the run was asked to stop.
        OSError: from the iterator, where the disk or the network failed.
    """
    readers = _readers(context, items)
    if not readers:
        yield (_read_here(context, item, sample_rate, channels) for item in items)
        return
    pool = WorkerPool(["stages.audio.reading", "soxr"])

    def read(item: PrefetchItem) -> Waveform | Reject:
        try:
            limit = BASE_SECONDS + SECONDS_PER_SECOND * item.seconds
            waveform = pool.run(Call(read_waveform, (item.uri, sample_rate, channels)), limit)
        except WorkerTimeout as limit:
            message = f"expected a file that is read in {limit}, got one that is not"
            waveform = AudioError("timeout", message, passing=True)
        except WorkerDied as end:
            waveform = AudioError("crash", f"expected a file that can be decoded, got one that {end}")
        return _or_reject(item, waveform)

    try:
        yield map_in_order(
            read,
            items,
            readers,
            WAITING_PER_READER * readers,
            context.check_stopped,
            lambda item: item.seconds,
            MAX_SECONDS,
        )
    finally:
        pool.close()


def _readers(context: Context, items: Sequence[PrefetchItem]) -> int:
    """Return how many processes read; 0 where recordings and the model's work had better take turns."""
    if context.settings.workers == 1 or any(item.uri.startswith("memory://") for item in items):
        return 0
    wanted = context.settings.workers or available_cores()
    if context.device == "cpu":
        wanted //= CORES_PER_READER
    return min(wanted, -(-len(items) // RECORDINGS_PER_READER))


def _read_here(
    context: Context, item: PrefetchItem, sample_rate: int | None, channels: int | None
) -> tuple[PrefetchItem, Waveform | Reject]:
    context.check_stopped()
    return item, _or_reject(item, read_waveform(item.uri, sample_rate, channels))


def _or_reject(item: PrefetchItem, waveform: Waveform | AudioError) -> Waveform | Reject:
    if isinstance(waveform, AudioError):
        return Reject(item.key, item.uri, waveform.kind, str(waveform), passing=waveform.passing)
    return waveform
