"""Descent: which recordings a person means, and what in a store came from them.

The views `lineage` and `descendants` answer this for what views show. Take-downs use this module, which also looks at
what no view shows, such as recordings that were removed and requests of earlier catalogs.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc

from schemas.licences import count_licences
from schemas.queries.conditions import Conditions
from schemas.queries.database import query
from schemas.sql import literal
from schemas.storage.store import Store
from schemas.storage.take_downs import with_descendants
from schemas.tables import CHECKPOINTS, LEARNED, REQUESTS, TRACKS, WEIGHTS, Row

FACTS = ("track_id", "title", "artist", "licence", "uri")
"""The columns that every table with recordings has."""

WHERE_FOUND = ("tracks", "withheld", "learned", "taken_down")
"""Tables with recordings. If several know a recording, the first one's row counts."""

MEASURED = ("tracks", "withheld")
"""Those of these tables that have all the columns that ingest measures."""

SHORTEST_ID = 6
"""The fewest digits of a recording's id that a person may give."""

WHOLE_ID = 64
"""The number of digits of a complete id."""

LEARN_FROM_TRACKS = ("codec", "language_model")
"""The kinds of checkpoint that are trained on a store's recordings."""

REFERENCES = ("melody", "prompt", "clap")
"""The columns of requests that may refer to a recording."""


class UnknownRecording(ValueError):
    """What a person gave matches no recording of the store, or several."""


def find_recordings(store: Store, names: Sequence[str]) -> list[Row]:
    """Return the recordings with the given ids, or beginnings of ids. Each row has the columns of `FACTS`, and `found`,
    the table that has it. A complete id need not be known (`found` is then empty), so that a recording can be refused
    before it comes.

    Raises:
        UnknownRecording: a beginning is too short, or no recording or several recordings have it.
    """
    recordings = []
    for name in map(str.lower, names):
        if len(name) < SHORTEST_ID or set(name) - set("0123456789abcdef"):
            raise UnknownRecording(f"expected {SHORTEST_ID} or more digits of a recording's id, got {name!r}")
        rows = _known(store, f"starts_with(track_id, {literal(name)})")
        if not rows and len(name) < WHOLE_ID:
            raise UnknownRecording(f"expected a recording whose id begins with {name}, got none in {store.url}")
        if len(rows) > 1:
            examples = ", ".join(row["track_id"][:12] for row in rows[:3])
            raise UnknownRecording(
                f"expected one recording, got {len(rows)} with ids that begin with {name}: {examples} …"
            )
        recordings += rows or [{**dict.fromkeys(FACTS), "track_id": name, "found": ""}]
    return recordings


@dataclass(frozen=True)
class ArtistCredit:
    """The artists to whom recordings in one table are credited."""

    table: str
    artist: str
    """The credit as it is written; empty if there is none."""
    artists: tuple[str, ...]
    """The artists that it names; empty in tables that do not have them (`MEASURED` do)."""


def artist_credits(store: Store) -> list[ArtistCredit]:
    """Return the different artist credits of each table with recordings."""
    return [
        ArtistCredit(table, row["artist"] or "", tuple(row["artists"] or ()))
        for table in WHERE_FOUND
        for row in query(store, f"SELECT DISTINCT artist, {_artists(table)} AS artists FROM {table}").to_pylist()
    ]


def find_by_credits(store: Store, credits: Iterable[ArtistCredit]) -> list[Row]:
    """Return the recordings that have one of these credits."""
    pairs: dict[str, list[str]] = {}
    for credit in credits:
        artists = ", ".join(map(literal, credit.artists))
        pairs.setdefault(credit.table, []).append(f"({literal(credit.artist)}, [{artists}]::VARCHAR[])")
    rows: dict[str, Row] = {}
    for table, wanted in pairs.items():
        credited = f"(coalesce(artist, ''), coalesce({_artists(table)}, [])::VARCHAR[]) IN ({', '.join(wanted)})"
        for row in _known(store, credited, (table,)):
            rows.setdefault(row["track_id"], row)
    return [rows[track_id] for track_id in sorted(rows)]


def _artists(table: str) -> str:
    """Return the SQL expression for the list of artists in a table."""
    return "artists" if table in MEASURED else "NULL::VARCHAR[]"


def find_by_condition(store: Store, condition: str) -> list[Row]:
    """Return the recordings, tracks or withheld, that meet an SQL condition over their columns.

    Raises:
        ValueError: the text is not such a condition.
    """
    Conditions([condition], TRACKS.schema)
    return _known(store, f"({condition})", MEASURED)


def _known(store: Store, condition: str, tables: Iterable[str] = WHERE_FOUND) -> list[Row]:
    """Return the recordings that meet a condition, each once, sorted by id."""
    rows: dict[str, Row] = {}
    for table in tables:
        sql = f"SELECT DISTINCT ON (track_id) {', '.join(FACTS)} FROM {table} WHERE {condition}"
        for row in query(store, sql).to_pylist():
            rows.setdefault(row["track_id"], row | {"found": table})
    return [rows[track_id] for track_id in sorted(rows)]


@dataclass(frozen=True)
class Descent:
    """What came from some recordings."""

    learned_by: dict[str, set[str]]
    """Ids of the models that learned from each recording, by `track_id`; an empty set where none did."""
    models: list[Row]
    """Rows of `checkpoints` of those models and of all models made from them, oldest first."""
    referred: dict[str, set[str]]
    """Ids of the requests, of any catalog, that refer to each recording or use an adapter that learned from it, by
    `track_id`."""
    clips: list[Row]
    """The clips of those models and requests that views show now: `request_id`, `take`, `path`."""
    untraced: list[str]
    """Ids of models trained in this store by a release that did not record what they learned from."""
    reconstructions: int
    """How many segments that are kept for listening are of these recordings or were made by these models."""

    def descendants_of(self, store: Store, track_id: str) -> list[str]:
        """Return the ids of the models that learned from a recording or were made from one that did, sorted."""
        return sorted(with_descendants(store, self.learned_by[track_id]))


def descent(store: Store, track_ids: Collection[str]) -> Descent:
    """Return what came from some recordings."""
    learned_by: dict[str, set[str]] = {track_id: set() for track_id in track_ids}
    rows = store.read_all(CHECKPOINTS).to_pylist()
    for shard, known in _sets_with(store, track_ids).items():
        learners = {row["checkpoint_id"] for row in rows if row["training_set"] == shard}
        for track_id in known:
            learned_by[track_id] |= learners
    names = with_descendants(store, set().union(*learned_by.values()))
    models = sorted(
        (row for row in rows if row["checkpoint_id"] in names),
        key=lambda row: (row["created_at"], row["checkpoint_id"]),
    )
    referred = _references(store, track_ids)
    adapted = _adapted(store)
    for track_id, learners in learned_by.items():
        for name in with_descendants(store, learners):
            referred[track_id] |= adapted.get(name, set())
    requests = set().union(*referred.values())
    clips = query(
        store,
        f"SELECT request_id, take, path FROM clips WHERE {_among('checkpoint_id', names)} "
        f"OR {_among('request_id', requests)} ORDER BY request_id, take",
    ).to_pylist()
    reconstructions = query(
        store,
        f"SELECT count(*) AS n FROM reconstructions WHERE {_among('checkpoint_id', names)} "
        f"OR {_among('track_id', track_ids)}",
    ).to_pylist()
    untraced = [row["checkpoint_id"] for row in rows if row["kind"] in LEARN_FROM_TRACKS and not row["training_set"]]
    return Descent(learned_by, models, referred, clips, untraced, reconstructions[0]["n"])


def _among(column: str, values: Collection[str]) -> str:
    return f"{column} IN ({', '.join(map(literal, sorted(values)))})" if values else "false"


def _sets_with(store: Store, track_ids: Collection[str]) -> dict[str, list[str]]:
    """Return which of the recordings are in each set that models learned from, by the set's name."""
    wanted, sets = pa.array(sorted(track_ids), pa.string()), {}
    for shard in store.shards(LEARNED, "1"):
        ids = store.read(LEARNED, "1", [shard], ["track_id"]).column("track_id")
        if known := ids.filter(pc.is_in(ids, wanted)).to_pylist():
            sets[shard] = known
    return sets


def _adapted(store: Store) -> dict[str, set[str]]:
    """Return the requests, of every version, that use an adapter, by the adapter's checkpoint or address."""
    adapted: dict[str, set[str]] = {}
    for version in store.versions(REQUESTS):
        for row in store.read(REQUESTS, version, columns=["request_id", "adapters"]).to_pylist():
            for adapter in row["adapters"] or ():
                adapted.setdefault(adapter["reference"].removeprefix("checkpoint:"), set()).add(row["request_id"])
    return adapted


def _references(store: Store, track_ids: Collection[str]) -> dict[str, set[str]]:
    """Return the requests, of every version, that refer to each of some recordings, by `track_id`."""
    references = {f"track:{track_id}": track_id for track_id in track_ids}
    referred: dict[str, set[str]] = {track_id: set() for track_id in track_ids}
    for version in store.versions(REQUESTS):
        for row in store.read(REQUESTS, version, columns=["request_id", *REFERENCES]).to_pylist():
            for column in REFERENCES:
                if row[column] in references:
                    referred[references[row[column]]].add(row["request_id"])
    return referred


def training_licences(store: Store, checkpoint_id: str) -> str:
    """Return the licences of the recordings that a model, or a model it was made from, learned from, the most frequent
    first, as `CC-BY-4.0 (40), none (3)`; empty where they are not known."""
    models = store.read_all(CHECKPOINTS, ["checkpoint_id", "parents", "training_set"]).to_pylist()
    of_id = {row["checkpoint_id"]: row for row in models}
    sets, waiting = dict[str, str](), [checkpoint_id]
    while waiting:
        name = waiting.pop()
        if name in of_id and name not in sets:
            sets[name] = of_id[name]["training_set"]
            waiting += of_id[name]["parents"] or ()
    shards = sorted({name for name in sets.values() if name})
    rows = store.read(LEARNED, "1", shards, ["track_id", "licence"]).to_pylist()
    counts = count_licences({row["track_id"]: row["licence"] for row in rows}.values())
    return ", ".join(
        f"{name} ({count})" for name, count in sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    )


def model_behind(store: Store, checkpoint_id: str) -> tuple[str, str]:
    """Return the name and the digest of a language model: one that this store trained, or one from elsewhere, whose id
    is the beginning of its digest. A model from a folder is named by the folder's name without its path. A model that
    is not known is `("unknown", "")`."""
    for row in store.read_all(CHECKPOINTS, ["checkpoint_id", "kind", "digest"]).to_pylist():
        if row["checkpoint_id"] == checkpoint_id:
            return str(row["kind"]), str(row["digest"])
    for weights in store.read_all(WEIGHTS).to_pylist():
        if weights["digest"].startswith(checkpoint_id):
            return PurePosixPath(weights["reference"]).name, str(weights["digest"])
    return "unknown", ""
