"""Picks: what a person decided by ear, clip by clip, in a file that the report's page or a person writes.

As JSON it is `{"format": "segue-picks-2", "store": …, "picks": [{"request_id": …, "take": 1, "verdict": "pick"}]}`,
as CSV it has the columns `request_id,take,verdict`. Takes count from 1, as everywhere; a verdict is `pick` or `refuse`.
"""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import fsspec

FORMAT = "segue-picks-2"
"""The format's name and version. Version 1 counted takes from 0."""
COLUMNS = ("request_id", "take", "verdict")

Verdict = Literal["pick", "refuse"]
Clip = tuple[str, int]
"""A clip's `request_id` and `take`."""


@dataclass(frozen=True)
class Picks:
    """The verdicts of a file, by clip; the last verdict on a clip counts."""

    verdicts: Mapping[Clip, Verdict]

    @property
    def picked(self) -> frozenset[Clip]:
        return frozenset(clip for clip, verdict in self.verdicts.items() if verdict == "pick")

    @property
    def refused(self) -> frozenset[Clip]:
        return frozenset(clip for clip, verdict in self.verdicts.items() if verdict == "refuse")


def read_picks(url: str) -> Picks:
    """Read a file of picks.

    Args:
        url: path or fsspec URL of a JSON or CSV file; its content shows which of the two it is.

    Raises:
        ValueError: the file is not there or does not hold picks; the message says what was expected.
    """
    try:
        with fsspec.open(url, "rb") as file:
            text = file.read().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise ValueError(f"expected picks as JSON or CSV at {url}, got nothing there") from error
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(f"expected picks as JSON or CSV at {url}, got {type(error).__name__}: {error}") from error
    rows = _json_rows(text, url) if text.lstrip().startswith(("{", "[")) else _csv_rows(text, url)
    return Picks(dict(_verdict(row, f"{where} of {url}") for where, row in rows))


def _json_rows(text: str, url: str) -> list[tuple[str, Any]]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected picks as JSON in {url}, got {str(error)[:120]}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("picks"), list):
        shown = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise ValueError(f'expected {{"format": "{FORMAT}", "picks": […]}} in {url}, got {str(shown)[:80]!r}')
    return [(f"pick {number}", row) for number, row in enumerate(content["picks"], start=1)]


def _csv_rows(text: str, url: str) -> list[tuple[str, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        names = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = names
        if not set(COLUMNS) <= set(names):
            raise ValueError(f"expected the columns {', '.join(COLUMNS)} in {url}, got {', '.join(names) or 'none'}")
        return [(f"line {reader.line_num}", row) for row in reader]
    except csv.Error as error:
        raise ValueError(f"expected picks as CSV in {url}, got {error}") from error


def _verdict(row: Any, where: str) -> tuple[Clip, Verdict]:
    """Return the clip and the verdict in one row of a file.

    Raises:
        ValueError: the row names no clip or no known verdict.
    """
    values = {name: row.get(name) for name in COLUMNS} if isinstance(row, Mapping) else {}
    request, take, verdict = (str(value).strip() if value is not None else "" for value in values.values() or ("",) * 3)
    if not request or not (take.isascii() and take.isdecimal() and int(take)):
        raise ValueError(f"expected a request_id and a take from 1 in {where}, got {str(row)[:120]}")
    for known in get_args(Verdict):
        if verdict.lower() == known:
            return (request, int(take)), known
    raise ValueError(f"expected the verdict {' or '.join(get_args(Verdict))} in {where}, got {verdict[:40]!r}")
