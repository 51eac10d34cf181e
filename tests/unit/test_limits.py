"""The time limits are as documented.

Tests with real connections and stores show that a limit exists and does not end too early. They cannot check
its length, because no result may depend on the speed of the machine.
"""

from pathlib import Path

import pytest

from exporter.config.settings import Settings
from exporter.server.connection import BODY_SECONDS, HEADERS_SECONDS, SEND_SECONDS
from exporter.server.worker import HANDSHAKE_SECONDS
from exporter.store.sqlite.open import BUSY_MS
from exporter.store.valkey.client import ANSWER_SECONDS
from exporter.store.valkey.store import COMMIT_SECONDS
from exporter.web.operators import READY_SECONDS
from exporter.web.pages.handler import REFRESH_SECONDS

DOCS = Path(__file__).parents[2] / "docs"
PROMISES = {
    "a body": (BODY_SECONDS, "security.md", "{} s to arrive"),
    "headers": (HEADERS_SECONDS, "security.md", "headers, and then the body, come within {} s each"),
    "an idle connection": (
        Settings().http_idle_timeout,
        "security.md",
        "a connection that waits is closed after {} s",
    ),
    "an answer": (SEND_SECONDS, "security.md", "an answer is read within {} s"),
    "a handshake": (HANDSHAKE_SECONDS, "security.md", "A handshake has {} s"),
    "the embedded store": (BUSY_MS / 1000, "operations.md", "another process for up to {} s"),
    "the shared store": (COMMIT_SECONDS, "scaling.md", "A commit is tried for {} s"),
    "the page": (REFRESH_SECONDS, "operations.md", "every {} seconds"),
}


@pytest.mark.parametrize(("seconds", "page", "promise"), PROMISES.values(), ids=PROMISES)
def test_a_limit_is_as_documented(seconds: float, page: str, promise: str) -> None:
    """A change of one must change the other."""
    text = " ".join((DOCS / page).read_text().split())  # a promise may be on two lines
    assert promise.format(f"{seconds:g}") in text


def test_a_readiness_check_and_a_commit_wait_for_an_answer_of_the_shared_store() -> None:
    """Each has time for at least one attempt; the sender and a scrape wait at most ten seconds."""
    assert ANSWER_SECONDS < COMMIT_SECONDS < READY_SECONDS < 10
