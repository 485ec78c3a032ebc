"""Content types of the files that people open, for object stores that keep one.

Without a content type, a browser that is sent to the page or to a clip downloads the file instead of showing it.
"""

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
"""Content types by file extension (RFC 9110, 8.3; RFC 9639 for FLAC, RFC 5334 for Ogg). Python's own table depends on
the machine."""

ARGUMENTS: Mapping[str, str] = {"s3": "ContentType", "s3a": "ContentType", "gs": "content_type", "gcs": "content_type"}
"""The argument of each object store's client that takes a content type, by protocol. Other protocols have none."""


def content_type(path: str) -> str | None:
    """Return the content type of a file by its extension; None where it is not known."""
    return CONTENT_TYPES.get(posixpath.splitext(path)[1].lower())


def content_type_arguments(protocols: str | tuple[str, ...], path: str) -> dict[str, str]:
    """Return the arguments that give a filesystem's `pipe_file` the content type of a file. Empty where the type is not
    known or the filesystem keeps none.

    Args:
        protocols: the filesystem's protocols, as fsspec names them.
    """
    known = content_type(path)
    names = (protocols,) if isinstance(protocols, str) else protocols
    argument = next((ARGUMENTS[name] for name in names if name in ARGUMENTS), None)
    return {argument: known} if argument and known else {}
