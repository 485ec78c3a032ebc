"""Matching: which recording a name in metadata means.

A name is first compared as it is written. If it fits nothing, looser forms of it are tried one after the other: Unicode
normal form, separators, case, the ending. In each form there are two ways to fit. Either the name leads to the
recording from the metadata's folder. Or, since tables are also written from another working folder or on another disk,
the last parts of one path are the other path. If exactly one recording fits, it is meant, and the match says how it was
found; if several fit, none is.
"""

import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import NamedTuple

from stages.ingest.endings import AUDIO_EXTENSIONS
from stages.ingest.listing import File


def normal_form(text: str) -> str:
    """Return text in one Unicode form, since Apple's file systems decompose letters and editors compose them."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def with_slashes(name: str) -> str:
    """Return a name with `/` between its parts and without a drive's letter."""
    return re.sub(r"^[A-Za-z]:/", "/", normal_form(name).replace("\\", "/"))


def caseless(name: str) -> str:
    return with_slashes(name).casefold()


def without_ending(name: str) -> str:
    """Return a name without the ending of a recording; any other ending belongs to the name."""
    plain = caseless(name)
    stem, _, ending = plain.rpartition(".")
    return stem if stem and ending in AUDIO_EXTENSIONS else plain


class Form(NamedTuple):
    """A form in which names are compared."""

    of: Callable[[str], str]
    difference: str
    """In what names differ if they are equal in this form but in no stricter one."""


FORMS = (
    Form(str, ""),
    Form(normal_form, "Unicode form"),
    Form(with_slashes, "separators"),
    Form(caseless, "case"),
    Form(without_ending, "ending"),
)
"""From the strictest to the loosest; names that are equal in one form are equal in all later ones."""


class Match(NamedTuple):
    """The recording that a name means."""

    recording: File | None
    """None if no recording fits, or several do."""
    how: str = ""
    """A remark on how the name was matched, or why it was not; empty for an exact match."""


NOTHING = Match(None, "rows that name no recording")
SEVERAL = Match(None, "rows with a name that fits several recordings; ignored")


class RecordingNames:
    """Finds the recordings of a source by name."""

    def __init__(self, recordings: Sequence[File]) -> None:
        self.recordings = recordings

    @cached_property
    def by_path(self) -> dict[str, File]:
        """The recordings by their path under the source."""
        return {recording.relative: recording for recording in self.recordings}

    @cached_property
    def _by_base(self) -> dict[str, list[File]]:
        """The recordings by the last part of their names, in the loosest form."""
        grouped = defaultdict(list)
        for recording in self.recordings:
            grouped[_base(recording.relative)].append(recording)
        return grouped

    def find(self, name: str, folder: str, everywhere: bool) -> Match:
        """Return the recording that a name means.

        Args:
            folder: where the metadata lies, under the source; empty for the source itself.
            everywhere: whether the metadata describes recordings outside its folder too, as manifests do.
        """
        exact = self.by_path.get(_joined(folder, name))
        if exact is not None:
            return Match(exact)
        candidates = self._by_base.get(_base(name), [])
        if not everywhere and folder:
            candidates = [each for each in candidates if each.relative.startswith(f"{folder}/")]
        for form in FORMS if candidates else ():
            differs = f"names matched although they differ in {form.difference}" if form.difference else ""
            for fitting, how in (
                (_in_place(name, folder, candidates, form.of, everywhere), differs),
                (
                    _by_last_parts(name, folder, candidates, form.of),
                    "names matched only by the last parts of their paths",
                ),
            ):
                if len(fitting) == 1:
                    return Match(fitting[0], "" if everywhere and form is FORMS[0] else how)
                if fitting:
                    return SEVERAL
        return NOTHING

    def find_stem(self, stem: str) -> Match:
        """Return the recording that a sidecar describes by its own name: the only one in the same folder whose name
        equals `stem`, with or without its ending, in one of the looser forms.

        Args:
            stem: the sidecar's path without its ending.
        """
        candidates = self._by_base.get(_base(stem), [])
        for form in FORMS[1:-1]:
            wanted = form.of(stem)
            fitting = [each for each in candidates if wanted in (form.of(each.relative), form.of(_stem(each)))]
            if len(fitting) == 1:
                return Match(fitting[0], f"sidecars matched although their names differ in {form.difference}")
            if fitting:
                break
        return NOTHING


def _in_place(
    name: str, folder: str, candidates: Iterable[File], form: Callable[[str], str], everywhere: bool
) -> list[File]:
    """Return the recordings that a name leads to from its folder, or that have it as URI; with `everywhere` also those
    that it leads to from the source."""
    written = form(name)
    places = {_joined(form(folder), written)} | ({posixpath.normpath(written)} if everywhere else set())
    return [each for each in candidates if form(each.relative) in places or form(each.uri) == written]


def _by_last_parts(name: str, folder: str, candidates: Iterable[File], form: Callable[[str], str]) -> list[File]:
    """Return the recordings whose full path ends with the name. For an absolute name the reverse holds: return those
    whose path, under the folder or the source, is the longest that the name ends with."""
    written = form(name)
    if not written.startswith("/") and "://" not in written:
        ending = "/" + posixpath.normpath(written).lstrip("./")
        # Relative paths too, since the URI of a member of an archive ends with the archive's name.
        full_names = [(each, (form(each.uri), f"/{form(each.relative)}")) for each in candidates]
        return [each for each, names in full_names if any(name.endswith(ending) for name in names)]
    fitting: dict[int, list[File]] = defaultdict(list)
    for each in candidates:
        paths = {form(each.relative), form(each.relative.removeprefix(f"{folder}/"))}
        lengths = [len(path) for path in paths if written.endswith("/" + path)]
        if lengths:
            fitting[max(lengths)].append(each)
    return fitting[max(fitting)] if fitting else []


def _joined(folder: str, name: str) -> str:
    return posixpath.normpath(posixpath.join(folder, name))


def _base(name: str) -> str:
    return posixpath.basename(without_ending(name))


def _stem(recording: File) -> str:
    return posixpath.splitext(recording.relative)[0]
