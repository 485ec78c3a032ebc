"""Tables of recordings: what was ingested, and what was computed from it for a model to learn from."""

import pyarrow as pa

from schemas.tables.table import TEXT, TEXTS, VECTOR, Table, columns

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
    locations=("uri", "files"),
)
WITHHELD = Table(
    "withheld",
    "a measured recording that `ingest.accept`, its licence or a take-down keeps out of `tracks`",
    ("track_id",),
    TRACKS.schema,
    identity=TRACKS.identity,
    locations=TRACKS.locations,
)
PRINTS = Table(
    "prints",
    "what copies of a recording are recognised by: its strongest points in time and pitch (`stages.analysis.prints`)",
    ("track_id",),
    columns(
        track_id=TEXT,
        seconds=pa.float64(),
        peak_frames=pa.list_(pa.int32()),
        peak_pitches=pa.list_(pa.uint8()),
        quads=pa.list_(pa.uint64()),
    ),
)
PIECES = Table(
    "pieces",
    "a piece of the demo corpus, with its true properties",
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
    locations=("uri",),
)
CHROMA = Table(
    "chroma",
    "the melody condition of a track: 12 bins a frame, from the stems that carry melody",
    ("track_id",),
    columns(track_id=TEXT, frame_rate=pa.float64(), chroma=pa.list_(VECTOR)),
)
RHYTHM = Table(
    "rhythm",
    "the beats and downbeats of a track, seconds, with its tempo and their confidence",
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
"""A chord: start and end (seconds), root as a pitch class (0 is C, -1 no chord), quality as named in
`model.conditioning.config.CHORD_QUALITIES` ("N" for no chord), pitch class of the bass, and confidence (0 to 1)."""
HARMONY = Table(
    "harmony",
    "the chords of a track, one after another, and its key",
    ("track_id",),
    columns(track_id=TEXT, chords=pa.list_(CHORD), key=TEXT, key_confidence=pa.float32()),
)
CLAP = Table(
    "clap",
    "joint audio-text embeddings of a track, one for each window, with the window's start in seconds",
    ("track_id",),
    columns(track_id=TEXT, starts=pa.list_(pa.float64()), embeddings=pa.list_(VECTOR)),
)
DESCRIPTIONS = Table(
    "descriptions",
    "the description of a track, with its embedding in the same space as those of sounds",
    ("track_id",),
    columns(track_id=TEXT, description=TEXT, description_embedding=VECTOR),
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
