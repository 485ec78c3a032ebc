"""Excerpts of the recordings that clips refer to or are nearest to.

They are a few seconds long and lie beside the page, so that it can play them wherever it is. They carry no mark of
generated sound, because nobody here made them."""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from schemas import Store
from schemas.tables import Row
from stages.audio import (
    LISTENING_LOUDNESS,
    LISTENING_PEAK,
    AudioError,
    encode_audio,
    measure_audio,
    read_audio,
    resample,
)
from stages.audio.references import Reference
from stages.pipeline.contract import Context
from stages.pipeline.cores import available_cores
from stages.pipeline.workers import map_in_order
from stages.report.clips import track_title

FOLDER = "report/excerpts"
"""The folder of the excerpts in the store."""

SAMPLE_RATE = 32_000
"""Sample rate of excerpts, Hz; MP3 at this rate takes about 10 kB a second."""


@dataclass(frozen=True)
class Excerpt:
    """The beginning of a recording."""

    title: str
    path: str
    """The file's path in the store."""
    sha256: str


def cut_excerpts(
    context: Context, references: Iterable[str], tracks: Mapping[str, Row], seconds: float
) -> dict[str, Excerpt]:
    """Cut the beginnings of recordings and return them by reference. Excerpts that exist are not cut again.

    A recording that cannot be reached or read is left out with a remark; the page is no reason to fail a run.

    Args:
        references: as in `requests`; references to words are left out.
        tracks: rows of `tracks` by id.
        seconds: length of an excerpt; 0 cuts none.
    """
    if not seconds:
        return {}
    wanted = {reference: uri for reference in references if (uri := _uri(reference, tracks)) is not None}
    files = set(context.store.files(FOLDER))
    excerpts = {}
    context.progress.start("report", len(wanted), "excerpts")

    def cut(item: tuple[str, str]) -> Excerpt | Exception:
        reference, uri = item
        try:
            return _cut(context.store, reference, uri, _title(reference, tracks), seconds, files)
        except (AudioError, OSError) as error:
            return error

    threads = available_cores()
    for (reference, uri), made in map_in_order(
        cut, sorted(wanted.items()), threads, 2 * threads, context.check_stopped
    ):
        if isinstance(made, Exception):
            context.remarks.add("recordings that the page cannot play beside clips", uri, str(made))
        else:
            excerpts[reference] = made
        context.progress.advance()
    return excerpts


def _cut(store: Store, reference: str, uri: str, title: str, seconds: float, files: Collection[str]) -> Excerpt:
    """Write an excerpt, unless its file exists."""
    name = f"{hashlib.sha256(f'{reference} {seconds:g}'.encode()).hexdigest()[:32]}.mp3"
    path = f"{FOLDER}/{name}"
    if name not in files:
        store.write_bytes(path, _excerpt(uri, seconds))
    return Excerpt(title, path, hashlib.sha256(store.read_bytes(path)).hexdigest())


def _excerpt(uri: str, seconds: float) -> bytes:
    recording = read_audio(uri)
    beginning = recording.samples[:2, : round(seconds * recording.sample_rate)]
    resampled = resample(beginning, recording.sample_rate, SAMPLE_RATE)
    # Only a gain is applied. A limiter would take longer than everything else, to make a few peaky excerpts louder.
    measures = measure_audio(resampled, SAMPLE_RATE)
    wanted_gain = 0.0 if measures.loudness is None else LISTENING_LOUDNESS - measures.loudness
    headroom = 0.0 if measures.true_peak is None else LISTENING_PEAK - measures.true_peak
    return encode_audio(resampled * np.float32(10 ** (min(wanted_gain, headroom) / 20)), SAMPLE_RATE, "mp3")


def _uri(reference: str, tracks: Mapping[str, Row]) -> str | None:
    named = Reference.from_row(reference)
    if named.kind == "file":
        return named.value
    track = tracks.get(named.value) if named.kind == "track" else None
    return None if track is None else track["uri"]


def _title(reference: str, tracks: Mapping[str, Row]) -> str:
    named = Reference.from_row(reference)
    return track_title(tracks[named.value]) if named.kind == "track" else PurePosixPath(named.value).name
