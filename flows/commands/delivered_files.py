"""Checksums of deliveries, for `segue verify`; they also cover files without a signature."""

from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from flows.commands.watermarks import Finding


class DeliveredFiles:
    """Looks files up in the checksums of the deliveries that they are in. The checksums of a delivery are read once."""

    def __init__(self) -> None:
        self._digests = dict[Path, Mapping[str, str]]()

    def files(self, folder: Path) -> list[Path]:
        """Return the files that a delivery's checksums list, and any other sound files in its folder.

        Raises:
            ValueError: the folder has no checksums, or they cannot be parsed.
        """
        from stages.delivery.checksums import CHECKSUMS

        try:
            listed = self._of(folder)
        except FileNotFoundError:
            raise ValueError(
                f"expected a delivery, with {CHECKSUMS} in it, got {folder} without it: name its files, or export "
                "again if an export was stopped"
            ) from None
        unlisted = (str(path.relative_to(folder)) for path in folder.rglob("*") if is_sound(path) and path.is_file())
        return [folder / name for name in sorted({*listed, *unlisted})]

    def findings(self, path: Path) -> list[Finding]:
        """Return whether a file matches the checksums in its folder or in the parent folder; empty if there are none.
        Checksums that cannot be parsed give only a note, since they may belong to something else in the folder."""
        from stages.delivery.checksums import CHECKSUMS, file_digest

        path = path.absolute()
        for folder in (path.parent, path.parent.parent):
            try:
                digests = self._of(folder)
            except (FileNotFoundError, NotADirectoryError, PermissionError):
                continue
            except ValueError as error:
                return [Finding("checksum", "note", f"cannot be compared: {error}")]
            place, name = folder / CHECKSUMS, str(path.relative_to(folder).as_posix())
            if name not in digests:
                return [Finding("checksum", "note", f"{place} does not list it: it was added, or delivered earlier")]
            if not path.exists():
                return [Finding("checksum", "fails", f"{place} lists it, but it is missing")]
            digest = file_digest(path)
            if digest == digests[name]:
                return [Finding("checksum", "holds", f"as it was delivered, byte for byte ({place})")]
            words = f"{place} says {digests[name][:12]}…, its bytes give {digest[:12]}…: it was changed since"
            return [Finding("checksum", "fails", words)]
        return []

    def _of(self, folder: Path) -> Mapping[str, str]:
        from stages.delivery.checksums import read_checksums

        if folder not in self._digests:
            self._digests[folder] = read_checksums(folder)
        return self._digests[folder]


def is_sound(path: Path) -> bool:
    """Return whether a file has the extension of a sound file."""
    from stages.audio import AudioFormat

    return path.suffix.lower().removeprefix(".") in get_args(AudioFormat)
