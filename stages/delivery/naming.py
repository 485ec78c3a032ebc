"""Names of delivered files: the filled-in fields of a template, safe for every file system, no two alike.

Text from a request is data: whatever it contains, the result is one name in one folder.
"""

import re
import unicodedata
from collections.abc import Sequence
from string import Formatter

from schemas.names import did_you_mean
from schemas.tables import Row
from stages.delivery.choosing import ChosenClip

TEXTS = ("name", "title", "request", "key", "checkpoint")
NUMBERS = ("take", "line", "seed", "seconds", "bpm")
FIELDS = (*TEXTS, *NUMBERS)
"""The fields that a template may have in braces. A missing name is replaced by the title, a missing title by the name,
and both by the request."""

LONGEST = 120
"""The longest name in bytes of UTF-8, without its extension and without what distinguishes it from an equal name. File
systems allow 255, encrypted ones 143."""

_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')
"""Characters that have a meaning in NTFS, FAT or a shell's path."""

_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names that are devices under Windows, with any extension."""


def check_template(template: str) -> None:
    """Check that a template for names can be filled in.

    Raises:
        ValueError: it has an unknown field, no field or a folder, or cannot be parsed; the message says which.
    """
    try:
        parts = list(Formatter().parse(template))
        fill(dict.fromkeys(TEXTS, "a") | dict.fromkeys(NUMBERS, 1), template)
    except KeyError as error:
        name = str(error.args[0])
        near = did_you_mean(name, FIELDS)
        raise ValueError(f"expected fields of {', '.join(FIELDS)} in --name, got {name!r}{near}") from error
    except (ValueError, IndexError, AttributeError, TypeError) as error:
        raise ValueError(f"expected a name such as {{name}}_{{take}} for --name, got {template!r}: {error}") from error
    if any("/" in text or "\\" in text for text, *_ in parts):
        raise ValueError(f"expected a name without folders for --name, got {template!r}: all clips lie in one")
    if not any(field for _, field, *_ in parts):
        raise ValueError(
            f"expected a field such as {{name}} in --name, got {template!r}: all clips would have one name"
        )


def fill(values: Row, template: str) -> str:
    """Return a template with its fields filled in. A field is a plain name, at most with a format such as `{take:02d}`.

    Raises:
        KeyError: there is no such field.
    """
    text = []
    for literal, field, form, conversion in Formatter().parse(template):
        text.append(literal)
        if field is not None:
            if conversion or field not in values:
                raise KeyError(field + (f"!{conversion}" if conversion else ""))
            value = values[field]
            text.append("" if value is None else format(value, form or ""))
    return "".join(text)


def template_values(chosen: ChosenClip) -> Row:
    """Return the values of a template's fields for a clip."""
    clip, request = chosen.clip, chosen.request
    unnamed = f"request {clip['request_id']}"
    return {
        "name": request["name"] or request["title"] or unnamed,
        "title": request["title"] or request["name"] or unnamed,
        "request": clip["request_id"],
        "take": clip["take"],
        "line": request["line"],
        "seed": chosen.generation["seed"],
        "seconds": round(clip["seconds"]),
        "bpm": None if request["bpm"] is None else round(request["bpm"]),
        "key": request["key"],
        "checkpoint": clip["checkpoint_id"],
    }


def safe_name(text: str) -> str:
    """Return a text as a name that every file system accepts: in NFC, without special characters, not hidden, not a
    device or an option, and of at most `LONGEST` bytes; `clip` if nothing is left."""
    text = unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode())
    text = "".join(sign if sign.isprintable() else " " for sign in _FORBIDDEN.sub("_", text))
    text = " ".join(text.split()).strip(". ")
    text = text.encode()[:LONGEST].decode("utf-8", "ignore").rstrip(". ")
    if text.startswith(("-", "~")) or _RESERVED.fullmatch(text):
        text = f"_{text}"
    return text or "clip"


def clip_names(clips: Sequence[ChosenClip], template: str) -> list[str]:
    """Return a name for each clip. No two are equal, even if case is ignored.

    If several clips would have the same name, the first in the given order keeps it. The others get their request and
    take appended, so that clips that are added or removed elsewhere rename none.
    """
    used, names = set[str](), []
    for chosen in clips:
        values = template_values(chosen)
        name = safe_name(fill(values, template))
        if name.casefold() in used:
            name = f"{name}-{values['request']}-{values['take']}"
        used.add(name.casefold())
        names.append(name)
    return names
