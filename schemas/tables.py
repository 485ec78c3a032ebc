"""Every table of the store: its columns, its key, and which of its versions a view shows.

A table lies at `<store>/<table>/version=<fingerprint>/shard=<n>.parquet`. Most hold what was made; the last eight
hold what happened: weights first used, recordings taken down, things refused, things noticed, stages run, checks made,
versions begun, and versions published.
"""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

TEXT, TEXTS = pa.string(), pa.list_(pa.string())
VECTOR = pa.list_(pa.float32())

Row = dict[str, Any]
"""A row of a table, by column."""


@dataclass(frozen=True)
class FileColumns:
    """Columns of a table that name a file or folder of the store, and say how it must be."""

    path: str
    bytes: str | None = None
    """The column of its size; None for a folder, which must be there."""
    sha256: str | None = None
    """The column of its digest."""
    small: bool = False
    """A file under one name for all versions, and soon read: that it is this version's is told by its digest."""
    folder_digest: str | None = None
    """The column of a folder's digest (`schemas.weights.folder_digest`)."""


@dataclass(frozen=True)
class Table:
    """A table's name, columns, key and meaning."""

    name: str
    about: str
    """One row is …"""
    key: tuple[str, ...]
    schema: pa.Schema
    accumulates: bool = False
    """Every version is part of the view (records), rather than the newest one alone (derived data)."""
    identity: tuple[str, ...] | None = None
    """The columns whose values enter a shard's content digest; None: all of them. Left out: where and when."""
    combined: bool = False
    """Records whose files are put together as they grow many (`schemas.records`), so that a key may stand twice for a
    while."""
    copies: str | None = None
    """The column that says how many rows are made from a row, by the stage that the table drives."""
    files: tuple["FileColumns", ...] = ()
    """The columns that name files of the store: a row whose file is gone is made again."""


def columns(**types: pa.DataType) -> pa.Schema:
    """Return a schema from names and types."""
    return pa.schema(list(types.items()))


_LOCATION = pa.struct([("uri", TEXT), ("stamp", TEXT), ("tags", TEXT)])

TRACKS = Table(
    "tracks",
    "a distinct recording",
    ("track_id",),
    columns(
        track_id=TEXT,
        uri=TEXT,
        files=pa.list_(_LOCATION),
        metadata_stamp=TEXT,
        format=TEXT,
        sample_rate=pa.int32(),
        channels=pa.int16(),
        frames=pa.int64(),
        seconds=pa.float64(),
        loudness=pa.float64(),
        true_peak=pa.float64(),
        silence=pa.float64(),
        clipping=pa.float64(),
        clipping_runs=pa.float64(),
        peak=pa.float64(),
        dc=pa.float64(),
        zeros=pa.float64(),
        bandwidth=pa.float64(),
        dual_mono=pa.bool_(),
        phase=pa.float64(),
        title=TEXT,
        artist=TEXT,
        artists=TEXTS,
        album=TEXT,
        genre=TEXT,
        moods=TEXTS,
        keywords=TEXTS,
        instrument=TEXT,
        bpm=pa.float64(),
        key=TEXT,
        description=TEXT,
        description_source=TEXT,
        paraphrases=TEXTS,
        licence=TEXT,
        lyrics=TEXT,
        replay_gain=pa.float64(),
        copies_of=TEXTS,
        split=TEXT,
        warnings=TEXTS,
        shard=pa.int32(),
    ),
    identity=(
        *("track_id", "title", "artist", "album", "genre", "moods", "keywords", "instrument"),
        *("bpm", "key", "description", "paraphrases", "licence", "split"),
    ),
)
WITHHELD = Table(
    "withheld",
    "a recording that was measured, and that `ingest.accept`, its licence or a take-down keeps out of `tracks`",
    ("track_id",),
    TRACKS.schema,
    identity=TRACKS.identity,
)
PRINTS = Table(
    "prints",
    "what copies of a recording are known by: where in time and pitch it is strongest (`stages.analysis.prints`)",
    ("track_id",),
    columns(
        track_id=TEXT,
        seconds=pa.float64(),
        peak_frames=pa.list_(pa.int32()),
        peak_pitches=pa.list_(pa.uint8()),
        sketch=pa.list_(pa.uint32()),
    ),
)
PIECES = Table(
    "pieces",
    "a piece of the demo corpus, with the truth about it",
    ("piece_id",),
    columns(
        piece_id=TEXT,
        uri=TEXT,
        seed=pa.int64(),
        index=pa.int32(),
        seconds=pa.float64(),
        sample_rate=pa.int32(),
        title=TEXT,
        artist=TEXT,
        genre=TEXT,
        moods=TEXTS,
        instruments=TEXTS,
        key=TEXT,
        bpm=pa.float64(),
        beats_per_bar=pa.int8(),
        chords=TEXTS,
        melody=pa.list_(pa.struct([("onset", pa.float64()), ("seconds", pa.float64()), ("pitch", pa.int32())])),
        description=TEXT,
    ),
    identity=("piece_id", "seed", "index", "seconds", "sample_rate", "title", "description"),
)
CHROMA = Table(
    "chroma",
    "the melody condition of a track: 12 bins a frame, from the stems that carry melody",
    ("track_id",),
    columns(track_id=TEXT, frame_rate=pa.float64(), chroma=pa.list_(VECTOR)),
)
RHYTHM = Table(
    "rhythm",
    "the beats and downbeats of a track, seconds, with its tempo and how sure they are",
    ("track_id",),
    columns(
        track_id=TEXT,
        beats=VECTOR,
        downbeats=VECTOR,
        beats_per_bar=pa.int8(),
        bpm=pa.float32(),
        confidence=pa.float32(),
    ),
)
CHORD = pa.struct(
    [
        *(("start", pa.float32()), ("end", pa.float32()), ("root", pa.int8()), ("quality", TEXT)),
        *(("bass", pa.int8()), ("confidence", pa.float32())),
    ]
)
"""A chord: from when to when (seconds), its root as a pitch class (0 is C, -1 no chord), its quality in the names of
`model.conditioning.config.CHORD_QUALITIES` ("N" for no chord), the pitch class of its bass, and how sure it is (0 to
1)."""
HARMONY = Table(
    "harmony",
    "the chords of a track, one after another, and its key",
    ("track_id",),
    columns(track_id=TEXT, chords=pa.list_(CHORD), key=TEXT, key_confidence=pa.float32()),
)
CLAP = Table(
    "clap",
    "joint audio-text embeddings of a track, one a window, with the window's start in seconds",
    ("track_id",),
    columns(track_id=TEXT, starts=pa.list_(pa.float64()), embeddings=pa.list_(VECTOR)),
)
TOKENS = Table(
    "tokens",
    "codec codes [K, T] of a track",
    ("track_id",),
    columns(
        track_id=TEXT,
        codec=TEXT,
        codec_identity=TEXT,
        codec_reference=TEXT,
        sample_rate=pa.int32(),
        channels=pa.int16(),
        frame_rate=pa.float64(),
        cardinality=pa.int32(),
        frames=pa.int32(),
        codes=pa.list_(pa.list_(pa.uint16())),
    ),
    identity=("track_id", "codec_identity", "channels", "frame_rate", "cardinality", "frames", "codes"),
)
CHECKPOINTS = Table(
    "checkpoints",
    "a trained model",
    ("checkpoint_id",),
    columns(
        checkpoint_id=TEXT,
        kind=TEXT,
        path=TEXT,
        recipe=TEXT,
        parents=TEXTS,
        data_digest=TEXT,
        training_set=TEXT,
        rows_seen=pa.int64(),
        steps=pa.int64(),
        parameters=pa.int64(),
        digest=TEXT,
        adapter=TEXT,
        metrics=pa.map_(TEXT, pa.float64()),
        created_at=pa.timestamp("us", tz="UTC"),
    ),
    accumulates=True,
    identity=("checkpoint_id", "kind", "digest", "metrics"),
    files=(FileColumns("path", folder_digest="digest"),),
)
LEARNED = Table(
    "learned",
    "a recording that models learned from, as it was described then",
    ("training_set", "track_id"),
    columns(training_set=TEXT, track_id=TEXT, title=TEXT, artist=TEXT, licence=TEXT, uri=TEXT),
    accumulates=True,
    identity=("training_set", "track_id", "title", "artist", "licence"),
)
TRAINING = Table(
    "training",
    "one logged step of a training",
    ("checkpoint_id", "step", "split"),
    columns(
        checkpoint_id=TEXT,
        step=pa.int64(),
        split=TEXT,
        loss=pa.float64(),
        codebook_loss=pa.list_(pa.float64()),
        learning_rate=pa.float64(),
        gradient_norm=pa.float64(),
        tokens_per_second=pa.float64(),
        model_flops_utilisation=pa.float64(),
        metrics=pa.map_(TEXT, pa.float64()),
    ),
    accumulates=True,
    identity=("checkpoint_id", "step", "split", "loss", "codebook_loss", "learning_rate", "gradient_norm", "metrics"),
)
RECONSTRUCTIONS = Table(
    "reconstructions",
    "a held-out segment through a codec that was trained here, kept to be heard beside the original",
    ("checkpoint_id", "number"),
    columns(
        checkpoint_id=TEXT,
        number=pa.int32(),
        track_id=TEXT,
        original=TEXT,
        original_sha256=TEXT,
        decoded=TEXT,
        decoded_sha256=TEXT,
        sample_rate=pa.int32(),
        channels=pa.int16(),
        seconds=pa.float64(),
        si_snr=pa.float64(),
        log_mel_distance=pa.float64(),
        multi_scale_mel_distance=pa.float64(),
    ),
    accumulates=True,
    files=(FileColumns("original", sha256="original_sha256"), FileColumns("decoded", sha256="decoded_sha256")),
)
SAMPLES = Table(
    "samples",
    "a clip of a fixed text that a model made while it learned, with the same chance at every step",
    ("checkpoint_id", "step", "number"),
    columns(
        checkpoint_id=TEXT,
        step=pa.int64(),
        number=pa.int32(),
        description=TEXT,
        seed=pa.int64(),
        seconds=pa.float64(),
        sample_rate=pa.int32(),
        channels=pa.int16(),
        path=TEXT,
        sha256=TEXT,
    ),
    accumulates=True,
    files=(FileColumns("path", sha256="sha256"),),
)
USED_ADAPTER = pa.struct([("name", TEXT), ("strength", pa.float64()), ("reference", TEXT), ("digest", TEXT)])
"""An adapter that is added to the model: as the line names it, how strongly, where it lies, and of which content."""
REQUESTS = Table(
    "requests",
    "one clip to make",
    ("request_id",),
    columns(
        request_id=TEXT,
        name=TEXT,
        line=pa.int32(),
        description=TEXT,
        melody=TEXT,
        clap=TEXT,
        prompt=TEXT,
        prompt_seconds=pa.float64(),
        seconds=pa.float64(),
        takes=pa.int32(),
        seed=pa.int64(),
        guidance=pa.float64(),
        guidance_asked=pa.bool_(),
        guidance_text=pa.float64(),
        temperature=pa.float64(),
        top_k=pa.int32(),
        top_p=pa.float64(),
        bpm=pa.float64(),
        meter=TEXT,
        chords=TEXT,
        key=TEXT,
        fields=pa.map_(TEXT, TEXT),
        adapters=pa.list_(USED_ADAPTER),
        title=TEXT,
        reading=TEXT,
        stale=TEXT,
        shard=pa.int32(),
    ),
    copies="takes",
    identity=(
        *("request_id", "name", "description", "melody", "clap", "prompt", "prompt_seconds"),
        *("seconds", "takes", "seed"),
        *("guidance", "guidance_asked", "guidance_text", "temperature", "top_k", "top_p"),
        *("bpm", "meter", "chords", "key", "fields", "adapters", "title", "stale"),
    ),
)
GENERATIONS = Table(
    "generations",
    "codes made for a request",
    ("request_id", "take"),
    columns(
        request_id=TEXT,
        take=pa.int32(),
        checkpoint_id=TEXT,
        codec=TEXT,
        codec_identity=TEXT,
        channels=pa.int16(),
        frame_rate=pa.float64(),
        cardinality=pa.int32(),
        frames=pa.int32(),
        prompt_frames=pa.int32(),
        seed=pa.int64(),
        codes=pa.list_(pa.list_(pa.uint16())),
        chroma_frame_rate=pa.float64(),
        chroma=pa.list_(VECTOR),
        created_at=pa.timestamp("us", tz="UTC"),
    ),
    identity=(
        *("request_id", "take", "checkpoint_id", "codec", "codec_identity", "channels", "frame_rate", "cardinality"),
        *("frames", "prompt_frames", "seed", "codes", "chroma_frame_rate", "chroma"),
    ),
)
TRY = pa.struct(
    [
        *(("retake", pa.int32()), ("seed", pa.int64()), ("passed", pa.bool_()), ("reasons", TEXTS)),
        *((name, pa.float64()) for name in ("seconds", "head_silence", "tail_silence", "silence", "zeros", "loudness")),
        *((name, pa.float64()) for name in ("clipping_runs", "true_peak", "dc", "end_noise", "seam")),
        *((name, pa.float64()) for name in ("held_seconds", "looped_seconds")),
        *(("key", TEXT), ("key_score", pa.float64()), ("bpm", pa.float64())),
        *(("chord_accuracy", pa.float64()), ("chroma_similarity", pa.float64())),
    ]
)
"""A try of a take: its seed, whether it passed, what speaks against it, and what it was judged by."""
VERDICTS = Table(
    "verdicts",
    "a take at the gate: the try of it that passed, or that least speaks against, with all of its tries",
    ("request_id", "take"),
    columns(
        request_id=TEXT,
        take=pa.int32(),
        checkpoint_id=TEXT,
        retake=pa.int32(),
        seed=pa.int64(),
        passed=pa.bool_(),
        reasons=TEXTS,
        codes=pa.list_(pa.list_(pa.uint16())),
        tries=pa.list_(TRY),
    ),
)
CLIPS = Table(
    "clips",
    "a decoded file of generated sound",
    ("request_id", "take"),
    columns(
        request_id=TEXT,
        take=pa.int32(),
        checkpoint_id=TEXT,
        seed=pa.int64(),
        retake=pa.int32(),
        reasons=TEXTS,
        title=TEXT,
        path=TEXT,
        format=TEXT,
        sample_rate=pa.int32(),
        channels=pa.int16(),
        seconds=pa.float64(),
        loudness_before=pa.float64(),
        loudness=pa.float64(),
        true_peak_before=pa.float64(),
        true_peak=pa.float64(),
        silence=pa.float64(),
        clipping=pa.float64(),
        bytes=pa.int64(),
        sha256=TEXT,
    ),
    files=(FileColumns("path", "bytes", "sha256"),),
)
HEARD_MARK = pa.struct(
    [("form", TEXT), ("score", pa.float64()), ("bits_right", pa.int32()), ("found", pa.bool_())],
)
"""What a watermark's detector hears of a clip in one form: the share of samples that it takes for marked, how many bits
of the message are right, and whether the clip counts as marked."""
WATERMARKS = Table(
    "watermarks",
    "what of a clip's watermark is found again, in several forms of its file, and what it did to the sound",
    ("request_id", "take"),
    columns(
        request_id=TEXT,
        take=pa.int32(),
        watermark_message=pa.int32(),
        watermark_bits=pa.int32(),
        watermark_found=pa.bool_(),
        watermark_si_snr=pa.float64(),
        watermark_loudness=pa.float64(),
        watermark_heard=pa.list_(HEARD_MARK),
    ),
)
_SCORED = {
    **{"seconds": pa.float64(), "dc": pa.float64(), "zeros": pa.float64(), "head_silence": pa.float64()},
    **{"tail_silence": pa.float64(), "centroid": pa.float64(), "pulse_clarity": pa.float64()},
    **{"pitch_strength": pa.float64(), "seam_contrast": pa.float64(), "mel_statistics": VECTOR},
    **{"chroma_similarity": pa.float64(), "chroma_similarity_chance": pa.float64()},
    **{"key_asked": TEXT, "key": TEXT, "key_correct": pa.bool_(), "key_score": pa.float64()},
    **{"bpm_asked": pa.float64(), "bpm": pa.float64(), "bpm_correct": pa.bool_(), "bpm_correct_octave": pa.bool_()},
    **{"beats_asked": VECTOR, "beats": VECTOR, "beat_f_measure": pa.float64()},
    **{"chords_asked": pa.list_(CHORD), "chords": pa.list_(CHORD), "chord_accuracy": pa.float64()},
    **{"drums_asked": pa.bool_(), "drums": pa.bool_(), "drums_correct": pa.bool_()},
}
"""What is measured of a sound, whether it is a clip or what clips are compared with."""

SCORES = Table(
    "scores",
    "how well a clip follows its request, and what is wrong with its sound",
    ("request_id", "take"),
    columns(
        request_id=TEXT,
        take=pa.int32(),
        seconds_asked=pa.float64(),
        silence=pa.float64(),
        clipping=pa.float64(),
        **_SCORED,
        chroma_similarity_ceiling=pa.float64(),
        clap_similarity=pa.float64(),
        embeddings=pa.list_(VECTOR),
    ),
)
CONTROLS = Table(
    "controls",
    "a sound that clips are compared with, scored as they are: a held-out recording, the same through the codec, or "
    "what a model of random weights, other conditions or another guidance make of a request",
    ("sounds", "item"),
    columns(
        sounds=TEXT,
        item=TEXT,
        checkpoint_id=TEXT,
        track_id=TEXT,
        request_id=TEXT,
        take=pa.int32(),
        path=TEXT,
        sha256=TEXT,
        **_SCORED,
    ),
    files=(FileColumns("path", sha256="sha256"),),
)
MEASURES = Table(
    "measures",
    "a line of the score card: one measure of one group of sounds, with its interval of 95 %",
    ("measure", "sounds", "checkpoint_id"),
    columns(
        measure=TEXT,
        sounds=TEXT,
        checkpoint_id=TEXT,
        n=pa.int32(),
        successes=pa.int32(),
        value=pa.float64(),
        low=pa.float64(),
        high=pa.float64(),
        unit=TEXT,
        note=TEXT,
    ),
)
NEAREST = Table(
    "nearest",
    "the training track that is nearest to a clip by CLAP",
    ("request_id", "take"),
    columns(request_id=TEXT, take=pa.int32(), nearest_track=TEXT, nearest_similarity=pa.float64()),
)
ORIGINALITY = Table(
    "originality",
    "what a clip has in common with the recordings that its model learned from, and with other clips",
    ("request_id", "take"),
    columns(
        request_id=TEXT,
        take=pa.int32(),
        checkpoint_id=TEXT,
        sha256=TEXT,
        compared=pa.int64(),
        held_out=pa.int32(),
        prompt_seconds=pa.float64(),
        referred=TEXTS,
        code_seconds=pa.float64(),
        code_share=pa.float64(),
        code_track=TEXT,
        code_begin=pa.float64(),
        code_track_begin=pa.float64(),
        code_percentile=pa.float64(),
        code_threshold=pa.float64(),
        sound_seconds=pa.float64(),
        sound_share=pa.float64(),
        sound_track=TEXT,
        sound_begin=pa.float64(),
        sound_track_begin=pa.float64(),
        sound_percentile=pa.float64(),
        sound_threshold=pa.float64(),
        melody_seconds=pa.float64(),
        nearest_request_id=TEXT,
        nearest_take=pa.int32(),
        nearest_seconds=pa.float64(),
        nearest_share=pa.float64(),
        too_near=pa.bool_(),
        reasons=TEXTS,
    ),
)
REPORTS = Table(
    "reports",
    "a written report page",
    ("report_id",),
    columns(report_id=TEXT, path=TEXT, clips=pa.int64(), bytes=pa.int64(), sha256=TEXT),
    files=(FileColumns("path", "bytes", "sha256", small=True),),
    identity=("report_id", "path", "clips"),
)
WEIGHTS = Table(
    "weights",
    "published or local weights, held to what the first use of their name got",
    ("reference",),
    columns(reference=TEXT, revision=TEXT, digest=TEXT, stamp=TEXT, bytes=pa.int64()),
    accumulates=True,
)
TAKEN_DOWN = Table(
    "taken_down",
    "a recording that is refused for ever, and the models and requests that it was in",
    ("track_id",),
    columns(
        track_id=TEXT,
        title=TEXT,
        artist=TEXT,
        licence=TEXT,
        uri=TEXT,
        reason=TEXT,
        taken_down_at=pa.timestamp("us", tz="UTC"),
        checkpoints=TEXTS,
        requests=TEXTS,
    ),
    accumulates=True,
)
REJECTS = Table(
    "rejects",
    "something that a stage refused",
    ("stage", "key"),
    columns(stage=TEXT, key=TEXT, uri=TEXT, kind=TEXT, message=TEXT, run_id=TEXT, stamp=TEXT, passing=pa.bool_()),
    identity=("stage", "key", "kind", "message"),
)
REMARKS = Table(
    "remarks",
    "something that a stage noticed and went on: what, where, how often, with examples",
    ("stage", "what", "location"),
    columns(stage=TEXT, what=TEXT, location=TEXT, count=pa.int64(), examples=TEXTS, run_id=TEXT),
    identity=("stage", "what", "location", "count"),
)
RUNS = Table(
    "runs",
    "one stage in one run",
    ("run_id", "stage"),
    columns(
        run_id=TEXT,
        stage=TEXT,
        fingerprint=TEXT,
        inputs=pa.map_(TEXT, TEXT),
        started_at=pa.timestamp("us", tz="UTC"),
        seconds=pa.float64(),
        rows_made=pa.int64(),
        rows_reused=pa.int64(),
        rows_refused=pa.int64(),
        device=TEXT,
        code_version=TEXT,
        stage_version=pa.int64(),
        outputs=TEXTS,
        error=TEXT,
        sequence=pa.int64(),
    ),
    accumulates=True,
    combined=True,
)
CHECKS = Table(
    "checks",
    "something that was looked at before a stage's rows were published",
    ("run_id", "stage", "check"),
    columns(
        run_id=TEXT,
        stage=TEXT,
        check=TEXT,
        table=TEXT,
        severity=TEXT,
        value=pa.float64(),
        threshold=pa.float64(),
        passed=pa.bool_(),
        message=TEXT,
    ),
    accumulates=True,
    combined=True,
)
_POINTER = pa.map_(TEXT, pa.int64())
PUBLICATIONS = Table(
    "publications",
    "a change of what the views show: a stage that passed, or a catalog held back, released or taken back by hand",
    ("sequence",),
    columns(
        sequence=pa.int64(),
        action=TEXT,
        run_id=TEXT,
        stage=TEXT,
        created_at=pa.timestamp("us", tz="UTC"),
        versions=pa.map_(TEXT, TEXT),
        shards=pa.list_(pa.struct([("table", TEXT), ("shard", TEXT), ("digest", TEXT), ("rows", pa.int64())])),
        passed=_POINTER,
        shown=_POINTER,
        held=pa.bool_(),
    ),
    accumulates=True,
)
VERSIONS = Table(
    "versions",
    "a version of a stage's table: all that its rows depend on, but for which rows there are",
    ("fingerprint",),
    columns(fingerprint=TEXT, stage=TEXT, stage_version=pa.int32(), config=TEXT, inputs=pa.map_(TEXT, TEXT)),
    accumulates=True,
)
TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        *(TRACKS, WITHHELD, PRINTS, PIECES, CHROMA, RHYTHM, HARMONY, CLAP, TOKENS),
        *(CHECKPOINTS, LEARNED, TRAINING, SAMPLES, RECONSTRUCTIONS),
        *(REQUESTS, GENERATIONS, VERDICTS, CLIPS, WATERMARKS),
        *(SCORES, NEAREST, ORIGINALITY, CONTROLS, MEASURES, REPORTS),
        *(WEIGHTS, TAKEN_DOWN, REJECTS, REMARKS, RUNS, CHECKS, VERSIONS, PUBLICATIONS),
    )
}
BESIDE = (WITHHELD, PRINTS, REJECTS, REMARKS)
"""Tables that a stage writes beside its own, under the same version, and that no publication speaks of."""
PUBLISHED: dict[str, Table] = {
    name: table for name, table in TABLES.items() if not table.accumulates and table not in BESIDE
}
"""The tables whose views show what was published last: rows that stages derive."""
