"""Links lead somewhere, every page can be reached, and what pages name exists in the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from qproxy import __version__
from tests.docs.pages import PAGES, README, ROOT, anchors, blocks, links, prose

CODE = [*(ROOT / "qproxy").rglob("*.py"), *(ROOT / "tests" / "support").glob("*.py")]


def _names() -> set[str]:
    """Every function and class, with its class in front where it has one."""
    names: set[str] = set()
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                members = (member for member in node.body if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef))
                names |= {node.name, *(f"{node.name}.{member.name}" for member in members)}
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                names.add(node.name)
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_pages_and_headings_that_exist(page: Path) -> None:
    for link in links(page):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached = {README}
    new = [README]
    while new:
        page = new.pop()
        targets = {(page.parent / link.partition("#")[0]).resolve() for link in links(page) if ".md" in link}
        new += targets - reached
        reached |= targets
    assert set(PAGES) <= reached


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_functions_and_files_that_a_page_names_exist(page: Path) -> None:
    text = prose(page)
    unknown = set(re.findall(r"`([A-Za-z_.]+)\(\)`", text)) - _names()
    missing = [
        path for path in re.findall(r"`((?:qproxy|tests|bench|\.ci)/[a-z_./]*)`", text) if not (ROOT / path).exists()
    ]
    assert (unknown, missing) == (set(), [])


def test_the_bench_has_one_marked_place_in_the_readme() -> None:
    assert re.findall("<!-- bench:(begin|end) -->", README.read_text(encoding="utf-8")) == ["begin", "end"]


def test_the_changelog_has_the_version() -> None:
    assert f"\n## [{__version__}] - " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_life_of_a_request_is_drawn() -> None:
    (chart,) = blocks(ROOT / "docs/explanation/life-of-a-request.md", "mermaid")
    nodes = set(re.findall(r"\b([a-z]+)[\[({]", chart.text))
    used = set(re.findall(r"^ +([a-z]+)|(?:-->|-- [^-]+ -->) ([a-z]+)", chart.text, re.MULTILINE))
    assert {name for pair in used for name in pair if name} <= nodes
