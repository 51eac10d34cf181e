"""The event table: one row for each kind of relay callback.

To add an event, add its schema file to `schemas/`, its row here and, if its counter is new, the row of the
counter in `metrics.catalogue`; docs/architecture.md has the next steps. The import fails if the catalogue
lacks the counter or its label. The start fails if the schema file is missing or lacks a field of the row.
Everything else reads this table: the schemas, the parser, the fold, the metrics, the pages, the documentation
and the simulator.
An event that changes the run state also needs a transition in `relay.state_machine`, and a rule in
`relay.deduplication` that detects its redelivery when it has no event time. Both tables are checked against
this one at import.
"""

from collections.abc import Callable, Mapping
from enum import Enum, unique
from typing import Self, TypeVar

from msgspec import Struct

T = TypeVar("T")


class Subject(Enum):
    """The subject of an event, apart from its task."""

    NOTHING = "nothing"
    #: A file, identified by `index`, or by `url` if `index` is absent; `duration` is its declared duration.
    FILE = "file"
    #: An exit code in `code`; `message` explains it.
    EXIT_CODE = "exit code"
    #: A text, in the first of the row's `text_fields` that is present.
    TEXT = "text"


class EventRow(Struct, frozen=True, kw_only=True):
    """A row of the event table.

    Args:
        letter: identifies the kind in stored records; it never changes.
        callback_event: the value of the field `callback_event`.
        schema: name of its schema file, without `.json`.
        subject: kind of its subject.
        counter: the counter that each such callback increments, without the common prefix.
        changes_state: whether it changes the run state. If not, it is only counted and listed in the history.
        description: description of the event on the pages.
        label: the label of that counter that holds the subject, empty if there is none.
        text_fields: the fields of `msg` that may hold a subject of kind TEXT, the preferred one first.
        time_field: the field of `msg` that holds the event time in milliseconds, empty if there is none.
    """

    letter: str
    callback_event: str
    schema: str
    subject: Subject
    counter: str
    changes_state: bool
    description: str
    label: str = ""
    text_fields: tuple[str, ...] = ()
    time_field: str = ""

    def __post_init__(self) -> None:
        """Check that the fields of the row are consistent.

        Raises:
            ValueError: they are not; the text names the event.
        """
        if len(self.letter) != 1:
            raise ValueError(f"the event {self.callback_event}: expected one letter, not {self.letter!r}")
        if (self.subject is Subject.TEXT) != bool(self.text_fields):
            raise ValueError(f"the event {self.callback_event}: text_fields are for a subject of kind TEXT")


@unique
class EventKind(Enum):
    """A kind of relay callback, with the fields of its row as attributes; its value is the letter."""

    START = EventRow(
        letter="S",
        callback_event="TaskStart",
        schema="task_start",
        subject=Subject.NOTHING,
        counter="tasks_started_total",
        changes_state=True,
        description="run started",
        time_field="task_start_time",
    )
    FILE_START = EventRow(
        letter="F",
        callback_event="VodSourceFileStart",
        schema="vod_source_file_start",
        subject=Subject.FILE,
        counter="files_started_total",
        changes_state=True,
        description="file started",
    )
    FILE_FINISH = EventRow(
        letter="N",
        callback_event="VodSourceFileFinish",
        schema="vod_source_file_finish",
        subject=Subject.FILE,
        counter="files_played_total",
        changes_state=True,
        description="file played to its end",
    )
    EXIT = EventRow(
        letter="E",
        callback_event="TaskExit",
        schema="task_exit",
        subject=Subject.EXIT_CODE,
        counter="tasks_exited_total",
        label="code",
        changes_state=True,
        description="run ended",
        time_field="task_exit_time",
    )
    ALARM = EventRow(
        letter="A",
        callback_event="TaskAlarm",
        schema="task_alarm",
        subject=Subject.TEXT,
        text_fields=("type", "AlarmType"),
        counter="alarms_total",
        label="type",
        changes_state=False,
        description="alarm",
    )
    CONFIG_RESET = EventRow(
        letter="R",
        callback_event="ResetTaskConfig",
        schema="reset_task_config",
        subject=Subject.NOTHING,
        counter="config_resets_total",
        changes_state=False,
        description="configuration reset",
    )

    def __new__(cls, row: EventRow) -> Self:
        """Use the letter as the value, because stored records hold it."""
        kind = object.__new__(cls)
        kind._value_ = row.letter
        return kind

    def __init__(self, row: EventRow) -> None:
        self.letter = row.letter
        self.callback_event = row.callback_event
        self.schema = row.schema
        self.subject = row.subject
        self.text_fields = row.text_fields
        self.counter = row.counter
        self.label = row.label
        self.changes_state = row.changes_state
        self.description = row.description
        self.time_field = row.time_field


def kinds_by(key: Callable[[EventKind], str]) -> dict[str, EventKind]:
    """Return every kind, indexed by its `key`.

    Raises:
        ValueError: two kinds have the same key; the text names them.
    """
    kinds: dict[str, EventKind] = {}
    for kind in EventKind:
        other = kinds.setdefault(key(kind), kind)
        if other is not kind:
            raise ValueError(f"the events {other.name} and {kind.name} have the same {key(kind)!r}")
    return kinds


#: The kinds by `callback_event`, and by the letter in stored records.
BY_NAME = kinds_by(lambda kind: kind.callback_event)
BY_LETTER = kinds_by(lambda kind: kind.letter)


def check_complete(name: str, table: Mapping[EventKind, T]) -> Mapping[EventKind, T]:
    """Return the table `name`, after checking that its keys are exactly the kinds that change the run state.

    Raises:
        ValueError: a kind is missing or must not be there; the text names the table and the event.
    """
    wrong = table.keys() ^ {kind for kind in EventKind if kind.changes_state}
    if wrong:
        names = ", ".join(sorted(kind.callback_event for kind in wrong))
        raise ValueError(f"{name}: expected one entry for each event with changes_state=True; check {names}")
    return table
