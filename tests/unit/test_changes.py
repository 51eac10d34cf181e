"""What a process knows to have changed: all of it, or it says that it does not know."""

import pytest

from exporter.store import changes as module
from exporter.store.changes import Changes


def test_what_changed_between_two_commits_is_told() -> None:
    """Each key once; what was dropped later than asked for is not yet."""
    changes = Changes()
    changes.begin(7)
    changes.note(["a", "b"], [])
    changes.note(["b"], [11])
    changes.note(["c"], [12])
    assert [sorted(each) for each in changes.between(7, 10) or ()] == [["a", "b", "c"], [11, 12]]
    assert [sorted(each) for each in changes.between(8, 9) or ()] == [["b", "c"], [11]]
    assert changes.between(10, 10) == ([], [])


@pytest.mark.parametrize(("since", "until"), [(6, 8), (7, 9), (8, 7)])
def test_what_others_changed_is_not_known(since: int, until: int) -> None:
    """Before it began, and past what it counted itself; nor does time run backwards."""
    changes = Changes()
    changes.begin(7)
    changes.note(["a"], [])
    assert changes.between(7, 8) == (["a"], [])
    assert changes.between(since, until) is None


def test_what_has_been_read_is_forgotten() -> None:
    """By one who asks for what came after it; it is given up, and nobody is told a part for all."""
    changes = Changes()
    for name in "abc":
        changes.note([name], [])
    assert changes.between(1, 3) == (["b", "c"], [])
    assert changes.between(1, 3) == (["b", "c"], [])
    assert changes.between(2, 3) == (["c"], [])
    assert changes.between(1, 3) is None


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest is given up, and who would have needed it is told so."""
    monkeypatch.setattr(module, "MAX_CHANGES", 3)
    changes = Changes()
    for name in "abcd":
        changes.note([name], [])
    assert changes.between(0, 4) is None
    assert sorted((changes.between(1, 4) or ([], []))[0]) == ["b", "c", "d"]
    for number in range(4):
        changes.note([], [number])
    assert changes.between(4, 8) is None
    assert changes.between(5, 8) == ([], [1, 2, 3])
