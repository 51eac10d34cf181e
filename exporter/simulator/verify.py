"""Compares scrapes with the totals to expect."""

import ssl
from collections import Counter
from collections.abc import Callable, Mapping

import urllib3
from prometheus_client.parser import text_string_to_metric_families

from exporter.errors import ExporterError
from exporter.metrics.catalogue import FAMILIES, LABEL_CHOICES, PREFIX, Scope
from exporter.simulator.totals import EXACT_UNDER_LOSS, Key

TIMEOUT_SECONDS = 60.0
#: The exporter has finished when this many scrapes in a row show the same values.
STABLE_SCRAPES = 5
#: The compared samples: all that the callbacks of a simulation can change.
COMPARED = {
    f"{family.name}_count" if family.kind == "histogram" else family.name
    for family in FAMILIES
    if family.scope in (Scope.LABELLED, Scope.FLEET) and family.kind != "gauge"
} - {"unknown_fields_total", "quarantine_evicted_total"} | {"tasks"}


def scrape(url: str, tls_context: ssl.SSLContext) -> dict[Key, float]:
    """Return the compared samples of a scrape; names are without the common prefix.

    Args:
        url: URL of the exporter's metrics.
        tls_context: verifies the certificate, if the URL is HTTPS.

    Raises:
        ExporterError: the exporter does not answer, or not with 200.
    """
    try:
        pool = urllib3.PoolManager(ssl_context=tls_context)
        answer = pool.request("GET", url, timeout=TIMEOUT_SECONDS, retries=False)
    except urllib3.exceptions.HTTPError as exc:
        raise ExporterError("--verify: no answer") from exc
    if answer.status != 200:
        raise ExporterError(f"--verify: expected an answer with 200, not {answer.status}")
    return {
        (sample.name.removeprefix(PREFIX), frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.data.decode())
        for sample in family.samples
        if sample.name.removeprefix(PREFIX) in COMPARED
    }


class Comparison:
    """The comparison of the totals to expect with the increase between two scrapes.

    Args:
        expected: totals by name and labels, with every label of `--metrics.labels`.
        before, after: the two scrapes.
        lossy: callbacks were lost, so only the metrics in EXACT_UNDER_LOSS are compared.
        unanswered: number of requests without an answer; each may have been counted, and its repetition
            as a duplicate.
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
        # The exporter may have any --metrics.labels: the totals are summed over the labels that it lacks.
        shown = {name for key in after if key[0] == "tasks" for name, _ in key[1]}
        hidden = set(LABEL_CHOICES) - (shown - {"to_host", "stream_id", "task_id"} if lossy else shown)
        self._expected = sum_over(expected, hidden)
        grown = {key: value - before.get(key, 0) for key, value in after.items()}
        self._shown = sum_over(grown, hidden)
        self._unanswered = unanswered
        keys = self._expected.keys() | self._shown.keys()
        self._keys = sorted(
            (key for key in keys if not lossy or key[0] in EXACT_UNDER_LOSS),
            key=lambda key: (key[0], sorted(key[1])),
        )

    def has_same_values(self, other: "Comparison") -> bool:
        """Return whether both have the same increase."""
        return self._shown == other._shown

    @property
    def compared(self) -> int:
        """Number of compared samples."""
        return len(self._keys)

    def differences(self) -> list[str]:
        """Return a line for each sample that differs from its total."""
        return [
            f"{sample_text(key)}: expected {self._expected[key]:g}, grew by {self._shown[key]:g}"
            for key in self._keys
            if not self._is_right(key)
        ]

    def _is_right(self, key: Key) -> bool:
        excess = self._shown[key] - self._expected[key]
        # A request without an answer is sent again. If the first one was counted, the second is a duplicate.
        may_exceed = self._unanswered if ("outcome", "duplicate") in key[1] else 0
        return 0 <= excess <= may_exceed


def until_stable(compare: Callable[[], Comparison], pause: Callable[[], None]) -> Comparison:
    """Compare until nothing differs or the values are stable; return the last comparison.

    Args:
        compare: makes a scrape and compares it.
        pause: waits between two scrapes.
    """
    comparison, unchanged = compare(), 0
    while comparison.differences() and unchanged < STABLE_SCRAPES:
        pause()
        latest = compare()
        unchanged = unchanged + 1 if latest.has_same_values(comparison) else 0
        comparison = latest
    return comparison


def sum_over(counts: Mapping[Key, float], hidden: set[str]) -> Counter[Key]:
    """Return `counts` summed over the labels in `hidden`."""
    summed: Counter[Key] = Counter()
    for (name, labels), count in counts.items():
        summed[name, frozenset(label for label in labels if label[0] not in hidden)] += count  # type: ignore[assignment]
    return summed


def sample_text(key: Key) -> str:
    """Return the name and labels of a sample in the text format."""
    name, labels = key
    inside = ",".join(f'{label}="{value}"' for label, value in sorted(labels))
    return f"{PREFIX}{name}" + (f"{{{inside}}}" if inside else "")
