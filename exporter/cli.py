"""The command line: which commands there are, how their words are parsed, how a failure is reported."""

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
from exporter.config.flags import flag_parser, flags_of, parse_switch
from exporter.config.settings import Settings
from exporter.errors import ExporterError, SettingsError
from exporter.simulator.command import simulate
from exporter.simulator.options import Options, read_options

PROGRAM = "css-relay-exporter"


def _serve(given: Namespace) -> int:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the master takes it: all files are read soon anyway
    serve(load_settings(given))
    return 0


def _simulate(given: Namespace) -> int:
    return simulate(read_options(vars(given)))


def _version(given: Namespace) -> int:
    print(_version_text())
    return 0


def _version_text() -> str:
    return f"{PROGRAM} {__version__} (revision {revision()}, Python {platform.python_version()})"


FLAGS = {f"--{flag.name}": flag for rows in (Settings, Options) for flag in flags_of(rows).values()}
#: Those of single commands, beside the flags.
SWITCHES = {"--help", "--version", "--all", "--raw", "--replace"}


@cache
def command_line() -> CommandLine:
    """Return the parser of the whole command line, with every command in the order of the help."""
    parser = CommandLine(
        prog=PROGRAM,
        description="Prometheus exporter for the relay-task callbacks of Tencent Cloud CSS.",
        epilog="`COMMAND --help` shows the arguments and flags of a command.",
    )
    parser.add_argument("-V", "--version", action="version", version=_version_text())
    commands = Commands(parser)
    commands.add("serve", _serve, "Take callbacks, show metrics.")
    commands.add("check", store.check, "Check settings, schemas and the store, and say what is wrong.")
    for module in (tasks, quarantine, store):
        module.add_commands(commands)
    sent = "Send what a fleet would send, and print the totals to expect."
    commands.add("simulate", _simulate, sent, "--target URL", flag_parser(Options, has_variables=False))
    commands.add("version", _version, "Print the version.", flags=None)
    return parser


def parse(words: Sequence[str]) -> Namespace:
    """Return what a command line asks for; `run` in it carries it out.

    Raises:
        SettingsError: a word is unknown, malformed or missing; the text names it.
        SystemExit: help or version was asked for, and is printed.
    """
    joined = _joined(words)
    for word in joined[: joined.index("--")] if "--" in joined else joined:
        name = _flag_name(word)
        if name.startswith("--") and name not in FLAGS and name not in SWITCHES:
            raise SettingsError(f"unknown flag {name}")
    given, unknown = command_line().parse_known_args(joined)
    if unknown:
        name = _flag_name(unknown[0])
        hint = ": flags follow the command that takes them" if name in FLAGS else ""
        raise SettingsError(f"unknown flag {name}{hint}" if name else _unknown_argument(unknown[0]))
    return given


def _flag_name(word: str) -> str:
    """Return the flag in a word, without what follows it: a password perhaps; nothing if it is none."""
    found = re.match(r"--[\w.-]*|-\w?", word)
    return found[0] if found else ""


def _unknown_argument(word: str) -> str:
    """Return what is wrong with a word, which is repeated where it can hold no secret."""
    return f"unknown argument {word}" if re.fullmatch(r"[\w./-]+", word) else "unknown argument"


def _joined(words: Sequence[str]) -> list[str]:
    """Return `words` with `--flag value` as `--flag=value`: a value may begin with a dash, as -22."""
    rest = list(reversed(words))
    joined = []
    while rest:
        word = rest.pop()
        has_value = word in FLAGS and FLAGS[word].parse is not parse_switch
        # Not another flag: then the value is missing.
        if has_value and rest and not {_flag_name(rest[-1])} & (FLAGS.keys() | SWITCHES):
            word = f"{word}={rest.pop()}"
        joined.append(word)
        if word == "--":
            return joined + rest[::-1]
    return joined


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command in `arguments`; return its status: 2 for settings, 1 for errors, 130 if stopped."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if sys.stdout is None:  # it was closed
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may know few characters
    try:
        status = _run(words)
        sys.stdout.flush()
    except ExporterError as exc:
        print(f"{PROGRAM}: {printable(str(exc))}", file=sys.stderr)
        return 2 if isinstance(exc, SettingsError) else 1
    except KeyboardInterrupt:
        return 130
    except OSError as exc:
        # Nobody reads any more, as after `| head`, or the disk is full: nothing more is written.
        if not isinstance(exc, BrokenPipeError):
            print(f"{PROGRAM}: {exc.strerror or exc}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _run(words: list[str]) -> int:
    if words in ([], ["help"]):
        command_line().print_help()
        return 0 if words else 2
    try:
        given = parse(words)
    except SystemExit:
        return 0
    status: int = given.run(given)
    return status
