"""The list of commands in `segue --help`: each with its whole sentence, in as many lines as that takes."""

from typing import Any

from typer.core import TyperGroup

SENTENCE = 1_000
"""Letters of a sentence that are never too many. By itself a list cuts each off where its first line is full."""


class CommandList(TyperGroup):
    """A group of commands whose help says of each what it does, to the end."""

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
