"""Mapping recordings to rows: what every stage does that hears a shard's tracks one after another. The sound is
prefetched, what cannot be heard is refused, and each track's row is yielded as soon as it is whole, so that a run that
is killed keeps it."""

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
    """Yield a track's row or reject, in the order of `tracks`.

    Args:
        stage: its name, under which the progress is drawn.
        row_of: makes the row of a recording, or refuses it.
        sample_rate: Hz to which recordings are resampled.
        channels: to which they are mixed.
        sound_to: what the sound is for, where silence is refused, as in "expected sound to find beats in"; None takes
            silence too.

    Raises:
        Stopped: where the run was asked to stop.
        OSError: where the disk or the network failed.
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
