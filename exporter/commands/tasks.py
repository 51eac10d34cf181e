"""The command `tasks`: lists the known tasks, and deletes one."""

from argparse import Namespace
from contextlib import closing

from exporter.app import open_store
from exporter.commands import PAGE_SIZE, Commands, load_settings, print_row
from exporter.relay import STATES, state_of
from exporter.store.protocol import decode_task, task_key
from exporter.store.transaction import Transaction


def list_tasks(args: Namespace) -> int:
    """Print the known tasks, or those in one state; return the exit status."""
    settings = load_settings(args)
    with closing(open_store(settings, attach_only=True)) as store:
        print_row("APPID", "TASK", "STATE", "RUNS", "DESTINATION")
        after = 0
        while page := store.list_tasks(state=args.state, after=after, limit=PAGE_SIZE):
            for _, record in page:
                task = decode_task(record)
                state = state_of(task, settings.fold_settings)
                print_row(task.appid, task.task_id, state, task.runs, task.to_url)
            after = page[-1][0]
    return 0


def forget_task(args: Namespace) -> int:
    """Delete a task from the store; return the exit status, 1 if it is not known."""
    # A transaction may run more than once, so it returns its result instead of printing it.
    key = task_key(args.appid, args.task_id)

    def forget(transaction: Transaction) -> bool:
        is_known = transaction.task(key) is not None
        transaction.delete(key)
        return is_known

    with closing(open_store(load_settings(args), attach_only=True)) as store:
        is_known, _ = store.transact(forget)
    print(f"task {args.appid}/{args.task_id} " + ("was deleted" if is_known else "is not known"))
    return 0 if is_known else 1


def add_commands(commands: Commands) -> None:
    """Add `tasks`."""
    group = commands.group("tasks", "List the tasks, or delete one.")
    listing = group.add("list", list_tasks, "List the known tasks.", "[STATE]")
    only = "list only tasks in this state: " + ", ".join(STATES)
    listing.add_argument("state", metavar="STATE", nargs="?", choices=STATES, help=only)
    forget = group.add("forget", forget_task, "Delete a task; the counters stay.", "APPID TASK_ID")
    forget.add_argument("appid", metavar="APPID", type=int, help="APPID of its account")
    forget.add_argument("task_id", metavar="TASK_ID", help="ID of the task")
