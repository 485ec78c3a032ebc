"""`segue --help` and the help of each command: whole sentences, broken only between words."""

from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

SENTENCE = 1_000
"""A length that no sentence in the list of commands exceeds, in characters. By default, typer cuts each description off
at the end of its first line."""

WIDEST_HELP = 120
"""The widest help, in columns; longer lines are hard to read. By default, no help is wider than 80."""

UNBROKEN_HYPHEN = "\N{NON-BREAKING HYPHEN}"
"""Replaces hyphens while lines are wrapped."""


class HelpText(typer.Context.formatter_class):  # type: ignore[misc, valid-type]
    """Formats help that is broken between words and never at a hyphen, so that options and file names stay whole."""

    def write_text(self, text: str) -> None:
        """Write a paragraph."""
        super().write_text(text.replace("-", UNBROKEN_HYPHEN))

    def write_dl(self, rows: Sequence[tuple[str, str]], *args: Any, **further: Any) -> None:
        """Write a list of names with their descriptions."""
        super().write_dl([(name, text.replace("-", UNBROKEN_HYPHEN)) for name, text in rows], *args, **further)

    def getvalue(self) -> str:
        """Return the text that was written."""
        return str(super().getvalue()).replace(UNBROKEN_HYPHEN, "-")


class HelpContext(typer.Context):
    """The context of a command, whose help is formatted by `HelpText`."""

    formatter_class = HelpText


class CommandList(TyperGroup):
    """A group of commands whose help has the whole first sentence of each command."""

    context_class = HelpContext

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command whose help is formatted as the group's help is; None if there is none."""
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            command.context_class = HelpContext
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands that are not hidden."""
        commands = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        rows = [
            (name, command.get_short_help_str(SENTENCE))
            for name, command in commands.items()
            if command is not None and not command.hidden
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
