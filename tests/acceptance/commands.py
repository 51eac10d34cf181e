"""Commands of the exporter as an operator gives them: in this process, or in one that can be killed."""

import os
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from unittest.mock import patch

from exporter import cli
from tests.support import HANG_SECONDS, environment_of


def run(folder: Path, *words: str, store: str = "", status: int = 0) -> str:
    """Run a command in a folder, on its store or another; return what it prints.

    It runs in this process, as a new one costs half a second, and all the more on a busy machine. What would
    serve if it did not fail runs in one of its own.
    """
    environment = {**os.environ, "CSS_RELAY_STORE_URL": store} if store else environment_of(folder)
    if words[0] == "serve":
        process = started(folder, *words, environment=environment)
        out, error = (told.decode() for told in process.communicate(timeout=HANG_SECONDS))
        assert "Traceback" not in error
        ended = process.returncode
    else:
        printed, complained = StringIO(), StringIO()
        with (
            chdir(folder),
            patch.dict(os.environ, environment),
            redirect_stdout(printed),
            redirect_stderr(complained),
        ):
            ended = cli.main(words)
        out, error = printed.getvalue(), complained.getvalue()
    assert ended == status, error
    return out + error


def started(
    folder: Path, *words: str, environment: dict[str, str] | None = None
) -> "subprocess.Popen[bytes]":
    """Start a command in a process of its own, on the store of a folder."""
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "exporter", *words],
        cwd=folder,
        env=environment or environment_of(folder),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
