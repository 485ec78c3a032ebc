"""Marks: what a file says, where machines read it, of how its sound came to be.

The words are the IPTC's digital source types (https://cv.iptc.org/newscodes/digitalsourcetype/), which C2PA uses too.
Vorbis comments and ID3 hold the address in a tag `digitalsourcetype`; ID3 and WAV also hold an XMP packet with the
property of the IPTC's photo and video standards, `Iptc4xmpExt:DigitalSourceType`, where XMP's specification puts it
(part 3, Storage in files: an ID3 frame `PRIV:XMP`, a WAV chunk `_PMX`), and WAV a comment in its INFO list. XMP names
no place in FLAC and Ogg.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import IO, Any
from xml.sax.saxutils import quoteattr

from stages.audio.containers import container_of

VOCABULARY = "http://cv.iptc.org/newscodes/digitalsourcetype/"

TAG = "digitalsourcetype"
"""The name of the tag, in Vorbis comments and in ID3's `TXXX`."""

CREDENTIALS_TAG = "contentcredentials"
"""The tag of a file that was signed: without a signature, such a file was encoded again or stripped."""

WATERMARK_TAG = "watermark"
"""The tag of a file whose samples carry a watermark, which says whose and with which message."""

LONGEST = 2**20
"""Characters of one tag that are looked at."""


class SourceType(StrEnum):
    """How a sound came to be, by its address in the IPTC's vocabulary."""

    TRAINED = VOCABULARY + "trainedAlgorithmicMedia"
    """Made by a model that was trained on recordings."""
    ALGORITHMIC = VOCABULARY + "algorithmicMedia"
    """Made by an algorithm alone, "not based on any sampled training data"."""


GENERATED = frozenset({"trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia", "compositeSynthetic"})
"""The terms of the vocabulary for what a trained model made, whole or in part."""


@dataclass(frozen=True, order=True)
class Mark:
    """A digital source type that a file names."""

    place: str
    """Where it stands: `tag`, `XMP`, `INFO` or `C2PA`."""
    term: str
    """The last part of its address, such as `trainedAlgorithmicMedia`."""

    @property
    def is_generated(self) -> bool:
        """Whether it says that a trained model made the sound, or a part of it."""
        return self.term in GENERATED


def xmp_packet(source: SourceType) -> bytes:
    """Return the XMP packet (ISO 16684-1) that names a source type."""
    properties = f"Iptc4xmpExt:DigitalSourceType={quoteattr(source)} xmp:CreatorTool='Segue'"
    return (
        "<?xpacket begin='\ufeff' id='W5M0MpCehiHzreSzNTczkc9d'?>"
        "<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>"
        "<rdf:Description rdf:about='' xmlns:xmp='http://ns.adobe.com/xap/1.0/'"
        f" xmlns:Iptc4xmpExt='http://iptc.org/std/Iptc4xmpExt/2008-02-29/' {properties}/>"
        "</rdf:RDF></x:xmpmeta><?xpacket end='r'?>"
    ).encode()


def with_wav_marks(data: bytes, source: SourceType) -> bytes:
    """Return a WAV file with the mark in its INFO list (a comment, which most programs show) and as XMP, both behind
    the samples."""
    texts = ((b"ICMT", f"Digital source type: {source}"), (b"ISFT", "Segue"))
    information = b"INFO" + b"".join(_chunk(name, text.encode() + b"\0") for name, text in texts)
    data += _chunk(b"LIST", information) + _chunk(b"_PMX", xmp_packet(source))
    return data[:4] + (len(data) - 8).to_bytes(4, "little") + data[8:]


def _chunk(name: bytes, content: bytes) -> bytes:
    """Return a RIFF chunk; its content is padded to even length, which its size does not count."""
    return name + len(content).to_bytes(4, "little") + content + b"\0" * (len(content) % 2)


def read_marks(file: IO[bytes]) -> tuple[Mark, ...]:
    """Return the marks of an open file, in its tags, XMP, INFO and content credentials, whoever wrote them; none where
    they cannot be read. Whether a signature holds is not asked here."""
    try:
        return tuple(sorted({Mark(place, term) for place, text in _metadata(file) for term in _terms(text)}))
    except Exception:  # broken tags: see `mutagen_tags`
        return ()


def read_own_tags(file: IO[bytes]) -> dict[str, str]:
    """Return the first value of every text tag of an open file by its name in lower case, ID3's own `TXXX` by their
    descriptions."""
    try:
        return {name: text for name, text in _texts(mutagen_tags(file))}
    except Exception:  # broken tags
        return {}


def _terms(text: str | bytes) -> list[str]:
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    return re.findall(r"//cv\.iptc\.org/newscodes/digitalsourcetype/(\w+)", text)


def mutagen_tags(file: IO[bytes]) -> Any:
    """Return the tags of an open file as mutagen gives them, an empty mapping where there are none. Broken ones raise
    whatever mutagen's parsers run into: struct errors, index errors, their own."""
    import mutagen
    from mutagen.flac import FLAC
    from mutagen.mp3 import MP3

    # mutagen goes by names too, and takes a FLAC that begins with ID3, as every signed one does, for an MP3.
    kinds = {"flac": FLAC, "mp3": MP3}
    read = kinds.get(container_of(file), mutagen.File)
    file.seek(0)
    opened = read(file)
    return opened.tags if opened is not None and opened.tags is not None else {}


def _texts(tags: Any) -> Iterator[tuple[str, str]]:
    for name, value in tags.items():
        text = getattr(value, "text", value)
        text = text[0] if isinstance(text, list) and text else text
        if isinstance(text, bytes):
            text = text[:LONGEST].decode("utf-8", "replace")
        if isinstance(text, str):
            yield str(name).lower().removeprefix("txxx:").removeprefix("----:com.apple.itunes:"), text[:LONGEST]


def _metadata(file: IO[bytes]) -> Iterator[tuple[str, str | bytes]]:
    """Yield the texts of a file that may hold marks, each with the place where it stands."""
    tags = mutagen_tags(file)
    for name, text in _texts(tags):
        # What this project wrote before it wrote source types.
        yield "tag", SourceType.TRAINED if (name, text) == ("generated", "true") else text
    container = container_of(file)
    yield from _id3_frames(tags if hasattr(tags, "getall") else _leading_id3(file))
    if container == "wav":
        yield from _wav_chunks(file)
    elif container == "mp4":
        yield from _mp4_boxes(file)


def _leading_id3(file: IO[bytes]) -> Any:
    """Return the ID3 tag before a file of another format, where C2PA puts the credentials of a FLAC."""
    from mutagen.id3 import ID3, ID3NoHeaderError

    file.seek(0)
    try:
        return ID3(file)
    except ID3NoHeaderError:
        return None


def _id3_frames(tags: Any) -> Iterator[tuple[str, bytes]]:
    """Yield XMP and content credentials in ID3 (C2PA 2.2, A.3.4: a general object)."""
    if tags is None:
        return
    for frame in tags.getall("PRIV"):
        if frame.owner == "XMP":
            yield "XMP", frame.data
    for frame in tags.getall("GEOB"):
        if "c2pa" in frame.mime:
            yield "C2PA", frame.data


def _wav_chunks(file: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    """Yield XMP, the INFO list and content credentials of a WAV."""
    from stages.audio.surveys.chunks import riff_files

    places = {b"_PMX": "XMP", b"LIST": "INFO", b"C2PA": "C2PA"}
    for chunk in (chunk for riff in riff_files(file) for chunk in riff.chunks if chunk.name in places):
        file.seek(chunk.start)
        yield places[chunk.name], file.read(chunk.present)


def _mp4_boxes(file: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    """Yield XMP and content credentials of an MP4: boxes with an identity of their own."""
    from stages.audio.surveys.atoms import mp4_atoms

    places = {
        bytes.fromhex("be7acfcb97a942e89c71999491e3afac"): "XMP",
        bytes.fromhex("d8fec3d61b0e483c92975828877ec481"): "C2PA",
    }
    size = file.seek(0, 2)
    for atom in mp4_atoms(file, size):
        if atom.name == b"uuid":
            file.seek(atom.start)
            content = file.read(min(atom.end, size) - atom.start)
            if content[:16] in places:
                yield places[content[:16]], content
