"""The commands that an operator needs beside `serve`, and what they have in common."""

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NoReturn

from exporter.config.flags import flag_parser
from exporter.config.logging import configure_logging
from exporter.config.settings import Settings, read
from exporter.errors import SettingsError
from exporter.protocol.redact import redact_text

PAGE = 100
SETTINGS_FLAGS = flag_parser(Settings, has_variables=True)


class CommandLine(ArgumentParser):
    """argparse's parser, whose errors are exceptions with a text of one line."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        """Raise SettingsError; URLs in the text lose their secrets."""
        raise SettingsError(f"{redact_text(message)} (see {self.prog} --help)")


class Commands:
    """Adds the commands of `parser`, one of which must be given."""

    def __init__(self, parser: ArgumentParser) -> None:
        self._add = parser.add_subparsers(title="commands", metavar="COMMAND", required=True).add_parser

    def group(self, name: str, text: str) -> "Commands":
        """Return what adds the commands whose first word is `name`."""
        return Commands(self._add(name, help=text, description=text))

    def add(
        self,
        name: str,
        run: Callable[[Namespace], int],
        text: str,
        usage: str = "",
        flags: ArgumentParser | None = SETTINGS_FLAGS,
    ) -> ArgumentParser:
        """Add a command, and return its parser for its own arguments.

        Args:
            name: how it is called.
            run: carries out what was given, and returns the exit status.
            text: what it does, in one line.
            usage: its own arguments.
            flags: the flags it takes.
        """
        shown = ["%(prog)s", *filter(None, [usage, "[--flag value ...]" if flags else ""])]
        parents = [flags] if flags else []
        parser = self._add(name, help=text, description=text, usage=" ".join(shown), parents=parents)
        parser.set_defaults(run=run)
        return parser


def configured(given: Namespace) -> Settings:
    """Return the settings, and let the log follow them.

    Raises:
        SettingsError: one is unknown or malformed.
    """
    settings = read(vars(given), os.environ)
    configure_logging(settings.log_level, settings.log_format)
    return settings


def row(*columns: object) -> None:
    """Print a line of a table, without characters that could move the terminal's cursor."""
    print(*(plain(str(column)) for column in columns), sep="\t")


def plain(text: str) -> str:
    """Return `text` with what can't be printed replaced."""
    return "".join(c if c.isprintable() else "?" for c in text)


def moment(seconds: float) -> str:
    """Return a time as text, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def is_terminal() -> bool:
    """Whether what is printed goes to a terminal."""
    return sys.stdout.isatty()
