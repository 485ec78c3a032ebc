"""Content types of the files that people open, told to the object stores that keep one: without it a browser that is
sent to the page or to a clip downloads it."""

import posixpath
from collections.abc import Mapping

CONTENT_TYPES: Mapping[str, str] = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".csv": "text/csv; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".avif": "image/avif",
    ".wav": "audio/wav",
    ".flac": "audio/flac",
    ".mp3": "audio/mpeg",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".m4a": "audio/mp4",
}
"""By the end of a file's name (RFC 9110, 8.3; RFC 9639 for FLAC, RFC 5334 for Ogg). Python's own table depends on the
machine."""

ARGUMENTS: Mapping[str, str] = {"s3": "ContentType", "s3a": "ContentType", "gs": "content_type", "gcs": "content_type"}
"""What the clients of object stores call it, by protocol; others are not told."""


def content_type(path: str) -> str | None:
    """Return the content type of a file by the end of its name; None where it is not known."""
    return CONTENT_TYPES.get(posixpath.splitext(path)[1].lower())


def content_type_arguments(protocols: str | tuple[str, ...], path: str) -> dict[str, str]:
    """Return what a filesystem's `pipe_file` is to be told of a file's content type; nothing where it is not known, or
    the filesystem keeps none.

    Args:
        protocols: as fsspec names those of the filesystem.
    """
    known = content_type(path)
    names = (protocols,) if isinstance(protocols, str) else protocols
    argument = next((ARGUMENTS[name] for name in names if name in ARGUMENTS), None)
    return {argument: known} if argument and known else {}
