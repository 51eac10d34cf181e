"""Values that are made from files, and made again when those change; secrets among them."""

import logging
import os
import stat
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from exporter.errors import SettingsError

log = logging.getLogger(__name__)

T = TypeVar("T")


class Stamp(NamedTuple):
    """What differs between a file and what is later found at its path."""

    mode: int
    modified: int
    size: int
    inode: int
    device: int


class Files:
    """Reads files, and knows whether they are still as they were then."""

    def __init__(self) -> None:
        self._stamps: dict[str, Stamp | None] = {}

    def read(self, path: str) -> bytes:
        """Return the bytes of a file.

        Raises:
            OSError: it can't be read.
            ValueError: no file can have that path.
        """
        self._stamps[path] = _stamp_of(path)
        with open(path, "rb") as file:
            self._stamps[path] = _stamp(os.fstat(file.fileno()))
            return file.read()

    def is_open_to_others(self, path: str) -> bool:
        """Whether any user of this machine could read a file when it was read here."""
        stamp = self._stamps[path]
        return stamp is not None and bool(stamp.mode & stat.S_IROTH)

    def warn_if_open_to_others(self, path: str) -> None:
        """Log that a file with a secret is open to others, if it was so when it was read here."""
        if self.is_open_to_others(path):
            log.warning("secret file is readable by others; run chmod o-rwx", extra={"path": path})

    def are_to_be_read(self, *, force: bool) -> bool:
        """Whether one of those that were read is another now, or with `force` whether they can be read again.

        A pipe can't: it has nothing to say a second time, and to wait for it would stop everything.
        """
        now = {path: _stamp_of(path) for path in self._stamps}
        has_pipe = any(stamp is not None and stat.S_ISFIFO(stamp.mode) for stamp in now.values())
        return not has_pipe and (force or now != self._stamps)


class ReloadingFile(Generic[T]):
    """A value made from a file, or from several that belong together: replaced as a whole or not at all.

    Args:
        name: what it is called in the log.
        make: makes it, and reads its files with what it is given.

    Raises:
        SettingsError: from `make`.
    """

    def __init__(self, name: str, make: Callable[[Files], T]) -> None:
        self._name = name
        self._make = make
        self._files = Files()
        self._value = make(self._files)

    def current(self) -> T:
        """Return the value; any thread may ask."""
        return self._value

    def look(self, *, force: bool = False) -> None:
        """Make the value again if a file has changed, or in any case; the log says how that went.

        Where it can't be made, the one before stays.
        """
        if not self._files.are_to_be_read(force=force):
            return
        self._files = Files()
        try:
            self._value = self._make(self._files)
        except SettingsError as exc:
            problem = {"of": self._name, "reason": str(exc)}
            log.error("can't be used; what was read before holds", extra=problem)  # noqa: TRY400
        except Exception as exc:
            # A fault of this program, or no more file can be opened: neither must end what serves.
            # Only its kind is told, as its text may quote a secret.
            problem = {"of": self._name, "reason": type(exc).__name__}
            log.error("can't be used; what was read before holds", extra=problem)  # noqa: TRY400
        else:
            log.info("read again", extra={"of": self._name})


def _stamp_of(path: str) -> Stamp | None:
    try:
        return _stamp(os.stat(path))
    except (OSError, ValueError):
        return None


def _stamp(found: os.stat_result) -> Stamp:
    return Stamp(found.st_mode, found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev)


def secret_lines(path: str, flag: str, is_valid: Callable[[str], bool], files: Files) -> tuple[str, ...]:
    """Return the lines of a file; to rotate a secret, add the new one, and take the old one away later.

    Args:
        path: the file.
        flag: what names it, for messages.
        is_valid: whether a line can be used.
        files: what it is read with.

    Raises:
        SettingsError: it can't be read, others can read it, or there is nothing of use in it.
    """
    try:
        text = files.read(path).decode()
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or "it is not text"
        raise SettingsError(f"{flag}: {path} can't be read: {reason}") from exc
    if files.is_open_to_others(path):
        raise SettingsError(f"{flag}: others can read {path}; chmod o-rwx it")
    lines = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not lines or not all(map(is_valid, lines)):
        raise SettingsError(f"{flag}: expected a secret a line in {path}")
    return lines
