"""The dependencies: each has a reason and a hash, and is checked for vulnerabilities."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support import HANG_SECONDS

ROOT = Path(__file__).parents[2]
SUPPLY = Path(sys.prefix) / "supply"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
#: Settings for a network without any host: the proxy refuses connections.
NO_NETWORK = dict.fromkeys(
    ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9"
)


def normal(name: str) -> str:
    """Return a package's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def names_in(requirements: list[str]) -> set[str]:
    """Return the names in requirements."""
    return {normal(re.split(r"[^\w.-]", text, maxsplit=1)[0]) for text in requirements}


def locked(*files: str) -> dict[str, set[str]]:
    """Return the packages of lock files with their hashes."""
    found: dict[str, set[str]] = {}
    for file in files:
        for block in re.split(r"\n(?=\w)", (ROOT / file).read_text()):
            found[normal(re.split("==", block)[0])] = set(re.findall(r"sha256:(\w+)", block))
    return found


def test_every_dependency_has_its_reason_in_the_documentation() -> None:
    """No other package has a reason."""
    table = (ROOT / "docs/architecture.md").read_text().partition("## Dependencies")[2]
    rows = re.findall(r"^\| ((?:\w[\w-]*(?:, )?)+) \| (.+) \|$", table, re.MULTILINE)
    reasons = {
        normal(name): reason for names, reason in rows for name in names.split(", ") if name != "package"
    }
    assert reasons.keys() == names_in(PROJECT["dependencies"])


@pytest.fixture(scope="module")
def supply_tools() -> Path:
    """The folder with the tools. Without them the test is skipped; in CI it fails."""
    if not (SUPPLY / "bin" / "pip-audit").exists():
        reason = "the supply tools are not installed (`make test` installs them)"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return SUPPLY / "bin"


@pytest.fixture(scope="module")
def bill(supply_tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """The bill of materials, created by the recipe of `make sbom`."""
    recipe = subprocess.run(
        [
            "make",
            "--dry-run",
            "--no-print-directory",
            "--old-file=.venv/test.stamp",
            f"SUPPLY={SUPPLY}",
            "sbom",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    command = recipe.partition("mkdir -p build\n")[2]
    path = tmp_path_factory.mktemp("bill") / "sbom.json"
    assert "build/sbom.json" in command
    subprocess.run(
        ["bash", "-c", command.replace("build/sbom.json", str(path))],
        cwd=ROOT,
        check=True,
        timeout=HANG_SECONDS,
    )
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found


def test_the_bill_of_materials_lists_every_package_with_its_hashes(bill: Mapping[str, Any]) -> None:
    """All packages locked for running, direct or indirect, and no others."""
    components = {
        normal(component["name"]): {
            each["content"] for reference in component["externalReferences"] for each in reference["hashes"]
        }
        for component in bill["components"]
    }
    assert components == locked("requirements.txt")
    assert all(components.values())
    assert names_in(PROJECT["dependencies"]) <= components.keys()
    assert bill["bomFormat"] == "CycloneDX"
    assert bill["metadata"]["component"]["name"] == PROJECT["name"]


@pytest.fixture
def audit() -> ModuleType:
    """scripts/audit as a module."""
    loader = SourceFileLoader("audit", str(ROOT / "scripts/audit"))
    spec = importlib.util.spec_from_loader("audit", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_an_unreachable_database_is_reported_and_fails_in_strict_mode(supply_tools: Path) -> None:
    """The result must not look as if no vulnerability were known."""
    done = subprocess.run(
        [supply_tools / "python", "scripts/audit", "--strict", "requirements.txt"],
        cwd=ROOT,
        env=os.environ | NO_NETWORK,
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_SECONDS,
    )
    assert done.returncode == 2, done.stderr
    assert "*** LEFT OUT" in done.stderr
    assert done.stdout.startswith("0 packages without")


@pytest.mark.parametrize(
    ("found", "flags", "status", "said"),
    [
        ([{"name": "a", "version": "1", "vulns": []}], ["--strict"], 0, "1 packages without"),
        ([{"name": "a", "version": "1", "vulns": [{"id": "CVE-1"}]}], [], 1, "x: a 1: CVE-1"),
        ([{"name": "a", "skip_reason": "not found"}], [], 0, "0 packages without"),
        ([{"name": "a", "skip_reason": "not found"}], ["--strict"], 2, "0 packages without"),
        (
            [{"name": "a", "skip_reason": ""}, {"name": "b", "vulns": [{"id": "X"}]}],
            ["--strict"],
            1,
            "x: b: X",
        ),
    ],
)
def test_a_known_vulnerability_fails(
    audit: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    found: list[dict[str, object]],
    flags: list[str],
    status: int,
    said: str,
) -> None:
    """It fails in any mode. A package that could not be looked up fails in strict mode only."""
    monkeypatch.setattr(audit, "dependencies", lambda file: found)
    assert audit.main([*flags, "x"]) == status
    printed = capsys.readouterr()
    assert said in printed.out
    assert ("*** LEFT OUT" in printed.err) is any("skip_reason" in each for each in found)
