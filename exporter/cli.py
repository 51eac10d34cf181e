"""The command line: the commands, the parsing of arguments, and the reporting of errors."""

import os
import platform
import re
import signal
import sys
from argparse import Namespace
from collections.abc import Sequence
from functools import cache
from io import TextIOWrapper

from exporter import __version__
from exporter.app import revision, serve
from exporter.commands import CommandLine, Commands, load_settings, printable, quarantine, store, tasks
from exporter.config.flags import flag_parser, flags_of, parse_bool
from exporter.config.settings import Settings
from exporter.errors import ExporterError, SettingsError
from exporter.simulator.command import simulate
from exporter.simulator.options import SimulatorSettings, read_options

PROGRAM = "css-relay-exporter"


def _serve(args: Namespace) -> int:
    # SIGHUP is ignored until the master handles it: by default it ends a process.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    serve(load_settings(args))
    return 0


def _version(args: Namespace) -> int:
    print(_version_text())
    return 0


def _version_text() -> str:
    return f"{PROGRAM} {__version__} (revision {revision()}, Python {platform.python_version()})"


FLAGS = {f"--{flag.name}": flag for rows in (Settings, SimulatorSettings) for flag in flags_of(rows).values()}
#: Flags of single commands, which are not settings.
COMMAND_FLAGS = {"--help", "--version", "--all", "--raw", "--replace"}


@cache
def command_line() -> CommandLine:
    """Return the parser of the command line. The help lists the commands in the order they are added."""
    parser = CommandLine(
        prog=PROGRAM,
        description="Prometheus exporter for the relay-task callbacks of Tencent Cloud CSS.",
        epilog="`COMMAND --help` shows the arguments and flags of a command.",
    )
    parser.add_argument("-V", "--version", action="version", version=_version_text())
    commands = Commands(parser)
    commands.add("serve", _serve, "Receive callbacks and serve metrics.")
    commands.add("check", store.check, "Check settings, schemas and the store; report what is wrong.")
    for module in (tasks, quarantine, store):
        module.add_commands(commands)
    text = "Send callbacks of a simulated fleet; print expected totals."
    flags = flag_parser(SimulatorSettings, has_variables=False)
    commands.add("simulate", lambda args: simulate(read_options(vars(args))), text, "--target URL", flags)
    commands.add("version", _version, "Print the version.", flags=None)
    return parser


def parse(words: Sequence[str]) -> Namespace:
    """Return the parsed command line. Its `run` is the function of the command.

    Raises:
        SettingsError: an argument is unknown, malformed or missing; the text names it.
        SystemExit: the help or the version was requested, and is printed.
    """
    joined = _joined(words)
    # Before argparse: its message would quote the whole word, which may contain a password.
    for word in joined[: joined.index("--")] if "--" in joined else joined:
        name = _flag_name(word)
        if name.startswith("--") and name not in FLAGS and name not in COMMAND_FLAGS:
            raise SettingsError(f"unknown flag {name}")
    args, unknown = command_line().parse_known_args(joined)
    if unknown:
        word, name = unknown[0], _flag_name(unknown[0])
        if name:
            hint = "; write flags after the command" if name in FLAGS else ""
            raise SettingsError(f"unknown flag {name}{hint}")
        can_be_secret = not re.fullmatch(r"[\w./-]+", word)
        raise SettingsError("unknown argument" if can_be_secret else f"unknown argument {word}")
    return args


def _flag_name(word: str) -> str:
    """Return the flag at the start of a word, without its value, which may be a password; empty if none."""
    found = re.match(r"--[\w.-]*|-\w?", word)
    return found[0] if found else ""


def _joined(words: Sequence[str]) -> list[str]:
    """Return `words` with `--flag value` joined to `--flag=value`: a value such as -22 looks like a flag."""
    rest = list(reversed(words))
    joined = []
    while rest:
        word = rest.pop()
        has_value = word in FLAGS and FLAGS[word].parse is not parse_bool
        # If another flag follows, the value is missing: argparse reports it.
        if has_value and rest and not {_flag_name(rest[-1])} & (FLAGS.keys() | COMMAND_FLAGS):
            word = f"{word}={rest.pop()}"
        joined.append(word)
        if word == "--":  # everything after it is an argument, not a flag
            return joined + rest[::-1]
    return joined


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status: 2 for wrong settings, 1 for other errors, 130 after Ctrl-C."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if sys.stdout is None:  # the shell closed it, as with `>&-`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for terminals that are not UTF-8
    try:
        status = _run(words)
        sys.stdout.flush()
    except ExporterError as exc:
        print(f"{PROGRAM}: {printable(str(exc))}", file=sys.stderr)
        return 2 if isinstance(exc, SettingsError) else 1
    except KeyboardInterrupt:
        return 130
    except OSError as exc:
        # Not an error if the reader has closed the pipe, as `| head` does. Else, for example, a full disk.
        if not isinstance(exc, BrokenPipeError):
            print(f"{PROGRAM}: {exc.strerror or exc}", file=sys.stderr)
        # Python flushes standard output again when it exits: that must not fail too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _run(words: list[str]) -> int:
    # Without a command: the help, as an error.
    if words in ([], ["help"]):
        command_line().print_help()
        return 0 if words else 2
    try:
        args = parse(words)
    except SystemExit:  # argparse has printed the help or the version
        return 0
    status: int = args.run(args)
    return status
