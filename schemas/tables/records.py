"""Tables of records: weights first used, recordings taken down, things refused and noticed, stages run, checks made,
versions begun, and versions published."""

import pyarrow as pa

from schemas.tables.table import TEXT, TEXTS, Table, columns

WEIGHTS = Table(
    "weights",
    "published or local weights, fixed to what the first use of their name got",
    ("reference",),
    columns(reference=TEXT, revision=TEXT, digest=TEXT, stamp=TEXT, bytes=pa.int64()),
    accumulates=True,
)
TAKEN_DOWN = Table(
    "taken_down",
    "a permanently refused recording, and the models and requests that it was used in",
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
    locations=("uri",),
)
REJECTS = Table(
    "rejects",
    "something that a stage refused",
    ("stage", "key"),
    columns(stage=TEXT, key=TEXT, uri=TEXT, kind=TEXT, message=TEXT, run_id=TEXT, stamp=TEXT, passing=pa.bool_()),
    identity=("stage", "key", "kind", "message"),
    locations=("key", "uri"),
)
REMARKS = Table(
    "remarks",
    "something that a stage noticed without stopping: what, where, how often, with examples",
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
    "a check before a stage's rows were published",
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
    "a change of what the views show: a stage that passed, or a catalog that was held, released or rolled back by hand",
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
    "a version of a stage's table: everything that its rows depend on, except which rows there are",
    ("fingerprint",),
    columns(fingerprint=TEXT, stage=TEXT, stage_version=pa.int32(), config=TEXT, inputs=pa.map_(TEXT, TEXT)),
    accumulates=True,
)
