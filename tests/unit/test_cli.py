"""The command line: its help, its commands and its errors."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec import Struct

from exporter import cli
from exporter.config.flags import default_text, flags_of
from exporter.config.settings import Settings
from exporter.simulator.options import Options

PASSWORD = "c4n4ry"
#: Every command, with its arguments as its help shows them.
COMMANDS = {
    "serve": "",
    "check": "",
    "tasks list": "[STATE]",
    "tasks forget": "APPID TASK_ID",
    "quarantine list": "[REASON]",
    "quarantine show": "DIGEST [--raw]",
    "quarantine replay": "DIGEST | --all [REASON]",
    "quarantine purge": "DIGEST | --all [REASON]",
    "backup": "PATH [--replace]",
    "restore": "PATH [--replace]",
    "dump": "PATH [--replace]",
    "load": "PATH [--replace]",
    "simulate": "--target URL",
    "version": "",
}


def output_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return the output of a command, with single spaces."""
    assert cli.main(words) == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("words", COMMANDS)
def test_each_command_has_its_own_help(
    words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its arguments, then its flags, each with its default and its environment variable, if any."""
    monkeypatch.setenv("COLUMNS", "500")
    text = output_of(capsys, *words.split(), "--help")
    usage = " ".join(["usage: css-relay-exporter", words, *COMMANDS[words].split()])
    rows: type[Struct] | None = {"simulate": Options, "version": None}.get(words, Settings)
    flags = flags_of(rows) if rows else {}
    assert text.startswith(f"{usage} [--flag value ...] " if flags else f"{usage} ")
    shown = re.findall(r"--([a-z.-]+) (?:\[true\|false\]|VALUE) ", text)
    assert sorted(shown) == sorted(flag.name for flag in flags.values())
    written = set(re.findall(r" \[?(--[a-z][a-z.-]+)", text.replace("[--flag value ...]", "")))
    assert written <= cli.FLAGS.keys() | cli.SWITCHES
    for field, flag in flags.items():
        variable = f"{flag.variable}, " if rows is Settings else ""
        assert f"{flag.help} ({variable}default {default_text(rows, field) or 'none'})" in text
    own = text.removeprefix(usage).partition(" flags: ")[0]
    for argument in re.findall(
        r"--(?:all|raw|replace)|[A-Z_]{3,}", COMMANDS[words].removeprefix("--target URL")
    ):
        assert re.search(rf" \[?{argument}\]? ", own), argument


def test_the_help_lists_every_command_on_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal with 80 columns. Without a command the exit status is 2, with the same help."""
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main([]) == 2
    text = capsys.readouterr().out
    for words in (["--help"], ["-h"], ["help"]):
        assert cli.main(words) == 0
        assert capsys.readouterr().out == text
    listed = re.findall(r"^    ([a-z]+) +[A-Z].*\.$", text, re.MULTILINE)
    assert listed == list(dict.fromkeys(words.split()[0] for words in COMMANDS))
    for group in ("tasks", "quarantine"):
        assert cli.main([group, "--help"]) == 0
        listed = re.findall(r"^    ([a-z]+) +[A-Z].*\.$", capsys.readouterr().out, re.MULTILINE)
        assert [f"{group} {name}" for name in listed] == [
            words for words in COMMANDS if words.startswith(group)
        ]


def test_the_version_is_printed_by_the_command_and_the_flag(capsys: pytest.CaptureFixture[str]) -> None:
    """Both forms of the flag and the command print the same line."""
    assert output_of(capsys, "version") == output_of(capsys, "--version") == output_of(capsys, "-V")
    assert output_of(capsys, "version").startswith("css-relay-exporter ")


@pytest.mark.parametrize("form", ["{}={}", "{} {}"])
@pytest.mark.parametrize("flag", ["--store.url", "--store.uri", "--store", "--storeurl"])
@pytest.mark.parametrize(
    "words",
    [
        "serve {}",
        "{} serve",
        "tasks {} list",
        "tasks list {}",
        "quarantine list {}",
        "quarantine show {}",
        "quarantine purge --all {}",
        "backup {}",
    ],
)
@pytest.mark.parametrize(
    "url", ["valkey://u:{}@h:x", "valkey://:{}@[h", "http://u:{}@h", "valkey://{}@h/db?x={}", "{}"]
)
def test_no_error_repeats_a_password(
    words: str, flag: str, form: str, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wherever the flag is, and with any misspelling."""
    given = words.format(form.format(flag, url.replace("{}", PASSWORD)))
    assert cli.main(given.split()) == 2
    captured = capsys.readouterr()
    assert PASSWORD not in captured.err + captured.out
    assert captured.err.startswith("css-relay-exporter: ")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["serve", f"--store.url valkey://:{PASSWORD}@h/0"], "unknown flag --store.url"),
        (["serve", f"--store.url:valkey://:{PASSWORD}@h/0"], "unknown flag --store.url"),
        (["serve", f"--password {PASSWORD}"], "unknown flag --password"),
        (["serve", f"-p{PASSWORD}"], "unknown flag -p"),
        (["check", f'valkey://u:pa"{PASSWORD}@127.0.0.1/0'], "unknown argument"),
        (["check", "--store.url", "sqlite:x", f"u:{PASSWORD}@host"], "unknown argument"),
        (["serve", f"--a\nb{PASSWORD}"], "unknown flag --a"),
        (["serve", f"\x1b[2J{PASSWORD}"], "unknown argument"),
        (
            ["check", "--relay.ok-exit-codes", "--log.level=debug"],
            "--relay.ok-exit-codes: expected one argument",
        ),
    ],
)
def test_the_value_of_an_unknown_flag_is_not_repeated(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is hidden after any separator. Control characters of the terminal are not printed either."""
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert PASSWORD not in error
    assert (error.count("\n"), "\x1b" in error) == (1, False)


@pytest.mark.parametrize("words", [["--help"], ["version"], ["check"], ["tasks", "list"]])
@pytest.mark.parametrize("output", ["/dev/full", None])
def test_an_output_that_cannot_be_written_ends_no_command_with_a_traceback(
    words: list[str], output: str | None, tmp_path: Path
) -> None:
    """The disk is full, or the output was closed."""
    redirection = f">{output}" if output else ">&-"
    command = ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-m", "exporter", *words]
    done = subprocess.run(command, cwd=tmp_path, stderr=subprocess.PIPE, check=False)
    assert b"Traceback" not in done.stderr
    assert done.returncode in (0, 1)
    if output and words[0] in ("version", "check"):  # argparse ignores the error; there is no store to list
        assert done.stderr.endswith(b"No space left on device\n")


@pytest.mark.parametrize("flag", ["--target", "--verify"])
def test_no_error_repeats_the_password_of_a_target(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor the token in its path."""
    assert cli.main(["simulate", f"{flag}=htp://u:{PASSWORD}@h/callbacks/{PASSWORD}"]) == 2
    error = capsys.readouterr().err
    assert flag in error
    assert PASSWORD not in error


@pytest.mark.parametrize("unbuffered", [[], ["-u"]])
@pytest.mark.parametrize("words", [["--help"], ["serve", "--help"], ["version"], ["--version"]])
def test_a_closed_pipe_ends_a_command_without_an_error(words: list[str], unbuffered: list[str]) -> None:
    """`| head -1` closes the pipe. argparse ignores the error, so the status of a help is 0."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, *unbuffered, "-m", "exporter", *words]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) in ((0, b""), (1, b""))


def test_a_terminal_that_is_not_utf8_ends_no_command(tmp_path: Path) -> None:
    """Characters that it does not have are escaped."""
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    url = f"--store.url=sqlite:{tmp_path}/\u00e9.db"
    command = [sys.executable, "-m", "exporter", "check", url]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\xe9.db is writable" in done.stdout


def test_a_failed_command_prints_one_line_with_the_reason(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The status is 2 for settings, 1 for other errors."""
    bad = tmp_path / "bad.db"
    bad.write_text("no store" * 99)
    cases: list[tuple[list[str], int, str]] = [
        ([], 2, ""),
        (["dance"], 2, "'dance'"),
        (["serve", "--nope"], 2, "unknown flag --nope"),
        (["--log.level=debug", "serve"], 2, "unknown flag --log.level; write flags after the command"),
        (["serve", "--log.lev=debug"], 2, "unknown flag --log.lev"),
        (["serve", "--log.level"], 2, "--log.level"),
        (["serve", "--", "--log.level=debug"], 2, "unknown flag --"),
        (["version", "x"], 2, "unknown argument x"),
        (["version", "--log.level=debug"], 2, "unknown flag --log.level"),
        (["simulate", "--log.level=debug"], 2, "unknown flag --log.level"),
        (["tasks"], 2, "COMMAND (see css-relay-exporter tasks --help)"),
        (["tasks", "dance"], 2, "'dance'"),
        (["tasks", "list", "dancing"], 2, "STATE: invalid choice: 'dancing'"),
        (["tasks", "forget", "x", "y"], 2, "APPID: invalid int value: 'x'"),
        (["tasks", "forget", "1"], 2, "TASK_ID"),
        (["quarantine", "list", "dance"], 2, "REASON: invalid choice: 'dance'"),
        (["quarantine", "show"], 2, "DIGEST"),
        (["quarantine", "purge"], 2, "either a DIGEST or --all"),
        (["quarantine", "replay", "ab", "--all"], 2, "either a DIGEST or --all"),
        (["quarantine", "replay", "--all", "dance"], 2, "--all: invalid choice: 'dance'"),
        (["backup"], 2, "PATH"),
        (["restore", "a", "b"], 2, "unknown argument b"),
        (["backup", "a", "--replace=yes"], 2, "--replace"),
        (["check", f"--store.url=sqlite:{bad}"], 1, "damaged or not a store"),
        (["serve", f"--store.url=sqlite:{bad}"], 1, "damaged or not a store"),
    ]
    for words, status, said in cases:
        assert cli.main(words) == status, words
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == (1 if said else 0)


def test_check_and_the_commands_for_tasks_work_on_an_empty_store(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """check, tasks on an empty store."""
    url = f"--store.url=sqlite:{tmp_path}/relay.db"
    assert cli.main(["check", url]) == 0
    assert "is writable" in capsys.readouterr().out
    assert cli.main(["tasks", "list", "active", url]) == 0
    assert capsys.readouterr().out == "APPID\tTASK\tSTATE\tRUNS\tDESTINATION\n"
    assert cli.main(["tasks", "forget", "4", "1", url]) == 1
