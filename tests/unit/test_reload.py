"""Values built from files: rebuilt after a change, and kept if the changed file can't be used."""

import logging
import os
import threading
from pathlib import Path

import pytest

from exporter.config.reload import FileReader, ReloadingFile
from exporter.config.settings import read
from exporter.errors import SettingsError
from exporter.watched_files import WatchedFiles


def number_in(path: Path) -> ReloadingFile[int]:
    """Return a reloading value: the number in a file."""

    def make(files: FileReader) -> int:
        try:
            return int(files.read(str(path)))
        except (OSError, ValueError) as exc:
            raise SettingsError("expected a number") from exc

    return ReloadingFile("a number", make)


@pytest.mark.parametrize("force", [False, True])
def test_a_valid_change_is_read_and_an_invalid_one_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, force: bool
) -> None:
    """The last good value stays. The reason is logged once per change, and each time with `force`."""
    caplog.set_level(logging.INFO)
    path = tmp_path / "number"
    path.write_text("1")
    value = number_in(path)
    for text, expected, level in (
        ("1", 1, logging.INFO),
        ("22", 22, logging.INFO),
        ("none", 22, logging.ERROR),
        (None, 22, logging.ERROR),
        ("333", 333, logging.INFO),
    ):
        caplog.clear()
        path.unlink() if text is None else path.write_text(text)
        # Each text has another modification time: two writes within one clock tick would look unchanged.
        os.utime(path, ns=(0, len(text))) if text else None
        for _ in range(3):
            value.reload(force=force)
            assert value.current() == expected
        assert [record.levelno for record in caplog.records] == [level] * (3 if force else 1)
        assert caplog.records[0].__dict__["of"] == "a number"


def test_a_file_that_can_not_be_opened_is_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not every second: it exists, like a file without permission, and has not changed since."""
    path = tmp_path / "number"
    path.write_text("1")
    value = number_in(path)
    path.unlink()
    path.mkdir()
    for _ in range(3):
        value.reload()
    assert (value.current(), len(caplog.records)) == (1, 1)


def test_an_unexpected_exception_keeps_the_last_value(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The last good value stays. Only the class of the exception is logged: its text may quote a secret."""
    path = tmp_path / "numbers"
    path.write_text("1,2")
    value = ReloadingFile("numbers", lambda files: files.read(str(path)).split(b",")[1])
    path.write_text("1")
    value.reload()
    assert value.current() == b"2"
    assert caplog.records[0].__dict__["reason"] == "IndexError"


def test_an_unchanged_file_is_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is read only with `force`."""
    caplog.set_level(logging.INFO)
    path = tmp_path / "number"
    path.write_text("1")
    value = number_in(path)
    value.reload()
    assert caplog.records == []
    value.reload(force=True)
    assert [record.message for record in caplog.records] == ["file reloaded"]


def test_a_file_replaced_by_a_similar_one_is_read_again(tmp_path: Path) -> None:
    """The file may be a link, as in Kubernetes, and have the same size and time."""
    link = tmp_path / "link"
    for name in ("1", "2"):
        (tmp_path / name).write_text(name)
        os.utime(tmp_path / name, (1, 1))
    link.symlink_to("1")
    value = number_in(link)
    (tmp_path / "other").symlink_to("2")
    os.replace(tmp_path / "other", link)
    value.reload()
    assert value.current() == 2


@pytest.mark.parametrize("becomes", [False, True])
@pytest.mark.parametrize("force", [False, True])
def test_a_pipe_is_read_once(tmp_path: Path, becomes: bool, force: bool) -> None:
    """Its content is gone, and waiting for new content would block the worker."""
    path, pipe = tmp_path / "number", tmp_path / "pipe"
    os.mkfifo(pipe)
    if becomes:
        path.write_text("7")
        value = number_in(path)
        pipe.replace(path)
    else:
        writer = threading.Thread(target=lambda: pipe.write_text("7"))
        writer.start()
        value = number_in(pipe)
        writer.join()
    value.reload(force=force)
    assert value.current() == 7


@pytest.mark.parametrize("path", ["none", "with\0nothing"])
def test_the_first_error_is_raised(tmp_path: Path, path: str) -> None:
    """There is no previous value to keep."""
    with pytest.raises(SettingsError, match="a number"):
        number_in(tmp_path / path)


def test_an_impossible_path_is_an_error() -> None:
    """A web configuration file may name such a path."""
    files = FileReader()
    with pytest.raises(ValueError, match="null"):
        files.read("with\0nothing")
    assert not files.must_be_reloaded(force=False)


@pytest.mark.parametrize(("mode", "is_open"), [(0o600, False), (0o640, False), (0o644, True), (0o604, True)])
def test_world_readable_files_are_detected(tmp_path: Path, mode: int, is_open: bool) -> None:
    """Only world-readable counts: group access is how a container's user reads mounted secrets."""
    path, files = tmp_path / "key", FileReader()
    path.touch()
    path.chmod(mode)
    files.read(str(path))
    assert files.is_world_readable(str(path)) is is_open


def test_world_readable_secrets_are_accepted_after_chmod(tmp_path: Path) -> None:
    """A changed mode alone causes a reload."""
    path = tmp_path / "tokens"
    path.write_text("old\n")
    path.chmod(0o600)
    files = WatchedFiles(read({"callback_token_file": str(path)}, {}))
    assert files.tokens is not None
    path.write_text("renewed\n")
    for mode, expected in ((0o604, "old"), (0o600, "renewed")):
        path.chmod(mode)
        files.reload()
        assert files.tokens() == (expected,)


def test_an_invalid_file_does_not_prevent_reading_the_others(tmp_path: Path) -> None:
    """Each file keeps its own last good value."""
    tokens, keys = tmp_path / "tokens", tmp_path / "keys"
    for path in (tokens, keys):
        path.write_text("old\n")
        path.chmod(0o600)
    files = WatchedFiles(read({"callback_token_file": str(tokens), "callback_sign_key_file": str(keys)}, {}))
    tokens.write_text("not a token\n")
    keys.write_text("renewed\n")
    files.reload(force=True)
    assert files.tokens is not None
    assert files.sign_keys is not None
    assert (files.tokens(), files.sign_keys()) == (("old",), ("renewed",))


def test_a_file_that_is_not_configured_is_none() -> None:
    """The web listener then needs no password."""
    files = WatchedFiles(read({}, {}))
    given = (files.tokens, files.sign_keys, files.store_passwords, files.callback_tls, files.web_tls)
    assert given == (None,) * 5
    assert files.web_config().users == {}
    files.reload(force=True)


HASH = "$2y$04$" + "a" * 21 + "e" + "a" * 31


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "basic_auth_users:\n",
        "basic_auth_users:\n  alice:\n",
        "basic_auth_users: {alice: ~}\n",
        "basic_auth_users: {}\n",
        f"basic_auth_users: {{alice:{HASH}}}\n",
    ],
)
def test_a_file_that_is_cut_off_does_not_turn_passwords_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    """An unfinished copy, a full disk, an empty variable. Only a restart turns passwords off."""
    path = tmp_path / "web.yml"
    path.write_text(f"basic_auth_users:\n  alice: {HASH}\n")
    files = WatchedFiles(read({"web_config_file": str(path)}, {}))
    path.write_text(text)
    files.reload()
    assert files.web_config().users == {"alice": HASH}
    assert "basic_auth_users" in caplog.records[-1].__dict__["reason"]
