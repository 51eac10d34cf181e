"""One test that asks one question of many things, and tells all of them that are at fault."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

Check = Callable[..., None]


def each(things: Mapping[str, Any]) -> Callable[[Check], Callable[[], None]]:
    """Make a test of all things of a check of one; it fails with the name of each that fails, and why.

    Args:
        things: what the check is called with, by the names of the things; a tuple is several arguments.
    """

    def of_all(check: Check) -> Callable[[], None]:
        def test() -> None:
            assert things, "there is nothing to look at"
            faults = {}
            for name, thing in things.items():
                try:
                    check(*(thing if isinstance(thing, tuple) else (thing,)))
                except Exception as exc:
                    faults[name] = f"{type(exc).__name__}: {exc}"
            if faults:
                told = "\n\n".join(f"{name}:\n{why}" for name, why in faults.items())
                pytest.fail(f"{len(faults)} of {len(things)}:\n\n{told}", pytrace=False)

        # No functools.wraps: pytest would look for the arguments of the check.
        test.__name__, test.__doc__, test.__module__ = check.__name__, check.__doc__, check.__module__
        return test

    return of_all
