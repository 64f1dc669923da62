"""The runbooks of docs/operations.md as the chart's alerts carry them, where nobody said where that page is to be read.

Whoever is woken has the text at hand then, of the version that runs, without a link that may lead nowhere.
"""

import re
from pathlib import Path
from textwrap import indent

NAME = "runbooks.yaml"
COMMENT = "# By alert: its runbook in docs/operations.md, as text. Written by `make docs`.\n"
_PART = re.compile(r"^- \*\*([^*]+)\.\*\* ((?:.+\n)(?:  .+\n)*)", re.MULTILINE)
_LINK = re.compile(r"\[([^]]+)\]\(([^)#]*)(?:#([^)]*))?\)")


def runbooks(page: Path) -> dict[str, str]:
    """By alert, a line for each of what it means, how to look, what to do and what not."""
    section = page.read_text(encoding="utf-8").partition("\n## Runbooks\n")[2]
    section = re.split(r"^## ", section, maxsplit=1, flags=re.MULTILINE)[0]
    _, *parts = re.split(r"^### (.*)$", section, flags=re.MULTILINE)
    found = dict(zip(parts[::2], parts[1::2], strict=True))
    return {name: _plain(text, set(found), page) for name, text in found.items()}


def runbooks_file(page: Path) -> str:
    return COMMENT + "".join(f"{name}: |-\n{indent(text, '  ')}\n" for name, text in runbooks(page).items())


def _plain(text: str, alerts: set[str], page: Path) -> str:
    """Without Markdown: a link to another alert's runbook is its name, any other one says where it leads."""

    def link(match: re.Match[str]) -> str:
        said, file, anchor = match[1], match[2] or page.name, match[3]
        return said if said in alerts else f"{said} (docs/{file}{f'#{anchor}' if anchor else ''})"

    lines = [f"{what}: {' '.join(said.split())}" for what, said in _PART.findall(text)]
    return _LINK.sub(link, "\n".join(lines))
