"""How long things may take is what the documentation promises.

Tests with real connections and stores show that a limit is kept, and no sooner than it says. How long it is
they can't tell, as no verdict hangs on the speed of the machine.
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
def test_a_limit_is_as_long_as_is_promised(seconds: float, page: str, promise: str) -> None:
    """Whoever changes one of them changes what is said of it."""
    text = " ".join((DOCS / page).read_text().split())  # a promise may stand on two lines
    assert promise.format(f"{seconds:g}") in text


def test_who_asks_whether_it_is_ready_and_a_commit_wait_for_an_answer_of_the_shared_store() -> None:
    """One try at least fits into either; the sender and a scrape wait no longer than ten seconds."""
    assert ANSWER_SECONDS < COMMIT_SECONDS < READY_SECONDS < 10
