"""Tables of the catalog: from the clips that are asked for to their files and the page that shows them."""

from collections.abc import Iterable

import pyarrow as pa

from schemas.tables.table import TEXT, TEXTS, VECTOR, FileColumns, Row, Table, columns

USED_ADAPTER = pa.struct([("name", TEXT), ("strength", pa.float64()), ("reference", TEXT), ("digest", TEXT)])
"""An adapter that is added to the model: its name in the requests file, its strength, its address and its digest."""
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
"""One try of a take: its seed, whether it passed, the reasons why not, and the measures that it was judged by."""
VERDICTS = Table(
    "verdicts",
    "a take at the gate: the try that passed, or else the best one, with all tries",
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
"""What a watermark's detector finds in one form of a clip: the share of samples that it takes for marked, how many bits
of the message are right, and whether the clip counts as marked."""
WATERMARKS = Table(
    "watermarks",
    "how much of a clip's watermark is detected in several forms of its file, and how it changed the sound",
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
REPORTS = Table(
    "reports",
    "a written report page",
    ("report_id",),
    columns(report_id=TEXT, path=TEXT, clips=pa.int64(), bytes=pa.int64(), sha256=TEXT),
    files=(FileColumns("path", "bytes", "sha256", small=True),),
    identity=("report_id", "path", "clips"),
)


def passed_gate(clip: Row) -> bool:
    """Return whether a row of `clips` has no reasons from the gate. A row that was written before there was a gate has
    None as its reasons, which counts as no reasons."""
    return not clip["reasons"]


HELD_BY_GATE = "len(reasons) > 0"
"""SQL condition for the opposite of `passed_gate`."""


def clips_shown(clips: Iterable[Row], originality: Iterable[Row]) -> list[Row]:
    """Return the rows of `clips` that the view `clips` shows: neither the gate nor `originality` objects to them. A
    verdict of `originality` counts only for the file with its digest, not for a clip that was made again since."""
    too_near = {(row["request_id"], row["take"], row["sha256"]) for row in originality if row["too_near"]}
    return [
        row for row in clips if passed_gate(row) and (row["request_id"], row["take"], row["sha256"]) not in too_near
    ]
