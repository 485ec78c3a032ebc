"""What a command line asks for: the options that `segue run` and `segue plan` share, and their meaning.

A mistake is told before anything is computed, in one line that names what is allowed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from flows.overrides import explain, merge, parse_overrides
from flows.presets import preset_difference
from schemas import Settings, Store
from stages.pipeline.planning import ConfiguredStage, Pipeline, Plan, plan_pipeline

if TYPE_CHECKING:
    from flows.recipe import Recipe

Stages = Annotated[
    list[str] | None, typer.Argument(metavar="STAGE", help="Stages, as `segue plan` lists them; none means all.")
]
Preset = Annotated[str, typer.Option(help="What fills whatever is not set; see `segue presets`.")]
Source = Annotated[str | None, typer.Option(help="Recordings: a folder or URL.")]
Place = Annotated[
    str | None, typer.Option("--store", help=f"The store: a folder or URL; if not given, {Settings().store}.")
]
Requests = Annotated[str | None, typer.Option(help="What to generate: a CSV, JSONL or Parquet file.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="STAGE.FIELD=VALUE", help="Any knob, of settings too; may be given often."),
]


class Mistake(ValueError):
    """Something on the command line that cannot be meant."""


@dataclass(frozen=True)
class Asked:
    """What a command line asks for."""

    recipe: "Recipe"
    given: Settings
    """As given: whether there is a source of one's own decides which stages take part."""
    settings: Settings
    """With the demo corpus for a source where none was given."""
    stages: list[ConfiguredStage]
    names: list[str]
    requested: list[str] | None
    """The stages that were asked for by name, so that a `refresh` policy does not hold them back; None means all."""

    def plans(self) -> list[Plan]:
        return plan_pipeline(Pipeline(self.stages, self.settings), self.names, self.requested is not None)


def asking(command: Callable[[Asked], int]) -> Callable[..., int]:
    """A command with the options of a run, from one that takes what they ask for."""

    def with_options(
        stages: Stages = None,
        preset: Preset = "miniature",
        source: Source = None,
        store: Place = None,
        requests: Requests = None,
        set_: Sets = None,
    ) -> int:
        options = {"source": source, "store": store, "requests": requests}
        settings = {name: value for name, value in options.items() if value is not None}
        return command(understand(stages or [], preset, settings, set_ or []))

    with_options.__name__, with_options.__doc__ = command.__name__, command.__doc__
    return with_options


def store_at(url: str) -> Store:
    """The store of a command line.

    Raises:
        Mistake: nothing that is installed can open such a URL.
    """
    try:
        return Store(url)
    except ValueError as error:
        raise Mistake(str(error)) from error


def understand(requested: Sequence[str], preset: str, options: dict[str, Any], sets: Sequence[str]) -> Asked:
    """What a command line asks for.

    Args:
        requested: names of the stages to run; none means all.
        options: settings by name, which `sets` may overrule.
        sets: the `stage.field=value` of `--set`.

    Raises:
        Mistake: a preset, stage, field or value is not one of those allowed.
    """
    from flows.recipe import (  # every stage, which `segue sql` does without
        Recipe,
        selected_stages,
        stage_models,
        with_source,
    )

    try:
        preset_difference(preset)
        difference = parse_overrides(sets, stage_models())
        given = merge(options, difference.pop("settings", {}))
        try:
            settings = Settings.model_validate(given)
        except ValidationError as error:
            raise Mistake(explain(error, Settings, "settings.")) from error
        try:
            recipe = Recipe.model_validate({"preset": preset, **difference})
        except ValidationError as error:
            raise Mistake(explain(error, Recipe)) from error
        store_at(settings.store)
        stages = recipe.configured_stages(settings.source)
        names = selected_stages(stages, requested, preset)
        complete = with_source(settings, names, [stage.name for stage in stages])
    except Mistake:
        raise
    except ValueError as error:
        raise Mistake(str(error)) from error
    return Asked(recipe, settings, complete, stages, names, list(requested) or None)
