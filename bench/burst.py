"""A burst of callbacks: whether each is answered 200 and counted once, and how long that takes."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.load import Load, send_exactly
from bench.process import EXPORTER, Process
from bench.report import Figure, Target
from bench.throughput import APPLIED


def measure(folder: Path, flags: Sequence[str], *, callbacks: int, destinations: int) -> Iterator[Figure]:
    """Send `callbacks` callbacks as fast as possible to an exporter that has just started."""
    with Process(EXPORTER, folder, flags) as exporter:
        outcome = send_exactly(Load((exporter.callbacks_url,), destinations=destinations), callbacks)
        counted = exporter.samples()[APPLIED]
    yield Figure("burst callbacks", callbacks)
    yield Figure("burst callbacks lost", callbacks - outcome.accepted, "", Target(0))
    yield Figure("burst callbacks miscounted", abs(counted - callbacks), "", Target(0))
    yield Figure("burst time", outcome.seconds, "s")
    yield Figure("burst p50", outcome.p50_ms, "ms")
    yield Figure("burst p99", outcome.p99_ms, "ms", Target(50))
    yield Figure("burst longest", outcome.max_ms, "ms")
