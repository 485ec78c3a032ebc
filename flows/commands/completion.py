"""Shell completion after `segue --install-completion`: presets, stages, tables and knobs, with their descriptions.

A shell calls it with every press of a key, so each function imports only what it needs.
"""

from collections.abc import Iterator

Completion = tuple[str, str]
"""A word and its description."""


def complete_preset(incomplete: str) -> Iterator[Completion]:
    """Yield the presets that begin with a text."""
    from flows.recipes.presets import PRESET_NAMES, PRESETS, describe_preset

    # Overlays are offered once the name of a preset is complete.
    names = [name for name in (PRESET_NAMES if "+" in incomplete else PRESETS) if name.startswith(incomplete)]
    yield from ((name, describe_preset(name.rpartition("+")[2])) for name in names)


def complete_stage(incomplete: str) -> Iterator[Completion]:
    """Yield the stages that begin with a text."""
    from flows.recipes.recipe import STAGES

    for name, module in STAGES.items():
        if name.startswith(incomplete):
            yield name, " ".join((module.__doc__ or "").partition("\n\n")[0].split())


def complete_table(incomplete: str) -> Iterator[Completion]:
    """Yield the tables and views that begin with a text."""
    from schemas.queries.views import VIEWS
    from schemas.tables import TABLES

    about = {name: table.about for name, table in TABLES.items()} | {name: view.about for name, view in VIEWS.items()}
    yield from ((name, meaning) for name, meaning in about.items() if name.startswith(incomplete))


def complete_published_table(incomplete: str) -> Iterator[Completion]:
    """Yield the published tables that begin with a text."""
    from schemas.tables import PUBLISHED

    yield from ((name, table.about) for name, table in PUBLISHED.items() if name.startswith(incomplete))


def complete_knob(incomplete: str) -> Iterator[Completion]:
    """Yield the knobs whose paths begin with a text, each up to its value."""
    from flows.recipes.knobs import knobs
    from flows.recipes.recipe import stage_models

    for knob in knobs(stage_models()):
        path = ".".join(knob.path)
        if path.startswith(incomplete):
            yield f"{path}=", knob.meaning
