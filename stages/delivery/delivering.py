"""Delivering clips: what the folder should hold, which of it exists, and what is made and written.

Clips are written first, then the catalog of the clips that exist, then the checksums of everything. So an export that
is killed leaves whole files, and the next export writes those that are missing.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from schemas import Store
from stages.delivery.catalog import card, catalog_csv, catalog_json, catalog_row, metadata_csv
from stages.delivery.checksums import CHECKSUMS, checksums
from stages.delivery.choosing import ChosenClip
from stages.delivery.folder import DeliveredFile, DeliveryFolder
from stages.delivery.making import Maker
from stages.delivery.naming import clip_names
from stages.delivery.page import render_page
from stages.pipeline.contract import Progress
from stages.pipeline.cores import available_cores
from stages.pipeline.workers import map_in_order

AT_ONCE = 4
"""The least number of files in work at once. Most of the time is spent waiting for the disk or the network."""


@dataclass
class Delivery:
    """The result of an export."""

    written: int = 0
    """How many clips were written."""
    kept: int = 0
    """How many clips existed already."""
    other_files: int = 0
    """How many other files were written: catalog, checksums, page."""
    failed: list[tuple[str, str]] = field(default_factory=list)
    """Clips that could not be made: their path in the folder, and the reason."""
    left: list[str] = field(default_factory=list)
    """Files of earlier exports that are no longer chosen, but are kept."""
    removed: int = 0
    """How many such files were removed."""


def deliver(
    store: Store,
    chosen: Sequence[ChosenClip],
    url: str,
    maker: Maker,
    template: str,
    prune: bool = False,
    progress: Progress | None = None,
    check_stopped: Callable[[], None] = lambda: None,
) -> Delivery:
    """Write clips to a folder, with their catalog. Files that exist with the same content are not written again.

    Args:
        url: a local folder or any fsspec URL.
        template: the template of the clips' names (`stages.delivery.naming`).
        prune: whether to remove files of earlier exports that are no longer chosen.

    Raises:
        ValueError: the folder holds something else, or a clip cannot have the form that is asked for.
    """
    names = [
        f"clips/{name}.{maker.ending(each)}" for each, name in zip(chosen, clip_names(chosen, template), strict=True)
    ]
    forms = [maker.form_of(each) for each in chosen]
    folder, delivery, delivered = DeliveryFolder(url, store.identity), Delivery(), dict[str, DeliveredFile]()
    wanted = list(zip(names, chosen, forms, strict=True))
    missing = []
    for name, each, form in wanted:
        known = folder.delivered.get(name)
        if known and (known.source, known.form) == (each.clip["sha256"], form) and folder.holds(known):
            delivered[name] = known
        else:
            missing.append((name, each))
    delivery.kept = len(delivered)
    if missing:
        folder.begin()

    def make(item: tuple[str, ChosenClip]) -> tuple[DeliveredFile, bool] | str:
        name, each = item
        try:
            data, file = maker.make(each, name)
        except FileNotFoundError:
            return f"expected {each.clip['path']} in the store, got nothing there: `segue run decode` makes it again"
        except ValueError as error:
            return str(error)
        return file, folder.write(name, data)

    if missing and progress:
        progress.start("export", len(missing), "clips")
    threads = max(AT_ONCE, available_cores())
    try:
        for (name, _), result in map_in_order(make, missing, threads, 2 * threads, check_stopped):
            if isinstance(result, str):
                delivery.failed.append((name, result))
            else:
                file, is_new = result
                delivered[name] = file
                folder.remember(file)
                delivery.written, delivery.kept = delivery.written + is_new, delivery.kept + (not is_new)
            if progress:
                progress.advance()
    finally:
        if missing:
            folder.write_note()
    _clear(folder, set(names), prune, delivery)
    _write_catalog(folder, [(each, delivered[name]) for name, each, _ in wanted if name in delivered], maker, delivery)
    return delivery


def _clear(folder: DeliveryFolder, names: set[str], prune: bool, delivery: Delivery) -> None:
    """Find the files of earlier exports that are no longer chosen, and remove them if that is asked for."""
    obsolete = [name for name in sorted(folder.delivered) if name not in names]
    for name in obsolete if prune else ():
        folder.remove(name)
        delivery.removed += 1
    delivery.left = [] if prune else obsolete


def _write_catalog(
    folder: DeliveryFolder, clips: Sequence[tuple[ChosenClip, DeliveredFile]], maker: Maker, delivery: Delivery
) -> None:
    """Write the files that describe the delivered clips, then the checksums of everything."""
    rows = [catalog_row(each, file, maker.licences(each.clip["checkpoint_id"])) for each, file in clips]
    files = {
        "metadata.csv": metadata_csv(rows),
        "catalog.csv": catalog_csv(rows),
        "catalog.json": catalog_json(rows),
        "README.md": card(rows),
        "index.html": render_page(rows),
    }
    digests = {file.file: file.sha256 for _, file in clips}
    digests |= {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    for name, data in (files | {CHECKSUMS: checksums(digests)}).items():
        delivery.other_files += folder.write(name, data)
    folder.write_note()
