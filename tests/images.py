"""The container image and podman through .ci/image: one build for all tests of a run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.caches import alone, of_this_run, said
from tests.support import HANG_SECONDS

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / ".ci" / "image"
#: Includes the base image, which is created once on a machine.
BUILD_SECONDS = 2 * HANG_SECONDS


def run(
    *words: str, stdin: bytes = b"", check: bool = True, seconds: float = HANG_SECONDS
) -> subprocess.CompletedProcess[bytes]:
    """Run .ci/image with this environment's programs; show its output if it fails."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [SCRIPT, *words],
        capture_output=True,
        input=stdin,
        timeout=seconds,
        env={**os.environ, "PATH": path},
        check=False,
    )
    assert not check or done.returncode == 0, (words, done.stdout.decode(), done.stderr.decode())
    return done


def podman(*words: str, stdin: bytes = b"") -> str:
    """Run podman and return what it printed."""
    return run("podman", *words, stdin=stdin).stdout.decode()


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The id of the image, built once per run, with cached layers of earlier runs."""
    lacks = run("missing", check=False)
    if lacks.returncode:
        reason = f"THE IMAGE IS NOT TESTED, {lacks.stdout.decode().strip()}: `.ci/image setup` installs it"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    folder = of_this_run(tmp_path_factory)
    built = folder / "image-id"
    with alone(folder / "image-id.lock"):
        if not built.exists():
            done = run("build", seconds=BUILD_SECONDS)
            said["the image"] = done.stderr.decode().strip().rpartition("\n")[2]
            built.write_bytes(done.stdout.strip())
        return built.read_text()
