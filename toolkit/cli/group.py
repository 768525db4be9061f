"""A group of commands to which plugins add theirs, by entry points in the group "toolkit.commands"."""

import click

from toolkit.errors import PluginError, for_terminal, one_line
from toolkit.registry.discover import Discovered, commands, summary


class Group(click.Group):
    """A group that lists its own commands in the order in which they were added, then those of plugins.

    A plugin's command is listed without importing it, and imported when it is called, so a broken one takes
    nothing else down. The entry point `name` adds to the outermost group, `group.name` to another.
    """

    outermost = False

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.commands, *(name for name in self._from_plugins() if name not in self.commands)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command; a plugin's comes as `Deferred`, which `resolve_command` imports."""
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        candidates = self._from_plugins().get(cmd_name)
        return None if not candidates else Deferred(cmd_name, candidates)

    def get_help(self, ctx: click.Context) -> str:
        return for_terminal(super().get_help(ctx))  # it lists commands by the names that their plugins give

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.load() if isinstance(command, Deferred) else command, rest

    def _from_plugins(self) -> dict[str, list[Discovered]]:
        """Commands of plugins in this group, by name."""
        named: dict[str, list[Discovered]] = {}
        for command in commands():
            if (name := self._within(command)) is not None:
                named.setdefault(name, []).append(command)
        return named

    def _within(self, command: Discovered) -> str | None:
        """The command's name in this group; None if it belongs to another."""
        group, _, name = command.entry.name.rpartition(".")
        return name if group == ("" if self.outermost else self.name) else None


class Deferred(click.Command):
    """A plugin's command that has not been imported."""

    def __init__(self, name: str, candidates: list[Discovered]) -> None:
        super().__init__(name, short_help=summary(candidates[0]) or f"A command of {candidates[0].owner}.")
        self._candidates = candidates

    def load(self) -> click.Command:
        """Import the command.

        Raises:
            PluginError: if that fails, if it is not a command, or if several plugins have one of that name.
        """
        command, *others = self._candidates
        label = f"command {self.name!r} of {command.owner}"
        if others:
            owners = " and ".join(str(one.owner) for one in self._candidates)
            raise PluginError(f"there are several commands {self.name!r}: of {owners}. Uninstall one.")
        try:
            loaded = command.load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # also sys.exit
            raise PluginError(f"{label} cannot be loaded: {one_line(error)}") from error
        if not isinstance(loaded, click.Command):
            raise PluginError(f"{label} is a {type(loaded).__name__}, not a click.Command")
        return loaded
