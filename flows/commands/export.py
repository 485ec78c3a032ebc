"""`segue export`: clips for others, under readable names with a catalog, or tables as a Hugging Face data set."""

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flows.commands.options import StoreOption, UsageError, existing_store
from flows.console import say, tell

if TYPE_CHECKING:
    from schemas import Store
    from schemas.queries.picks import Picks
    from stages.audio.credentials import Signer
    from stages.delivery.choosing import ChosenClip
    from stages.delivery.making import Form
    from stages.pipeline.contract import Progress
    from stages.requests.lines import RequestLine

app = typer.Typer()

NAME = "{name}_{take}"
"""The default pattern of clips' names."""

SHORTEST_ID = 4
"""The fewest digits of a request's id that must be given."""

SHOWN = 5
"""How many files or reasons are listed."""


@app.command()
def export(
    destination: Annotated[
        str, typer.Argument(metavar="DEST", help="A folder or URL: new, empty, or an earlier delivery.")
    ],
    store: StoreOption = None,
    requests: Annotated[
        list[str] | None, typer.Option(metavar="FILE|ID", help="Requests: a file, an id or a name. Repeatable.")
    ] = None,
    where: Annotated[str | None, typer.Option(help="An SQL condition over a clip, its request and its scores.")] = None,
    best: Annotated[
        int | None, typer.Option(min=1, help="Only this many takes of each request, the best by --by.")
    ] = None,
    by: Annotated[
        str | None, typer.Option(help="A score, or an SQL expression over scores; the highest is best.")
    ] = None,
    picks: Annotated[str | None, typer.Option(metavar="FILE", help="Picks and refusals as saved by the page.")] = None,
    format: Annotated[
        Literal["flac", "wav", "mp3", "ogg"] | None, typer.Option(help="Convert to another format.")
    ] = None,
    sample_rate: Annotated[int | None, typer.Option(help="Convert to another sample rate, Hz.")] = None,
    bit_depth: Annotated[Literal["16", "24"] | None, typer.Option(help="Bits per sample of FLAC and WAV.")] = None,
    name: Annotated[str, typer.Option(help="The pattern for file names.")] = NAME,
    certificate: Annotated[
        str | None,
        typer.Option(
            metavar="PEM", help="The certificate that signs converted files; `development` for trying it out."
        ),
    ] = None,
    key: Annotated[str | None, typer.Option(metavar="PEM", help="The certificate's private key.")] = None,
    unsigned: Annotated[
        bool, typer.Option("--unsigned", help="Allow converted clips to lose their signature.")
    ] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove clips of earlier exports that are not chosen now.")
    ] = False,
    dataset: Annotated[
        bool, typer.Option("--dataset", help="Instead write the training set and the clips as a Hugging Face data set.")
    ] = False,
    table: Annotated[Literal["tracks", "clips"] | None, typer.Option(help="With --dataset: only this table.")] = None,
    references: Annotated[
        bool, typer.Option("--references", help="With --dataset: refer to sound files instead of including them.")
    ] = False,
) -> int:
    """Deliver clips under readable names, with a catalog and checksums, or export tables as a data set."""
    from schemas.queries.picks import read_picks
    from stages.delivery.choosing import choose_clips
    from stages.delivery.making import Form
    from stages.delivery.naming import check_template

    opened = existing_store(store)
    try:
        check_template(name)
        if (table or references) and not dataset:
            raise ValueError("expected --dataset with --table and --references, got none")
        form = Form(format, sample_rate, None if bit_depth is None else 24 if bit_depth == "24" else 16)
        form.check()
        best = best or (1 if by else None)
        ids = None if requests is None else _request_ids(opened, requests)
        decided = None if picks is None else read_picks(picks)
        chosen = choose_clips(opened, ids, where, best, by, decided)
        if dataset:
            if form != Form() or certificate or unsigned or prune:
                raise ValueError("expected neither another form, a signer nor --prune with --dataset, got one of them")
            return _export_dataset(opened, chosen, destination, [table] if table else ["tracks", "clips"], references)
        if decided is not None:
            _report_refused_requests(opened, ids, decided)
        quarantined = _quarantined_words(opened, ids)
        if not chosen:
            also = f"; {quarantined}" if quarantined else ""
            raise ValueError(f"expected clips to deliver, got none that match in {opened.url}{also}")
        signer = _signer(opened, chosen, form, certificate, key, unsigned)
        if quarantined:
            tell(f"segue: {quarantined}")
        return _deliver(opened, chosen, destination, form, signer, name, prune)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _report_refused_requests(store: "Store", requests: Collection[str] | None, picks: "Picks") -> None:
    """Report the requests of which a person refused every take, and how to get more takes.

    Args:
        requests: ids of the requests that are delivered; None for all.
    """
    from schemas.queries.database import query

    takes: dict[str, list[int]] = {}
    for row in query(store, "SELECT request_id, take FROM clips").to_pylist():
        takes.setdefault(row["request_id"], []).append(row["take"])
    refused = {
        request
        for request, numbers in takes.items()
        if (requests is None or request in requests) and {(request, take) for take in numbers} <= picks.refused
    }
    if not refused:
        return
    rows = query(store, "SELECT request_id, name FROM requests ORDER BY line, request_id").to_pylist()
    names = [row["name"] or row["request_id"] for row in rows if row["request_id"] in refused]
    shown = ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
    tell(
        f"segue: every take of {_count(len(names), 'request')} was refused: {shown}. To make a new take for each "
        "refused one, run the order again with this file, `--set requests.picks=…`; existing takes stay"
    )


def _quarantined_words(store: "Store", requests: Collection[str] | None) -> str:
    """Return a text on which clips of requests are quarantined, so that nobody waits for them; empty if none is.

    Args:
        requests: ids of the requests that are delivered; None for all.
    """
    from schemas.queries.database import query

    rows = query(
        store,
        "SELECT request_id, coalesce(name, request_id) || '/' || take AS clip FROM quarantine "
        "LEFT JOIN requests USING (request_id) ORDER BY shard, line, request_id, take",
    ).to_pylist()
    clips = [row["clip"] for row in rows if requests is None or row["request_id"] in requests]
    if not clips:
        return ""
    shown = ", ".join(clips[:SHOWN]) + (", …" if len(clips) > SHOWN else "")
    return (
        f"{_count(len(clips), 'clip')} quarantined and not delivered: {shown} "
        '(`segue sql "SELECT request_id, take, reasons FROM quarantine"` says why)'
    )


def check_destination(store: "Store", destination: str) -> None:
    """Check that a store's clips can be delivered to a place, before any clips are made.

    Raises:
        ValueError: the place holds something else.
    """
    from stages.delivery.folder import DeliveryFolder

    DeliveryFolder(destination, store.identity)


def deliver_order(store: "Store", destination: str) -> int:
    """Deliver the clips of a store's order that the views show, as they are and under their usual names. Print what was
    written and return the exit code.

    Raises:
        ValueError: there are no clips, or the destination holds something else.
    """
    from stages.delivery.choosing import choose_clips
    from stages.delivery.making import Form

    chosen = choose_clips(store)
    if not chosen:
        raise ValueError(f"expected clips to deliver to {destination}, got none in the views of {store.url}")
    return _deliver(store, chosen, destination, Form(), None, NAME, prune=False)


def _export_dataset(
    store: "Store",
    chosen: "Sequence[ChosenClip]",
    destination: str,
    tables: Sequence[Literal["tracks", "clips"]],
    references: bool,
) -> int:
    """Write tables as a data set, print what was written, and return the exit code."""
    from stages.delivery.dataset import clip_parts, export_dataset, track_parts

    parts = [
        *(track_parts(store) if "tracks" in tables else ()),
        *(clip_parts(store, chosen) if "clips" in tables else ()),
    ]
    if not parts:
        raise ValueError(f"expected rows of {' or '.join(tables)} in {store.url}, got none")
    with _working() as (progress, check_stopped):
        done = export_dataset(store, parts, destination, references, progress, check_stopped)
    files = f"{_count(done.written, 'file')} written, {done.kept:,} unchanged"
    say(f"{destination}: {files if done.written or done.removed else 'all files unchanged, nothing to write'}")
    for (name, split), rows in sorted(done.rows.items()):
        say(f"    {name}, {split}: {_count(rows, 'row')}")
    for uri, reason in done.failed[:SHOWN]:
        tell(f"segue: {uri}: {reason}")
    if done.failed:
        tell(f"segue: {_count(len(done.failed), 'sound')} could not be read, and their rows are left out")
    return 1 if done.failed else 0


@contextmanager
def _working() -> "Iterator[tuple[Progress, Callable[[], None]]]":
    """Yield an object that shows progress, and a function that raises `Stopped` once a person has asked to stop."""
    from threading import Event

    from rich.console import Console

    from flows.runs.progress import BarProgress, LineProgress
    from flows.runs.stopping import stoppable
    from stages.pipeline.contract import Stopped

    stop, errors = Event(), Console(stderr=True)
    progress = BarProgress(errors) if errors.is_terminal else LineProgress(tell)

    def check_stopped() -> None:
        if stop.is_set():
            raise Stopped("export was asked to stop")

    with stoppable(stop), progress if isinstance(progress, BarProgress) else nullcontext():
        yield progress, check_stopped


def _deliver(
    store: "Store",
    chosen: "Sequence[ChosenClip]",
    destination: str,
    form: "Form",
    signer: "Signer | None",
    name: str,
    prune: bool,
) -> int:
    """Write the delivery, print what was written, and return the exit code."""
    from stages.delivery.delivering import deliver
    from stages.delivery.making import Maker

    with _working() as (progress, check_stopped):
        done = deliver(store, chosen, destination, Maker(store, form, signer), name, prune, progress, check_stopped)
    if done.written or done.removed:
        say(f"{destination}: {_count(done.written, 'clip')} written, {done.kept:,} unchanged")
    elif done.other_files:
        say(f"{destination}: {_count(done.kept, 'clip')} unchanged, the catalog rewritten")
    else:
        say(f"{destination}: {_count(done.kept, 'clip')} unchanged, nothing to write")
    if done.removed:
        say(f"{_count(done.removed, 'clip')} of earlier exports removed")
    if done.left:
        say(f"{_count(len(done.left), 'clip')} of earlier exports not chosen now (--prune removes them):")
        print("\n".join(f"    {file}" for file in done.left[:SHOWN]))
    for file, reason in done.failed[:SHOWN]:
        tell(f"segue: {file}: {reason}")
    if done.failed:
        tell(f"segue: {_count(len(done.failed), 'clip')} could not be delivered")
    return 1 if done.failed else 0


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _signer(
    store: "Store",
    chosen: "Sequence[ChosenClip]",
    form: "Form",
    certificate: str | None,
    key: str | None,
    unsigned: bool,
) -> "Signer | None":
    """Return the signer of files that are in another form than the store's; None if they are not to be signed.

    Raises:
        ValueError: the store's files are signed and these could not be, or the certificate cannot be had.
    """
    from stages.audio.credentials import DEVELOPMENT, FORMATS, Credentials, Signer, identified_credentials
    from stages.delivery.making import Maker

    maker = Maker(store, form)
    changed = [each for each in chosen if maker.form_of(each)]
    signed = {digest for each in changed if (digest := maker.signed_by(each)) is not None}
    if certificate is not None:
        if certificate == DEVELOPMENT and key is not None:
            raise ValueError(f"expected no --key with the development certificate, which has its own, got {key}")
        if certificate != DEVELOPMENT and key is None:
            raise ValueError(f"expected --key, its private key, with --certificate {certificate}, got none")
        return Signer(Credentials(certificate=certificate, key=key))
    if key is not None:
        raise ValueError("expected --certificate with --key, got none")
    if not signed or unsigned:
        return None
    if any(maker.ending(each) not in FORMATS for each in changed):
        raise ValueError(
            f"expected one of {', '.join(FORMATS)} for signed clips, got {form.format}: it needs --unsigned"
        )
    from stages.audio.credentials.certificates import development_place

    if development_place().exists() and signed == {identified_credentials(Credentials()).certificate}:
        return Signer(Credentials())
    raise ValueError(
        "expected --certificate and --key, because a signed clip in another form must be signed again, got none: give "
        "those that the clips were signed with, or --unsigned"
    )


def _request_ids(store: "Store", words: Sequence[str]) -> set[str]:
    """Return the ids of the requests that a command line names by files, ids, beginnings of ids, or names.

    Raises:
        ValueError: a word matches no request, or several.
    """
    from schemas.names import did_you_mean
    from schemas.queries.database import query

    rows = query(store, "SELECT * FROM requests").to_pylist()
    ids = set[str]()
    for word in words:
        if os.path.isfile(word) or "://" in word:
            ids |= _ids_in_file(rows, word)
            continue
        begins = [row for row in rows if len(word) >= SHORTEST_ID and row["request_id"].startswith(word.lower())]
        meant = [row["request_id"] for row in rows if row["name"] == word] or [row["request_id"] for row in begins]
        if len(meant) != 1:
            near = did_you_mean(word, [row["name"] for row in rows if row["name"]])
            unknown = f"{word!r}, which is neither a file nor the id or name of a request{near}"
            raise ValueError(f"expected a request, got {f'{len(meant)} that match {word!r}' if meant else unknown}")
        ids.update(meant)
    return ids


def _ids_in_file(rows: "list[dict[str, object]]", url: str) -> set[str]:
    """Return the ids of the requests that the lines of a file ask for. Only values in the file are compared, since the
    file does not contain the defaults of the store's order."""
    from stages.audio.references import RequestRefused
    from stages.requests.reading import read_requests_file

    ids, unknown = set[str](), []
    for line in read_requests_file(url).lines:
        if isinstance(line.asked, RequestRefused):
            meant = [row for row in rows if line.name is not None and row["name"] == line.name]
        else:
            meant = [row for row in rows if _asks_for(line.asked, row)]
        if not meant:
            unknown.append(f"line {line.number}")
        ids |= {str(row["request_id"]) for row in meant}
    if unknown:
        examples = ", ".join(unknown[:SHOWN])
        raise ValueError(
            f"expected lines of {url} that are in this store's order, got {len(unknown)} that are not: {examples}"
        )
    return ids


PLAIN = ("description", "seconds", "seed", "guidance", "temperature", "top_k", "top_p", "bpm", "key", "title")
"""Columns of a line whose values are repeated in the request's row."""


def _asks_for(line: "RequestLine", row: "dict[str, object]") -> bool:
    """Return whether a row of `requests` may be the request that a line asks for."""
    if line.name is not None:
        return row["name"] == line.name
    return row["name"] is None and all(getattr(line, name) in (None, row[name]) for name in PLAIN)
