"""Marks: what a file says, in places that machines read, about how its sound was made.

The terms are the IPTC's digital source types (https://cv.iptc.org/newscodes/digitalsourcetype/), which C2PA uses too.
They are written

- in Vorbis comments and ID3: as a URL in the tag `digitalsourcetype`;
- in ID3 and WAV also: in an XMP packet, as the property `Iptc4xmpExt:DigitalSourceType` of the IPTC's photo and video
  standards, at the place that XMP's specification names (part 3, Storage in files: an ID3 frame `PRIV:XMP`, a WAV chunk
  `_PMX`). For FLAC and Ogg it names no place;
- in WAV also: as a comment in the INFO list.
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
"""Name of the tag, in Vorbis comments and in ID3's `TXXX`."""

CREDENTIALS_TAG = "contentcredentials"
"""Name of the tag of a signed file. If a file has this tag but no signature, it was encoded again or stripped."""

WATERMARK_TAG = "watermark"
"""Name of the tag of a file whose samples carry a watermark; its value says whose watermark it is and which message it
holds."""

LONGEST = 2**20
"""Most characters of one tag that are read."""


class SourceType(StrEnum):
    """How a sound was made: a URL in the IPTC's vocabulary."""

    TRAINED = VOCABULARY + "trainedAlgorithmicMedia"
    """Made by a model that was trained on recordings."""
    ALGORITHMIC = VOCABULARY + "algorithmicMedia"
    """Made by an algorithm alone, "not based on any sampled training data"."""


GENERATED = frozenset({"trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia", "compositeSynthetic"})
"""Terms of the vocabulary for sound that a trained model made, in whole or in part."""


@dataclass(frozen=True, order=True)
class Mark:
    """A digital source type that a file names."""

    place: str
    """Where the file names it: `tag`, `XMP`, `INFO` or `C2PA`."""
    term: str
    """The last part of its URL, such as `trainedAlgorithmicMedia`."""

    @property
    def is_generated(self) -> bool:
        """Whether the mark says that a trained model made the sound, or a part of it."""
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
    """Return a WAV file with the mark in its INFO list (as a comment, which most programs show) and as XMP, both after
    the samples."""
    texts = ((b"ICMT", f"Digital source type: {source}"), (b"ISFT", "Segue"))
    information = b"INFO" + b"".join(_chunk(name, text.encode() + b"\0") for name, text in texts)
    data += _chunk(b"LIST", information) + _chunk(b"_PMX", xmp_packet(source))
    return data[:4] + (len(data) - 8).to_bytes(4, "little") + data[8:]


def _chunk(name: bytes, content: bytes) -> bytes:
    """Return a RIFF chunk. Its content is padded to an even length; the padding does not count in its size."""
    return name + len(content).to_bytes(4, "little") + content + b"\0" * (len(content) % 2)


def read_marks(file: IO[bytes]) -> tuple[Mark, ...]:
    """Return the marks in the tags, XMP, INFO and content credentials of an open file, whoever wrote them; empty if
    they cannot be read. Signatures are not checked here."""
    try:
        return tuple(sorted({Mark(place, term) for place, text in _metadata(file) for term in _terms(text)}))
    except Exception:  # broken tags raise many kinds of errors: see `mutagen_tags`
        return ()


def read_own_tags(file: IO[bytes]) -> dict[str, str]:
    """Return the first value of every text tag of an open file, by the tag's name in lower case. ID3's `TXXX` frames
    are named by their descriptions. Broken tags give an empty mapping."""
    try:
        return {name: text for name, text in _texts(mutagen_tags(file))}
    except Exception:  # broken tags
        return {}


def _terms(text: str | bytes) -> list[str]:
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    return re.findall(r"//cv\.iptc\.org/newscodes/digitalsourcetype/(\w+)", text)


def mutagen_tags(file: IO[bytes]) -> Any:
    """Return the tags of an open file as mutagen returns them; an empty mapping if there are none. Broken tags raise
    whatever mutagen's parsers run into: struct errors, index errors, mutagen's own errors."""
    import mutagen
    from mutagen.flac import FLAC
    from mutagen.mp3 import MP3

    # mutagen also goes by file names. It takes a FLAC with an ID3 tag before it, as every signed one has, for an MP3.
    kinds = {"flac": FLAC, "mp3": MP3}
    read = kinds.get(container_of(file), mutagen.File)
    file.seek(0)
    opened = read(file)
    return opened.tags if opened is not None and opened.tags is not None else {}


def _texts(tags: Any) -> Iterator[tuple[str, str]]:
    """Yield the name, in lower case, and the first text of each tag."""
    for name, value in tags.items():
        text = getattr(value, "text", value)
        text = text[0] if isinstance(text, list) and text else text
        if isinstance(text, bytes):
            text = text[:LONGEST].decode("utf-8", "replace")
        if isinstance(text, str):
            yield str(name).lower().removeprefix("txxx:").removeprefix("----:com.apple.itunes:"), text[:LONGEST]


def _metadata(file: IO[bytes]) -> Iterator[tuple[str, str | bytes]]:
    """Yield the texts of a file that may hold marks, each after its place, as in `Mark.place`."""
    tags = mutagen_tags(file)
    for name, text in _texts(tags):
        # Earlier versions of this project wrote `generated = true` in place of a source type.
        yield "tag", SourceType.TRAINED if (name, text) == ("generated", "true") else text
    container = container_of(file)
    yield from _id3_frames(tags if hasattr(tags, "getall") else _leading_id3(file))
    if container == "wav":
        yield from _wav_chunks(file)
    elif container == "mp4":
        yield from _mp4_boxes(file)


def _leading_id3(file: IO[bytes]) -> Any:
    """Return the ID3 tag before a file of another format, where C2PA puts the credentials of a FLAC; None if there is
    none."""
    from mutagen.id3 import ID3, ID3NoHeaderError

    file.seek(0)
    try:
        return ID3(file)
    except ID3NoHeaderError:
        return None


def _id3_frames(tags: Any) -> Iterator[tuple[str, bytes]]:
    """Yield the XMP and content credentials in ID3 frames (C2PA 2.2, A.3.4: a general object)."""
    if tags is None:
        return
    for frame in tags.getall("PRIV"):
        if frame.owner == "XMP":
            yield "XMP", frame.data
    for frame in tags.getall("GEOB"):
        if "c2pa" in frame.mime:
            yield "C2PA", frame.data


def _wav_chunks(file: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    """Yield the XMP, INFO list and content credentials of a WAV."""
    from stages.audio.surveys.chunks import riff_files

    places = {b"_PMX": "XMP", b"LIST": "INFO", b"C2PA": "C2PA"}
    for chunk in (chunk for riff in riff_files(file) for chunk in riff.chunks if chunk.name in places):
        file.seek(chunk.start)
        yield places[chunk.name], file.read(chunk.present)


def _mp4_boxes(file: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    """Yield the XMP and content credentials of an MP4, which are boxes of type `uuid`."""
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
