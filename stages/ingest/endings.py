"""Endings: what a file is by the ending of its name."""

AUDIO_EXTENSIONS = frozenset(
    (
        *("3gp", "aac", "ac3", "aif", "aifc", "aiff", "amr", "ape", "asf", "au", "caf", "flac", "m4a", "m4b", "mka"),
        *("mp2", "mp3", "mp4", "oga", "ogg", "opus", "snd", "w64", "wav", "wave", "webm", "wma", "wv"),
    )
)
"""Endings of files that are taken for recordings; their content decides what they really are."""

ARCHIVE_EXTENSION = ".tar"
"""Files with this ending are read like folders. Compressed archives are not: they cannot be read from the middle."""

MANIFEST_EXTENSIONS = (".jsonl", ".jsonl.gz")
"""Endings of AudioCraft's manifests."""

METADATA_EXTENSIONS = (".json", ".csv", ".jsonl", ".jsonl.gz", ".parquet")


COMPANIONS = frozenset(
    (
        *(
            "jpg",
            "jpeg",
            "png",
            "gif",
            "bmp",
            "webp",
            "tif",
            "tiff",
            "svg",
            "ico",
            "txt",
            "md",
            "rtf",
            "nfo",
            "pdf",
            "log",
        ),
        *(
            "doc",
            "docx",
            "html",
            "htm",
            "url",
            "webloc",
            "xml",
            "ini",
            "db",
            "cue",
            "m3u",
            "m3u8",
            "pls",
            "wpl",
            "xspf",
        ),
        *("sfv", "md5", "sha1", "sha256", "torrent", "lrc", "accurip", "par2", "yaml", "yml", "toml", "py", "sh"),
    )
)
"""Endings of files that are often beside recordings and are known not to be recordings."""

LONGEST_ENDING = 12
"""Longest ending, in characters; what is longer belongs to the name."""


def ending_of(name: str) -> str:
    """Return a name's ending in lower case, such as `dsf`; empty where it has none."""
    stem, _, ending = name.rpartition(".")
    return ending.lower() if stem and len(ending) <= LONGEST_ENDING else ""


def is_recording(name: str) -> bool:
    dot = name.rfind(".")
    return dot > 0 and name[dot - 1] != "/" and name[dot + 1 :].lower() in AUDIO_EXTENSIONS


def is_metadata(name: str) -> bool:
    return name.lower().endswith(METADATA_EXTENSIONS)


def is_table(name: str) -> bool:
    """Return whether a file may hold recordings in a column."""
    return name.lower().endswith(".parquet")


def is_archive(name: str) -> bool:
    return name.lower().endswith(ARCHIVE_EXTENSION)
