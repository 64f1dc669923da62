"""The project's papers as data: their code blocks, links and names."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAPERS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "deploy" / "README.md",
    ROOT / "deploy" / "examples" / "README.md",
]

_BLOCK = re.compile(r"^```([a-z]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_PATH = re.compile(r"`((?:libs|services|deploy|docs|tests)/[^`\s]*)`")


def name_of(paper: Path) -> str:
    """Its path in the checkout: what a test is called after."""
    return str(paper.relative_to(ROOT))


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block. `line`: where it begins."""

    paper: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{name_of(self.paper)}:{self.line}"


def blocks(paper: Path, language: str) -> list[Block]:
    """The paper's blocks of one language, in order."""
    text = paper.read_text(encoding="utf-8")
    return [
        Block(paper, text.count("\n", 0, found.start()) + 1, found[1], found[2])
        for found in _BLOCK.finditer(text)
        if found[1] == language
    ]


def commands(block: Block) -> list[str]:
    """What is typed after each `$ ` of a console block, with its continuation lines. The rest is what was answered."""
    made: list[str] = []
    goes_on = False
    for line in block.text.splitlines():
        if line.startswith("$ "):
            made.append(line[2:])
        elif goes_on:
            made[-1] += "\n" + line
        else:
            continue
        goes_on = line.endswith("\\")
    return made


def _prose(paper: Path) -> str:
    """The paper without its blocks."""
    return _BLOCK.sub("", paper.read_text(encoding="utf-8"))


def relative_links(paper: Path) -> list[str]:
    """Targets of links that stay in the checkout."""
    return [link for link in _LINK.findall(_prose(paper)) if not re.match(r"[a-z]+:", link)]


def paths_named(paper: Path) -> list[str]:
    """Files and folders of the checkout that are named in backticks."""
    return _PATH.findall(_prose(paper))


def anchors(paper: Path) -> set[str]:
    """What can follow `#` in a link to it, as GitHub spells headings."""
    headings = _HEADING.findall(_prose(paper))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def rows_of(paper: Path, first: str) -> list[list[str]]:
    """Cells of the one table whose first heading is `first`, without its head."""
    rows: list[list[str]] = []
    for line in paper.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if rows and not cells:
            break
        if rows or cells[:1] == [first]:
            rows.append(cells)
    return rows[2:]
