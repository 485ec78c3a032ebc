"""Which recording a name in metadata means.

A name is compared as it is written first. Where that fits nothing, other forms of it are tried, each looser than the
one before: Unicode normal form, separators, case, the ending. In each form a recording fits where the name leads to it
from the metadata's folder, or else where the last parts of one are the other (as tables are written from some other
working folder, or on another disk). One that fits alone is meant, and the match says how; of two, neither is.
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
    """Return text in one Unicode form: disks of Apple's decompose letters, editors compose them."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def with_slashes(name: str) -> str:
    """Return a name with `/` between its parts and without a drive's letter."""
    return re.sub(r"^[A-Za-z]:/", "/", normal_form(name).replace("\\", "/"))


def caseless(name: str) -> str:
    return with_slashes(name).casefold()


def without_ending(name: str) -> str:
    """Return a name without the ending of a recording; another one belongs to the name."""
    plain = caseless(name)
    stem, _, ending = plain.rpartition(".")
    return stem if stem and ending in AUDIO_EXTENSIONS else plain


class Form(NamedTuple):
    """A form in which names are compared."""

    of: Callable[[str], str]
    difference: str
    """How names that are equal in no stricter form differ."""


FORMS = (
    Form(str, ""),
    Form(normal_form, "Unicode form"),
    Form(with_slashes, "separators"),
    Form(caseless, "case"),
    Form(without_ending, "ending"),
)
"""From the strictest to the loosest; names that are equal in one are equal in all that follow."""


class Match(NamedTuple):
    """What a name means."""

    recording: File | None
    """None: nothing, or one of several."""
    how: str = ""
    """A remark, where the name is not the recording's own."""


NOTHING = Match(None, "rows that name no recording")
SEVERAL = Match(None, "rows whose name fits several recordings, and so none")


class RecordingNames:
    """The recordings of a source, to be found by name."""

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
            differs = f"names that differ in {form.difference}, matched all the same" if form.difference else ""
            for fitting, how in (
                (_in_place(name, folder, candidates, form.of, everywhere), differs),
                (_by_last_parts(name, folder, candidates, form.of), "names matched by their last parts alone"),
            ):
                if len(fitting) == 1:
                    return Match(fitting[0], "" if everywhere and form is FORMS[0] else how)
                if fitting:
                    return SEVERAL
        return NOTHING

    def find_stem(self, stem: str) -> Match:
        """Return the recording that a sidecar describes by its own name, of which `stem` is left without its ending:
        in the same folder, one whose name but for its ending is the same."""
        candidates = self._by_base.get(_base(stem), [])
        for form in FORMS[1:-1]:
            wanted = form.of(stem)
            fitting = [each for each in candidates if wanted in (form.of(each.relative), form.of(_stem(each)))]
            if len(fitting) == 1:
                return Match(fitting[0], f"sidecars whose names differ in {form.difference}, matched all the same")
            if fitting:
                break
        return NOTHING


def _in_place(
    name: str, folder: str, candidates: Iterable[File], form: Callable[[str], str], everywhere: bool
) -> list[File]:
    """Return the recordings that a name leads to from its folder, or (everywhere) from the source, or by itself."""
    written = form(name)
    places = {_joined(form(folder), written)} | ({posixpath.normpath(written)} if everywhere else set())
    return [each for each in candidates if form(each.relative) in places or form(each.uri) == written]


def _by_last_parts(name: str, folder: str, candidates: Iterable[File], form: Callable[[str], str]) -> list[File]:
    """Return the recordings whose full name ends with the name; of an absolute name, those whose path under the
    folder or the source it ends with, the longest."""
    written = form(name)
    if not written.startswith("/") and "://" not in written:
        ending = "/" + posixpath.normpath(written).lstrip("./")
        # The URI of a member of an archive ends with the archive's name.
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
