"""`python -m heliograph.cli.documentation [--write]`: docs/cli.md, made from the commands themselves."""

import argparse
import re
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, get_args

from typer.main import get_command

from heliograph.cli.app import EXTRAS, SERVER_COMMANDS, app
from heliograph.cli.exit_codes import MEANINGS

FILE = Path(__file__).parents[5] / "docs" / "cli.md"

HEAD = """# The `heliograph` command

`pip install heliograph` brings it, `pip install 'heliograph[server]'` the commands that work on Kafka and Redis
directly ({server}), `pip install 'heliograph[dev]'` all of the server in one process ({dev}).
`python -m heliograph.cli` is the same.

Results go to stdout, everything else to stderr. With `--json` (or `HELIOGRAPH_JSON=1`) results are one JSON object a
line, and an error is `{{"error": {{"code", "message", "hint", "exit"}}}}` on stderr.

This page is made from the commands by `python -m heliograph.cli.documentation --write`.

## Exit status

| status | meaning |
| --- | --- |
{codes}

## Environment

| variable | option |
| --- | --- |
{variables}

`heliograph tenant` and `heliograph import` read what the services read: `HELIOGRAPH_KAFKA_BOOTSTRAP_SERVERS`,
`HELIOGRAPH_KAFKA_PROPERTIES`, `HELIOGRAPH_TOPIC_PREFIX`, `HELIOGRAPH_METADATA_REDIS_URL` or `HELIOGRAPH_REDIS_URL`.
"""


class Entry:
    """One command, by its whole name."""

    def __init__(self, name: str, command: Any, context: Any) -> None:
        self.name = name
        self.command = command
        self.context = context

    @property
    def parameters(self) -> list[Any]:
        skipped = ("help", "install_completion", "show_completion", "_")
        return [param for param in self.command.params if param.name not in skipped]


def entries() -> list[Entry]:
    """Every command that can be run, in the order of the help."""
    return list(_walk("heliograph", get_command(app), None))[1:]


def _walk(name: str, command: Any, parent: Any) -> Iterator[Entry]:
    context = command.context_class(command, info_name=name.rpartition(" ")[2], parent=parent)
    yield Entry(name, command, context)
    if hasattr(command, "list_commands"):
        for sub in command.list_commands(context):
            yield from _walk(f"{name} {sub}", command.get_command(context, sub), context)


def rendered() -> str:
    """The page."""
    found = entries()
    variables = sorted(
        {(param.envvar, entry.name, _names(param)) for entry in found for param in _with_variable(entry)}
    )
    by_variable: dict[str, list[str]] = {}
    for variable, name, option in variables:
        by_variable.setdefault(variable, []).append(f"{option.split(', ')[0]} of {name.removeprefix('heliograph ')}")
    head = HEAD.format(
        server=", ".join(f"`{name}`" for name in sorted(SERVER_COMMANDS) if name not in EXTRAS),
        dev=", ".join(f"`{name}`" for name in sorted(EXTRAS)),
        codes="\n".join(f"| {code.value} | {meaning} |" for code, meaning in MEANINGS.items()),
        variables="\n".join(f"| `{name}` | {_options(uses)} |" for name, uses in sorted(by_variable.items())),
    )
    return head + "".join(_section(entry) for entry in found if not _is_bare_group(entry))


def _options(uses: list[str]) -> str:
    by_option: dict[str, list[str]] = {}
    for use in uses:
        option, _, name = use.partition(" of ")
        by_option.setdefault(option, []).append(name)
    return "; ".join(f"{option} of {', '.join(names)}" for option, names in by_option.items())


def _is_bare_group(entry: Entry) -> bool:
    return hasattr(entry.command, "list_commands") and not entry.command.invoke_without_command


def _with_variable(entry: Entry) -> list[Any]:
    return [param for param in entry.parameters if getattr(param, "envvar", None)]


def _section(entry: Entry) -> str:
    arguments = [param for param in entry.parameters if param.param_type_name == "argument"]
    options = [param for param in entry.parameters if param.param_type_name == "option"]
    usage = " ".join([entry.name, *(f"{_metavar(param)}" for param in arguments), *(["[OPTIONS]"] if options else [])])
    lines = [f"\n## {entry.name}\n\n```\n{usage}\n```\n\n{_text(entry.command.help)}\n"]
    rows = [f"| {_names(param)} | {_help(param)} |" for param in (*arguments, *options)]
    if rows:
        lines.append("\n| | |\n| --- | --- |\n" + "\n".join(rows) + "\n")
    return "".join(lines)


def _text(text: str | None) -> str:
    """Paragraphs as they are written; a docstring's indent is gone already."""
    return re.sub(r"[ \t]+\n", "\n", (text or "").strip())


def _metavar(param: Any) -> str:
    return str(param.metavar or param.name.upper())


def _names(param: Any) -> str:
    if param.param_type_name == "argument":
        return f"`{_metavar(param)}`".replace("|", "\\|")
    value = "" if param.is_flag else f" {param.metavar or 'VALUE'}"
    flags = [*param.opts, *param.secondary_opts]
    return ", ".join(f"`{flag}{value}`" if flag.startswith("--") else f"`{flag}`" for flag in flags).replace("|", "\\|")


def _help(param: Any) -> str:
    parts = [(param.help or "").replace("|", "\\|")]
    choices = _choices(param.type_descriptor.annotation)
    if choices:
        parts.append("One of " + ", ".join(f"`{choice}`" for choice in choices) + ".")
    default = param.default() if callable(param.default) else param.default
    if param.show_default and default not in (None, False, True, "") and not param.required:
        parts.append(f"Default: `{getattr(default, 'value', default)}`.")
    elif default is True:
        parts.append("Default: yes.")
    if getattr(param, "envvar", None):
        parts.append(f"Variable: `{param.envvar}`.")
    return " ".join(part for part in parts if part)


def _choices(annotation: Any) -> list[str]:
    """The values of an enumeration, also of an optional one."""
    kinds = (annotation, *get_args(annotation))
    return [member.value for kind in kinds if isinstance(kind, type) and issubclass(kind, Enum) for member in kind]


def main(arguments: list[str] | None = None) -> int:
    """0: the page is what the code makes (or was written), 1: it differs."""
    parser = argparse.ArgumentParser(prog="python -m heliograph.cli.documentation", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the page instead of comparing it")
    parser.add_argument("--check", action="store_true", help="compare (the default)")
    parser.add_argument("--file", type=Path, default=FILE, help="the page (%(default)s)")
    options = parser.parse_args(arguments)
    file: Path = options.file
    wanted = rendered()
    if file.is_file() and file.read_text(encoding="utf-8") == wanted:
        return 0
    if options.write:
        file.write_text(wanted, encoding="utf-8")
    sys.stdout.write(f"{'wrote' if options.write else 'out of date'}: {file}\n")
    return 0 if options.write else 1


if __name__ == "__main__":
    sys.exit(main())
