"""A file's own tags. mutagen reads ID3 in MP3, WAV and AIFF, Vorbis comments, MP4 atoms, ASF and APE. If it finds none,
APEv2 tags at the end of any file count, and then what libsndfile reads (INFO chunks in WAV and similar)."""

from collections.abc import Iterable
from typing import IO, Any

from stages.audio.marks import LONGEST, mutagen_tags
from stages.ingest.fields import Fields, read_fields

NAMES = {
    "title": ("tit2", "title", "\xa9nam"),
    "artist": ("tpe1", "artist", "\xa9art", "author"),
    "artists": ("artists", "txxx:artists", "----:com.apple.itunes:artists", "wm/artists"),
    "album": ("talb", "album", "\xa9alb", "wm/albumtitle"),
    "genre": ("tcon", "genre", "\xa9gen", "gnre", "wm/genre"),
    "moods": ("tmoo", "mood", "moods", "txxx:mood", "wm/mood", "----:com.apple.itunes:mood"),
    "keywords": ("keywords", "txxx:keywords", "keyw", "----:com.apple.itunes:keywords"),
    "instrument": ("instrument", "txxx:instrument", "----:com.apple.itunes:instrument"),
    "bpm": ("tbpm", "bpm", "txxx:bpm", "tempo", "tmpo", "wm/beatsperminute", "beats per minute"),
    "key": (
        *("tkey", "key", "initialkey", "initial key", "txxx:initialkey", "txxx:key", "wm/initialkey"),
        "----:com.apple.itunes:initialkey",
    ),
    "description": ("description", "txxx:description", "desc", "comment", "comm", "\xa9cmt"),
    "licence": ("license", "licence", "txxx:license", "copyright", "tcop", "cprt"),
    "lyrics": ("uslt", "lyrics", "unsyncedlyrics", "unsynced lyrics", "txxx:lyrics", "\xa9lyr", "wm/lyrics"),
    "replay_gain": (
        *("replaygain_track_gain", "txxx:replaygain_track_gain"),
        "----:com.apple.itunes:replaygain_track_gain",
    ),
}
"""The tags that may hold each field, in lower case, by precedence. A comment that has a description of its own was
written by some program (`iTunNORM`) and is ignored."""


def read_tags(file: IO[bytes]) -> Fields:
    """Read the fields in an open file's own tags. Broken tags give a warning, never an error."""
    try:
        tags = _by_mutagen(file)
    except Exception as error:  # mutagen's parsers raise anything: struct errors, index errors, their own
        return Fields({}, (f"tags: expected readable tags, got {type(error).__name__}: {str(error)[:200]}",))
    tags = tags or _apev2(file) or _by_libsndfile(file)
    raw = {}
    for name, tag_names in NAMES.items():
        values = next((tags[tag] for tag in tag_names if tags.get(tag)), None)
        if values:
            is_list = name in ("artist", "artists", "moods", "keywords") and len(values) > 1
            raw[name] = values if is_list else ", ".join(values)
    return read_fields(raw, "tags")


def _by_mutagen(file: IO[bytes]) -> dict[str, list[str]]:
    from mutagen.id3 import TCON

    tags: dict[str, list[str]] = {}
    for key, value in mutagen_tags(file).items():
        name = str(key).lower()
        if name.startswith("comm:"):
            if name.split(":")[1]:
                continue
            name = "comm"
        if name.startswith("uslt:"):
            name = "uslt"
        texts = value.genres if isinstance(value, TCON) else getattr(value, "text", value)
        texts = [text for text in _texts(texts) if text.strip()]
        if texts:
            tags.setdefault(name, texts)
    return tags


def _apev2(file: IO[bytes]) -> dict[str, list[str]]:
    """Return the APEv2 tags at the end of a file of any format, as players write them to MP3."""
    from mutagen.apev2 import APETextValue, APEv2, error

    file.seek(0)
    try:
        tags = APEv2(file)
    except error:
        return {}
    items = ((name.lower(), value) for name, value in tags.items() if isinstance(value, APETextValue))
    return {name: [text[:LONGEST] for text in value if text.strip()] for name, value in items}


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value[:LONGEST]]
    if isinstance(value, bytes):
        return [value[:LONGEST].decode("utf-8", "replace")]
    if isinstance(value, Iterable):
        return [text for item in value for text in _texts(item)]
    return [str(value)[:LONGEST]]


def _by_libsndfile(file: IO[bytes]) -> dict[str, list[str]]:
    import soundfile

    from stages.audio.decoders import VirtualFile

    try:
        with soundfile.SoundFile(VirtualFile(file)) as opened:
            return {name: [text] for name, text in opened.copy_metadata().items() if text.strip()}
    except (soundfile.LibsndfileError, RuntimeError, TypeError, ValueError):
        return {}
