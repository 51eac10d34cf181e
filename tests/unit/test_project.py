"""The rules of the project: imports in one direction, documentation that matches the code."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from docs.generate import PAGES
from exporter import __version__
from exporter.config.flags import flags_of
from exporter.config.settings import Settings
from exporter.metrics.catalogue import FAMILIES
from exporter.simulator.options import SimulatorSettings
from tests.each import each
from tests.rules import RECORDED

ROOT = Path(__file__).parents[2]


def tracked(*patterns: str) -> list[Path]:
    """Return the files that git tracks."""
    done = subprocess.run(["git", "ls-files", "-z", *patterns], cwd=ROOT, capture_output=True, check=True)
    return [ROOT / name for name in done.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


def test_imports_follow_the_layers_and_the_core_does_no_io() -> None:
    """The contracts of import-linter are kept."""
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_core_calls_no_builtin_that_does_io() -> None:
    """The contract above is about imports only; these need none."""
    core = tracked("exporter/relay/*.py", "exporter/protocol/*.py", "exporter/metrics/values.py")
    assert len(core) > 10
    for path in core:
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        names = {function.id for function in calls if isinstance(function, ast.Name)}
        assert not names & {"open", "print", "input", "exec", "eval", "breakpoint", "__import__"}, path


def test_the_architecture_page_has_every_module_in_the_order_of_the_imports() -> None:
    """The page has the purpose of each folder, and its files by name. Few files are in no folder."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \|.*?\|(.*)\|.*\|$", text, re.MULTILINE))
    modules = [path.relative_to(ROOT / "exporter") for path in (ROOT / "exporter").rglob("*.py")]
    named = [module for module in modules if not module.stem.startswith("__")]
    assert len([module for module in modules if len(module.parts) == 1]) <= 6
    assert rows.keys() >= {module.parts[0].removesuffix(".py") for module in named}
    for module in named:
        assert len(module.parts) == 1 or f"`{module.stem}`" in rows[module.parts[0]], module
    for module in set(modules) - set(named) - {Path("__init__.py"), Path("__main__.py")}:
        lines = (ROOT / "exporter" / module).read_text().splitlines()
        # import-linter does not order its imports within the folder.
        assert module.parts[0] in ("commands", "relay") or lines[-1].endswith('"""'), module
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    places = {name: place for place, layer in enumerate(layers[::-1]) for name in layer.split(" | ")}
    assert [places[name] for name in rows if name in places] == sorted(places.values(), reverse=True)


def test_no_private_name_of_another_package_is_used() -> None:
    """A private name of another package may change with any version."""
    trees = {path: ast.parse(path.read_text()) for path in (ROOT / "exporter").rglob("*.py")}
    ours, used = set[str](), dict[str, str]()
    for path, node in ((path, node) for path, tree in trees.items() for node in ast.walk(tree)):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                ours.add(name)
            case ast.Attribute(attr=name, ctx=ast.Store()) | ast.Name(id=name, ctx=ast.Store()):
                ours.add(name)
            case ast.Attribute(attr=name):
                used[name] = f"{path.name}:{node.lineno}"
            case ast.ImportFrom(module=module, names=names) if not (module or "").startswith("exporter"):
                used |= {alias.name: f"{path.name}:{node.lineno}" for alias in names}
    is_private = re.compile(r"_(?!_)").match
    documented = {"_exit"}  # of the module os
    theirs = {
        name: place for name, place in used.items() if is_private(name) and name not in ours | documented
    }
    assert theirs == {}


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_up_to_date(name: str) -> None:
    """`make docs` updates it."""
    assert (ROOT / "docs" / name).read_text() == PAGES[name]()


def test_every_flag_and_metric_in_the_documentation_exists() -> None:
    """A page must not name flags and metrics that do not exist."""
    names = {family.full_name for family in FAMILIES}
    known_flags = {flag.name for rows in (Settings, SimulatorSettings) for flag in flags_of(rows).values()}
    for page in tracked("*.md"):
        text = page.read_text()
        for name in re.findall(r"\b[a-z]+:css_relay_[a-z_:0-9]*[a-z0-9]\b", text):
            assert name in RECORDED, (page.name, name)
        for name in re.findall(r"(?<![\w:])css_relay_[a-z_]*[a-z]\b(?!:)", text):
            assert re.sub(r"_(bucket|count|sum|created)$", "", name) in names, (page.name, name)
        groups = "callback|http|web|store|metrics|relay|quarantine|redact|log|fault"
        for flag in re.findall(rf"--((?:{groups})(?:\.[a-z-]+)+)", text):
            assert flag in known_flags, (page.name, flag)


def links(page: Path) -> list[tuple[Path, str]]:
    """Return the targets of a page's links within the project: the file, and the anchor if there is one."""
    targets = re.findall(r"\]\(([^)\s]+)\)", without_code(page))
    parts = (target.partition("#") for target in targets if "://" not in target)
    return [((page.parent / path).resolve() if path else page, anchor) for path, _, anchor in parts]


def without_code(page: Path) -> str:
    """Return the text of a page without its code blocks."""
    return re.sub(r"^( *)```.*?^\1```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the anchors that renderers create from a page's headings."""
    headings = re.findall(r"^#+ (.+)$", without_code(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each({str(page.relative_to(ROOT)): page for page in tracked("*.md")})
def test_every_link_of_the_documentation_has_a_target(page: Path) -> None:
    """The target is an existing file of the project, and a heading with that name."""
    broken = [
        (str(target), anchor)
        for target, anchor in links(page)
        if not target.exists() or (anchor and anchor not in anchors(target))
    ]
    assert broken == []


def test_the_index_has_every_page_once_and_the_readme_links_to_it() -> None:
    """Readers find pages through the index."""
    index = ROOT / "docs" / "README.md"
    listed = [target for target, _ in links(index) if target.parent == index.parent]
    assert sorted(listed) == sorted(set(tracked("docs/*.md", "docs/openapi.yaml")) - {index})
    assert (index, "") in links(ROOT / "README.md")


@pytest.mark.parametrize(
    ("page", "heading", "rows"),
    [("operations.md", "## What trouble looks like", 15), ("security.md", "## Attacks", 6)],
)
def test_every_fault_and_attack_in_the_documentation_names_an_existing_test(
    page: str, heading: str, rows: int
) -> None:
    """Each promise about a fault or an attack has a test."""
    text = (ROOT / "docs" / page).read_text().partition(heading)[2]
    table = [line for line in re.split(r"\n##+ ", text)[0].splitlines() if line.startswith("| ")][2:]
    tests = {
        name for path in tracked("tests/*.py") for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    assert len(table) > rows
    for row in table:
        assert re.findall(r"`(test_\w+)` \|$", row)[0] in tests, row


def test_the_wheel_has_the_schemas_the_pages_and_the_version(tmp_path: Path) -> None:
    """The installed package is complete."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    wheel = next(tmp_path.glob("*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    assert __version__ in wheel.name
    assert sum(name.startswith("exporter/schemas/") for name in names) == len(
        list((ROOT / "schemas").glob("*.json"))
    )
    for folder in ("exporter/web/pages/templates", "exporter/web/pages/assets", "exporter/store/valkey"):
        files = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).iterdir() if path.is_file()}
        assert files
        assert files <= set(names)


def test_lock_files_have_hashes_and_name_no_host() -> None:
    """They work with any mirror."""
    for lock in ROOT.glob("requirements*.txt"):
        text = lock.read_text()
        assert "--hash=sha256:" in text
        assert "://" not in text


def test_no_module_is_longer_than_300_lines() -> None:
    """Modules have about 200 lines; a longer one is split."""
    modules = (ROOT / "exporter").rglob("*.py")
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in modules}
    assert {name: lines for name, lines in lengths.items() if lines > 300} == {}
