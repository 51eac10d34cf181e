"""Values made from files: made anew when those change, and kept while what changed is of no use."""

import logging
import os
import threading
from pathlib import Path

import pytest

from exporter.errors import SettingsError
from exporter.reread import Files, Reread, is_open_to_others


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def number(path: Path, files: Files) -> int:
    """Read a number."""
    try:
        return int(files.read(str(path)))
    except (OSError, ValueError) as exc:
        raise SettingsError("expected a number") from exc


def test_a_change_shows_a_second_later_and_a_broken_one_never(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The last good value stays, the log says why, and once a change."""
    path, clock = tmp_path / "number", Clock()
    path.write_text("1")
    value = Reread(name="a number", make=lambda files: number(path, files), clock=clock)
    path.write_text("22")
    clock.now += 0.9
    assert value.current() == 1
    clock.now += 0.2
    assert value.current() == 22
    for broken in ("none", None):
        caplog.clear()
        path.unlink() if broken is None else path.write_text(broken)
        for _ in range(3):
            clock.now += 2
            assert value.current() == 22
        assert [record.levelno for record in caplog.records] == [logging.ERROR]
    path.write_text("333")
    clock.now += 2
    assert value.current() == 333


def test_a_file_that_is_replaced_by_one_like_it_is_read_again(tmp_path: Path) -> None:
    """Also through a link, as in Kubernetes, and with the size and the time of the old one."""
    clock, link = Clock(), tmp_path / "link"
    for name in ("1", "2"):
        (tmp_path / name).write_text(name)
        os.utime(tmp_path / name, (1, 1))
    link.symlink_to("1")
    value = Reread(name="a number", make=lambda files: number(link, files), clock=clock)
    (tmp_path / "other").symlink_to("2")
    os.replace(tmp_path / "other", link)
    clock.now += 2
    assert value.current() == 2


def test_another_basis_makes_it_anew(tmp_path: Path) -> None:
    """Though no file has changed; if it fails, the old value stays until something changes again."""
    clock, basis, made = Clock(), [object()], []

    def make(_files: Files) -> int:
        made.append(basis[0])
        if basis[0] is None:
            raise SettingsError("no basis")
        return len(made)

    value = Reread(name="a count", make=make, basis=lambda: basis[0], clock=clock)
    clock.now += 2
    assert value.current() == 1
    for each, expected in ((object(), 2), (None, 2), (None, 2), (object(), 4)):
        basis[0] = each  # type: ignore[list-item]
        clock.now += 2
        assert value.current() == expected


def test_what_is_no_file_is_read_once(tmp_path: Path) -> None:
    """A pipe has nothing to say a second time, and waiting for it would stop everything."""
    clock, pipe = Clock(), tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text("7"))
    writer.start()
    value = Reread(name="a number", make=lambda files: number(pipe, files), clock=clock)
    writer.join()
    clock.now += 2
    assert value.current() == 7


def test_the_first_time_an_error_is_raised(tmp_path: Path) -> None:
    """There is nothing to go on with."""
    with pytest.raises(SettingsError, match="a number"):
        Reread(name="a number", make=lambda files: number(tmp_path / "none", files))


@pytest.mark.parametrize(("mode", "is_open"), [(0o600, False), (0o640, False), (0o644, True), (0o604, True)])
def test_who_else_may_read_is_seen(tmp_path: Path, mode: int, is_open: bool) -> None:
    """Anybody, that is; groups are how secrets are mounted for a container's user."""
    path = tmp_path / "key"
    path.touch()
    path.chmod(mode)
    assert is_open_to_others(str(path)) is is_open
