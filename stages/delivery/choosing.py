"""Choosing clips for a delivery: by a condition in SQL, by the best takes of each request, by a person's picks.

The condition reads one wide row for each clip: the columns of `clips`, those of its request, and those of every table
with measurements of the clip. If two tables have a column of the same name, the plain name means the column of the
earlier table (`seconds` is the clip's own, `key` what was asked for). The other column has its table's name before it
(`scores.key`).
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

import pyarrow as pa

from schemas import Store
from schemas.names import did_you_mean
from schemas.queries.database import query
from schemas.queries.errors import QueryError
from schemas.queries.picks import Clip, Picks
from schemas.sql import literal
from schemas.tables import CLIPS, GENERATIONS, REQUESTS, TABLES, Row, Table

HEARD = tuple(
    table
    for table in TABLES.values()
    if table.key == CLIPS.key and table not in (CLIPS, GENERATIONS) and not table.accumulates
)
"""The tables with one row for each clip: what was measured in it, and what it is similar to."""

MADE_BY = ("checkpoint_id", "seed")
"""Columns of these tables that say what made a clip, and nothing about its sound."""


@dataclass(frozen=True)
class ChosenClip:
    """A clip with everything that its store knows about it."""

    clip: Row
    request: Row
    generation: Row
    """`request_id`, `take`, `checkpoint_id`, `seed` and `created_at`."""
    heard: Row
    """The columns of the tables in `HEARD` that hold single values; of equal names, the first."""

    @property
    def key(self) -> Clip:
        return self.clip["request_id"], self.clip["take"]


def choose_clips(
    store: Store,
    requests: Collection[str] | None = None,
    where: str | None = None,
    best: int | None = None,
    by: str | None = None,
    picks: Picks | None = None,
) -> list[ChosenClip]:
    """Return the clips of a delivery, in the order of their requests.

    Args:
        requests: ids of the requests whose clips may be chosen; None for all.
        where: a condition in SQL over the wide row.
        best: how many takes of each request to choose, those with the highest `by`; None for all.
        by: an expression in SQL over the wide row.
        picks: clips that a person picked, so that no others are chosen, or refused, so that these are not.

    Raises:
        ValueError: the SQL is not valid, or a picked clip does not exist.
    """
    if picks is not None:
        _check_picked(store, picks)
    names = ", ".join(('"*clips"', '"*requests"', '"*generations"', '"*heard"'))
    conditions = [*([f"({where})"] if where else []), *_conditions(requests, picks)]
    sql = f"SELECT {names} FROM ({_wide_rows()}) WHERE {' AND '.join(conditions) or 'true'}"
    if best is not None:  # after refused takes are left out, so the next best take replaces a refused one
        order = f"ORDER BY ({by}) DESC NULLS LAST, take" if by else "ORDER BY take"
        sql += f" QUALIFY row_number() OVER (PARTITION BY request_id {order}) <= {best}"
    try:
        rows = query(store, sql).to_pylist()
    except QueryError as error:
        reason = f"{error}{_suggestion(str(error))}"
        raise ValueError(f"expected SQL over {_columns_in_words()}: {reason}") from error
    chosen = [
        # A take that the gate had made again has another seed than its first codes.
        ChosenClip(row["*clips"], row["*requests"], row["*generations"] | _seed(row["*clips"]), row["*heard"])
        for row in rows
    ]
    return sorted(chosen, key=lambda each: (each.request["shard"] or 0, each.request["line"] or 0, each.key))


def _seed(clip: Row) -> Row:
    """Return the seed in a clip's own row; empty if the clip is from a release before the gate."""
    return {} if clip["seed"] is None else {"seed": clip["seed"]}


def _check_picked(store: Store, picks: Picks) -> None:
    """Raise a ValueError if a picked clip is not in the catalog; otherwise it would be missing without notice."""
    shown = {(row["request_id"], row["take"]) for row in query(store, "SELECT request_id, take FROM clips").to_pylist()}
    if missing := sorted(picks.picked - shown):
        examples = ", ".join(f"take {take} of {request}" for request, take in missing[:3])
        raise ValueError(
            f"expected picks of clips in the views of {store.url}, got {len(missing)} of {len(picks.picked)} that are "
            f"not: {examples}{', …' if len(missing) > 3 else ''}; they are from another store, or were withdrawn, "
            f"quarantined or made again: pick again on its page, or remove them from the file"
        )


def _conditions(requests: Collection[str] | None, picks: Picks | None) -> list[str]:
    conditions = []
    if requests is not None:
        conditions.append(f"request_id IN ({', '.join(map(literal, sorted(requests)))})" if requests else "false")
    for clips, word in ((picks.picked, "IN"), (picks.refused, "NOT IN")) if picks else ():
        if clips:
            pairs = ", ".join(f"({literal(request)}, {take})" for request, take in sorted(clips))
            conditions.append(f"(request_id, take) {word} ({pairs})")
    return conditions


def _wide_rows() -> str:
    """Return the SQL statement of the wide rows: columns under plain names, and each table's columns as a structure."""
    plain = ["clips.*"]
    known = set(CLIPS.schema.names)
    joined = ["FROM clips"]
    heard: dict[str, str] = {}
    for table in (REQUESTS, *HEARD):
        columns = [name for name in table.schema.names if not _is_vector(table, name)]
        new = [name for name in columns if name not in known]
        known |= set(new)
        plain += [f'{table.name}."{name}"' for name in new]
        key = ", ".join(table.key)
        source = ", ".join(f'"{name}"' for name in columns)
        joined.append(
            f"{'' if table is REQUESTS else 'LEFT '}JOIN (SELECT {source} FROM {table.name}) {table.name} USING ({key})"
        )
        if table is not REQUESTS:
            heard |= {
                name: f'{table.name}."{name}"'
                for name in columns
                if name not in heard
                and name not in (*table.key, *MADE_BY)
                and not pa.types.is_nested(table.schema.field(name).type)
            }
    facts = ", ".join(f'"{name}"' for name in ("request_id", "take", "checkpoint_id", "seed", "created_at"))
    joined.append(f"LEFT JOIN (SELECT {facts} FROM generations) generations USING (request_id, take)")
    whole = ['clips AS "*clips"', 'requests AS "*requests"', 'generations AS "*generations"']
    whole.append("{" + ", ".join(f"'{name}': {column}" for name, column in heard.items()) + '} AS "*heard"')
    whole += [f"{table.name} AS {table.name}" for table in (REQUESTS, *HEARD)]
    return f"SELECT {', '.join([*plain, *whole])} {' '.join(joined)}"


def _is_vector(table: Table, name: str) -> bool:
    """Return whether a column holds vectors, such as embeddings, which are of no use in a condition."""
    kind = table.schema.field(name).type
    return pa.types.is_list(kind) and not pa.types.is_string(kind.value_type)


def _suggestion(reason: str) -> str:
    """Return a hint with the column nearest to the unknown one that DuckDB's message names; empty if there is none."""
    unknown = re.search(r'Referenced column "?(\w+)"? not found', reason)
    names = {name for table in (CLIPS, REQUESTS, *HEARD) for name in table.schema.names if not _is_vector(table, name)}
    return did_you_mean(unknown[1], sorted(names)) if unknown else ""


def _columns_in_words() -> str:
    return f"the columns of {', '.join(table.name for table in (CLIPS, REQUESTS, *HEARD))}"
