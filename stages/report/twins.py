"""Twins: the clips that another checkpoint made for the same requests with the same seeds.

An earlier version of the tables still holds them. The page shows them beside the clips, with the differences of their
scores."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from schemas.storage.take_downs import TakeDowns
from schemas.storage.versions import Versions
from schemas.tables import CLIPS, GENERATIONS, ORIGINALITY, SCORES, Row, Table
from schemas.tables.catalog import clips_shown
from stages.pipeline.contract import Context
from stages.report.annotations import annotations
from stages.report.clips import Twin, relative_address, score_words
from stages.report.columns import values

Key = tuple[str, int]
"""A request and the number of a take."""


@dataclass(frozen=True)
class EarlierClips:
    """Rows of another checkpoint's clips and scores, by request and take."""

    clips: Mapping[Key, Row]
    scores: Mapping[Key, Row]


def earlier_clips(
    context: Context, clips: Sequence[Row], seeds: Mapping[Key, int], newest: Sequence[str]
) -> EarlierClips:
    """Return the clips that another checkpoint made for the same requests and seeds, from an earlier version of
    `clips`. If there are several such versions, take that of the newest checkpoint, then the one that shares the most
    clips. If there is none, the result is empty.

    Args:
        clips: rows of the version that the page shows.
        seeds: the seeds of these clips.
        newest: ids of checkpoints, newest first.
    """
    shown = {_key(row): row["checkpoint_id"] for row in clips}
    best: tuple[tuple[int, int], EarlierClips] | None = None
    versions = Versions(context.store).all
    for version in context.store.versions(CLIPS):
        if version == context.versions.get(CLIPS.name) or version not in versions:
            continue
        rows = clips_shown(_rows(context, CLIPS, version), _newest_of(context, versions, ORIGINALITY, version))
        seed_of = {
            _key(row): row["seed"] for row in _rows(context, GENERATIONS, versions[version].inputs["generations"])
        }
        shared = {
            key: row
            for row in rows
            if shown.get(key := _key(row), row["checkpoint_id"]) != row["checkpoint_id"]
            and (row["seed"] or seed_of.get(key)) == seeds.get(key)
        }
        if not shared:
            continue
        ranks = [newest.index(row["checkpoint_id"]) for row in shared.values() if row["checkpoint_id"] in newest]
        rank = (-min(ranks, default=len(newest)), len(shared))
        if best is None or rank > best[0]:
            scores = _newest_of(context, versions, SCORES, version)
            best = rank, EarlierClips(shared, {_key(row): row for row in scores})
    return best[1] if best else EarlierClips({}, {})


def _newest_of(context: Context, versions: Mapping[str, object], table: Table, clips: str) -> list[Row]:
    """Return the rows of the newest version of a table that was made from a version of `clips`; empty if there is
    none."""
    made = [name for name in context.store.versions(table) if _is_made_from(versions, name, clips)]
    return _rows(context, table, made[-1]) if made else []


def _is_made_from(versions: Mapping[str, object], name: str, clips: str) -> bool:
    inputs: Mapping[str, str] = getattr(versions.get(name), "inputs", {})
    return inputs.get(CLIPS.name) == clips


def _rows(context: Context, table: Table, version: str) -> list[Row]:
    """Return a version's rows without hidden rows and without large columns."""
    large = ("codes", "chroma", "embeddings", "mel_statistics")
    columns = [name for name in table.schema.names if name not in large]
    rows = TakeDowns(context.store).hidden.shown(table, context.store.read(table, version, columns=columns))
    listed: list[Row] = rows.to_pylist()
    return listed


def _key(row: Row) -> Key:
    return row["request_id"], row["take"]


def twin_views(earlier: EarlierClips, pictures: Mapping[str, str], refused: Collection[str] = ()) -> dict[Key, Twin]:
    """Return views of another checkpoint's clips, for those that have a picture.

    Args:
        pictures: addresses relative to the page, by the clip's SHA-256.
        refused: paths of files that could not be drawn.
    """
    views = {}
    for key, clip in earlier.clips.items():
        if clip["sha256"] not in pictures or clip["path"] in refused:
            continue
        score = earlier.scores.get(key) or {}
        views[key] = Twin(
            checkpoint=clip["checkpoint_id"],
            audio=relative_address(clip["path"]),
            picture=pictures[clip["sha256"]],
            scores=score_words(score, {}),
            values=values(clip, score),
            annotations=annotations(score, clip["seconds"]),
        )
    return views
