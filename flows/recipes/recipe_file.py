"""A recipe as a file: `segue.yaml`, which `segue init` writes and which commands in its folder read.

It has the fields of `flows.recipes.recipe.Recipe`, with `settings` beside them, under the names that `--set` takes:
`train: {seed: 3}` is `--set train.seed=3`. Later sources override earlier ones: the preset, the file, then options and
`--set`.
"""

import json
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from flows.console import tell
from schemas.names import did_you_mean

if TYPE_CHECKING:
    from pydantic import BaseModel

    from flows.recipes.knobs import Knob
    from flows.recipes.recipe import Recipe

FILE = "segue.yaml"
"""The file that is read if it is in the current folder."""

WIDTH = 96
"""Width of the file's comments, in columns."""

COMMONEST = (
    *("settings.store", "settings.source", "settings.requests", "settings.device", "settings.concurrency"),
    *("settings.max_refused", "ingest.captions", "tokenize.codec", "chroma.separator", "clap.model"),
    *("train.initial", "train.optimization.steps", "train.optimization.learning_rate", "train.optimization.precision"),
    *("train.batch_size", "train.micro_batch_size", "train.segment_seconds", "train.condition_dropout"),
    *("requests.seconds", "requests.takes", "requests.guidance", "requests.temperature", "requests.top_k"),
    *("generate.checkpoint", "generate.precision", "decode.format", "decode.loudness"),
)
"""The knobs that people change most often."""

HEADER = """\
# What Segue makes here: `segue run`, `segue plan` and `segue status` read this file in its folder, or wherever
# --recipe names it. Later values win: the preset, then this file, then options and --set.
# A line that begins with # shows what the preset sets; remove the # to set another value. These are the
# commonest knobs; docs/reference.md lists all, and any can be set here by the name that --set takes.
"""


@dataclass(frozen=True)
class RecipeFile:
    """The contents of a recipe file."""

    preset: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    stages: Mapping[str, Any] = field(default_factory=dict)
    """The other fields of `Recipe`: its stages and `checks`."""


def read_recipe_file(path: str | None) -> RecipeFile:
    """Read the recipe file that a command line names, or else the one in the current folder, and print its name. Return
    an empty one if there is neither.

    Raises:
        ValueError: the file cannot be read, is not YAML, or names unknown fields.
    """
    if path is None and not Path(FILE).is_file():
        return RecipeFile()
    import yaml

    from flows.recipes.recipe import stage_models

    path = path or FILE
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"expected a YAML file for --recipe, got {path}: {' '.join(str(error).split())}") from error
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise ValueError(f"expected `stage:` and its fields in {path}, got {type(content).__name__}")
    _check_names(path, content)
    models = stage_models()
    sections: dict[str, Any] = {
        name: _without_empty(value, models[name]) if isinstance(value, dict) and name in models else value
        for name, value in content.items()
        if value is not None  # None: every line of the section is a comment
    }
    preset, settings = sections.pop("preset", None), sections.pop("settings", {})
    tell(f"segue: recipe from {path}" + (f", preset {preset}" if preset else ""))
    return RecipeFile(preset, settings, sections)


def _check_names(path: str, content: Mapping[Any, Any]) -> None:
    from flows.recipes.knobs import knobs_named, where_it_is
    from flows.recipes.recipe import Recipe, stage_models

    known = ("settings", *Recipe.model_fields)
    for name, value in content.items():
        if name not in known:
            elsewhere = knobs_named([str(name)], stage_models())
            near = f": {where_it_is(elsewhere)}" if elsewhere else did_you_mean(str(name), known)
            raise ValueError(f"unknown field {name!r} in {path}{near}; allowed: {', '.join(known)}")
        if value is not None and name not in ("preset", "checks") and not isinstance(value, dict):
            raise ValueError(f"expected fields of {name} in {path}, got {value!r}")


def _without_empty(section: Mapping[str, Any], model: "type[BaseModel]") -> dict[str, Any]:
    """Return a section without its subsections in which every line is a comment. Nulls stay where the field may be
    null."""
    from flows.recipes.overrides import model_in

    kept = {}
    for name, value in section.items():
        inner = model_in(model.model_fields[name].annotation) if name in model.model_fields else None
        if value is None and inner is not None and type(None) not in get_args(model.model_fields[name].annotation):
            continue
        kept[name] = _without_empty(value, inner) if isinstance(value, dict) and inner is not None else value
    return kept


def recipe_text(preset: str, given: Mapping[str, Any]) -> str:
    """Return the text of a recipe file: a preset with its most common knobs, as comments that show their values.

    Args:
        given: knobs to set rather than comment, by path.

    Raises:
        ValueError: there is no such preset.
    """
    from flows.recipes.knobs import knobs
    from flows.recipes.presets import preset_difference
    from flows.recipes.recipe import Recipe, stage_models

    preset_difference(preset)  # its error is one line, with the nearest name
    recipe = Recipe(preset=preset)
    by_path = {".".join(knob.path): knob for knob in knobs(stage_models())}
    lines, before = [HEADER + f"preset: {preset}"], tuple[str, ...]()
    for path in COMMONEST:
        knob = by_path[path]
        lines += _section_lines(before, knob.path)
        lines += _knob_lines(knob, given.get(path, _value(recipe, knob)), path in given)
        before = knob.path
    return "\n".join(lines) + "\n"


def _section_lines(before: tuple[str, ...], path: tuple[str, ...]) -> Iterable[str]:
    """Yield the headings of the sections that a knob is in and the previous knob is not."""
    for depth, name in enumerate(path[:-1]):
        if before[: depth + 1] != path[: depth + 1] or depth >= len(before) - 1:
            yield f"{'' if depth else chr(10)}{'  ' * depth}{name}:"


def _knob_lines(knob: "Knob", value: Any, is_set: bool) -> Iterable[str]:
    indent = "  " * (len(knob.path) - 1)
    yield from textwrap.wrap(
        knob.meaning, WIDTH - len(indent), initial_indent=f"{indent}## ", subsequent_indent=f"{indent}## "
    )
    yield f"{indent}{'' if is_set else '# '}{knob.path[-1]}: {json.dumps(value, ensure_ascii=False)}"


def _value(recipe: "Recipe", knob: "Knob") -> Any:
    """Return the value of a knob in a recipe, or in the default settings, as JSON, which is also YAML."""
    from schemas import Settings

    stage, *names = knob.path
    section: Any = Settings() if stage == "settings" else getattr(recipe, stage)
    value: Any = section.model_dump(mode="json")
    for name in names:
        value = value[name]
    return value
