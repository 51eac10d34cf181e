"""Ends what takes too long, and costs next to nothing for what does not.

A timer a request would be a good part of what a request costs; instead one looks at all of them now and then.
"""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any, TypeVar

R = TypeVar("R")

LOOK_SECONDS = 0.5


class Patience:
    """Waits for so long.

    Args:
        seconds: how long something may take, give or take LOOK_SECONDS.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._begun: dict[asyncio.Task[object], float] = {}
        #: How often each was told that its time is over.
        self._told: Counter[asyncio.Task[object]] = Counter()
        self._looks = False

    async def wait(self, awaited: Coroutine[Any, Any, R]) -> R:
        """Return what `awaited` returns.

        Raises:
            TimeoutError: it took too long.
        """
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine always runs in one
        loop = asyncio.get_running_loop()
        self._begun[task] = loop.time()
        if not self._looks:
            self._looks = True
            loop.call_later(LOOK_SECONDS, self._look)
        try:
            return await awaited
        except asyncio.CancelledError:
            if task not in self._told:
                raise
            raise TimeoutError from None
        finally:
            del self._begun[task]
            for _ in range(self._told.pop(task, 0)):
                task.uncancel()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        # Those that began first come first.
        for task, begun in self._begun.items():
            if begun > loop.time() - self.seconds:
                break
            # At every look anew: asyncio.wait_for, in which gunicorn waits for a body, loses a cancellation
            # where a part comes in the same moment (Python 3.11). Who sends it would be held for ever.
            self._told[task] += 1
            task.cancel()
        self._looks = bool(self._begun)
        if self._looks:
            loop.call_later(LOOK_SECONDS, self._look)
