"""The systemd unit: its flags exist, its limits are large enough, and systemd accepts it."""

import re
import subprocess
import sys
from pathlib import Path

from exporter.cli import parse
from exporter.config.flags import flags_of
from exporter.config.settings import Settings, read
from exporter.server.master import GRACE_SECONDS
from exporter.server.worker import MAX_OPEN_FILES
from tests.support import tool

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "systemd"
UNIT = FOLDER / "css-relay-exporter.service"
TEXT = UNIT.read_text()


def value(name: str) -> str:
    """Return the value of a setting that the unit has once."""
    (found,) = re.findall(rf"^{name}=(.*)$", TEXT, re.MULTILINE)
    return str(found)


def environment() -> dict[str, str]:
    """Return the variables of the file that the unit reads."""
    lines = (FOLDER / Path(value("EnvironmentFile")).name).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_the_command_line_and_the_variables_are_valid() -> None:
    """Every flag and every variable exists, and its value is valid."""
    program, *words = value("ExecStart").split()
    assert Path(program).name == "css-relay-exporter"
    given = vars(parse(words))
    settings = read(given, environment())
    assert settings.callback_token_file.startswith(str(Path(value("EnvironmentFile")).parent))
    assert set(environment()) <= {flag.variable for flag in flags_of(Settings).values()}


def test_the_store_is_in_the_folder_that_the_service_may_write() -> None:
    """All other folders are read-only."""
    folder = f"/var/lib/{value('StateDirectory')}"
    assert value("WorkingDirectory") == folder
    assert environment()["CSS_RELAY_STORE_URL"].startswith(f"sqlite:{folder}/")


def test_it_has_enough_time_to_stop_and_enough_open_files() -> None:
    """gunicorn's master must kill its worker before systemd kills the master."""
    assert int(value("TimeoutStopSec")) > GRACE_SECONDS
    assert int(value("LimitNOFILE")) == MAX_OPEN_FILES
    assert value("RestartPreventExitStatus") == "2"


def test_the_command_script_uses_the_settings_the_user_and_the_program_of_the_unit() -> None:
    """Operators run this script."""
    script = (FOLDER / "css-relay-exporter").read_text()
    assert f"runuser -u {value('User')} --" in script
    assert f". {value('EnvironmentFile')};" in script
    assert f"exec {value('ExecStart').split()[0]} " in script


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """The program is replaced, because the exporter is not installed in /opt here."""
    analyze, kill = tool("systemd-analyze"), tool("kill")
    unit = tmp_path / UNIT.name
    program = value("ExecStart").split()[0]
    unit.write_text(TEXT.replace(program, sys.executable).replace("=/bin/kill", f"={kill}"))
    done = subprocess.run(
        [analyze, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
