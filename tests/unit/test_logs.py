"""The log: no caller can flood it."""

import logging

from exporter.logs import LINES_A_SECOND, FloodGate


def record(message: str, second: float, level: int = logging.WARNING) -> logging.LogRecord:
    """Return a line of the log."""
    line = logging.LogRecord("exporter", level, __file__, 1, message, None, None)
    line.created = second
    return line


def test_a_kind_of_line_is_written_so_often_a_second() -> None:
    """Errors too; another kind, and the next second, are not held back."""
    for level in (logging.INFO, logging.ERROR):
        gate = FloodGate()
        passed = [gate.filter(record("refused", 100.5, level)) for _ in range(50)]
        assert passed.count(True) == LINES_A_SECOND
        assert gate.filter(record("another", 100.6, level))
        assert gate.filter(record("refused", 101.0, level))


def test_the_gate_itself_is_bounded() -> None:
    """Whatever is logged."""
    gate = FloodGate()
    assert all(gate.filter(record(f"line {n}", 100.0)) for n in range(5000))
    assert len(gate._seen) <= 1000
