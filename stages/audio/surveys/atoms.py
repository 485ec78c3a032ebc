"""MP4, ASF, CAF, W64 and AU: formats made of atoms, objects or chunks with a length in their headers.

Their surveys look only for what decoders ignore silently: a file that was cut, and further files that follow in the
same one."""

from dataclasses import dataclass
from itertools import pairwise
from typing import IO

from stages.audio.locations import AudioError
from stages.audio.splicing import Span
from stages.audio.surveys.layout import Layout, Part
from stages.audio.tolerances import JUNK_BYTES, MISSING_BYTES, RESTORE

ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
W64_HEADER = bytes.fromhex("726966662e91cf11a5d628db04c10000")


@dataclass(frozen=True)
class Atom:
    """An atom of an MP4 (ISO 14496-12, 4.2), or its counterpart in another container."""

    name: bytes
    position: int
    """Where its header starts."""
    start: int
    """Where its content starts."""
    end: int
    """Where it ends by its own header, which may be after the end of the file."""


def mp4_atoms(file: IO[bytes], size: int) -> list[Atom]:
    """Return the atoms of an MP4, up to the first bytes that are not an atom."""
    atoms, position = [], 0
    while position + 8 <= size:
        file.seek(position)
        header = file.read(16)
        length, start = int.from_bytes(header[:4], "big"), position + 8
        if length == 1:
            length, start = int.from_bytes(header[8:16], "big"), position + 16
        elif length == 0:
            length = size - position
        if length < 8:
            break
        atoms.append(Atom(header[4:8], position, start, position + length))
        position += length
    return atoms


def asf_objects(file: IO[bytes], size: int) -> list[Atom]:
    """Return the objects of an ASF (section 2 of its specification), up to the first bytes that are not an object."""
    objects, position = [], 0
    while position + 24 <= size:
        file.seek(position)
        header = file.read(24)
        length = int.from_bytes(header[16:24], "little")
        if length < 24:
            break
        objects.append(Atom(header[:16], position, position + 24, position + length))
        position += length
    return objects


def survey_mp4(file: IO[bytes]) -> Layout:
    """Look for a cut and for further files in an MP4.

    Raises:
        AudioError: the index is missing, or the file was cut short.
    """
    size = file.seek(0, 2)
    atoms = mp4_atoms(file, size)
    if atoms and not any(atom.name in (b"moov", b"moof") for atom in atoms):
        last = atoms[-1]
        name = last.name.decode("latin-1")
        got = f"a file that ends after {size - last.position:,} of the {last.end - last.position:,} bytes of {name!r}"
        raise AudioError(
            "truncated", f"expected an MP4 with its index ('moov'), got {got}: it was cut short; {RESTORE}"
        )
    return _layout(atoms, size, b"ftyp")


def survey_asf(file: IO[bytes]) -> Layout:
    """Look for a cut and for further files in an ASF.

    Raises:
        AudioError: there is no data object, or the file was cut short.
    """
    size = file.seek(0, 2)
    objects = asf_objects(file, size)
    if not any(each.name == ASF_DATA for each in objects):
        raise AudioError("truncated", f"expected ASF's data object, got the end of the file before it; {RESTORE}")
    return _layout(objects, size, ASF_HEADER)


def survey_caf(file: IO[bytes]) -> Layout:
    """Look for a cut and for further files in a CAF.

    Raises:
        AudioError: the file was cut short.
    """
    size, atoms, position = file.seek(0, 2), list[Atom](), 0
    while position + 12 <= size:
        file.seek(position)
        header = file.read(12)
        name, length = header[:4], int.from_bytes(header[4:], "big", signed=True)
        # A length of -1 means samples up to the end of the file. The file's own header has a version in its place.
        length = -4 if name == b"caff" else size - position - 12 if length == -1 else length
        if length < (-4 if name == b"caff" else 0) or not name.isascii():
            break
        atoms.append(Atom(name, position, position + 12, position + 12 + length))
        position += 12 + length
    return _layout(atoms, size, b"caff")


def survey_w64(file: IO[bytes]) -> Layout:
    """Look for a cut and for further files in a W64. Its chunks have a GUID and a length that includes the header, and
    are padded to a multiple of 8 bytes.

    Raises:
        AudioError: the file was cut short.
    """
    size, atoms, position = file.seek(0, 2), list[Atom](), 0
    while position + 24 <= size:
        file.seek(position)
        header = file.read(24)
        length = 40 if header[:16] == W64_HEADER else int.from_bytes(header[16:], "little")
        if length < 24:
            break
        atoms.append(Atom(header[:16], position, position + 24, position + length))
        position += length + -length % 8
    return _layout(atoms, size, W64_HEADER)


def survey_au(file: IO[bytes]) -> Layout:
    """Look for a cut and for further files in an AU.

    Raises:
        AudioError: the file was cut short.
    """
    size, atoms, position = file.seek(0, 2), list[Atom](), 0
    while position + 24 <= size:
        file.seek(position)
        header = file.read(12)
        if header[:4] != b".snd":
            break
        start, length = (int.from_bytes(header[offset : offset + 4], "big") for offset in (4, 8))
        end = size if length == 2**32 - 1 else position + start + length
        if start < 24:
            break
        atoms.append(Atom(b".snd", position, position + start, end))
        position = end
    return _layout(atoms, size, b".snd")


def _layout(atoms: list[Atom], size: int, beginning: bytes) -> Layout:
    """Return the layout of a file with these atoms. `beginning` is the name of the atom that begins a file.

    Raises:
        AudioError: the last atom is cut short.
    """
    starts = [atom.position for atom in atoms if atom.name == beginning][1:]
    remarks = []
    last = atoms[-1] if atoms else None
    if last is not None and last.end > size:
        claimed, present = last.end - last.position, size - last.position
        lengths = f"expected {claimed:,} bytes in its last part by the header, got {present:,}"
        if claimed - present > MISSING_BYTES * claimed:
            raise AudioError("truncated", f"{lengths}: it was cut short; {RESTORE}")
        remarks.append(f"{lengths}: used what is there")
    elif last is not None and size - last.end > JUNK_BYTES:
        remarks.append(f"expected nothing after the container, got {size - last.end:,} other bytes: ignored")
    if not starts:
        return Layout(remarks=tuple(remarks))
    remarks.append(f"expected one recording, got {len(starts) + 1} joined in one file: read as one, end to end")
    bounds = [0, *starts, size]
    return Layout(tuple(Part((Span(a, b),)) for a, b in pairwise(bounds)), tuple(remarks))
