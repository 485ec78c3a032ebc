"""The tables of what happened, as opposed to what was made: weights first used, things refused, stages run."""

import pyarrow as pa

from schemas.table import TEXT, TEXTS, Table, columns

WEIGHTS = Table(
    "weights",
    "published or local weights, held to what the first use of their name got",
    ("reference",),
    columns(reference=TEXT, revision=TEXT, digest=TEXT, stamp=TEXT, bytes=pa.int64()),
    accumulates=True,
)
REJECTS = Table(
    "rejects",
    "something that a stage refused",
    ("stage", "key"),
    columns(stage=TEXT, key=TEXT, uri=TEXT, kind=TEXT, message=TEXT, run_id=TEXT, stamp=TEXT),
    identity=("stage", "key", "kind", "message"),
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
        outputs=TEXTS,
        error=TEXT,
    ),
    accumulates=True,
)
