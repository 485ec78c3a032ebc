"""Where clips come from, and refusing recordings: `segue explain` and `segue take-down`."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flows.commands.options import StoreOption, UsageError, existing_store
from flows.console import say

if TYPE_CHECKING:
    from flows.commands.explaining import Section
    from schemas.queries.descent import Descent
    from schemas.storage.store import Store
    from schemas.tables import Row

app = typer.Typer()

LimitOption = Annotated[int, typer.Option(min=0, help="The number of recordings or clips to list.")]
SHORT = 12
"""How many digits of an id are shown."""


@app.command()
def explain(
    what: Annotated[Literal["clip", "track"], typer.Argument(help="What to explain.")],
    name: Annotated[
        str, typer.Argument(metavar="ID", help="An id or its beginning; for a clip also ID/TAKE or its name.")
    ],
    store: StoreOption = None,
    limit: LimitOption = 20,
    format: Annotated[Literal["table", "json"], typer.Option(help="The output format; JSON is complete.")] = "table",
) -> int:
    """Show which models and recordings a clip comes from, or what came from a recording."""
    from flows.commands.explaining import explain_clip, explain_track

    opened = existing_store(store)
    try:
        sections = (explain_clip if what == "clip" else explain_track)(opened, name)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if format == "json":
        json.dump(dict(sections), sys.stdout, ensure_ascii=False, indent=1, default=str)
        print()
    else:
        _print_sections(sections, limit)
    return 0


def _print_sections(sections: "Sequence[Section]", limit: int) -> None:
    from flows.runs.output import open_console, print_table

    console = open_console()
    for number, (heading, rows) in enumerate(sections):
        print(f"{'' if number == 0 else chr(10)}{heading}{'' if len(rows) == 1 else f' ({len(rows):,})'}")
        print_table(console, [{key: _shown(value) for key, value in row.items()} for row in rows[:limit]])
        if len(rows) > limit:
            say(f"({len(rows) - limit:,} more; --limit lists them)")


def _shown(value: Any) -> Any:
    if isinstance(value, str) and len(value) > 2 * SHORT and not set(value) - set("0123456789abcdef"):
        return value[:SHORT]  # a digest; commands accept its beginning
    return "" if value is None else value


@app.command("take-down")
def take_down(
    tracks: Annotated[
        list[str] | None, typer.Argument(metavar="TRACK", help="Ids of recordings, or their beginnings.")
    ] = None,
    store: StoreOption = None,
    artist: Annotated[
        str | None, typer.Option(help="All recordings by this artist; if it names several, those by all of them.")
    ] = None,
    where: Annotated[
        str | None, typer.Option(help="All recordings that meet an SQL condition over the columns of tracks.")
    ] = None,
    reason: Annotated[
        str, typer.Option(help="The reason, which ingest gives for the recording from now on.")
    ] = "taken down",
    yes: Annotated[bool, typer.Option("--yes", help="Do it without asking.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what came from the recordings.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Allow recordings that were taken down to come back.")] = False,
    limit: LimitOption = 20,
) -> int:
    """Refuse recordings permanently, and withdraw the clips that come from them."""
    opened = existing_store(store)
    try:
        recordings = _recordings(opened, tracks or [], artist, where)
        if undo:
            return _undo(opened, recordings, dry_run)
        return _take_down(opened, recordings, reason, yes, dry_run, limit)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _recordings(store: "Store", names: Sequence[str], artist: str | None, where: str | None) -> "list[Row]":
    """Return the recordings that a command line names, each once.

    Raises:
        ValueError: it names none, or some that do not exist.
    """
    from schemas.queries.descent import find_by_condition, find_recordings

    if not (names or artist or where):
        raise ValueError("expected recordings to take down, got none: give ids, --artist or --where")
    rows = find_recordings(store, names)
    if artist:
        rows += _recordings_by(store, artist)
    if where:
        rows += find_by_condition(store, where)
    if not rows:
        raise ValueError("expected recordings to take down, got none that match")
    return list({row["track_id"]: row for row in rows}.values())


def _recordings_by(store: "Store", artist: str) -> "list[Row]":
    """Return the recordings that credit an artist. If the name lists several (`Otter & Vale`), return those that credit
    all of them.

    Raises:
        ValueError: no recording does; the message suggests the nearest known artist.
    """
    from schemas.names import did_you_mean
    from schemas.queries.descent import artist_credits, find_by_credits
    from stages.ingest.artists import artist_key, split_names

    names = {credit: credit.artists or tuple(split_names(credit.artist)) for credit in artist_credits(store)}
    whole, parts = artist_key(artist), set(map(artist_key, split_names(artist)))
    meant = []
    for credit, artists in names.items():
        keys = {artist_key(credit.artist), *map(artist_key, artists)}
        if whole in keys or (parts and parts <= keys):
            meant.append(credit)
    if not meant:
        known = {name for credit, artists in names.items() for name in (credit.artist, *artists) if name}
        near = did_you_mean(artist, sorted(known))
        raise ValueError(f"expected recordings to take down, got none that name the artist {artist!r}{near}")
    return find_by_credits(store, meant)


def _take_down(store: "Store", recordings: "list[Row]", reason: str, yes: bool, dry_run: bool, limit: int) -> int:
    from schemas.queries.descent import FACTS, descent
    from schemas.queries.kept_database import write_views
    from schemas.storage.take_downs import TakeDowns

    descended = descent(store, [row["track_id"] for row in recordings])
    _print_sections(_sections(recordings, descended), limit)
    print()
    for line in _consequences(recordings, descended):
        say(line)
    if dry_run:
        say("(nothing was changed)")
        return 0
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("expected a terminal to confirm this in, got none: give --yes, or --dry-run to look first")
        if not typer.confirm(f"Take {_count(len(recordings), 'recording')} down?"):
            return 1
    rows = [
        {
            **{name: row[name] for name in FACTS},
            "reason": reason,
            "checkpoints": descended.descendants_of(store, row["track_id"]),
            "requests": sorted(descended.referred[row["track_id"]]),
        }
        for row in recordings
    ]
    TakeDowns(store).add(rows)
    from stages.report import FOLDER

    store.remove(FOLDER)  # it may show and play them; the next run writes it again
    write_views(store)
    say(
        f"{_count(len(recordings), 'recording')} taken down, {_count(len(descended.clips), 'clip')} withdrawn; "
        "the page is removed until `segue run report` writes it again"
    )
    return 0


def _undo(store: "Store", recordings: "list[Row]", dry_run: bool) -> int:
    from schemas.queries.kept_database import write_views
    from schemas.storage.take_downs import TakeDowns

    take_downs = TakeDowns(store)
    down = sorted(take_downs.reasons.keys() & {row["track_id"] for row in recordings})
    if not down:
        raise UsageError("expected recordings that were taken down, got others")
    if not dry_run:
        take_downs.remove(down)
        write_views(store)
    say(
        f"{_count(len(down), 'recording')} may come back{' (nothing was changed)' if dry_run else ''}: the next run "
        "ingests those that are still at their source and writes the page, and the views show their clips again, "
        "unless `segue clean` has removed the files"
    )
    return 0


def _sections(recordings: "list[Row]", descended: "Descent") -> "list[Section]":
    learned = Counter(name for names in descended.learned_by.values() for name in names)
    shown = [
        {"track": row["track_id"], "title": row["title"], "artist": row["artist"], "licence": row["licence"]}
        | {"in": row["found"] or "nothing yet", "models": len(descended.learned_by[row["track_id"]])}
        for row in recordings
    ]
    models = [
        {"model": row["checkpoint_id"], "kind": row["kind"], "made": f"{row['created_at']:%Y-%m-%d %H:%M}"}
        | {"learned from": learned[row["checkpoint_id"]] or "(through a parent)"}
        for row in descended.models
    ]
    clips = [{"request": row["request_id"], "take": row["take"], "file": row["path"]} for row in descended.clips]
    return [("recordings", shown), ("models trained on them", models), ("clips to withdraw", clips)]


def _consequences(recordings: "list[Row]", descended: "Descent") -> list[str]:
    """Return what a person should know before and after a take-down, one line each."""
    from flows.recipes.recipe import STAGES

    trainers = {kind: name for name, module in STAGES.items() for kind in getattr(module, "KINDS", ())}
    kinds = dict.fromkeys(row["kind"] for row in descended.models)
    clips, segments = _count(len(descended.clips), "clip"), _count(descended.reconstructions, "kept segment")
    lines = [
        f"ingest refuses {_count(len(recordings), 'recording')} from now on, whatever their name and source",
        f"{clips} and {segments} are no longer shown; "
        "`segue clean --yes` removes their files, and a rollback does not bring them back",
    ]
    if descended.untraced:
        lines.append(
            f"what {', '.join(descended.untraced)} learned from is unknown, because an earlier release made "
            f"{'it' if len(descended.untraced) == 1 else 'them'}: to be sure, train again, and clean"
        )
    if kinds:
        stages = ", ".join(f"{trainers[kind]} ({kind})" for kind in kinds if kind in trainers)
        lines.append(
            f"to be trained again: {stages}; the next `segue run` does so, and makes the clips of the new model"
        )
    return lines


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
