"""The event table: one row for each kind of relay callback, and the one place to add one.

To add an event, put its schema file into `schemas/` and its row here. Everything else reads this table: the
schemas, the parser, the fold, the metrics, the pages, the documentation and the simulator. A row that lacks
something, or that names a family, a label or a field that does not exist, ends the import with a line that
names it. Only a kind that moves its task needs more: what it does there, in `relay.state_machine`, and how it
is known again without a time, in `relay.deduplication`; both tables are held to this one.
"""

from collections.abc import Callable, Mapping
from enum import Enum, unique
from typing import Self, TypeVar

from msgspec import Struct

T = TypeVar("T")


class Subject(Enum):
    """What an event is about, beside its task."""

    NOTHING = "nothing"
    #: Known by `index`, else by `url`; `duration` is its declared length.
    FILE = "file"
    #: `code`, with a `message` beside it.
    EXIT_CODE = "exit code"
    #: A text in the first of the row's `text_fields` that is there.
    TEXT = "text"


class EventRow(Struct, frozen=True, kw_only=True):
    """A row of the event table.

    Args:
        letter: stands for the kind in the records of a store; it never changes.
        callback_event: the value of `callback_event`.
        schema: its schema file, without `.json`.
        subject: what it is about, beside its task.
        counts: the counter that each such callback adds 1 to, without the common prefix.
        moves: whether it changes where its task stands. If not, it is counted and listed in the history.
        words: what happened, on the pages.
        label: the label of that counter which the subject becomes, if it has one.
        text_fields: the fields of `msg` that hold a subject of kind TEXT, the preferred one first.
        time_field: the field of `msg` with the event's own time in milliseconds, if it has one.
    """

    letter: str
    callback_event: str
    schema: str
    subject: Subject
    counts: str
    moves: bool
    words: str
    label: str = ""
    text_fields: tuple[str, ...] = ()
    time_field: str = ""

    def __post_init__(self) -> None:
        """Hold the row's parts to each other.

        Raises:
            ValueError: they do not go together; the text names the event.
        """
        if len(self.letter) != 1:
            raise ValueError(f"the event {self.callback_event}: expected one letter, not {self.letter!r}")
        if (self.subject is Subject.TEXT) != bool(self.text_fields):
            raise ValueError(f"the event {self.callback_event}: text_fields are for a subject of kind TEXT")


@unique
class EventKind(Enum):
    """A kind of relay callback: its attributes are those of its row, its value is the row's letter."""

    START = EventRow(
        letter="S",
        callback_event="TaskStart",
        schema="task_start",
        subject=Subject.NOTHING,
        counts="tasks_started_total",
        moves=True,
        words="run began",
        time_field="task_start_time",
    )
    FILE_START = EventRow(
        letter="F",
        callback_event="VodSourceFileStart",
        schema="vod_source_file_start",
        subject=Subject.FILE,
        counts="files_started_total",
        moves=True,
        words="file began",
    )
    FILE_FINISH = EventRow(
        letter="N",
        callback_event="VodSourceFileFinish",
        schema="vod_source_file_finish",
        subject=Subject.FILE,
        counts="files_played_total",
        moves=True,
        words="file played to its end",
    )
    EXIT = EventRow(
        letter="E",
        callback_event="TaskExit",
        schema="task_exit",
        subject=Subject.EXIT_CODE,
        counts="tasks_exited_total",
        label="code",
        moves=True,
        words="run ended",
        time_field="task_exit_time",
    )
    ALARM = EventRow(
        letter="A",
        callback_event="TaskAlarm",
        schema="task_alarm",
        subject=Subject.TEXT,
        text_fields=("type", "AlarmType"),
        counts="alarms_total",
        label="type",
        moves=False,
        words="alarm",
    )
    CONFIG_RESET = EventRow(
        letter="R",
        callback_event="ResetTaskConfig",
        schema="reset_task_config",
        subject=Subject.NOTHING,
        counts="config_resets_total",
        moves=False,
        words="configuration reset",
    )

    def __new__(cls, row: EventRow) -> Self:
        """Make the letter the value: it is what stands in a record."""
        kind = object.__new__(cls)
        kind._value_ = row.letter
        return kind

    def __init__(self, row: EventRow) -> None:
        self.letter = row.letter
        self.callback_event = row.callback_event
        self.schema = row.schema
        self.subject = row.subject
        self.text_fields = row.text_fields
        self.counts = row.counts
        self.label = row.label
        self.moves = row.moves
        self.words = row.words
        self.time_field = row.time_field


def kinds_by(key: Callable[[EventKind], str]) -> dict[str, EventKind]:
    """Return the kinds by what `key` returns for each.

    Raises:
        ValueError: it returns the same for two kinds; the text names them.
    """
    found: dict[str, EventKind] = {}
    for kind in EventKind:
        other = found.setdefault(key(kind), kind)
        if other is not kind:
            raise ValueError(f"the events {other.name} and {kind.name} have the same {key(kind)!r}")
    return found


#: The kinds by `callback_event`, and by the letter that records have.
BY_NAME = kinds_by(lambda kind: kind.callback_event)
BY_LETTER = kinds_by(lambda kind: kind.letter)


def of_moving_kinds(table: Mapping[EventKind, T]) -> Mapping[EventKind, T]:
    """Return `table`, which has an entry for every kind that moves its task and for no other.

    Raises:
        ValueError: it has not; the text names the kinds.
    """
    wrong = table.keys() ^ {kind for kind in EventKind if kind.moves}
    if wrong:
        names = ", ".join(sorted(kind.callback_event for kind in wrong))
        raise ValueError(f"expected an entry for each event that moves its task and for no other: {names}")
    return table
