"""Secrets in a file, one a line: refused where others can read them, read again when they change."""

from collections.abc import Callable

from exporter.errors import SettingsError
from exporter.reread import Files, Reread, is_open_to_others


def secret_file(path: str, *, flag: str, valid: Callable[[str], bool] = bool) -> Reread[tuple[str, ...]]:
    """Return the lines of a file; to rotate a secret, add the new one, and take the old one away later.

    Args:
        path: the file.
        flag: what names it, for messages.
        valid: whether a line can be used.

    Raises:
        SettingsError: it can't be read, others can read it, or there is nothing of use in it.
    """

    def make(files: Files) -> tuple[str, ...]:
        text = _read(path, flag, files)
        lines = tuple(line.strip() for line in text.splitlines() if line.strip())
        if not lines or not all(valid(line) for line in lines):
            raise SettingsError(f"{flag}: expected a secret a line in {path}")
        return lines

    return Reread(name=flag, make=make)


def _read(path: str, flag: str, files: Files) -> str:
    try:
        text = files.read(path).decode()
        is_open = is_open_to_others(path)
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or "it is not text"
        raise SettingsError(f"{flag}: {path} can't be read: {reason}") from exc
    if is_open:
        raise SettingsError(f"{flag}: others can read {path}; chmod o-rwx it")
    return text
