"""The mark that `move` of an earlier version left on a store: it may have been served elsewhere since."""


def moved(name: object, mark: str) -> str:
    """Return why the store called `name` is not served, and what to do about it.

    Args:
        name: of the store, as it may be shown.
        mark: how far that was, which one it was, and where the store went.
    """
    _, _, to = mark.split(" ", 2)
    return (
        f"store {name} was moved to {to}, or was about to be: give --store.url={to}; "
        "if no store is there, `dump` this one and `load` it"
    )
