"""Set-up: a clone creates its Python environment, and the next clone with the same lock files copies it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import HANG_SECONDS

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.txt", "requirements-dev.txt", "requirements-supply.txt")
#: The folders of scripts that contain the path of their Python, by kind of environment.
BINS = {"run": ("bin",), "test": ("bin", "supply/bin")}


def _clone(folder: Path) -> Path:
    """Create a clone with all files that set-up reads; its lock files are empty to save time."""
    folder.mkdir()
    for name in ("exporter", "schemas", "scripts"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    for name in LOCKS:
        (folder / name).touch()
    return folder


def _set_up(clone: Path, kind: str, cache: Path) -> str:
    """Create the environment of a clone and return the output."""
    done = subprocess.run(
        ["scripts/environment", kind],
        cwd=clone,
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", BINS)
def test_a_second_clone_copies_the_environment_of_the_first(tmp_path: Path, kind: str) -> None:
    """Each runs its own Python and its own code; the copy works after the first clone is deleted."""
    first, second = _clone(tmp_path / "first"), _clone(tmp_path / "second")
    assert "copied" not in _set_up(first, kind, tmp_path / "cache")
    assert "*** copied from the cache" in _set_up(second, kind, tmp_path / "cache")
    shutil.rmtree(first)
    assert (second / ".venv" / f"{kind}.stamp").exists()
    for place in BINS[kind]:
        script = second / ".venv" / place / "pip"
        assert str(second) in script.read_text().splitlines()[0]
        assert str(first) not in script.read_text()
        subprocess.run([script, "--version"], check=True, capture_output=True)
    where = [second / ".venv" / "bin" / "python", "-c", "import exporter; print(exporter.__file__)"]
    printed = subprocess.run(where, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert Path(printed.strip()) == second / "exporter" / "__init__.py"
