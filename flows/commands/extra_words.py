"""Hints for words on a command line that no command takes: what to type instead."""

import re
from collections.abc import Sequence
from pathlib import Path

EXTRA = "Got unexpected extra argument(s) ("
"""How typer's message begins; the words follow, separated by spaces, and then `)`."""

NO_COMMAND = re.compile(r"No such command '(\w+)'\.")
"""Typer's message about the name of a command; more follows if a command has a similar name."""

OF_STAGES = re.compile(r"No such option: (--only|--stages?)\b")
"""Typer's message about options by which other programs choose steps."""


def with_advice(message: str, arguments: Sequence[str]) -> str:
    """Return typer's message about words that have no place, with a hint at where they belong; any other message as it
    is.

    Args:
        arguments: the words of the command line; the first is the command.
    """
    if message.startswith(EXTRA):
        return _with_place(message.removeprefix(EXTRA).removesuffix(")"), arguments[0])
    if command := NO_COMMAND.match(message):
        from flows.recipes.recipe import STAGES  # imports every stage

        stage = command[1]
        return f"{stage} is a stage and not a command: segue run {stage}" if stage in STAGES else message
    if arguments[:1] in (["run"], ["plan"]) and (option := OF_STAGES.match(message)):
        return f"no such option: {option[1]}; name stages without an option, as in segue {arguments[0]} train"
    return message


def _with_place(words: str, command: str) -> str:
    """Return a message about words that a command does not take, with where they belong."""
    problem = f"unexpected argument {words!r}"
    match command:
        case "generate" if _is_order(words):
            return f"{problem}: give a requests file by --requests {words}"
        case "generate":
            return f'{problem}: say what to make by --text "{words}", or by --requests FILE'
        case "finetune":
            return f"{problem}: give recordings by --source {words}"
        case "sql":
            return f"{problem}: put the whole query between quotes"
        case _:
            return f"{problem}: see segue {command} --help (words with spaces in them go between quotes)"


def _is_order(name: str) -> bool:
    """Return whether a file has an extension of requests files."""
    from stages.requests.reading import READERS

    return Path(name).suffix.lower() in READERS
