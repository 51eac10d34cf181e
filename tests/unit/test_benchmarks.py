"""docs/benchmarks.md and its pictures say what docs/benchmarks.json says."""

import re

from bench import page
from bench.plots import PLOTS
from bench.results import read
from bench.tables import TABLES
from tests.each import each


def test_the_page_is_as_made() -> None:
    """`python -m bench.page` brings it up to date; no table is made for nothing."""
    text = page.PAGE.read_text()
    assert page.text() == text
    assert sorted(re.findall(r"<!-- table: (\w+) -->", text)) == sorted(TABLES)


@each({name: name for name in PLOTS})
def test_a_picture_is_as_made(name: str) -> None:
    """The same figures make the same picture, which the page shows."""
    assert page.plot(name) == (page.DOCS / "pictures" / name).read_text()
    assert f"(pictures/{name})" in page.PAGE.read_text()


def test_what_was_measured_is_whole() -> None:
    """Every section is there, by the first word of its figures, and the budget of before."""
    results = read(page.RESULTS)
    sections = {"callbacks", "arrivals", "replicas", "burst", "scrape", "memory", "growth", "budget"}
    assert sections <= {figure.name.split()[0] for figure in results.figures}
    assert {figure.name.split()[0] for figure in results.before} == {"budget"}
