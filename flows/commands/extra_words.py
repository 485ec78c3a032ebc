"""What is told of words on a command line that the command has no place for: what to type instead."""

from collections.abc import Sequence
from pathlib import Path

EXTRA = "Got unexpected extra argument(s) ("
"""How typer begins to tell of them; they follow, with spaces between, and `)`."""


def with_place(message: str, arguments: Sequence[str]) -> str:
    """Return what typer tells of words that have no place, with the place that was meant; any other message as it is.

    Args:
        arguments: the words of the command line, of which the first is the command.
    """
    if not message.startswith(EXTRA):
        return message
    words = message.removeprefix(EXTRA).removesuffix(")")
    told = f"{words!r} has no place here"
    match arguments[0]:
        case "generate" if _is_order(words):
            return f"{told}: a file of requests is given by --requests {words}"
        case "generate":
            return f'{told}: say what to make by --text "{words}", or by --requests FILE'
        case "finetune":
            return f"{told}: recordings are given by --source {words}"
        case "sql":
            return f"{told}: put the whole query between quotes"
        case command:
            return f"{told}: see segue {command} --help (words with spaces in them go between quotes)"


def _is_order(name: str) -> bool:
    """Return whether a file is called as those of requests are."""
    from stages.requests.reading import READERS

    return Path(name).suffix.lower() in READERS
