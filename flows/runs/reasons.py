"""Why items were refused or clips quarantined, and what was noticed: the most common reasons, printed after a run, and
what a plan notices."""

from collections.abc import Iterable, Sequence

from flows.console import typed_place
from schemas import Store
from stages.pipeline.plans import Plan
from stages.pipeline.remarks import Remark

COMMONEST = 5
"""How many reasons are printed after a run; the tables hold all."""

PLANNED = 20
"""How many remarks of a stage a plan shows."""

LONGEST = 160
"""Most characters of an example in a line; the tables hold all. Reasons are never shortened."""

REFUSALS = "SELECT stage, kind, uri, message FROM rejects"
QUARANTINE = "SELECT stage, title, reasons FROM quarantine"
REMARKS = "SELECT * FROM remarks ORDER BY count DESC"
"""The queries that list all refusals, quarantined clips and remarks."""

_REFUSALS = """
    SELECT stage, kind, count(*) AS count, arg_min(uri, key) AS uri, arg_min(message, key) AS message
    FROM rejects WHERE stage IN ({stages}) GROUP BY stage, kind ORDER BY count DESC, stage, kind"""

_QUARANTINED = """
    SELECT stage, count(*) AS count, arg_min(reasons[1], request_id) AS reason
    FROM quarantine WHERE stage IN ({stages}) GROUP BY stage, split_part(reasons[1], ':', 1)
    ORDER BY count DESC, stage, reason"""

_REMARKS = """
    SELECT stage, what, location, sum(count)::BIGINT AS count, first(examples ORDER BY len(examples) DESC) AS examples
    FROM remarks WHERE stage IN ({stages}) GROUP BY stage, what, location ORDER BY count DESC, stage, what, location"""

_ALL = f"""
    SELECT
        (SELECT list(row) FROM ({_REFUSALS}) row) AS refusals,
        (SELECT list(row) FROM ({_QUARANTINED}) row) AS quarantined,
        (SELECT list(row) FROM ({_REMARKS}) row) AS remarks"""
"""One query instead of three: each query lists the store's tables again."""


def reason_lines(store: Store, stages: Sequence[str]) -> list[str]:
    """Return lines that say why stages refused items and quarantined clips, and what they noticed: the most common
    reasons first, each with an example, and the queries that list all. There are no lines if there is nothing to say,
    or if the store is damaged, which a run reports itself.

    Args:
        stages: names of the stages that ran.
    """
    # Importing DuckDB takes a fifth of a second, which `segue plan` saves.
    from schemas.queries.database import query
    from schemas.queries.errors import QueryError

    names = ", ".join(f"'{name}'" for name in stages) or "NULL"
    try:
        (answer,) = query(store, _ALL.format(stages=names)).to_pylist()
    except QueryError:
        return []
    refusals, quarantined, remarks = (answer[name] or [] for name in ("refusals", "quarantined", "remarks"))
    reasons = [
        f"{row['count']:,} × {row['stage']}: {row['kind']}, such as {_shown(row['uri'])}: {_whole(row['message'])}"
        for row in refusals
    ]
    noticed = [
        remark_line(row["stage"], Remark(row["what"], row["location"], row["count"], tuple(row["examples"] or ())))
        for row in remarks
    ]
    quarantine_reasons = [f"{row['count']:,} × {row['stage']}, such as {_whole(row['reason'])}" for row in quarantined]
    refused, withheld = (sum(row["count"] for row in rows) for rows in (refusals, quarantined))
    return [
        *_commonest(f"refused {refused:,}:", reasons, REFUSALS, store),
        *_commonest(f"quarantined {withheld:,}, which `clips` does not show:", quarantine_reasons, QUARANTINE, store),
        *_commonest("noticed:", noticed, REMARKS, store),
    ]


def plan_remark_lines(plans: Iterable[Plan]) -> list[str]:
    """Return what the stages of a plan notice at their sources, the most common remarks first."""
    lines = []
    for plan in plans:
        ranked = sorted(plan.remarks, key=lambda remark: -remark.count)
        lines += [remark_line(plan.stage, remark) for remark in ranked[:PLANNED]]
        if len(ranked) > PLANNED:
            lines.append(f"{plan.stage}: {len(ranked) - PLANNED} more kinds of remarks")
    return lines


def remark_line(stage: str, remark: Remark) -> str:
    """Return a remark as one line: how many items, what was noticed, where, and the first example."""
    where = f" ({_shown(remark.location)})" if remark.location else ""
    example = f", such as {_shown(remark.examples[0])}" if remark.examples else ""
    return f"{remark.count:,} × {stage}: {remark.what}{where}{example}"


def _commonest(heading: str, lines: Sequence[str], listing: str, store: Store) -> list[str]:
    if not lines:
        return []
    rest = f", and {len(lines) - COMMONEST} more kinds" if len(lines) > COMMONEST else ""
    every = f'all of them{rest}: `segue sql "{listing}" --store {typed_place(store.location())}`'
    return [heading, *(f"  {line}" for line in (*lines[:COMMONEST], every))]


def _whole(text: str) -> str:
    return " ".join(text.split())


def _shown(text: str) -> str:
    plain = _whole(text)
    return plain if len(plain) <= LONGEST else f"{plain[: LONGEST - 1]}…"
