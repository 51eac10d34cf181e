"""Logging: no caller can flood the log, and no secret is written."""

import logging
from collections.abc import Iterator

import pytest

from exporter.config.logging import MAX_LINES_PER_SECOND, RepeatFilter, configure_logging
from exporter.protocol.redact import SECRET_WORDS

SECRET = "s3cr3t"


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, restored after the test."""
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


def record(message: str, second: float, level: int = logging.WARNING) -> logging.LogRecord:
    """Return a log record."""
    line = logging.LogRecord("exporter", level, __file__, 1, message, None, None)
    line.created = second
    return line


def test_lines_of_one_kind_are_limited_per_second() -> None:
    """So are errors. Lines of another kind and of the next second are written."""
    for level in (logging.INFO, logging.ERROR):
        repeat_filter = RepeatFilter()
        passed = [repeat_filter.filter(record("refused", 100.5, level)) for _ in range(50)]
        assert passed.count(True) == MAX_LINES_PER_SECOND
        assert repeat_filter.filter(record("another", 100.6, level))
        assert repeat_filter.filter(record("refused", 101.0, level))


def test_the_number_of_remembered_lines_is_limited() -> None:
    """The limit holds for any number of different lines."""
    repeat_filter = RepeatFilter()
    assert all(repeat_filter.filter(record(f"line {n}", 100.0)) for n in range(5000))
    assert len(repeat_filter._seen) <= 1000


@pytest.mark.parametrize("form", ["logfmt", "json"])
@pytest.mark.parametrize("word", SECRET_WORDS)
def test_a_line_contains_no_value_of_a_secret_word(
    word: str, form: str, root: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    """The value is hidden in the message, in a field, in the text of a field and in an exception."""
    configure_logging("info", form)
    log = logging.getLogger("exporter.test")
    log.warning("seen %s=%s", word, SECRET, extra={f"my_{word}": SECRET, "of": f"{word}:{SECRET}", "n": 7})
    try:
        raise ValueError(f"{word}={SECRET} at http://u:{SECRET}@host/a?{SECRET}")  # noqa: TRY301
    except ValueError:
        log.exception("failed")
    output = capsys.readouterr().err
    assert SECRET not in output
    for kept in ("seen", "7", "failed", "ValueError", "http://host/a"):
        assert kept in output
