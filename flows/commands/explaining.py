"""What `segue explain` prints: a clip's models and recordings, or what came of a recording, as rows under headings."""

from collections.abc import Mapping
from typing import Any

from schemas.licences import count_licences
from schemas.names import did_you_mean
from schemas.queries.database import query
from schemas.queries.descent import find_recordings
from schemas.sql import literal
from schemas.storage.store import Store
from schemas.storage.take_downs import TakeDowns
from schemas.storage.versions import Versions
from schemas.tables import CHECKPOINTS, WEIGHTS, Row

SHORTEST_ID = 4
"""The fewest digits of a request's id that must be given."""

Section = tuple[str, list[dict[str, Any]]]
"""A heading and the rows under it."""


def explain_clip(store: Store, name: str) -> list[Section]:
    """Return the takes of a request, the models that contributed to them, and the recordings that those learned from.

    Args:
        name: a request's id or its beginning, or its name; with `/TAKE` for one of its takes.

    Raises:
        ValueError: there is no such clip, or several requests match.
    """
    clips = _clips(store, name)
    condition = f"request_id = {literal(clips[0]['request'])}"
    if len(clips) == 1:
        condition += f" AND take = {clips[0]['take']}"
    models = query(
        store,
        "SELECT model_id, kind, reference, min(distance) AS distance, count(DISTINCT track_id) AS recordings "
        f"FROM lineage WHERE {condition} AND model_id IS NOT NULL GROUP BY ALL ORDER BY distance, kind, model_id",
    ).to_pylist()
    recordings = query(
        store,
        "SELECT string_agg(DISTINCT coalesce(kind, how), ', ' ORDER BY coalesce(kind, how)) AS through, "
        "track_id AS track, title, artist, licence, uri AS source "
        f"FROM lineage WHERE {condition} AND track_id IS NOT NULL GROUP BY ALL ORDER BY artist, title, track",
    ).to_pylist()
    fields = _fields(store)
    described = [
        {"model": row["model_id"], "kind": row["kind"] or fields.get(row["model_id"], ""), "name": row["reference"]}
        | {"through": "" if row["distance"] == 0 else "a parent" if row["distance"] == 1 else "a parent's parent"}
        | {"recordings": row["recordings"]}
        for row in models
    ]
    counts = count_licences({row["track"]: row["licence"] for row in recordings}.values())
    licences = [{"licence": licence, "recordings": count} for licence, count in counts.most_common()]
    tries = _tries(store, condition)
    made_again = [("tries", tries)] if tries else []
    return [("clip", clips), *made_again, ("models", described), ("licences", licences), ("recordings", recordings)]


def _clips(store: Store, name: str) -> list[Row]:
    """Return the clips that a name means, all of which are takes of one request."""
    wanted, _, take = name.partition("/")
    condition = f"r.name = {literal(wanted)}"
    if len(wanted) >= SHORTEST_ID:
        condition += f" OR starts_with(c.request_id, {literal(wanted.lower())})"
    if take:
        condition = f"({condition}) AND c.take = {int(take) if take.isdecimal() else -1}"
    rows: list[Row] = query(
        store,
        "SELECT c.request_id AS request, c.take, r.name, r.description, r.melody, r.prompt, "
        "array_to_string(list_transform(r.adapters, lambda a: a.name || ':' || a.strength), ', ') AS adapters, "
        "coalesce(c.seed, g.seed) AS seed, "
        "c.checkpoint_id AS model, c.path AS file FROM clips c LEFT JOIN requests r USING (request_id) "
        f"LEFT JOIN generations g USING (request_id, take) WHERE {condition} ORDER BY request, take",
    ).to_pylist()
    requests = list(dict.fromkeys(row["request"] for row in rows))
    if not requests:
        raise ValueError(
            f"expected the id or name of a clip's request, with /TAKE for one take, got {name!r}, which no clip in the "
            f"views has{did_you_mean(wanted, _names(store))} (`taken_down` and `segue rollback --list` show what was "
            f"there before){_quarantined(store, condition)}"
        )
    if len(requests) > 1:
        raise ValueError(f"expected one request, got {len(requests)} that match {wanted!r}: {', '.join(requests[:3])}")
    return rows


def _names(store: Store) -> list[str]:
    """Return the names of all requests that have one."""
    rows = query(store, "SELECT DISTINCT name FROM requests WHERE name IS NOT NULL ORDER BY name").to_pylist()
    return [row["name"] for row in rows]


def _quarantined(store: Store, condition: str) -> str:
    """Return which takes that meet a condition are quarantined, and why; empty if none is."""
    rows = query(
        store,
        "SELECT c.take, c.stage, c.reasons FROM quarantine c LEFT JOIN requests r USING (request_id) "
        f"WHERE {condition} ORDER BY take LIMIT 3",
    ).to_pylist()
    return "".join(
        f"; take {row['take']} is quarantined by {row['stage']}: {'; '.join(row['reasons'])}" for row in rows
    )


def _tries(store: Store, condition: str) -> list[Row]:
    """Return the tries of takes that were tried more than once."""
    rows: list[Row] = query(
        store,
        "SELECT take, retake + 1 AS try, seed, chosen, array_to_string(reasons, '; ') AS \"what spoke against it\" "
        f"FROM tries WHERE {condition} AND (request_id, take) IN "
        f"(SELECT (request_id, take) FROM tries WHERE {condition} AND retake > 0) ORDER BY ALL",
    ).to_pylist()
    return rows


def explain_track(store: Store, name: str) -> list[Section]:
    """Return what is known about a recording, the models that come from it, and their clips.

    Args:
        name: the recording's id or its beginning.

    Raises:
        ValueError: there is no such recording, or several match.
    """
    (recording,) = find_recordings(store, [name])
    condition = f"track_id = {literal(recording['track_id'])}"
    models = query(
        store,
        "SELECT checkpoint_id AS model, kind, string_agg(DISTINCT learned_by, ', ') AS learned_by, min(distance) AS "
        f"distance, count(DISTINCT (request_id, take)) FILTER (request_id IS NOT NULL) AS clips FROM descendants "
        f"WHERE {condition} AND how = 'learned' GROUP BY ALL ORDER BY distance, kind, model",
    ).to_pylist()
    described = [
        {"model": row["model"], "kind": row["kind"], "clips": row["clips"]}
        | {"through": "trained on it" if row["distance"] == 0 else f"made with {row['learned_by']}"}
        for row in models
    ]
    clips = query(
        store,
        "SELECT request_id AS request, take, string_agg(DISTINCT how, ', ' ORDER BY how) AS how, "
        f"min(path) AS file FROM descendants WHERE {condition} AND request_id IS NOT NULL GROUP BY ALL "
        "ORDER BY request, take",
    ).to_pylist()
    facts = {"track": recording["track_id"]} | {key: recording[key] for key in ("title", "artist", "licence", "uri")}
    return [("recording", [facts | {"state": _state(store, recording)}]), ("models", described), ("clips", clips)]


def _state(store: Store, recording: Row) -> str:
    """Return the state of a recording as text: a track, withheld, removed, taken down or unknown."""
    reason = TakeDowns(store).reasons.get(recording["track_id"])
    if reason is not None:
        return f"taken down: {reason}"
    states = {"tracks": "a track", "withheld": "withheld by ingest", "learned": "removed", "": "not known"}
    return states[recording["found"]]


def _fields(store: Store) -> Mapping[str, str]:
    """Return, by digest of weights from elsewhere, the recipe's field that named them."""
    own = set(store.read_all(CHECKPOINTS, ["digest"]).column("digest").to_pylist())
    elsewhere = set(store.read_all(WEIGHTS, ["digest"]).column("digest").to_pylist()) - own
    fields: dict[str, str] = {}
    for version in Versions(store).all.values():
        for digest, field in version.fields().items():
            if digest in elsewhere:
                fields.setdefault(digest, field)
    return fields
