"""Tables of scores: what is measured of clips, of the sounds that they are compared with, and of a whole catalog."""

import pyarrow as pa

from schemas.tables.recordings import CHORD
from schemas.tables.table import TEXT, TEXTS, VECTOR, FileColumns, Table, columns

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
    **{"instruments_asked": TEXTS, "instruments": TEXTS, "instrument_recall": pa.float64()},
}
"""What is measured of every sound, both of clips and of the sounds that they are compared with."""
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
        description_embedding=VECTOR,
    ),
)
CONTROLS = Table(
    "controls",
    "a sound that clips are compared with, scored in the same way: a held-out recording, also after the codec, or "
    "a clip made with random weights, other conditions or another guidance",
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
