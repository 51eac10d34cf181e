"""Commands of the exporter, run in this process or in a new process that can be killed."""

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
    """Run a command in a folder, on its store or on `store`; return its output.

    It runs in this process, because a new one takes half a second, or more on a busy machine. `serve` runs in
    a new process, because it would not return if it did not fail.
    """
    environment = {**os.environ, "CSS_RELAY_STORE_URL": store} if store else environment_of(folder)
    if words[0] == "serve":
        process = started(folder, *words, environment=environment)
        out, error = (stream.decode() for stream in process.communicate(timeout=HANG_SECONDS))
        assert "Traceback" not in error
        ended = process.returncode
    else:
        printed, errors = StringIO(), StringIO()
        with (
            chdir(folder),
            patch.dict(os.environ, environment),
            redirect_stdout(printed),
            redirect_stderr(errors),
        ):
            ended = cli.main(words)
        out, error = printed.getvalue(), errors.getvalue()
    assert ended == status, error
    return out + error


def started(
    folder: Path, *words: str, environment: dict[str, str] | None = None
) -> "subprocess.Popen[bytes]":
    """Start a command in a new process, on the store of a folder."""
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "exporter", *words],
        cwd=folder,
        env=environment or environment_of(folder),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
