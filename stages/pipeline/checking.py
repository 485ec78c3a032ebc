"""Checks between a stage's work and its publication: what every table must satisfy, and the user's own SQL checks."""

from collections.abc import Iterator, Sequence

import pyarrow as pa

from schemas.queries.checks import Check
from schemas.storage.drafts import Drafts
from schemas.storage.publications import Publications
from schemas.storage.shards import row_keys
from schemas.tables import REJECTS, Table
from stages.pipeline.contract import NOT_ACCEPTED, CheckResult, Context
from stages.pipeline.keys import driver_of, driving_key, is_staged, wanted_keys
from stages.pipeline.plans import ConfiguredStage, Plan


def failed_check(stage: str, checks: Sequence[CheckResult]) -> str | None:
    """Return the message of the check that keeps a stage from being published; None if there is none."""
    failed = [check for check in checks if not check.passed and check.severity == "error"]
    if not failed:
        return None
    more = f" (and {len(failed) - 1} more: SELECT * FROM checks)" if len(failed) > 1 else ""
    return f"{stage}: {failed[0].message}{more}"


def run_checks(
    stage: ConfiguredStage, context: Context, plan: Plan, rows: int, refused: int, passing: int
) -> list[CheckResult]:
    """Check what a stage has made before users see it.

    Args:
        plan: which of its shards will be removed, and the checks of its source.
        rows: how many rows it made or kept.
        refused: how many items it rejected.
        passing: how many of the rejected items could not be reached just now.

    Raises:
        QueryError: an SQL check of the user fails to run.
    """
    results = [*plan.checks, _passing(stage.name, passing)]
    if not is_staged(stage.module):
        results.insert(0, _refused_share(stage.name, context, rows, refused, passing))
    writes = stage.module.WRITES
    if not writes.accumulates:
        drafts = Drafts(context.store, writes, context.fingerprint)
        files = [file for shard, file in drafts.files().items() if shard not in set(plan.gone)]
        if hasattr(stage.module, "shard"):
            results.append(_unaccounted(stage, context, drafts))
        results += _keys_and_columns(context, stage, files)
        results += [_of_user(context, check, files) for check in context.checks if check.table == writes.name]
    return results


def _refused_share(stage: str, context: Context, rows: int, refused: int, passing: int) -> CheckResult:
    """Check the share of rejected items against the limit in the settings. Items that the user's own conditions reject
    do not count."""
    kinds = context.store.read(REJECTS, context.fingerprint, columns=["kind"]).column("kind").to_pylist()
    refused -= kinds.count(NOT_ACCEPTED)
    total, limit = rows + refused, context.settings.max_refused
    reached = f" ({passing} could not be reached: is their disk mounted?)" if passing else ""
    message = (
        f"refused {refused} of {total} items{reached}, more than settings.max_refused = {limit:g} allows; see: "
        f"SELECT * FROM rejects WHERE stage = '{stage}'"
    )
    return CheckResult("refused", REJECTS.name, "error", refused / total if total else 0.0, limit, message)


def _passing(stage: str, passing: int) -> CheckResult:
    """Warn of items that could not be reached."""
    message = (
        f"{passing} items could not be reached (is their disk mounted?); they are tried again by the next run; see: "
        f"SELECT * FROM rejects WHERE stage = '{stage}' AND passing"
    )
    return CheckResult("reached", REJECTS.name, "warn", passing, 0, message)


def _unaccounted(stage: ConfiguredStage, context: Context, drafts: Drafts) -> CheckResult:
    """Check that a mapping stage made or rejected each row of its input, and made nothing else."""
    module, driving = stage.module, stage.module.READS[0]
    version = context.versions[driving.name]
    columns = [*driving_key(module), *([driving.copies] if driving.copies else [])]
    wanted = set(wanted_keys(module, context.store.read(driving, version, columns=columns)))
    made = _keys(drafts.read(columns=module.WRITES.key), module.WRITES.key)
    refused = {
        tuple(key.split("/"))
        for key in context.store.read(REJECTS, context.fingerprint, columns=["key"]).column("key").to_pylist()
    }
    unaccounted = {key for key in wanted - made if driver_of(module, key) not in refused}
    wrong = len(unaccounted) + len(made - wanted)
    message = (
        f"expected a row or a refusal of {module.WRITES.name} for each row of {driving.name}, got {len(unaccounted)} "
        f"with neither and {len(made - wanted)} unexpected rows; run the stage again"
    )
    return CheckResult("complete", module.WRITES.name, "error", wrong, 0, message)


def _keys(rows: pa.Table, names: Sequence[str]) -> set[tuple[str, ...]]:
    return set(row_keys(rows, names))


def _keys_and_columns(context: Context, stage: ConfiguredStage, files: Sequence[str]) -> Iterator[CheckResult]:
    """Check that each key occurs once, and that no column that had values has lost them all."""
    from schemas.queries.database import column_counts, filled_columns
    from schemas.queries.errors import QueryError

    table = stage.module.WRITES
    counts = column_counts(context.store, table, files)
    twice = counts.rows - counts.distinct_keys
    message = f"expected each key of {table.name} once, got {twice} repeated; run `segue check {table.name}`"
    yield CheckResult("keys", table.name, "error", twice, 0, message)
    before = Publications(context.store).shown().get(table.name)
    if before is None or not counts.rows:
        return
    published = Publications(context.store).files_of(table, before)
    empty = [name for name, count in counts.values.items() if not count]
    try:
        emptied = filled_columns(context.store, table, published, empty) if empty else []
    except QueryError:  # a published shard was damaged or removed; this run repairs that
        return
    emptied = _lost(context, table, emptied, published, files) if emptied else []
    message = f"every row of {table.name} lost its {', '.join(emptied)}, which the published rows have"
    yield CheckResult("emptied columns", table.name, "warn", len(emptied), 0, message)


def _lost(
    context: Context, table: Table, emptied: Sequence[str], published: Sequence[str], files: Sequence[str]
) -> list[str]:
    """Return those of the emptied columns in which a row that is still in the table had a value. If all rows with a
    value are gone, nothing was lost: rows of another order, or of other recordings, may never have had any."""
    keys = _keys(context.store.read_files(table, files, table.key), table.key)
    earlier = context.store.read_files(table, published, [*table.key, *emptied])
    stayed = earlier.filter(pa.array([key in keys for key in row_keys(earlier, table.key)], pa.bool_()))
    return [name for name in emptied if stayed.column(name).null_count < stayed.num_rows]


def _of_user(context: Context, check: Check, files: Sequence[str]) -> CheckResult:
    """Run a check of the user over the stage's new rows. It passes if its SQL returns no rows."""
    from schemas.queries.database import query

    answer = query(context.store, check.sql, {check.table: files})
    name = check.name or check.sql
    first = answer.slice(0, 1).to_pylist()
    message = (
        f"the check {name!r} of {check.table} expects no rows, got {answer.num_rows}"
        f"{f', first {first[0]}' if first else ''}; see: {check.sql}"
    )
    return CheckResult(name, check.table, check.severity, answer.num_rows, 0, message)
