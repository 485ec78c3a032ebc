"""Hints for words on a command line that the command does not take: what to type instead."""

from collections.abc import Sequence
from pathlib import Path

EXTRA = "Got unexpected extra argument(s) ("
"""How typer's message begins; the words follow, separated by spaces, and then `)`."""


def with_place(message: str, arguments: Sequence[str]) -> str:
    """Return typer's message about unexpected words with a hint at where they belong; any other message as it is.

    Args:
        arguments: the words of the command line; the first is the command.
    """
    if not message.startswith(EXTRA):
        return message
    words = message.removeprefix(EXTRA).removesuffix(")")
    problem = f"unexpected argument {words!r}"
    match arguments[0]:
        case "generate" if _is_order(words):
            return f"{problem}: give a requests file by --requests {words}"
        case "generate":
            return f'{problem}: say what to make by --text "{words}", or by --requests FILE'
        case "finetune":
            return f"{problem}: give recordings by --source {words}"
        case "sql":
            return f"{problem}: put the whole query between quotes"
        case command:
            return f"{problem}: see segue {command} --help (words with spaces in them go between quotes)"


def _is_order(name: str) -> bool:
    """Return whether a file has an extension of requests files."""
    from stages.requests.reading import READERS

    return Path(name).suffix.lower() in READERS
