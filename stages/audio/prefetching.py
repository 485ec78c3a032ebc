"""Prefetching recordings for a stage whose model processes one after another: while it does, worker processes read the
next ones, mix their channels and resample them.

Processes are used, not threads. FFmpeg's decoders hand every frame to Python, so two threads are no faster than one;
and they would hold the interpreter's lock that the model's thread needs to launch its next kernel. If the model itself
runs on the CPU, it keeps most of the cores, and all of them if there are few.
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
"""If the model runs on the CPU, one reading process is started for this many cores."""

RECORDINGS_PER_READER = 8
"""A further process is started only for this many more recordings, since its start takes time."""

WAITING_PER_READER = 2
"""Recordings that are prefetched for each process."""

MAX_SECONDS = 1800.0
"""Most seconds of sound in memory at a time, including the recording that the model processes: 0.7 GB of stereo at 48
kHz. A longer recording is in memory alone."""

BASE_SECONDS, SECONDS_PER_SECOND = 300.0, 0.5
"""Time limit of a process for a recording, seconds: a base, and so much for each second of sound. Only a decoder that
hangs reaches it."""


@dataclass(frozen=True)
class PrefetchItem:
    """A recording to be read."""

    key: str
    """Key of its row, named in the reject if it cannot be read."""
    uri: str
    seconds: float
    """Its duration as ingest found it; 0 if it is not known."""


def prefetch_items(tracks: pa.Table) -> list[PrefetchItem]:
    """Return the recordings of some rows of `tracks`, to be prefetched."""
    rows = tracks.select(["track_id", "uri", "seconds"]).to_pylist()
    return [PrefetchItem(row["track_id"], row["uri"], row["seconds"] or 0.0) for row in rows]


@contextmanager
def prefetch(
    context: Context, items: Sequence[PrefetchItem], sample_rate: int | None = None, channels: int | None = None
) -> Iterator[Iterator[tuple[PrefetchItem, Waveform | Reject]]]:
    """Open an iterator over recordings and their waveforms, in the order given. A recording that cannot be read has a
    reject in place of its waveform.

    Args:
        sample_rate: Hz; None keeps each recording's own rate.
        channels: number of channels; None keeps each recording's own.

    Raises:
        Stopped: by the iterator, if the run was asked to stop.
        OSError: by the iterator, if the disk or the network failed.
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
            message = f"expected a file that can be decoded within {limit}, got one that took longer"
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
    """Return the number of reading processes; 0 if recordings should be read in this process, between the model's
    work."""
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
