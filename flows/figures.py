"""`segue pattern`: what a codebook pattern looks like, on a terminal or as an image; README's figures are its work."""

from typing import Any

from pydantic import ValidationError

from flows.overrides import explain
from model.lm.config import LanguageModelConfig


def draw_pattern(knobs: dict[str, Any], frames: int, title: str | None) -> str:
    """A pattern as text, or under a title as an SVG image.

    Args:
        knobs: fields of the language model's configuration, `pattern`, `codebooks`, `delays` …

    Raises:
        ValueError: there is no such pattern.
    """
    from model.lm.language_model import pattern_of  # with torch, which `segue --help` does without
    from model.lm.pattern_figure import pattern_svg, pattern_text

    try:
        config = LanguageModelConfig.model_validate(knobs)
    except ValidationError as error:
        raise ValueError(explain(error, LanguageModelConfig)) from error
    pattern = pattern_of(config, frames)
    return pattern_text(pattern) if title is None else pattern_svg(pattern, title)
