"""The pages of the documentation as data: their fenced blocks, tables, links and headings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = (README, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """One fenced block. Its repr is where it stands, so that a failing test says which one it was."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path, language: str) -> list[Block]:
    """The page's blocks in one language, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, match.start()) + 1, match[1], match[2])
        for match in _FENCE.finditer(text)
        if match[1] == language
    ]


def all_blocks(language: str) -> list[Block]:
    """Those of every page."""
    return [block for page in PAGES for block in blocks(page, language)]


def table(page: Path, first_header: str, section: str = "") -> list[list[str]]:
    """The rows of the first table below the heading `section` whose first column bears `first_header`, cells without
    back-quotes."""
    text = page.read_text(encoding="utf-8")
    start = text.index(f"\n## {section}\n") if section else 0
    header = text.index(f"\n| {first_header} |", start) + 1
    lines = text[header:].split("\n\n", 1)[0].strip().splitlines()
    return [_cells(line) for line in lines[2:]]


def same_rows(page: list[list[str]], code: list[list[str]]) -> None:
    """Fails where the page's rows are not the code's, with those to add and those to take away."""
    missing = [f"add:       {_as_row(row)}" for row in code if row not in page]
    stale = [f"take away: {_as_row(row)}" for row in page if row not in code]
    assert not missing + stale, "\n".join(["the page and the code disagree", *missing, *stale])
    assert page == code, "the order differs"


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def links(page: Path) -> list[str]:
    """The targets of its links."""
    return _LINK.findall(prose(page))


def anchors(page: Path) -> set[str]:
    """What a link may name behind its #, as forges make it of headings."""
    titles = _HEADING.findall(prose(page))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def _as_row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("`", "") for cell in line.strip().strip("|").split("|")]
