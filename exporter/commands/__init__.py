"""The commands other than `serve`, and their common functions."""

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NoReturn

from exporter.config.flags import flag_parser
from exporter.config.logging import configure_logging
from exporter.config.settings import Settings, read
from exporter.errors import SettingsError
from exporter.protocol.redact import redact_text

#: Lists are read from the store in pages of this size, so that a long list needs little memory.
PAGE_SIZE = 100
SETTINGS_FLAGS = flag_parser(Settings, has_variables=True)


class CommandLine(ArgumentParser):
    """An argparse parser that reports an error as an exception with one line of text."""

    def __init__(self, **settings: Any) -> None:
        # No abbreviations: a new flag would make the ones that people use ambiguous.
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        """Raise SettingsError with `message`, without the secrets of its URLs."""
        raise SettingsError(f"{redact_text(message)} (see {self.prog} --help)")


class Commands:
    """Adds commands to `parser`. The command line must contain one of them."""

    def __init__(self, parser: ArgumentParser) -> None:
        self._add = parser.add_subparsers(title="commands", metavar="COMMAND", required=True).add_parser

    def group(self, name: str, text: str) -> "Commands":
        """Return a group of commands: each is `name` followed by a second word."""
        return Commands(self._add(name, help=text, description=text))

    def add(
        self,
        name: str,
        run: Callable[[Namespace], int],
        text: str,
        usage: str = "",
        flags: ArgumentParser | None = SETTINGS_FLAGS,
    ) -> ArgumentParser:
        """Add a command, and return its parser, to which its own arguments can be added.

        Args:
            run: runs the command with its arguments, and returns the exit status.
            usage: its own arguments, as shown in the usage line.
            flags: the flags that it accepts, None for none.
        """
        words = ["%(prog)s", *filter(None, [usage, "[--flag value ...]" if flags else ""])]
        parents = [flags] if flags else []
        parser = self._add(name, help=text, description=text, usage=" ".join(words), parents=parents)
        parser.set_defaults(run=run)  # so that the parsed arguments state which command to run
        return parser


def load_settings(args: Namespace) -> Settings:
    """Return the settings of a command, and configure the log accordingly."""
    settings = read(vars(args), os.environ)
    configure_logging(settings.log_level, settings.log_format)
    return settings


def print_row(*columns: object) -> None:
    """Print one row of a table, without control characters."""
    print(*(printable(str(column)) for column in columns), sep="\t")


def printable(text: str) -> str:
    """Return `text` with `?` for each character that is not printable, such as an escape code."""
    return "".join(c if c.isprintable() else "?" for c in text)


def utc_text(seconds: float) -> str:
    """Return a UNIX time as UTC text."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
