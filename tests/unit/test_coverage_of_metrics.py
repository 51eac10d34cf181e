"""Every metric of the catalogue is in a panel or a rule, or has a reason here why not."""

import re

from exporter.metrics.catalogue import FAMILIES
from tests.dashboards import ROOT, targets

#: Metrics that are in no panel and no rule, with the reason.
NOT_SHOWN: dict[str, str] = {}


def shown() -> set[str]:
    """Return the names of metrics in panels and rules."""
    texts = [target.expr for target in targets()]
    texts += [path.read_text() for path in (ROOT / "prometheus" / "rules").glob("*.yml")]
    names = {name for text in texts for name in re.findall(r"(?<![\w:])css_relay_\w+", text)}
    return names | {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}


def test_every_metric_is_shown() -> None:
    """A metric without a use need not be measured."""
    missing = {family.full_name for family in FAMILIES} - shown()
    assert missing == set(NOT_SHOWN)
