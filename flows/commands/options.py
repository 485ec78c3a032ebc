"""The options that `segue run` and `segue plan` share, and the run that they ask for.

A mistake is reported before anything is computed, in one line that names what is allowed.
"""

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.completion import complete_knob, complete_preset, complete_stage
from flows.console import tell
from flows.recipes.merging import merge
from flows.recipes.presets import DEFAULT_PRESET, preset_difference
from flows.recipes.recipe_file import FILE, read_recipe_file
from schemas.storage import DEFAULT_STORE

if TYPE_CHECKING:
    from flows.recipes.recipe import Recipe
    from flows.runs.running import RunPlan
    from schemas import Settings, Store

StagesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="STAGE", help="Stages as `segue plan` lists them; by default all.", autocompletion=complete_stage
    ),
]
PresetOption = Annotated[
    str | None,
    typer.Option(
        help=f"The preset that fills in whatever is not set; see `segue presets`. By default {DEFAULT_PRESET}.",
        autocompletion=complete_preset,
    ),
]
RecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe", metavar="FILE", help=f"A recipe file as `segue init` writes it; by default ./{FILE} if it exists."
    ),
]
SourceOption = Annotated[list[str] | None, typer.Option(help="Recordings: a folder or URL. Repeatable.")]
StoreOption = Annotated[
    str | None,
    typer.Option("--store", help=f"The store: a folder or URL; by default that of ./{FILE}, else {DEFAULT_STORE}."),
]
RequestsOption = Annotated[str | None, typer.Option(help="Requests for clips: a CSV, JSON, .xlsx or Parquet file.")]
AllTablesOption = Annotated[
    bool, typer.Option("--all-tables", help="Also make the tables of conditions that the model does not read.")
]
ChecksOption = Annotated[
    str | None,
    typer.Option("--checks", metavar="FILE", help="A YAML file of SQL checks that a table must pass to be published."),
]
AcceptRefusedOption = Annotated[
    str | None,
    typer.Option(
        "--accept-refused", metavar="N|SHARE", help="How many lines of --requests may be refused: 3, 0.1 or 10%."
    ),
]
DropOption = Annotated[bool, typer.Option("--drop", help="Allow --requests to drop clips of the last order.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="STAGE.FIELD=VALUE",
        help="Set any knob, also of settings. Repeatable.",
        autocompletion=complete_knob,
    ),
]


class UsageError(ValueError):
    """A mistake on the command line."""


@dataclass(frozen=True)
class RunOptions:
    """What a command line asks for: the parameters of the catalog's flow, and the plan that follows from them."""

    recipe: "Recipe"
    settings: "Settings"
    requested: list[str] | None
    """The stages that were asked for by name; None means all."""
    plan: "RunPlan"


def with_run_options(announcement: str = "") -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Return a decorator that adds the options of a run to a command. The command gets them parsed, as `RunOptions`;
    its further keyword parameters are its own options.

    Args:
        announcement: printed to standard error before slow modules are imported.
    """

    def decorate(command: Callable[..., int]) -> Callable[..., int]:
        def with_options(
            stages: StagesArgument = None,
            preset: PresetOption = None,
            recipe: RecipeOption = None,
            source: SourceOption = None,
            store: StoreOption = None,
            requests: RequestsOption = None,
            accept_refused: AcceptRefusedOption = None,
            drop: DropOption = False,
            all_tables: AllTablesOption = False,
            checks: ChecksOption = None,
            set_: SetOption = None,
            **own: Any,
        ) -> int:
            if announcement and os.environ.get("RANK", "0") == "0":  # only the first of torchrun's processes
                tell(announcement)
            several = source if source is None or len(source) > 1 else source[0]
            options = {
                **{"source": several, "store": store, "requests": requests, "all_tables": all_tables or None},
                **{"accept_refused": lines_or_share(accept_refused), "drop_requests": drop or None},
            }
            settings = {name: value for name, value in options.items() if value is not None}
            return command(parse_given_options(stages or [], preset, recipe, settings, set_ or [], checks), **own)

        with_options.__name__, with_options.__doc__ = command.__name__, command.__doc__
        shared = list(inspect.signature(with_options).parameters.values())[:-1]
        further = list(inspect.signature(command).parameters.values())[1:]
        with_options.__signature__ = inspect.Signature([*shared, *further])  # type: ignore[attr-defined]
        with_options.__annotations__ |= {option.name: option.annotation for option in further}
        return with_options

    return decorate


def open_store(url: str) -> "Store":
    """Open the store of a command line.

    Raises:
        UsageError: nothing that is installed can open such a URL, or it is a file.
    """
    from schemas import Store  # imports pyarrow; the first line of a run is printed before that
    from schemas.arrow import leave_pandas_out

    leave_pandas_out()
    try:
        store = Store(url)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if store.is_local and os.path.isfile(store.root):
        raise UsageError(f"expected a folder or URL as the store, got the file {store.root}: give --store")
    return store


def place_of_store(url: str | None, recipe: str | None = None) -> str:
    """Return the folder or URL of the store: the one that a command line names, else the recipe file's, else the
    default.

    Args:
        recipe: the recipe file; None takes the one in the current folder, if there is one.

    Raises:
        UsageError: the file cannot be read.
    """
    try:
        return str(url or read_recipe_file(recipe).settings.get("store") or DEFAULT_STORE)
    except ValueError as error:
        raise UsageError(str(error)) from error


def existing_store(url: str | None, recipe: str | None = None) -> "Store":
    """Open the store of a command that needs one. None means the store of the recipe file, else the default.

    Args:
        recipe: the recipe file; None takes the one in the current folder, if there is one.

    Raises:
        UsageError: there is no store, or something else is at its place.
    """
    store = open_store(place_of_store(url, recipe))
    if absence := store.absence():
        raise UsageError(f"expected a store at {store.url}, got {absence}: give --store")
    from schemas.queries.kept_database import follow_move

    follow_move(store)
    return store


def parse_given_options(
    requested: Sequence[str],
    preset: str | None,
    recipe: str | None,
    options: dict[str, Any],
    overrides: Sequence[str],
    checks: str | None = None,
) -> RunOptions:
    """Return what a command line asks for on top of a recipe file, as `parse_run_options` does.

    Args:
        preset: None takes the file's preset, or the default if the file names none.
        recipe: the file; None takes the one in the current folder, if there is one.

    Raises:
        UsageError: the file cannot be read, or a name or value is not one of those allowed.
    """
    try:
        file = read_recipe_file(recipe)
    except ValueError as error:
        raise UsageError(str(error)) from error
    difference = {name: value for name, value in file.stages.items() if name != "checks" or checks is None}
    chosen = preset or file.preset or DEFAULT_PRESET
    return parse_run_options(requested, chosen, merge(file.settings, options), overrides, checks, difference)


def parse_run_options(
    requested: Sequence[str],
    preset: str,
    options: dict[str, Any],
    overrides: Sequence[str],
    checks: str | None = None,
    recipe_difference: Mapping[str, Any] = MappingProxyType({}),
    also: Sequence[str] = (),
) -> RunOptions:
    """Return what a command line asks for, parsed and planned.

    Args:
        requested: names of the stages to run; none means all.
        options: settings by name, which `overrides` may change.
        overrides: the `stage.field=value` texts of `--set`.
        checks: a YAML file with the recipe's `checks`.
        recipe_difference: what a command changes in the preset, which `overrides` may change again.
        also: names of stages to run besides those `requested`, if they take part in the recipe.

    Raises:
        UsageError: a preset, stage, field or value is not one of those allowed.
    """
    from pydantic import ValidationError

    from flows.recipes.overrides import explain, parse_overrides
    from flows.recipes.recipe import Recipe, stage_models  # imports every stage, which `segue sql` does not need
    from flows.runs.running import plan_run
    from schemas import Settings

    try:
        preset_difference(preset)
        difference = parse_overrides(overrides, stage_models())
        given = merge(options, difference.pop("settings", {}))
        try:
            settings = Settings.model_validate(given)
        except ValidationError as error:
            raise UsageError(explain(error, Settings, "settings.")) from error
        try:
            differing = merge(recipe_difference, difference)
            recipe = Recipe.model_validate({"preset": preset, "checks": _read_checks(checks), **differing})
        except ValidationError as error:
            raise UsageError(explain(error, Recipe)) from error
        open_store(settings.store)
        taking_part = {stage.name for stage in recipe.configured_stages(settings.source)} if also else ()
        names = [*requested, *(name for name in also if name in taking_part)]
        return RunOptions(recipe, settings, names or None, plan_run(recipe, settings, names))
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error


def lines_or_share(text: str | None) -> float | None:
    """Return a number of lines, or a share of them below 1, from an option's text such as `3`, `0.1` or `10%`.

    Raises:
        UsageError: the text is neither.
    """
    if text is None:
        return None
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError as error:
        raise UsageError(f"expected a number of lines or a share for --accept-refused, got {text!r}") from error


def _read_checks(path: str | None) -> list[Any]:
    """Return the list in a file of checks; empty if there is no file.

    Raises:
        UsageError: the file cannot be read, or is not a list.
    """
    if path is None:
        return []
    import yaml

    try:
        checks = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"expected a YAML file for --checks, got {path}: {' '.join(str(error).split())}") from error
    if not isinstance(checks, list):
        raise UsageError(f"expected a list of checks in {path}, got {type(checks).__name__}: `- table: …`, `  sql: …`")
    return checks
