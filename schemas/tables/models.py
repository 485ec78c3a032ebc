"""Tables of models: checkpoints, what they learned from, and how their training went."""

import pyarrow as pa

from schemas.tables.table import TEXT, TEXTS, FileColumns, Table, columns

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
    locations=("uri",),
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
    "a held-out segment after a codec that was trained here, kept for listening beside the original",
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
    "a clip that a model made of a fixed text while it trained, with the same random numbers at every step",
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
