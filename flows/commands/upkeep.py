"""Looking after a store: `segue check`, `segue clean` and `segue status`."""

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.completion import complete_preset, complete_table
from flows.commands.options import (
    RecipeOption,
    RequestsOption,
    RunOptions,
    SetOption,
    SourceOption,
    StoreOption,
    UsageError,
    existing_store,
    parse_given_options,
)
from flows.console import say

if TYPE_CHECKING:
    from schemas import Store
    from schemas.tables import Table

app = typer.Typer()


@app.command()
def check(
    tables: Annotated[
        list[str] | None,
        typer.Argument(metavar="TABLE", help="Tables; by default all.", autocompletion=complete_table),
    ] = None,
    store: StoreOption = None,
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte and compare digests.")] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Set damaged files aside, so that the next run makes them again.")
    ] = False,
) -> int:
    """Check for damaged, missing and stray files, and say how to repair them."""
    from schemas.upkeep.inspection import Inspection, set_aside

    opened = existing_store(store)
    inspection = Inspection(opened, _tables(tables or []), _drivers(), deep)
    problems = notes = repaired = 0
    for finding in inspection.findings():
        if repair and finding.to_set_aside:
            repaired += 1
            say(f"{finding.path}: {finding.what}; moved to {set_aside(opened, finding.path)}")
            continue
        problems, notes = problems + finding.is_problem, notes + (not finding.is_problem)
        say(f"{finding.path}: {finding.what}; {finding.cure}")
    counts = [f"{inspection.shards:,} shards ({inspection.rows:,} rows) and {inspection.files:,} files checked"]
    counts += [f"{problems:,} problem{'' if problems == 1 else 's'}", f"{notes:,} note{'' if notes == 1 else 's'}"]
    counts += [f"{repaired:,} set aside: run the same command as before to make them again"] if repaired else []
    say(", ".join(counts) + ("" if deep else " (--deep reads every byte)"))
    return 1 if problems else 0


@app.command()
def clean(
    store: StoreOption = None,
    keep: Annotated[float, typer.Option(min=0, help="Keep what is no longer shown for this many days.")] = 30.0,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; otherwise it is only listed.")] = False,
) -> int:
    """List what nothing refers to any more, or remove it."""
    from flows.runs.output import open_console, print_table
    from schemas.queries.kept_database import write_views
    from schemas.upkeep.cleaning import clean as remove
    from schemas.upkeep.cleaning import plan_cleaning

    opened = existing_store(store)
    plan = plan_cleaning(opened, timedelta(days=keep))
    print_table(
        open_console(), [{"stays": item.path, "size": size_text(item.bytes), "for": item.why} for item in plan.keep]
    )
    counts, sizes = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for item in plan.remove:
        counts[item.group, item.why] += 1
        sizes[item.group, item.why] += item.bytes
    rows = [
        {"goes": group, "things": count, "size": size_text(sizes[group, why]), "why": why}
        for (group, why), count in sorted(counts.items())
    ]
    print_table(open_console(), rows)
    total = f"{counts.total():,} files and folders, {size_text(sizes.total())}"
    if not yes:
        say(f"{total} would be removed (give --yes)")
        return 0
    remove(opened, plan)
    write_views(opened)
    say(f"{total}: removed")
    return 0


def size_text(count: int) -> str:
    """Return a number of bytes as text with a unit."""
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def _tables(names: list[str]) -> "list[Table]":
    """Return tables by name; all if no name is given.

    Raises:
        UsageError: there is no such table.
    """
    from schemas.names import did_you_mean
    from schemas.tables import TABLES

    for name in names:
        if name not in TABLES:
            raise UsageError(f"expected tables of {', '.join(TABLES)}, got {name!r}{did_you_mean(name, TABLES)}")
    return [TABLES[name] for name in names or TABLES]


def _drivers() -> Mapping[str, str]:
    """Return the driving table of each table that is made shard by shard, by name."""
    from flows.recipes.recipe import STAGES

    mapping = [module for module in STAGES.values() if hasattr(module, "shard")]
    return {module.WRITES.name: module.READS[0].name for module in mapping}


@app.command()
def status(
    store: StoreOption = None,
    preset: Annotated[
        str | None, typer.Option(help="Also compare with this preset.", autocompletion=complete_preset)
    ] = None,
    recipe: RecipeOption = None,
    source: SourceOption = None,
    requests: RequestsOption = None,
    set_: SetOption = None,
) -> int:
    """Show what a store holds and, with the options of a run, what that run would find out of date."""
    from flows.runs.output import open_console, print_table
    from schemas.upkeep.overview import overview

    opened = existing_store(store, recipe)
    planned: dict[str, str] = {}
    if preset or recipe or source or requests or set_:
        options = {"source": source, "store": store, "requests": requests}
        given = {name: value for name, value in options.items() if value is not None}
        planned = _planned(parse_given_options([], preset, recipe, given, set_ or []))
    rows = []
    for holdings in overview(opened):
        row = {
            "table": holdings.name,
            "rows": "" if holdings.rows is None else holdings.rows,
            "size": size_text(holdings.bytes),
            "versions": holdings.versions or "",
            "shown": holdings.shown[:8],
            "age": age_text(holdings.published) if holdings.published else "",
        }
        rows.append(row | ({"with these options": planned.pop(holdings.name, "")} if planned else {}))
    print_table(open_console(), rows)
    for line in (*(f"{table}: {state}" for table, state in planned.items()), *_state_lines(opened)):
        say(line)
    return 0


def _planned(options: "RunOptions") -> dict[str, str]:
    """Return, for each table that a run would make, whether it is up to date or what the run would do."""
    states = {}
    pipeline = options.plan.pipeline()
    for plan in options.plan.stage_plans():
        state = f"stale: make {plan.make:,}, drop {plan.drop:,}" if plan.jobs or plan.gone else "up to date"
        states[pipeline.stages[plan.stage].module.WRITES.name] = state
    return states


def _state_lines(store: "Store") -> Iterator[str]:
    """Yield whether views are held, which runs are at work, how the last run went, and which weights are pinned."""
    from schemas.storage.leases import runs_at_work
    from schemas.storage.publications import Publications
    from schemas.tables import WEIGHTS
    from schemas.upkeep.overview import last_run

    latest, run = Publications(store).latest(), last_run(store)
    if latest is not None and latest.held:
        yield f"held: the views have not changed for {age_text(latest.created_at)}; `segue publish` updates them again"
    for name, holder in runs_at_work(store).items():
        yield f"at work: {holder}, at {name.partition('-')[0]}"
    if run is not None:
        yield f"last run: {run.run_id}, {age_text(run.started_at)} ago, {run.stages} stages"
        error = f"{run.error['error']} ({age_text(run.error['started_at'])} ago)" if run.error else "none"
        yield f"last error: {error}"
    for row in store.read_all(WEIGHTS).to_pylist():
        yield f"weights: {row['reference']} ({row['digest'][:8]}), {size_text(row['bytes'] or 0)}"


def age_text(moment: datetime) -> str:
    """Return how long ago a moment was, in the largest suitable unit."""
    seconds = (datetime.now(UTC) - moment).total_seconds()
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
