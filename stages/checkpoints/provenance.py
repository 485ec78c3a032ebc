"""Provenance: which models a checkpoint was made with, and which recordings it learned from.

Both are recorded when a checkpoint is written. They are taken from the run itself rather than listed by each stage: the
weights named in the configurations of the stage and of the tables that it reads, and the very tracks that it drew from.
"""

import json
from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from schemas.identity import fingerprint
from schemas.licences import LicencePolicy
from schemas.storage.take_downs import TakeDowns
from schemas.storage.versions import Versions, weights_of_config
from schemas.tables import CHECKPOINTS, LEARNED, TRACKS
from stages.pipeline.contract import Context

FACTS = tuple(name for name in LEARNED.schema.names if name in TRACKS.schema.names)
"""The columns of `tracks` that `learned` keeps after a track is gone."""


def parents_of(context: Context, known: Sequence[str] = ()) -> list[str]:
    """Return every model that contributed to what a stage reads or starts from: a codec in the tokens, a separator in
    the melodies, CLAP in the embeddings, a text encoder, the model that training began with.

    Args:
        known: ids of checkpoints that are parents already.

    Returns:
        Ids of checkpoints for models of the store; digests for weights from elsewhere, as in the table `weights`.
    """
    versions = Versions(context.store)
    digests = weights_of_config(json.loads(context.config)) if context.config else set()
    for version_read in context.versions.values():
        for version in versions.upstream(version_read):
            digests |= versions.all[version].weights() if version in versions.all else set()
    rows = context.store.read_all(CHECKPOINTS, ["checkpoint_id", "digest", "created_at"]).sort_by("created_at")
    checkpoint_ids = {row["digest"]: row["checkpoint_id"] for row in rows.to_pylist()}
    checkpoint_ids |= {row["digest"]: row["checkpoint_id"] for row in rows.to_pylist() if row["checkpoint_id"] in known}
    return list(dict.fromkeys([*known, *sorted(checkpoint_ids.get(digest, digest) for digest in digests)]))


def tracks_to_learn(context: Context, track_ids: Iterable[str], licences: LicencePolicy) -> pa.Table:
    """Return the rows of `tracks` for the recordings that a training draws from, with the columns `FACTS`.

    Raises:
        ValueError: a recording was taken down, or its licence does not pass: the table was made before that, or with
            another policy.
    """
    rows, wanted = context.rows(TRACKS, FACTS), pa.array(sorted(track_ids), pa.string())
    tracks = rows.filter(pc.is_in(rows.column("track_id"), wanted)).sort_by("track_id")
    different = pc.unique(tracks.column("licence")).to_pylist() if licences.asks else []
    for text in different:
        if refusal := licences.refusal(text):
            count = pc.sum(pc.is_in(tracks.column("licence"), pa.array([text], pa.string()))).as_py()
            raise ValueError(f"{refusal}, of {count} tracks to learn from: run ingest with this policy first")
    check_not_taken_down(context, tracks)
    return tracks


def check_not_taken_down(context: Context, tracks: pa.Table) -> None:
    """Check that none of the recordings that a model learns from was taken down.

    Raises:
        ValueError: one was.
    """
    reasons = TakeDowns(context.store).reasons
    for row in tracks.to_pylist() if reasons else ():
        if row["track_id"] in reasons:
            raise ValueError(
                f"expected recordings that were not taken down, got {row['title'] or row['track_id'][:12]}: "
                f"{reasons[row['track_id']]}; run ingest and the stages after it first"
            )


def record_learned(context: Context, tracks: pa.Table) -> str:
    """Record which recordings a model learned from, and return the name of that set.

    Models that learned from the same recordings share one file. It keeps the facts of a recording when the recording is
    gone.

    Args:
        tracks: rows with the columns `FACTS`.

    Raises:
        ValueError: a recording has been taken down meanwhile.
    """
    check_not_taken_down(context, tracks)
    name = fingerprint(tracks.drop_columns(["uri"]).to_pylist())  # the name does not depend on where the recordings are
    if not context.store.exists(context.store.shard_path(LEARNED, "1", name)):
        named = tracks.append_column("training_set", pa.repeat(pa.scalar(name), tracks.num_rows))
        context.store.write_shard(LEARNED, "1", name, named.select(LEARNED.schema.names), input_key=name)
    return name
