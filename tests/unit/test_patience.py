"""What takes too long is ended, also where it does not hear of that the first time."""

import asyncio

import pytest

from exporter.web import patience
from exporter.web.patience import Patience


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks again and again, and at once."""
    monkeypatch.setattr(patience, "LOOK_SECONDS", 0.0)


async def forever() -> bytes:
    """Wait for what never comes."""
    await asyncio.Event().wait()
    return b""


async def deaf(times: int) -> bytes:
    """Do not hear so often that it is over.

    So does asyncio.wait_for, on which gunicorn's bodies wait, where a part of one comes in the very moment
    (Python 3.11).
    """
    for _ in range(times):
        try:
            await forever()
        except asyncio.CancelledError:
            continue
    return await forever()


@pytest.mark.parametrize("times", range(4))
def test_what_does_not_come_in_time_is_given_up(times: int) -> None:
    """However often it does not hear of it; nothing of that is left for who waited."""

    async def wait() -> int:
        with pytest.raises(TimeoutError):
            await Patience(0.0).wait(deaf(times))
        task = asyncio.current_task()
        assert task is not None
        await asyncio.sleep(0)
        return task.cancelling()

    assert asyncio.run(wait()) == 0


def test_what_comes_though_its_time_is_over_counts() -> None:
    """It was under way already when it was to be ended."""

    async def at_last() -> bytes:
        try:
            await forever()
        except asyncio.CancelledError:
            return b"whole"
        return b""

    async def wait() -> tuple[bytes, int]:
        came = await Patience(0.0).wait(at_last())
        task = asyncio.current_task()
        assert task is not None
        await asyncio.sleep(0)
        return came, task.cancelling()

    assert asyncio.run(wait()) == (b"whole", 0)


def test_what_somebody_else_ends_is_not_out_of_time() -> None:
    """A connection that is closed ends who waits for it."""

    async def wait() -> None:
        waiting = asyncio.create_task(Patience(3600.0).wait(forever()))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(wait())
