"""A test that checks many items and reports all that fail."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

Check = Callable[..., None]


def each(things: Mapping[str, Any]) -> Callable[[Check], Callable[[], None]]:
    """Return a decorator that turns the check of one item into a test of all; it reports all failing items.

    Args:
        things: the arguments of the check, by the name of the item; a tuple is several arguments.
    """

    def of_all(check: Check) -> Callable[[], None]:
        def test() -> None:
            assert things, "there are no items to check"
            faults = {}
            for name, thing in things.items():
                try:
                    check(*(thing if isinstance(thing, tuple) else (thing,)))
                except Exception as exc:
                    faults[name] = f"{type(exc).__name__}: {exc}"
            if faults:
                told = "\n\n".join(f"{name}:\n{why}" for name, why in faults.items())
                pytest.fail(f"{len(faults)} of {len(things)}:\n\n{told}", pytrace=False)

        # Without functools.wraps: pytest would treat the arguments of the check as fixtures.
        test.__name__, test.__doc__, test.__module__ = check.__name__, check.__doc__, check.__module__
        return test

    return of_all
