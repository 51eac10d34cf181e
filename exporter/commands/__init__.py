"""The commands that an operator needs beside `serve`, and what they have in common."""

import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from exporter import logs
from exporter.errors import SettingsError
from exporter.settings import Settings, read

PAGE = 100


class Words:
    """The words after a command: switches, what stands before the first flag, and flags.

    Args:
        words: as they were given.
        switches: names of the command's own switches, such as `--all`.
    """

    def __init__(self, words: Sequence[str], *switches: str) -> None:
        self.switches = frozenset(words) & frozenset(switches)
        rest = [word for word in words if word not in self.switches]
        end = next((i for i, word in enumerate(rest) if word.startswith("--")), len(rest))
        self.leading, self._flags = rest[:end], rest[end:]

    def settings(self, environment: Mapping[str, str] = os.environ) -> Settings:
        """Return the settings.

        Raises:
            SettingsError: one is unknown or malformed.
        """
        return configured(self._flags, environment)


def configured(flags: Sequence[str], environment: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings, and let the log follow them.

    Raises:
        SettingsError: one is unknown or malformed.
    """
    settings = read(flags, environment)
    logs.configure(settings.log_level, settings.log_format)
    return settings


def confused(usage: str) -> SettingsError:
    """Return the error for words that make no command."""
    return SettingsError(f"expected {usage}")


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
