"""The subjects of the comparison: the generated part of every clip, and excerpts of held-out recordings of equal
length."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.identity import by_hash
from schemas.tables import TRACKS, Row
from schemas.tables.catalog import passed_gate
from stages.analysis.prints import SAMPLE_RATE, take_print
from stages.audio.locations import AudioError
from stages.audio.reading import read_waveform
from stages.judging.tries import chosen_try
from stages.originality.comparing import NO_CODES, NO_PRINT, Subject, codes_of, cut, prints_of
from stages.originality.config import Config
from stages.originality.learned import learned_by
from stages.pipeline.contract import Context, Reject

TRACK = "track:"
"""Prefix of references to recordings of the store."""


@dataclass(frozen=True, eq=False)
class ComparedClip:
    """A clip, and what of it is compared."""

    clip: Row
    subject: Subject
    line: int
    """Line of its request in the requests file: of two equal clips the later one is the duplicate."""
    prompt_seconds: float
    """Length of the prompt at its beginning, which is not compared."""
    frame_rate: float
    """Frames of codes per second; 0 if the codes are not known."""
    referred: tuple[str, ...]
    """Ids of the recordings that its request refers to."""


def clip_subjects(
    context: Context, clips: pa.Table, verdicts: pa.Table, generations: pa.Table, requests: pa.Table
) -> tuple[list[ComparedClip], list[Reject]]:
    """Return every clip that passed the gate, read and ready to be compared, in the order of the requests; and a reject
    for each clip that cannot be read."""
    request_of = {row["request_id"]: row for row in requests.to_pylist()}
    generation_of = {(row["request_id"], row["take"]): row for row in generations.drop_columns(["chroma"]).to_pylist()}
    for verdict in verdicts.to_pylist():
        take = verdict["request_id"], verdict["take"]
        if take in generation_of:
            generation_of[take] = chosen_try(verdict, generation_of[take])
    rows = [row for row in clips.to_pylist() if passed_gate(row) and row["request_id"] in request_of]
    learned = learned_by(context, {row["checkpoint_id"] for row in rows})
    unknown = [checkpoint for checkpoint in sorted(learned) if not learned[checkpoint]]
    context.remarks.add_all(
        "models with an unknown training set, whose clips are compared only with each other", "", unknown
    )
    context.progress.start("reading clips", len(rows), "clips")
    compared, rejects = [], []
    for row in rows:
        context.check_stopped()
        request, generation = request_of[row["request_id"]], generation_of.get((row["request_id"], row["take"]))
        waveform = read_waveform(f"{context.store.url.rstrip('/')}/{row['path']}", SAMPLE_RATE, 1)
        if isinstance(waveform, AudioError):
            key = f"{row['request_id']}/{row['take']}"
            rejects.append(Reject(key, row["path"], waveform.kind, str(waveform), passing=waveform.passing))
        else:
            compared.append(_compared(row, request, generation, waveform.samples[0], learned[row["checkpoint_id"]]))
        context.progress.advance()
    compared.sort(key=lambda clip: (clip.line, clip.clip["request_id"], clip.clip["take"]))
    return compared, rejects


def _compared(
    clip: Row, request: Row, generation: Row | None, samples: npt.NDArray[np.float32], learned: frozenset[str]
) -> ComparedClip:
    """Return a clip with its codes and peaks after the prompt. `samples` are mono at the prints' sample rate, [N]."""
    references = {
        name: request[name] for name in ("melody", "prompt", "clap") if (request[name] or "").startswith(TRACK)
    }
    codes, codec, rate, prompt = NO_CODES, None, 0.0, 0
    if generation is not None:
        codec, rate, prompt = generation["codec_identity"], generation["frame_rate"], generation["prompt_frames"] or 0
        codes = np.asarray(generation["codes"][0], np.uint16)[prompt:]
    prompt_seconds = prompt / rate if rate else 0.0
    subject = Subject(
        codes=codes,
        codec=codec,
        peaks=cut(take_print(samples), prompt_seconds),
        learned=learned,
        melodies=frozenset(reference.removeprefix(TRACK) for name, reference in references.items() if name == "melody"),
    )
    referred = tuple(sorted({reference.removeprefix(TRACK) for reference in references.values()}))
    return ComparedClip(clip, subject, request["line"] or 0, prompt_seconds, rate, referred)


def held_out_subjects(config: Config, context: Context, clips: Sequence[ComparedClip]) -> list[Subject]:
    """Return the beginnings of held-out recordings, of the median length of the clips, once for each set of recordings
    that clips are compared with. Empty if no such set is known."""
    sets = {clip.subject.learned for clip in clips if clip.subject.learned}
    if not sets or TRACKS.name not in context.versions:
        return []
    rows = context.rows(TRACKS, ["track_id", "split", "shard", "copies_of"]).to_pylist()
    learned = frozenset[str]().union(*sets)
    rows = [row for row in rows if row["split"] != "train" and row["track_id"] not in learned and not row["copies_of"]]
    # Recordings are taken from as few shards as possible, because whole shards are read.
    rows.sort(key=lambda row: (by_hash(f"shard {row['shard']}"), by_hash(row["track_id"])))
    chosen = rows[: config.held_out]
    seconds = float(np.median([clip.clip["seconds"] - clip.prompt_seconds for clip in clips]))
    subjects = []
    for shard in sorted({row["shard"] for row in chosen}):
        ids = frozenset(row["track_id"] for row in chosen if row["shard"] == shard)
        codes, prints = codes_of(context, str(shard), ids), prints_of(context, str(shard), ids)
        for track in sorted(ids & (codes.keys() | prints.keys())):
            codec, rate, series = codes.get(track, (None, 0.0, NO_CODES))
            peaks = cut(prints.get(track, NO_PRINT), 0.0, seconds)
            subjects += [Subject(series[: round(seconds * rate)], codec, peaks, learned_set) for learned_set in sets]
    return subjects
