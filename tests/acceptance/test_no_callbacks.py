"""The commands of docs/no-callbacks.md, run against a real exporter, print the documented output."""

import re
import subprocess
import sys
from pathlib import Path

from tests.support import HANG_SECONDS, running, tool

PAGE = Path(__file__).parents[2] / "docs" / "no-callbacks.md"
KEY = "a-key-for-signatures"


def blocks() -> list[tuple[str, str]]:
    """Return the commands and the output of each console block of the page; `…` matches any text."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        lines = block.splitlines(keepends=True)
        # An HTTP answer has no line break at its end, so `echo` adds one.
        commands = "echo\n".join(line.removeprefix("$ ") for line in lines if line.startswith("$ "))
        found.append((commands, "".join(line for line in lines if not line.startswith("$ "))))
    return found


def test_the_commands_of_the_page_print_what_it_says(tmp_path: Path) -> None:
    """They run in the order of the page, on an exporter without callbacks."""
    tool("curl")
    keys = tmp_path / "keys"
    keys.write_text(KEY)
    keys.chmod(0o600)
    assert len(blocks()) > 5
    with running(tmp_path, callback__sign_key_file=str(keys)) as exporter:
        environment = {
            **exporter.environment,
            "PATH": f"{Path(sys.executable).parent}:{exporter.environment['PATH']}",
            "URL": f"http://127.0.0.1:{exporter.ports['callbacks']}/callbacks",
            "WEB": f"http://127.0.0.1:{exporter.ports['web']}",
            "KEY": KEY,
        }
        for commands, printed in blocks():
            done = subprocess.run(
                ["bash", "-c", commands],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=HANG_SECONDS,
                check=False,
            )
            lines = [line for line in (done.stdout + done.stderr).splitlines() if line]
            expected = re.escape(printed.strip()).replace("…", ".*")
            assert re.fullmatch(expected, "\n".join(lines)), (commands, lines)
