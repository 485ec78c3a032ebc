"""Lines of a requests file: what each line asks for, or why it cannot be understood."""

import re
import unicodedata
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from model.conditioning.charts import parse_meter
from stages.audio.keys import parse_key
from stages.audio.references import RequestRefused
from stages.checkpoints.adapter_files import parse_adapters

LONGEST_TEXT, LONGEST_NAME = 2_000, 200
"""The most characters of a description or reference, and of a name or title; longer ones are taken for a mistake."""

OVERRIDES = frozenset("\u202a\u202b\u202c\u202d\u202e")
"""Characters that change the direction of the text after them, so that one name can look like another
(CVE-2021-42574)."""

UNITS = {"seconds": "seconds", "prompt_seconds": "seconds", "bpm": "beats a minute"}
"""Column -> the unit of its number, if the column's name does not say it."""


def _one_line(value: str) -> str:
    """Return text on one line: runs of white space become one space. Control characters, bytes that are not UTF-8 and
    characters that change the text's direction are refused. Characters that join letters or emoji are allowed."""
    value = " ".join(value.split())
    for character in value:
        if not character.isprintable() and (unicodedata.category(character) != "Cf" or character in OVERRIDES):
            name = unicodedata.name(character, f"U+{ord(character):04X}")
            raise ValueError(f"expected printable UTF-8 text without {name}")
    return value


def _at_most(limit: int) -> AfterValidator:
    """Return a validator that refuses texts of more than `limit` characters."""

    def check(value: str) -> str:
        if len(value) > limit:
            raise ValueError(f"expected at most {limit} characters, got {len(value)}")
        return value

    return AfterValidator(check)


def _number_as_text(value: Any) -> Any:
    """Return a whole number as text, since a table's column of names may hold nothing but numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return str(int(value)) if value == int(value) else value


def _not_a_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


def _join_list(value: Any) -> Any:
    """Join a list of texts, which JSONL and Parquet may hold, in the way in which training joins them."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(item.strip() for item in value if item.strip())
    return value


def _join_items(value: Any) -> Any:
    """Join a list of texts, or the items of a text that are separated by commas or semicolons."""
    return _join_list(re.split("[,;]", value) if isinstance(value, str) else value)


def _not_empty(value: str) -> str:
    if not value:
        raise ValueError("expected some text")
    return value


def _plain(annotation: Any) -> Any:
    """Return a type without its annotations."""
    return get_args(annotation)[0] if hasattr(annotation, "__metadata__") else annotation


def _spell_meter(value: str) -> str:
    """Return the standard spelling of a metre, such as `4/4`."""
    return str(parse_meter(value))


def _spell_key(value: str) -> str:
    """Return the standard spelling of a key, such as `A minor` or `F# major`."""
    key = parse_key(value)
    if key is None:
        raise ValueError("expected a key such as 'A minor', 'F# major', 'Bbm' or '8A'")
    return key


def _strengths_as_text(value: Any) -> Any:
    """Return strengths by name, which JSON and Parquet may hold, as one text."""
    if isinstance(value, dict) and all(isinstance(item, int | float) for item in value.values()):
        return ", ".join(f"{name}:{strength:g}" for name, strength in value.items())
    return value


def _spell_adapters(value: str) -> str:
    """Return adapters in their standard spelling and order, each with its strength."""
    return ", ".join(map(str, parse_adapters(value)))


Words = Annotated[str, AfterValidator(_one_line), _at_most(LONGEST_TEXT)]
Name = Annotated[str, AfterValidator(_one_line), _at_most(LONGEST_NAME)]
OwnName = Annotated[Name, BeforeValidator(_number_as_text)]
Label = Annotated[Name, BeforeValidator(_join_list), AfterValidator(_not_empty)]
Labels = Annotated[Words, BeforeValidator(_join_items), AfterValidator(_not_empty)]
Adapters = Annotated[Words, BeforeValidator(_strengths_as_text), BeforeValidator(_join_list)]
Number = Annotated[float, BeforeValidator(_not_a_bool), Field(allow_inf_nan=False)]
Integer = Annotated[int, BeforeValidator(_not_a_bool)]


class RequestLine(BaseModel):
    """What one line asks for; None for what it does not say. Unknown columns, wrong types and numbers that no clip can
    have are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: OwnName | None = None
    """The user's own id of the clip; two lines that differ in it alone are two clips."""
    title: OwnName | None = None
    """The clip's title, for its tags; changes no sound."""
    description: Words | None = None
    """What the clip should sound like."""
    melody: Words | None = None
    """The recording whose melody the clip follows: `track:`, `title:` or `file:`."""
    clap: Words | None = None
    """What the clip's sound should be close to in CLAP's space: `track:`, `title:`, `file:` or `text:`."""
    prompt: Words | None = None
    """The recording that the clip continues: `track:`, `title:` or `file:`."""
    prompt_seconds: Number | None = Field(default=None, gt=0)
    """How much of the prompt the clip begins with, seconds."""
    seconds: Number | None = Field(default=None, gt=0)
    """The clip's length, the prompt included, seconds."""
    takes: Integer | None = Field(default=None, ge=1)
    """How many different clips to make."""
    seed: Integer | None = Field(default=None, ge=0, lt=2**63)
    """The seed of the random numbers; without one, it is derived from the request."""
    guidance: Number | None = Field(default=None, ge=0, le=100)
    """Classifier-free guidance; 1 is none, 0 ignores the conditions."""
    guidance_text: Number | None = Field(default=None, ge=0, le=100)
    """How strongly the description is followed compared with melody, clap and fields. 1 means equally, more
    exaggerates."""
    temperature: Number | None = Field(default=None, ge=0, le=100)
    """The logits are divided by it; 0 always takes the likeliest code."""
    top_k: Integer | None = Field(default=None, ge=0, lt=2**31)
    """How many of the likeliest codes may be drawn; 0 means all."""
    top_p: Number | None = Field(default=None, ge=0, le=1)
    """Probability mass that may be drawn; 0 leaves it to top_k."""
    bpm: Number | None = Field(default=None, ge=20, le=400)
    """Tempo, beats a minute."""
    meter: Annotated[str, AfterValidator(_spell_meter)] | None = None
    """Metre, such as `3/4`; by default 4/4. In 6/8 a bar has two beats."""
    chords: Words | None = None
    """Chords, a bar between two lines, such as `C | G/B | Am7 F`; repeated to the clip's end."""
    key: Annotated[str, AfterValidator(_spell_key)] | None = None
    """Key and mode, such as `A minor`."""
    adapters: Annotated[Adapters, AfterValidator(_spell_adapters)] | None = None
    """Adapters of the model with strengths, such as `noir:0.8, strings:0.4`; by default 1."""
    genre: Label | None = None
    """Its genre, for a model that was trained with genres as a condition. The same holds for the columns below."""
    moods: Labels | None = None
    """One or more moods, such as `calm, dark`."""
    keywords: Labels | None = None
    """Other words for it, such as `film, chase`."""
    instrument: Label | None = None
    """The instrument that plays."""
    artist: Label | None = None
    """The artist whose music the clip should resemble."""
    album: Label | None = None
    """The album whose music the clip should resemble."""


COLUMNS = tuple(RequestLine.model_fields)

FIELDS = ("genre", "moods", "keywords", "instrument", "artist", "album")
"""The columns that are stored together in the column `fields` of `requests`, since only some models read them."""


DECIMALS, WHOLES = (
    frozenset(
        name for name, field in RequestLine.model_fields.items() if kind in map(_plain, get_args(field.annotation))
    )
    for kind in (float, int)
)
NUMBERS = DECIMALS | WHOLES
"""The columns with numbers: those that may have decimals and those with whole numbers."""

Cells = dict[str, Any] | RequestRefused
"""The content of a line by column, or why it cannot be parsed."""


def parse_line(cells: Cells) -> RequestLine | RequestRefused:
    """Return what a line asks for, or the reason why it is refused, with all of its faults."""
    if isinstance(cells, RequestRefused):
        return cells
    try:
        return RequestLine.model_validate(cells)
    except ValidationError as error:
        problems = [_explain(problem) for problem in error.errors()]
        return RequestRefused("bad value", "; ".join(dict.fromkeys(problems)))


def _explain(problem: ErrorDetails) -> str:
    """Return one of Pydantic's errors in this project's words, with the unit of the expected number."""
    column = str(problem["loc"][0]) if problem["loc"] else "line"
    message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "expected", 1)
    message = message.replace("less than or equal to", "at most").replace("greater than or equal to", "at least")
    if column in UNITS and set(problem.get("ctx", ())) & {"gt", "ge", "lt", "le"}:
        message = f"{message} {UNITS[column]}"
    counted = problem["type"] == "value_error" and ", got " in message
    got = "" if counted else f", got {repr(problem['input'])[:80]}"
    return f"{column}: {message}{got}"
