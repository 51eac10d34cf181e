"""Holds a scrape against what must have been counted."""

import ssl
from collections import Counter
from collections.abc import Callable, Mapping

import urllib3
from prometheus_client.parser import text_string_to_metric_families

from exporter.errors import ExporterError
from exporter.metrics.catalogue import FAMILIES, LABEL_CHOICES, PREFIX, Scope
from exporter.simulator.totals import EXACT_UNDER_LOSS, Key

TIMEOUT_SECONDS = 60.0
#: So many scrapes in a row that show the same are an exporter that has settled.
STILL_SCRAPES = 5
#: Left out: what no callback of a simulation makes.
COMPARED = {
    f"{family.name}_count" if family.kind == "histogram" else family.name
    for family in FAMILIES
    if family.scope in (Scope.LABELLED, Scope.FLEET) and family.kind != "gauge"
} - {"unknown_fields_total", "quarantine_evicted_total"} | {"tasks"}


def scrape(url: str, believed: ssl.SSLContext) -> dict[Key, float]:
    """Return what is compared of a scrape; names lack the common prefix.

    Args:
        believed: whose certificates are good, where the URL has one.

    Raises:
        ExporterError: there is none.
    """
    try:
        pool = urllib3.PoolManager(ssl_context=believed)
        answer = pool.request("GET", url, timeout=TIMEOUT_SECONDS, retries=False)
    except urllib3.exceptions.HTTPError as exc:
        raise ExporterError("--verify: there is no answer") from exc
    if answer.status != 200:
        raise ExporterError(f"--verify: expected 200, the answer is {answer.status}")
    return {
        (sample.name.removeprefix(PREFIX), frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.data.decode())
        for sample in family.samples
        if sample.name.removeprefix(PREFIX) in COMPARED
    }


class Comparison:
    """What was expected, and what a scrape shows beyond an earlier one.

    Args:
        expected: totals, by name and every label that `--metrics.labels` may name.
        before, after: scrapes.
        lossy: callbacks were lost, so that only what each callback says by itself is exact.
        unanswered: requests without an answer; each may be a duplicate when it is sent again.
    """

    def __init__(
        self,
        *,
        expected: Mapping[Key, int],
        before: Mapping[Key, float],
        after: Mapping[Key, float],
        lossy: bool,
        unanswered: int,
    ) -> None:
        shown = {name for key in after if key[0] == "tasks" for name, _ in key[1]}
        hidden = set(LABEL_CHOICES) - (shown - {"to_host", "stream_id", "task_id"} if lossy else shown)
        self._expected = without(expected, hidden)
        grown = {key: value - before.get(key, 0) for key, value in after.items()}
        self._shown = without(grown, hidden)
        self._unanswered = unanswered
        keys = self._expected.keys() | self._shown.keys()
        self._keys = sorted(
            (key for key in keys if not lossy or key[0] in EXACT_UNDER_LOSS),
            key=lambda key: (key[0], sorted(key[1])),
        )

    def shows_the_same(self, other: "Comparison") -> bool:
        """Whether the scrapes of both show the same."""
        return self._shown == other._shown

    @property
    def compared(self) -> int:
        """How many samples are compared."""
        return len(self._keys)

    def differences(self) -> list[str]:
        """Return a line for each sample that is not as expected."""
        return [
            f"{written(key)}: expected {self._expected[key]:g}, grew by {self._shown[key]:g}"
            for key in self._keys
            if not self._is_right(key)
        ]

    def _is_right(self, key: Key) -> bool:
        beyond = self._shown[key] - self._expected[key]
        may_exceed = self._unanswered if ("outcome", "duplicate") in key[1] else 0
        return 0 <= beyond <= may_exceed


def settled(look: Callable[[], Comparison], pause: Callable[[], None]) -> Comparison:
    """Look until nothing differs or the exporter has settled, however slow it is; return the last look.

    Args:
        look: compares with a scrape of this moment.
        pause: waits between two looks.
    """
    comparison, still = look(), 0
    while comparison.differences() and still < STILL_SCRAPES:
        pause()
        latest = look()
        still = still + 1 if latest.shows_the_same(comparison) else 0
        comparison = latest
    return comparison


def without(counts: Mapping[Key, float], hidden: set[str]) -> Counter[Key]:
    """Return `counts` summed over some labels."""
    summed: Counter[Key] = Counter()
    for (name, labels), count in counts.items():
        summed[name, frozenset(label for label in labels if label[0] not in hidden)] += count  # type: ignore[assignment]
    return summed


def written(key: Key) -> str:
    """Return a sample's name and labels as they are exposed."""
    name, labels = key
    inside = ",".join(f'{label}="{value}"' for label, value in sorted(labels))
    return f"{PREFIX}{name}" + (f"{{{inside}}}" if inside else "")
