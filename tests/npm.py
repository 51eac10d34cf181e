"""What npm gives that tests need: installed once, as locked in tests/schema/, and kept in pytest's cache."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import tool

PACKAGES = Path(__file__).parent / "schema"


def installed(config: pytest.Config) -> Path:
    """Return the folder that has node_modules/; without npm the test is skipped, in CI it fails."""
    lock = hashlib.sha256((PACKAGES / "package-lock.json").read_bytes()).hexdigest()[:12]
    assert config.cache
    folder = config.cache.mkdir("npm") / lock
    done = folder / "installed"
    if not done.exists():
        shutil.copytree(PACKAGES, folder, dirs_exist_ok=True)
        npm(folder, "ci")
        done.touch()
    return folder


def npm(folder: Path, *words: str) -> None:
    """Run npm in a folder."""
    command = [program("npm"), *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode and not os.environ.get("CI"):
        pytest.skip(f"npm can't do {words[0]}: {done.stderr}")
    assert done.returncode == 0, done.stderr


def node(folder: Path, script: str, given: str) -> str:
    """Run a module of JavaScript in a folder, with `given` as its input, and return what it prints."""
    command = [program("node"), "--input-type=module", "--eval", script]
    done = subprocess.run(command, cwd=folder, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def program(name: str) -> str:
    """Return the path of node or npm, of this environment's own where it has them."""
    own = Path(sys.executable).with_name(name)
    return str(own) if own.exists() else tool(name)
