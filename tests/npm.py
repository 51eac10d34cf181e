"""The npm packages that tests need: installed once on a machine, as locked in tests/schema/."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.caches import CACHE, kept, said
from tests.support import HANG_SECONDS, tool

PACKAGES = Path(__file__).parent / "schema"
TYPES = "node_modules/@grafana/schema/dist/types/raw/dashboard/x/dashboard_types.gen.d.ts"


def installed() -> Path:
    """Return the folder with node_modules/; without npm the test is skipped, in CI it fails."""
    locked = hashlib.sha256((PACKAGES / "package-lock.json").read_bytes()).hexdigest()[:12]

    def install(folder: Path) -> None:
        shutil.copytree(PACKAGES, folder)
        npm(folder, "ci")

    return kept(CACHE / "npm" / locked, install, "npm's packages")


def dashboard_schema() -> Path:
    """Return a JSON Schema of dashboards, generated from Grafana's own TypeScript types."""
    folder = installed()
    words = ("exec", "--", "ts-json-schema-generator", "--path", TYPES, "--type", "Dashboard")
    form = ("--no-type-check", "--additional-properties", "--out")
    return kept(
        folder / "dashboard.schema.json",
        lambda path: npm(folder, *words, *form, path.name),
        "the schema of dashboards",
    )


def npm(folder: Path, *words: str) -> None:
    """Run npm in a folder."""
    done = _run(folder, "npm", *words)
    if done.returncode and not os.environ.get("CI"):
        pytest.skip(f"npm {words[0]} failed: {done.stderr}")
    assert done.returncode == 0, done.stderr


def node(folder: Path, script: str, given: str) -> str:
    """Run a JavaScript module in a folder with `given` as its input, and return its output."""
    done = _run(folder, "node", "--input-type=module", "--eval", script, given=given)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _run(folder: Path, name: str, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run node or npm, preferably those of this environment."""
    own = Path(sys.executable).with_name(name)
    command = [str(own) if own.exists() else tool(name), *words]
    return subprocess.run(
        command, cwd=folder, input=given, capture_output=True, text=True, check=False, timeout=HANG_SECONDS
    )


if __name__ == "__main__":
    try:
        dashboard_schema()
    except pytest.skip.Exception as exc:
        print(f"*** LEFT OUT: {exc}")
    else:
        print("***", said["npm's packages"])
