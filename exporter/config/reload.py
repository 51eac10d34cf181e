"""Values that are built from files, and rebuilt when the files change. Secrets are such values."""

import logging
import os
import stat
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from exporter.errors import SettingsError

log = logging.getLogger(__name__)

T = TypeVar("T")


class FileStamp(NamedTuple):
    """The attributes of a file that show whether it has changed or was replaced."""

    mode: int
    modified_ns: int
    size_bytes: int
    inode: int
    device: int


class FileReader:
    """A reader of files that can check later whether one of them has changed."""

    def __init__(self) -> None:
        #: By path; None for a path that has no file.
        self._stamps: dict[str, FileStamp | None] = {}

    def read(self, path: str) -> bytes:
        """Return the bytes of a file; raise ValueError instead of OSError if no file can have that path."""
        # First by path: so a file that can't be opened is tracked too, and reported once, not every second.
        self._stamps[path] = _stamp(path)
        with open(path, "rb") as file:
            # Then of the open file: another one may have been moved to the path in between.
            self._stamps[path] = _stamp(file.fileno())
            return file.read()

    def is_world_readable(self, path: str) -> bool:
        """Return whether all users of this machine could read the file when it was read here."""
        # Group access is allowed: this is how a container's user reads a mounted secret.
        stamp = self._stamps[path]
        return stamp is not None and bool(stamp.mode & stat.S_IROTH)

    def warn_if_world_readable(self, path: str) -> None:
        """Log a warning if all users of this machine could read a secret file when it was read here."""
        if self.is_world_readable(path):
            log.warning("secret file is readable by all users; run chmod o-rwx on it", extra={"path": path})

    def must_be_reloaded(self, *, force: bool) -> bool:
        """Return whether to read the files again: one has changed, or `force`. Never if one is a pipe."""
        # The content of a pipe is used up, and waiting for new content would block the worker.
        now = {path: _stamp(path) for path in self._stamps}
        has_pipe = any(stamp is not None and stat.S_ISFIFO(stamp.mode) for stamp in now.values())
        return not has_pipe and (force or now != self._stamps)


class ReloadingFile(Generic[T]):
    """A value built from one file, or from several that belong together. It is replaced as a whole.

    Args:
        name: its name in the log.
        make: returns the value; reads its files with the FileReader that it is given.
    """

    def __init__(self, name: str, make: Callable[[FileReader], T]) -> None:
        self._name = name
        self._make = make
        self._files = FileReader()
        self._value = make(self._files)

    def current(self) -> T:
        """Return the newest value. Any thread may call this."""
        return self._value

    def reload(self, *, force: bool = False) -> None:
        """Rebuild the value if a file has changed, or with `force` in any case. Log the result.

        If the value can't be rebuilt, the previous one stays.
        """
        if not self._files.must_be_reloaded(force=force):
            return
        # New stamps even if `make` fails: a broken file is reported once, not at every check.
        self._files = FileReader()
        try:
            self._value = self._make(self._files)
        except Exception as exc:
            # Also a bug, or too many open files: neither may stop the worker. Its text may quote a secret.
            reason = str(exc) if isinstance(exc, SettingsError) else type(exc).__name__
            problem = {"of": self._name, "reason": reason}
            log.error("reload failed; the previous values stay in use", extra=problem)  # noqa: TRY400
        else:
            log.info("file reloaded", extra={"of": self._name})


def _stamp(file: str | int) -> FileStamp | None:
    """Return the stamp of a path or of an open file; None if there is no file."""
    # By `stat`, not `lstat`: Kubernetes changes a mounted file by replacing a link on its path.
    try:
        found = os.stat(file)
    except (OSError, ValueError):
        return None
    return FileStamp(found.st_mode, found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev)


def secret_lines(path: str, flag: str, is_valid: Callable[[str], bool], files: FileReader) -> tuple[str, ...]:
    """Return the secrets in a file, one per line. All of them are valid at the same time, for rotation.

    Args:
        flag: the flag that names the file, for error messages.
        is_valid: whether a line can be used as a secret.

    Raises:
        SettingsError: the file can't be read, is readable by all users, is empty, or has an invalid line.
    """
    try:
        text = files.read(path).decode()
    except OSError as exc:
        raise SettingsError(f"{flag}={path}: can't be read: {exc.strerror}") from exc
    except ValueError as exc:
        # `open` raises it too, if no file can have such a path.
        problem = "it is not UTF-8 text" if isinstance(exc, UnicodeDecodeError) else "expected a valid path"
        raise SettingsError(f"{flag}={path}: {problem}") from None
    if files.is_world_readable(path):
        raise SettingsError(f"{flag}: all users of this machine can read {path}; run chmod o-rwx {path}")
    lines = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not lines or not all(map(is_valid, lines)):
        # The line itself is not quoted: it may be a secret with a typing error.
        raise SettingsError(f"{flag}: {path} is empty or has an invalid line; write one secret per line")
    return lines
