"""Logging: no caller can flood the log, and no secret is written."""

import logging
from collections.abc import Iterator

import pytest

from exporter.config.logging import MAX_LINES_PER_SECOND, RepeatFilter, configure_logging
from exporter.protocol.redact import SECRET_WORDS

SECRET = "s3cr3t"


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, which is then as it was."""
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


def record(message: str, second: float, level: int = logging.WARNING) -> logging.LogRecord:
    """Return a line of the log."""
    line = logging.LogRecord("exporter", level, __file__, 1, message, None, None)
    line.created = second
    return line


def test_a_kind_of_line_is_written_so_often_a_second() -> None:
    """Errors too. Lines of another kind and of the next second are written."""
    for level in (logging.INFO, logging.ERROR):
        repeat_filter = RepeatFilter()
        passed = [repeat_filter.filter(record("refused", 100.5, level)) for _ in range(50)]
        assert passed.count(True) == MAX_LINES_PER_SECOND
        assert repeat_filter.filter(record("another", 100.6, level))
        assert repeat_filter.filter(record("refused", 101.0, level))


def test_the_memory_of_the_filter_is_bounded() -> None:
    """However many different lines are logged."""
    repeat_filter = RepeatFilter()
    assert all(repeat_filter.filter(record(f"line {n}", 100.0)) for n in range(5000))
    assert len(repeat_filter._seen) <= 1000


@pytest.mark.parametrize("form", ["logfmt", "json"])
@pytest.mark.parametrize("word", SECRET_WORDS)
def test_a_line_keeps_no_secret_that_a_word_names(
    word: str, form: str, root: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    """In its message, in a field of that name, in the text of another, in an error."""
    configure_logging("info", form)
    log = logging.getLogger("exporter.test")
    log.warning("seen %s=%s", word, SECRET, extra={f"my_{word}": SECRET, "of": f"{word}:{SECRET}", "n": 7})
    try:
        raise ValueError(f"{word}={SECRET} at http://u:{SECRET}@host/a?{SECRET}")  # noqa: TRY301
    except ValueError:
        log.exception("failed")
    said = capsys.readouterr().err
    assert SECRET not in said
    for kept in ("seen", "7", "failed", "ValueError", "http://host/a"):
        assert kept in said
