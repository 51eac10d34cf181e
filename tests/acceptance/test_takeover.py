"""A store written by an earlier version: nothing is lost, nothing is counted twice."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.clock import Clock
from tests.support import Exporter, until
from tests.takeover import KEPT, KINDS, LATER_SECONDS, WRITTEN, at_time, place, serving, shown

pytestmark = pytest.mark.embedded

#: The families that redeliveries change: the duplicates, and the time of the last callback.
REDELIVERED = ("css_relay_callbacks_total", "css_relay_last_callback_timestamp_seconds")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kept", sorted(KEPT.iterdir()), ids=lambda kept: kept.name)
def test_a_store_of_an_earlier_version_is_taken_over(kept: Path, kind: str, tmp_path: Path) -> None:
    """It shows the same samples, redeliveries are duplicates, and sweeps settle its tasks."""
    expected = json.loads((kept / f"{kind}.expected.json").read_text())
    bodies = [body.encode() for body in json.loads((kept / "callbacks.json").read_text())]
    clock = Clock(tmp_path)
    with place(kind, tmp_path) as at:
        at.load(kept)
        at_time(clock, WRITTEN)
        with serving(tmp_path, at, clock) as exporter:
            assert _differences(exporter, expected["then"]) == []
            assert [exporter.post(body)[0] for body in bodies] == [200] * len(bodies)
            assert _differences(exporter, expected["then"], excluded=REDELIVERED) == []
            duplicates = len(bodies) - 2  # an unknown event and another product's
            assert exporter.scrape().value("callbacks_total", outcome="duplicate") == duplicates
        at_time(clock, WRITTEN + LATER_SECONDS)
        with serving(tmp_path, at, clock) as exporter:
            until(
                lambda: not _differences(exporter, expected["later"], excluded=REDELIVERED),
                "the due tasks are settled",
            )


def _differences(
    exporter: Exporter, expected: dict[str, Any], excluded: tuple[str, ...] = ()
) -> list[object]:
    """Return the differences of samples and tasks; families that the earlier version lacks are ignored."""
    found = shown(exporter)
    families = {sample.partition("{")[0] for sample in expected["samples"]}
    names = {n for n in expected["samples"] | found["samples"] if n.partition("{")[0] in families}
    samples = [
        (name, expected["samples"].get(name), found["samples"].get(name))
        for name in sorted(names)
        if not name.startswith(excluded)
        and expected["samples"].get(name, 0.0) != found["samples"].get(name, 0.0)
    ]
    tasks = zip(expected["tasks"], found["tasks"], strict=False)
    changed = [(was, task) for was, task in tasks if task | was != task]
    return [*samples, *changed, *({len(expected["tasks"])} ^ {len(found["tasks"])})]
