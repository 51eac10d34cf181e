"""Secrets in a file, one a line: refused where others can read them."""

from collections.abc import Callable

from exporter.errors import SettingsError
from exporter.reload import Files


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
