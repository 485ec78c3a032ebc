"""Watermarks that `segue verify` finds in a file; they survive changes that remove tags and signatures."""

import re
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from schemas import Store
    from stages.networks.audioseal import Detection, WatermarkDetector


@dataclass(frozen=True)
class Finding:
    """The result of checking one claim of a file."""

    subject: str
    """`checksum`, `file`, `marks`, `signature`, `claim`, `row`, `sound`, `codes`, `render` or `watermark`."""
    verdict: Literal["holds", "fails", "note"]
    words: str


class WatermarkSearch:
    """Looks for watermarks in files.

    Args:
        detector: a reference to the network that finds watermarks. None takes the network that looked through the
            store's clips, if a store is given and has such a network.
        store: the store whose detector is taken if none is named.
    """

    def __init__(self, detector: str | None, store: "Store | None") -> None:
        self._given, self._store = detector, store

    def findings(self, path: Path) -> list[Finding]:
        """Return whether a file carries the watermark that its tags name, or one that they do not name. Empty if there
        is no detector and the tags name none.

        Raises:
            ValueError: the weights are not a detector, or cannot be had.
        """
        from stages.audio.marks import WATERMARK_TAG, read_own_tags

        with path.open("rb") as file:
            claim = read_own_tags(file).get(WATERMARK_TAG)
        if self._detector is not None:
            return [_finding(claim, self._detect(path, self._detector))]
        if claim is None:
            return []
        words = f"its tags name one ({claim}), which was not checked: name its detector by --watermark"
        return [Finding("watermark", "note", words)]

    @cached_property
    def _detector(self) -> "WatermarkDetector | None":
        reference = self._given or self._of_store()
        if reference is None:
            return None
        from flows.runs.output import be_quiet

        be_quiet()  # before anything imports transformers, which looks only once
        from schemas import Store, WeightsRef
        from schemas.weights import WeightsLibrary
        from stages.networks.audioseal import load_watermark_detector  # imports torch, which most files do not need

        with tempfile.TemporaryDirectory() as empty_store:
            # A detector named on the command line is looked up once, and no store records it.
            library = WeightsLibrary(self._store if self._given is None and self._store else Store(empty_store))
            return load_watermark_detector(library.get(WeightsRef(reference)).path)

    def _of_store(self) -> str | None:
        """Return the name of the detector behind the published version of the table `watermarks`; None if there is
        none."""
        if self._store is None:
            return None
        from schemas.storage.publications import Publications
        from schemas.storage.versions import Versions
        from schemas.tables import WATERMARKS

        shown, versions = Publications(self._store).shown().get(WATERMARKS.name), Versions(self._store)
        version = versions.all.get(shown.versions[WATERMARKS.name]) if shown else None
        return versions.reference(version.config["mark"]["detector"]["weights"]) if version else None

    @staticmethod
    def _detect(path: Path, detector: "WatermarkDetector") -> "Detection":
        import soundfile

        samples, rate = soundfile.read(str(path), dtype="float32", always_2d=True)
        return detector.detect(samples.T, rate)


def _finding(claim: str | None, detection: "Detection") -> Finding:
    """Compare the watermark that the tags name with the one that was detected."""
    share = f"{detection.score:.0%} of the samples"
    named = re.fullmatch(r"AudioSeal ([0-9a-f]{4})", claim or "")
    if not detection.found:
        if claim is None:
            return Finding("watermark", "note", f"none was found ({share})")
        return Finding("watermark", "fails", f"its tags name one ({claim}), but none was found ({share})")
    bits = len(detection.bits)
    if named is None:
        return Finding("watermark", "holds", f"found in {share}, with the message {detection.message:04x}")
    message = int(named[1], 16)
    right = detection.bits_right(message) if message < 2**bits else 0
    words = f"found in {share}, {right} of {bits} bits of the message {message:04x} are right"
    # At least 13 of 16 bits are right by chance once in a hundred.
    return Finding("watermark", "holds" if right >= round(0.8 * bits) else "fails", words)
