"""Looking after a store: `segue check`, `segue clean` and `segue status`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from flows.options import StoreOption, UsageError, existing_store

if TYPE_CHECKING:
    from schemas.tables import Table

app = typer.Typer()


@app.command()
def check(
    tables: Annotated[list[str] | None, typer.Argument(metavar="TABLE", help="Tables; none means all.")] = None,
    store: StoreOption = None,
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte, and compare digests.")] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Set what is damaged aside, to be made again.")] = False,
) -> int:
    """Tell what is damaged, missing or in the way, and its cure."""
    from schemas.inspection import Inspection, set_aside

    opened = existing_store(store)
    inspection = Inspection(opened, _tables(tables or []), _drivers(), deep)
    problems = notes = repaired = 0
    for finding in inspection.findings():
        if repair and finding.to_set_aside:
            repaired += 1
            print(f"{finding.path}: {finding.what}; it lies in {set_aside(opened, finding.path)} now")
            continue
        problems, notes = problems + finding.is_problem, notes + (not finding.is_problem)
        print(f"{finding.path}: {finding.what}; {finding.cure}")
    counts = [f"{inspection.shards:,} shards ({inspection.rows:,} rows) and {inspection.files:,} files looked at"]
    counts += [f"{problems:,} problem{'' if problems == 1 else 's'}", f"{notes:,} to know"]
    counts += [f"{repaired:,} set aside: run the same command as before to make them again"] if repaired else []
    print(", ".join(counts) + ("" if deep else " (--deep reads every byte)"))
    return 1 if problems else 0


def _tables(names: list[str]) -> "list[Table]":
    """Return tables by name; all where none is given.

    Raises:
        UsageError: there is no such table.
    """
    from schemas.tables import TABLES

    for name in names:
        if name not in TABLES:
            raise UsageError(f"expected tables of {', '.join(TABLES)}, got {name!r}")
    return [TABLES[name] for name in names or TABLES]


def _drivers() -> Mapping[str, str]:
    """Return the table whose shards each table is made from, by name."""
    from flows.recipe import STAGES

    mapping = [module for module in STAGES.values() if hasattr(module, "shard")]
    return {module.WRITES.name: module.READS[0].name for module in mapping}
