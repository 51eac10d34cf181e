"""`tasks`: list the tasks that are known, forget one."""

from contextlib import closing

from exporter.commands import PAGE, Words, confused, row
from exporter.relay import STATES, state_of
from exporter.service import open_store
from exporter.settings import Settings
from exporter.store import Store, Transaction, task_key
from exporter.store.records import decode_task

USAGE = "tasks list [" + "|".join(STATES) + "] or tasks forget APPID TASK_ID"


def tasks(words: list[str]) -> int:
    """Run `tasks` with these words; return its status."""
    given = Words(words)
    settings = given.settings()
    match given.leading:
        case ["list"]:
            return _list(settings, None)
        case ["list", state] if state in STATES:
            return _list(settings, state)
        case ["forget", appid, task_id] if appid.isdigit():
            return _forget(settings, int(appid), task_id)
    raise confused(USAGE)


def _list(settings: Settings, state: str | None) -> int:
    with closing(open_store(settings, as_guest=True)) as store:
        row("APPID", "TASK", "STATE", "RUNS", "DESTINATION")
        after: int | None = 0
        while after is not None:
            after = _list_page(store, settings, state, after)
    return 0


def _list_page(store: Store, settings: Settings, state: str | None, after: int) -> int | None:
    page = store.listing(state=state, after=after, limit=PAGE)
    for _, record in page:
        task = decode_task(record)
        row(task.appid, task.task_id, state_of(task, settings.windows), task.runs, task.to_url)
    return page[-1][0] if len(page) == PAGE else None


def _forget(settings: Settings, appid: int, task_id: str) -> int:
    key = task_key(appid, task_id)

    def work(step: Transaction) -> bool:
        known = step.task(key) is not None
        step.forget(key)
        return known

    with closing(open_store(settings, as_guest=True)) as store:
        known, _ = store.transact(work)
    print(f"task {appid}/{task_id} " + ("is forgotten" if known else "is not known"))
    return 0 if known else 1
