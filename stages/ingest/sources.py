"""The sources of recordings: one or several, each a folder, a bucket, a file, or a manifest alone.

A manifest in AudioCraft's form (JSON lines with `path`, gzipped or not) or in lhotse's may itself be named as a source.
It then stands for the recordings that it names, wherever they are. A manifest among a source's recordings only
describes them (see `metadata`).
"""

import os
import posixpath
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from stages.audio.locations import locate, uri_of
from stages.ingest.choosing import Chosen
from stages.ingest.endings import MANIFEST_EXTENSIONS, is_archive, is_recording
from stages.ingest.fields import clean_text
from stages.ingest.listing import LISTED, File, Listing, list_source, sorted_listing, state_of
from stages.ingest.rows import MANIFEST_COLUMN, MetadataRows
from stages.pipeline.contract import Reject


def list_sources(sources: Sequence[str], store: str = "", chosen: Chosen = Chosen()) -> Listing:
    """List several sources as if each were a subfolder of one source, or a file in it, so that the metadata of each
    stays its own. A file that is in two sources is listed once.

    Raises:
        ValueError: there is nothing at one of them, or no recording (an unmounted disk must not empty the tables).
        OSError: the network failed.
    """
    if len(sources) == 1:
        return _list_one(sources[0], store, chosen)
    merged, labels = Listing(), set[str]()
    for source in sources:
        name = PurePosixPath(source.rstrip("/")).name or "source"
        label = next(each for each in (name, *(f"{name}-{number}" for number in range(2, 1_000))) if each not in labels)
        labels.add(label)
        listing = _list_one(source, store, chosen)
        folder = "" if _is_one_file(label, listing) else f"{label}/"
        for merged_files, files in ((merged.recordings, listing.recordings), (merged.metadata, listing.metadata)):
            known = {file.uri for file in merged_files}
            merged_files += [
                file._replace(relative=f"{folder}{file.relative}") for file in files if file.uri not in known
            ]
        rejected = {reject.key for reject in merged.rejects}
        merged.rejects += [reject for reject in listing.rejects if reject.key not in rejected]
        merged.unreadable_folders += listing.unreadable_folders
        for remark in listing.remarks.all():
            examples = [f"{folder}{example}" for example in remark.examples]
            merged.remarks.add_all(remark.what, remark.location, examples, remark.count)
    return sorted_listing(merged)


def _is_one_file(label: str, listing: Listing) -> bool:
    """Return whether a source is a file, or an archive, that its listing names as its label does."""
    names = [file.relative for file in (*listing.recordings, *listing.metadata)]
    return bool(names) and all(name == label or (is_archive(label) and name.startswith(f"{label}/")) for name in names)


def _list_one(source: str, store: str, chosen: Chosen) -> Listing:
    if source.lower().endswith(MANIFEST_EXTENSIONS):
        filesystem, path = locate(os.path.expanduser(source))
        if filesystem.isfile(path):
            return list_manifest(filesystem, path, source, chosen)
    return list_source(source, store, chosen)


def list_manifest(filesystem: AbstractFileSystem, path: str, source: str, chosen: Chosen) -> Listing:
    """List the recordings that a manifest names, and the sidecars beside them. Relative names may start at the
    manifest's folder or at any folder above it, as manifests are written from various working folders. A file that does
    not exist is a reject.

    Raises:
        ValueError: it names no recording.
        OSError: the network failed.
    """
    listing = Listing()
    manifest = _file(filesystem, path, source, PurePosixPath(path).name)
    listing.metadata.append(manifest)
    rows, named = MetadataRows(manifest, MANIFEST_COLUMN), set()
    for name, _ in rows.naming():
        if name in named:
            continue
        named.add(name)
        relative = posixpath.normpath(name).lstrip("/")
        if not is_recording(name):
            listing.unknown(relative)
        elif chosen.excludes_any_part(PurePosixPath(name).name) or not chosen.includes(relative):
            listing.not_included(relative)
        else:
            _enter_named(filesystem, path, source, name, listing)
    if not listing.recordings and not listing.rejects:
        problem = rows.problem or "none with the ending of a recording"
        raise ValueError(f"expected a manifest that names recordings by path as the source, got {source!r}: {problem}")
    return sorted_listing(listing)


def _enter_named(filesystem: AbstractFileSystem, manifest: str, source: str, name: str, listing: Listing) -> None:
    """Enter the recording that a manifest names, and the sidecar beside it, or a reject if there is no such file."""
    relative = posixpath.normpath(name).lstrip("/")
    for owner, path in _candidate_paths(filesystem, manifest, name):
        if owner.isfile(path):
            listing.recordings.append(_file(owner, path, source, relative))
            sidecar = f"{posixpath.splitext(path)[0]}.json"
            if owner.isfile(sidecar):
                listing.metadata.append(_file(owner, sidecar, source, f"{posixpath.splitext(relative)[0]}.json"))
            return
    message = f"expected a recording that the manifest {source!r} names, got no file {name!r}"
    key = clean_text(name)
    listing.rejects.append(Reject(key, key, "missing", clean_text(message), stamp=LISTED))


def _candidate_paths(
    filesystem: AbstractFileSystem, manifest: str, name: str
) -> Iterator[tuple[AbstractFileSystem, str]]:
    """Yield the paths that a name in a manifest may mean, the nearest first."""
    if "://" in name:
        yield locate(name)
        return
    folder = posixpath.dirname(manifest)
    while True:
        yield filesystem, posixpath.normpath(posixpath.join(folder, name))
        if name.startswith("/") or folder in ("", "/") or not isinstance(filesystem, LocalFileSystem):
            return
        folder = posixpath.dirname(folder)


def _file(filesystem: AbstractFileSystem, path: str, source: str, relative: str) -> File:
    state, size = state_of(filesystem, path)
    return File(uri_of(filesystem, path, source), relative, f"{size}-{state}", size)
