"""`segue --help` and the help of each command: whole sentences, broken between words alone."""

from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

SENTENCE = 1_000
"""Letters of a sentence that are never too many. By itself a list cuts each off where its first line is full."""

WIDEST_HELP = 120
"""Columns of a help on a terminal that has them; longer lines are hard to read. By itself no help is wider than 80."""

UNBROKEN_HYPHEN = "\N{NON-BREAKING HYPHEN}"
"""What stands for a hyphen while lines are filled."""


class HelpText(typer.Context.formatter_class):  # type: ignore[misc, valid-type]
    """A help that is broken between words, never at a hyphen: options and names of files are read and copied whole."""

    def write_text(self, text: str) -> None:
        """Write a paragraph."""
        super().write_text(text.replace("-", UNBROKEN_HYPHEN))

    def write_dl(self, rows: Sequence[tuple[str, str]], *args: Any, **further: Any) -> None:
        """Write names with what is said of each."""
        super().write_dl([(name, text.replace("-", UNBROKEN_HYPHEN)) for name, text in rows], *args, **further)

    def getvalue(self) -> str:
        """Return all that was written."""
        return str(super().getvalue()).replace(UNBROKEN_HYPHEN, "-")


class HelpContext(typer.Context):
    """What a command is called in, with its help in `HelpText`."""

    formatter_class = HelpText


class CommandList(TyperGroup):
    """A group of commands whose help says of each what it does, to the end."""

    context_class = HelpContext

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, whose help is broken as the group's is."""
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            command.context_class = HelpContext
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands that are no secret."""
        commands = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        rows = [
            (name, command.get_short_help_str(SENTENCE))
            for name, command in commands.items()
            if command is not None and not command.hidden
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
