"""Requests files, CSV, JSONL or Parquet: what each line asks for, or why it cannot be understood.

One bad line never costs the others; a file that is no requests file at all is one `ValueError`.
"""

import csv
import io
import json
import re
from collections.abc import Iterator
from typing import Annotated, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from stages.audio.keys import parse_key
from stages.audio.references import RequestRefused

LONGEST_TEXT, LONGEST_NAME = 2_000, 200
"""Characters of a description or reference, and of a name or title; longer ones are a mistake, not a wish."""


def _one_line(value: str) -> str:
    """Put words on one line: runs of white space become one space; other control characters are refused."""
    value = " ".join(value.split())
    if not value.isprintable():
        raise ValueError("expected printable UTF-8 text")
    return value


def _not_a_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


def _join_list(value: Any) -> Any:
    """Join a list of texts, which JSONL and Parquet may hold, as training joins them."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(item.strip() for item in value if item.strip())
    return value


def _join_items(value: Any) -> Any:
    """Join a list of texts, or the items of a text that commas and semicolons part."""
    return _join_list(re.split("[,;]", value) if isinstance(value, str) else value)


def _not_empty(value: str) -> str:
    if not value:
        raise ValueError("expected some text")
    return value


def _spell_key(value: str) -> str:
    """Spell a key as `A minor` or `F# major`."""
    key = parse_key(value)
    if key is None:
        raise ValueError("expected a key such as 'A minor', 'F# major', 'Bbm' or '8A'")
    return key


Words = Annotated[str, AfterValidator(_one_line), Field(max_length=LONGEST_TEXT)]
Name = Annotated[str, AfterValidator(_one_line), Field(max_length=LONGEST_NAME)]
Label = Annotated[Name, BeforeValidator(_join_list), AfterValidator(_not_empty)]
Labels = Annotated[Words, BeforeValidator(_join_items), AfterValidator(_not_empty)]
Number = Annotated[float, BeforeValidator(_not_a_bool), Field(allow_inf_nan=False)]
Integer = Annotated[int, BeforeValidator(_not_a_bool)]


class RequestLine(BaseModel):
    """What one line asks for; None where it does not say. Unknown columns, wrong types and numbers that no clip can
    have are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: Name | None = None
    """The user's own id of the clip; two lines that differ in it alone are two clips."""
    title: Name | None = None
    """The clip's title, for its tags; changes no sound."""
    description: Words | None = None
    """What it should sound like."""
    melody: Words | None = None
    """The recording whose melody it follows: `track:`, `title:` or `file:`."""
    clap: Words | None = None
    """What its sound should be near to in CLAP's space: `track:`, `title:`, `file:` or `text:`."""
    prompt: Words | None = None
    """The recording that it goes on from: `track:`, `title:` or `file:`."""
    prompt_seconds: Number | None = Field(default=None, gt=0)
    """How much of the prompt the clip begins with, seconds."""
    seconds: Number | None = Field(default=None, gt=0)
    """The clip's length, the prompt included, seconds."""
    takes: Integer | None = Field(default=None, ge=1)
    """How many different clips to make."""
    seed: Integer | None = Field(default=None, ge=0, lt=2**63)
    """Where chance starts; without one it follows from the request itself."""
    guidance: Number | None = Field(default=None, ge=0, le=100)
    """Classifier-free guidance; 1 is none, 0 ignores the conditions."""
    guidance_text: Number | None = Field(default=None, ge=0, le=100)
    """How far the description is followed beside melody, clap and fields; 1 like them, more exaggerates."""
    temperature: Number | None = Field(default=None, ge=0, le=100)
    """The logits are divided by it; 0 always takes the likeliest code."""
    top_k: Integer | None = Field(default=None, ge=0, lt=2**31)
    """Codes that may be drawn; 0 is all."""
    top_p: Number | None = Field(default=None, ge=0, le=1)
    """Probability mass that may be drawn; 0 leaves it to top_k."""
    bpm: Number | None = Field(default=None, ge=20, le=400)
    """Tempo, beats a minute."""
    key: Annotated[str, AfterValidator(_spell_key)] | None = None
    """Key and mode, such as `A minor`."""
    genre: Label | None = None
    """Its genre, for a model that was trained with genres as a condition; the columns below likewise."""
    moods: Labels | None = None
    """One or more, such as `calm, dark`."""
    keywords: Labels | None = None
    """Other words for it, such as `film, chase`."""
    instrument: Label | None = None
    """What plays."""
    artist: Label | None = None
    """Whose music it is to be like."""
    album: Label | None = None
    """Which album's music it is to be like."""


COLUMNS = tuple(RequestLine.model_fields)

FIELDS = ("genre", "moods", "keywords", "instrument", "artist", "album")
"""The columns that stand together in the column `fields` of `requests`: what only some models read."""


def read_lines(url: str) -> list[tuple[int, RequestLine | RequestRefused]]:
    """Read the lines of a requests file, in their order, without those that have nothing on them.

    Args:
        url: path or fsspec URL of a `.csv`, `.jsonl` (`.ndjson`) or `.parquet` file; `.gz` and the like are unpacked.

    Returns the number of each line (of the row, from 1, in Parquet) and what it asks for, or why it is refused.

    Raises:
        ValueError: the file is not there, cannot be parsed, or asks for nothing.
    """
    unpacked = re.sub(r"\.(gz|bz2|xz|zst)$", "", url.lower())
    suffix = next((suffix for suffix in READERS if unpacked.endswith(suffix)), None)
    if suffix is None:
        raise ValueError(f"expected requests in a {', '.join(READERS)} file, got {url}")
    try:
        with fsspec.open(url, "rb", compression="infer") as file:
            data = file.read()
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(f"expected a requests file at {url}, got {type(error).__name__}: {error}") from error
    try:
        lines = [(number, _parse_line(cells)) for number, cells in READERS[suffix](data)]
    except (pa.ArrowException, ValueError, csv.Error) as error:
        raise ValueError(f"expected requests as {suffix} in {url}: {error}") from error
    if not lines:
        raise ValueError(f"expected at least one request in {url}, got none")
    return lines


Cells = dict[str, Any] | RequestRefused
"""What stands on a line, by column, or why it cannot be parsed."""


def _parse_line(cells: Cells) -> RequestLine | RequestRefused:
    if isinstance(cells, RequestRefused):
        return cells
    unknown = sorted(repr(name)[:40] for name in cells if name not in COLUMNS)
    if unknown:
        message = f"expected the columns {', '.join(COLUMNS)}, got {', '.join(unknown)}"
        return RequestRefused("unknown column", message)
    try:
        return RequestLine.model_validate(cells)
    except ValidationError as error:
        problems = [
            f"{problem['loc'][0] if problem['loc'] else 'line'}: {_reword(problem['msg'])}, "
            f"got {repr(problem['input'])[:80]}"
            for problem in error.errors()
        ]
        return RequestRefused("bad value", "; ".join(dict.fromkeys(problems)))


def _reword(message: str) -> str:
    """Put Pydantic's sentence in this project's words."""
    return message.removeprefix("Value error, ").replace("Input should be", "expected", 1)


def _read_csv(data: bytes) -> Iterator[tuple[int, Cells]]:
    # A byte that is not UTF-8 becomes a surrogate, so that it spoils its own line only.
    reader = csv.reader(io.StringIO(data.decode("utf-8-sig", "surrogateescape"), newline=""))
    header = [name.strip().lower() for name in next(reader, [])]
    if not set(header) & set(COLUMNS) or len(set(header)) < len(header):
        raise ValueError(f"expected a first line with some of {', '.join(COLUMNS)}, each once, got {str(header)[:200]}")
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, RequestRefused("unreadable", f"expected comma-separated values, got {error}")
            continue
        filled = {name: cell for name, cell in zip(header, cells, strict=False) if cell.strip()}
        if any(cell.strip() for cell in cells[len(header) :]):
            message = f"expected {len(header)} cells, got {len(cells)}: put cells with commas in double quotes"
            yield number, RequestRefused("unreadable", message)
        elif filled:
            yield number, filled


def _read_jsonl(data: bytes) -> Iterator[tuple[int, Cells]]:
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, RequestRefused("unreadable", f"expected one JSON object a line, got {error}")
            continue
        if isinstance(values, dict):
            yield number, _without_empty(values)
        else:
            yield number, RequestRefused("unreadable", f"expected one JSON object a line, got {str(values)[:80]}")


def _read_parquet(data: bytes) -> Iterator[tuple[int, Cells]]:
    for number, values in enumerate(pq.read_table(pa.BufferReader(data)).to_pylist(), start=1):
        yield number, _without_empty(values)


def _without_empty(values: dict[str, Any]) -> dict[str, Any]:
    """Leave out null, the empty text and the empty list, which say nothing."""
    return {name: value for name, value in values.items() if value not in (None, "", [])}


READERS = {".csv": _read_csv, ".jsonl": _read_jsonl, ".ndjson": _read_jsonl, ".parquet": _read_parquet}
"""File suffix -> what yields the numbers and cells of its lines."""
