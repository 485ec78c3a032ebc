"""`segue init`: write a recipe file to start from."""

from typing import Annotated

import typer

from flows.commands.completion import complete_preset
from flows.commands.options import UsageError
from flows.console import say
from flows.recipes.presets import DEFAULT_PRESET
from flows.recipes.recipe_file import FILE, recipe_text

app = typer.Typer()


@app.command()
def init(
    preset: Annotated[
        str,
        typer.Option(help="The preset that fills in the rest; see `segue presets`.", autocompletion=complete_preset),
    ] = DEFAULT_PRESET,
    source: Annotated[str | None, typer.Option(help="Recordings: a folder or URL.")] = None,
    store: Annotated[str | None, typer.Option(help="The store: a folder or URL.")] = None,
    file: Annotated[str, typer.Option(metavar="FILE", help="The file to write; it must not exist.")] = FILE,
) -> int:
    """Write a recipe file with the most common knobs, which run, plan and status read."""
    given = {"settings.source": source, "settings.store": store}
    try:
        text = recipe_text(preset, {name: value for name, value in given.items() if value is not None})
        with open(file, "x", encoding="utf-8") as opened:
            opened.write(text)
    except FileExistsError as error:
        raise UsageError(f"expected to write a new file, got {file}, which is there: give --file") from error
    except OSError as error:
        raise UsageError(f"expected to write {file}, got: {error.strerror}: give --file") from error
    except ValueError as error:
        raise UsageError(str(error)) from error
    named = "" if file == FILE else f" --recipe {file}"
    say(f"{file} is written: change it; `segue plan{named}` shows what it would make, `segue run{named}` makes it")
    return 0
