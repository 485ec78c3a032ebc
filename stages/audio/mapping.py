"""Mapping recordings to rows: the loop of every stage that reads the sound of a shard's tracks one after another.

The sound is prefetched, recordings that cannot be read are rejected, and each track's row is yielded as soon as it is
whole, so that it survives if the run is killed."""

from collections.abc import Callable, Iterator

import pyarrow as pa

from schemas.tables import Row
from stages.audio.loudness import SILENCE_DBFS
from stages.audio.prefetching import PrefetchItem, prefetch, prefetch_items
from stages.audio.reading import Waveform
from stages.pipeline.contract import Context, Reject, Shard


def map_recordings(
    context: Context,
    stage: str,
    tracks: pa.Table,
    row_of: Callable[[PrefetchItem, Waveform], Row | Reject],
    *,
    sample_rate: int,
    channels: int,
    sound_to: str | None = None,
) -> Iterator[Shard]:
    """Yield the row or reject of each track, in the order of `tracks`.

    Args:
        stage: name of the stage that the progress is shown under.
        row_of: makes the row of a recording, or its reject.
        sample_rate: rate that recordings are resampled to, Hz.
        channels: number of channels that recordings are mixed to.
        sound_to: completes the message "expected sound to …" with which silent recordings are rejected, such as "find
            beats in"; None accepts silence.

    Raises:
        Stopped: the run was asked to stop.
        OSError: the disk or the network failed.
    """
    context.progress.start(stage, tracks.num_rows, "tracks")
    with prefetch(context, prefetch_items(tracks), sample_rate, channels) as waveforms:
        for item, waveform in waveforms:
            outcome: Row | Reject
            if isinstance(waveform, Reject):
                outcome = waveform
            elif sound_to and waveform.peak < 10 ** (SILENCE_DBFS / 20):
                message = f"expected sound to {sound_to}, got silence: no sample reaches {SILENCE_DBFS:g} dBFS"
                outcome = Reject(item.key, item.uri, "silent", message)
            else:
                outcome = row_of(item, waveform)
            part = Shard([], [outcome]) if isinstance(outcome, Reject) else Shard([outcome])
            context.progress.advance()
            yield part
