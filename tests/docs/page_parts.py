"""As much of Markdown as the pages use: fenced blocks, tables, headings, links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(!?)\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text and the line of the page where the text begins."""

    language: str
    text: str
    line: int

    def commands(self) -> list[str]:
        """The lines of a block for the shell, without prompts and comments."""
        if self.language not in ("bash", "console", "sh"):
            return []
        lines = (line.removeprefix("$ ").split(" #")[0].strip() for line in self.text.splitlines())
        return [line for line in lines if line and not line.startswith("#")]


@dataclass(frozen=True)
class Table:
    """A table: the heading it stands under, its header and its rows, all as they are written."""

    heading: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [Block(m[1], m[2], text.count("\n", 0, m.start(2)) + 1) for m in _BLOCK.finditer(text)]


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return _BLOCK.sub("", page.read_text())


def links(page: Path) -> list[tuple[bool, str]]:
    """(whether it is an image, target) of every link."""
    return [(bool(mark), target) for mark, target in _LINK.findall(prose(page))]


def anchors(page: Path) -> set[str]:
    """What `#…` can name on a page."""
    heads = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def tables(page: Path) -> Iterator[Table]:
    heading, rows = "", list[tuple[str, ...]]()
    for line in [*prose(page).splitlines(), ""]:
        if line.startswith("|"):
            rows.append(tuple(cell.strip() for cell in line.strip("|").split("|")))
        elif rows:
            yield Table(heading, rows[0], rows[2:])
            rows = []
        if line.startswith("#"):
            heading = line.lstrip("# ")


def code(cell: str) -> list[str]:
    """What stands in backquotes in a cell."""
    return re.findall(r"`([^`]+)`", cell)
