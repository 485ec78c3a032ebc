"""`segue pattern`: the order in which a codebook pattern predicts codes, drawn as text or as an image."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from flows.commands.options import UsageError

app = typer.Typer()


@app.command()
def pattern(
    name: Annotated[Literal["delay", "unroll", "coarse_first", "grouped"], typer.Argument(help="The pattern.")],
    codebooks: Annotated[int, typer.Option(help="K, the number of codebooks.")] = 4,
    frames: Annotated[int, typer.Option(min=1, help="The number of frames to show.")] = 6,
    delays: Annotated[
        str | None, typer.Option(help="One for each codebook, such as 0,0,1,1,2,2,3,3 for stereo.")
    ] = None,
    group: Annotated[int, typer.Option(help="Codebooks in each group of the pattern `grouped`.")] = 2,
    svg: Annotated[Path | None, typer.Option(help="Draw into this file instead of the terminal.")] = None,
    title: Annotated[str | None, typer.Option(help="The title of the image; by default the command.")] = None,
) -> int:
    """Show the order in which a pattern has the codes predicted."""
    knobs: dict[str, Any] = {"pattern": name, "codebooks": codebooks, "group": group}
    if delays is not None:
        knobs["delays"] = delays.split(",")
    heading = title or f"{name}, {codebooks} codebooks" + (f", delays {delays}" if delays else "")
    try:
        drawing = _draw_pattern(knobs, frames, heading if svg else None)
        if svg:
            svg.write_text(drawing, encoding="utf-8")
        else:
            print(drawing)
    except OSError as error:
        raise UsageError(f"expected to write {svg}, got: {error.strerror}: give --svg another file") from error
    except ValueError as error:
        raise UsageError(str(error)) from error
    return 0


def _draw_pattern(knobs: dict[str, Any], frames: int, title: str | None) -> str:
    """Draw a codebook pattern as text, or, with a title, as an SVG image.

    Args:
        knobs: fields of the language model's configuration: `pattern`, `codebooks`, `delays` …

    Raises:
        ValueError: there is no such pattern.
    """
    from pydantic import ValidationError

    from flows.recipes.overrides import explain
    from model.lm.config import LanguageModelConfig
    from model.lm.language_model import pattern_of  # imports torch, which a help does not need
    from model.lm.pattern_figure import pattern_svg, pattern_text

    try:
        config = LanguageModelConfig.model_validate(knobs)
    except ValidationError as error:
        raise ValueError(explain(error, LanguageModelConfig)) from error
    pattern = pattern_of(config, frames)
    return pattern_text(pattern) if title is None else pattern_svg(pattern, title)
