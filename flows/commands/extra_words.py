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
    """Return whether a file has an extension of requests files."""
    from stages.requests.reading import READERS

    return Path(name).suffix.lower() in READERS
