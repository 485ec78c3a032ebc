"""What the name of a file at a source says of it: a recording, metadata beside recordings, or none of ours."""

AUDIO_EXTENSIONS = frozenset(
    (
        *("3gp", "aac", "ac3", "aif", "aifc", "aiff", "amr", "ape", "asf", "au", "caf", "flac", "m4a", "m4b", "mka"),
        *("mp2", "mp3", "mp4", "oga", "ogg", "opus", "snd", "w64", "wav", "wave", "webm", "wma", "wv"),
    )
)
"""What names a recording. The content decides what it really is; other files at the source are none of ours."""

METADATA_EXTENSIONS = (".json", ".csv", ".jsonl", ".jsonl.gz", ".parquet")


def is_recording(name: str) -> bool:
    dot = name.rfind(".")
    return dot > 0 and name[dot - 1] != "/" and name[dot + 1 :].lower() in AUDIO_EXTENSIONS


def is_metadata(name: str) -> bool:
    return name.lower().endswith(METADATA_EXTENSIONS)
