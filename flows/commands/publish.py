"""What the views of a store show, and how it changed: `segue publish`, `segue rollback` and `segue diff`."""

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.completion import complete_published_table
from flows.commands.options import StoreOption, UsageError, existing_store
from flows.console import say

if TYPE_CHECKING:
    from schemas.queries.differences import Content
    from schemas.storage.catalogs import Catalog
    from schemas.storage.publications import Publications
    from schemas.storage.store import Store
    from schemas.tables import Table

app = typer.Typer()

ListOption = Annotated[bool, typer.Option("--list", help="Only list the publications, newest first.")]
LISTED = 20
"""How many catalogs are listed."""

MINUTE = "%Y-%m-%d %H:%M"


@app.command()
def publish(
    store: StoreOption = None,
    hold: Annotated[bool, typer.Option(help="Keep the views where they are, whatever passes from now on.")] = False,
    list_: ListOption = False,
) -> int:
    """Let the views follow what passes, or hold them where they are."""
    from schemas.storage.publications import Publications

    publications = Publications(existing_store(store))
    if list_:
        return _list(publications)
    record = publications.hold() if hold else publications.release()
    return _show(publications, "the views stay as they are" if record.held else "the views follow what passes")


@app.command()
def rollback(
    number: Annotated[
        int | None,
        typer.Argument(metavar="N", help="A publication's number; by default the catalog before the one shown."),
    ] = None,
    store: StoreOption = None,
    list_: ListOption = False,
) -> int:
    """Show an earlier catalog until the next `segue publish`."""
    from schemas.storage.catalogs import catalog_before
    from schemas.storage.publications import Publications

    publications = Publications(existing_store(store))
    if list_:
        return _list(publications)
    try:
        target = catalog_before(publications) if number is None else number
        publications.roll_back(target)
    except ValueError as error:
        raise UsageError(str(error)) from error
    when = publications.record(target).created_at
    return _show(publications, f"the views show the catalog of publication {target} ({when:{MINUTE}} UTC)")


@app.command()
def diff(
    table: Annotated[
        str,
        typer.Argument(
            metavar="TABLE",
            help="A table that a stage publishes, such as tokens.",
            autocompletion=complete_published_table,
        ),
    ],
    before: Annotated[
        str | None,
        typer.Argument(metavar="FROM", help="The number of a publication, or the first digits of a version."),
    ] = None,
    after: Annotated[
        str | None, typer.Argument(metavar="TO", help="Likewise; by default the last two are compared.")
    ] = None,
    store: StoreOption = None,
    limit: Annotated[int, typer.Option(min=0, help="The number of rows to list.")] = 20,
) -> int:
    """Show which rows of a table differ, and which knob caused it."""
    from flows.runs.output import open_console, print_table
    from schemas.queries.differences import compare

    opened = existing_store(store)
    try:
        known, old, new = _contents(opened, table, before, after)
        difference = compare(opened, known, old, new)
    except ValueError as error:
        raise UsageError(str(error)) from error
    say(f"{table}: {old} → {new}")
    counts = ", ".join(f"{change} {difference.count(change):,}" for change in ("in", "out", "changed"))
    say(f"rows: {counts}, the same {difference.same:,}")
    for line in _reasons(opened, old, new):
        say(f"why: {line}")
    rows = [
        {"": row.change, **dict(zip(known.key, row.key, strict=True)), "columns": ", ".join(row.columns)}
        for row in difference.rows[:limit]
    ]
    print_table(open_console(), rows)
    if len(difference.rows) > limit:
        say(f"({len(difference.rows) - limit:,} more; --limit lists them)")
    return 0


def _contents(store: "Store", name: str, before: str | None, after: str | None) -> "tuple[Table, Content, Content]":
    """Return a table and the two contents of it to compare.

    Raises:
        ValueError: there is no such table, publication or version, or only one of the two is given.
    """
    from schemas.names import did_you_mean
    from schemas.queries.differences import find_content, last_contents
    from schemas.tables import PUBLISHED

    if name not in PUBLISHED:
        near = did_you_mean(name, PUBLISHED)
        raise ValueError(f"expected a table that stages publish ({', '.join(PUBLISHED)}), got {name!r}{near}")
    table = PUBLISHED[name]
    if before is None:
        return table, *last_contents(store, table)
    if after is None:
        raise ValueError(f"expected two publications or versions of {name} to compare, got one: {before!r}")
    return table, find_content(store, table, before), find_content(store, table, after)


def _reasons(store: "Store", before: "Content", after: "Content") -> Iterator[str]:
    from schemas.storage.versions import Versions

    if before.version == after.version:
        yield "the same settings, but other rows to work on"
    yield from Versions(store).differences(before.version, after.version)


def _show(publications: "Publications", what: str) -> int:
    """Write the views again, and print what they show now."""
    from schemas.queries.kept_database import write_views

    write_views(publications.store)
    latest = publications.latest()
    held = "; `segue publish` updates them again" if latest and latest.held else ""
    say(f"{what}{held}")
    return 0


def _list(publications: "Publications") -> int:
    from flows.runs.output import open_console, print_table
    from schemas.storage.catalogs import catalogs

    print_table(open_console(), [_row(catalog) for catalog in islice(catalogs(publications), LISTED)])
    return 0


def _row(catalog: "Catalog") -> dict[str, str | int]:
    rows = ", ".join(f"{name} {count:,}" for name, count in catalog.rows.items())
    return {
        "number": catalog.sequence,
        "when (UTC)": f"{catalog.created_at:{MINUTE}}",
        "by": catalog.run_id or catalog.action,
        "rows": rows,
        "": "shown" if catalog.is_shown else "",
    }
