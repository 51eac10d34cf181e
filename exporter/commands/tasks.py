"""`tasks`: list the tasks that are known, forget one."""

from argparse import Namespace
from contextlib import closing

from exporter.app import open_store
from exporter.commands import PAGE, Commands, configured, row
from exporter.config.settings import Settings
from exporter.relay import STATES, state_of
from exporter.store.protocol import Store, Transaction
from exporter.store.records import decode_task, task_key


def list_tasks(given: Namespace) -> int:
    """Print the tasks that are known, of a state if given; return the exit status."""
    settings = configured(given)
    with closing(open_store(settings, attach_only=True)) as store:
        row("APPID", "TASK", "STATE", "RUNS", "DESTINATION")
        after: int | None = 0
        while after is not None:
            after = _list_page(store, settings, given.state, after)
    return 0


def _list_page(store: Store, settings: Settings, state: str | None, after: int) -> int | None:
    page = store.listing(state=state, after=after, limit=PAGE)
    for _, record in page:
        task = decode_task(record)
        row(task.appid, task.task_id, state_of(task, settings.fold_settings), task.runs, task.to_url)
    return page[-1][0] if len(page) == PAGE else None


def forget_task(given: Namespace) -> int:
    """Forget a task; return the exit status, 1 if it is not known."""
    key = task_key(given.appid, given.task_id)

    def work(step: Transaction) -> bool:
        known = step.task(key) is not None
        step.delete(key)
        return known

    with closing(open_store(configured(given), attach_only=True)) as store:
        known, _ = store.transact(work)
    print(f"task {given.appid}/{given.task_id} " + ("is forgotten" if known else "is not known"))
    return 0 if known else 1


def add_commands(commands: Commands) -> None:
    """Add `tasks`."""
    group = commands.group("tasks", "List tasks, forget one.")
    listing = group.add("list", list_tasks, "List the tasks known.", "[STATE]")
    only = "only those that are " + ", ".join(STATES)
    listing.add_argument("state", metavar="STATE", nargs="?", choices=STATES, help=only)
    forget = group.add("forget", forget_task, "Forget a task; its counters stay.", "APPID TASK_ID")
    forget.add_argument("appid", metavar="APPID", type=int)
    forget.add_argument("task_id", metavar="TASK_ID")
