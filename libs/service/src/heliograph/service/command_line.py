"""A service's command line: `--help`, `--version`, `--check`. Everything else is an environment variable.

Errors are one line a setting: the variable, what was wrong with which value, what would be right. Values of secrets are
never printed. Kubernetes' service links (`HELIOGRAPH_EDGE_SERVICE_HOST`, `HELIOGRAPH_PORT=tcp://…`) share our prefix
and are told apart.
"""

import difflib
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, NoReturn, TextIO, TypeVar, get_args, get_origin

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings.exceptions import SettingsError

from heliograph.service.kafka_properties import KafkaProperties
from heliograph.service.redaction import redact_text
from heliograph.service.settings import (
    PREFIX,
    Settings,
    groups,
    is_secret,
    types_in,
    unit_of,
    variable,
)

S = TypeVar("S", bound=Settings)

SHOWN_CHARS = 80
"""Of a wrong value: enough to recognise it."""

SERVICE_LINK = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_[A-Z0-9_]+)?$|_PORT_\d+_(TCP|UDP)(_(PROTO|PORT|ADDR))?$")
"""What Kubernetes sets for every Service of the namespace (names beginning with HELIOGRAPH_ among them)."""

USED_BY_CLIENTS = frozenset(
    f"HELIOGRAPH_{name}" for name in ("CONNECT_TIMEOUT_S", "JSON", "KEY", "REPLAY_URL", "TENANT", "TOKEN", "URL")
)
"""Variables of the SDK and the command: no typo when a service meets them."""


class ExitCode(IntEnum):
    """What a service's exit code says."""

    OK = 0
    """Stopped as asked."""
    FAILED = 1
    """Something it can't run without failed for good."""
    SETTINGS = 2
    """A setting is wrong; starting again won't help."""
    LISTEN = 3
    """The address can't be listened on."""
    FORCED = 4
    """Stopped as asked, but the drain was cut short: by a second signal or by its time."""


@dataclass(frozen=True)
class SettingRow:
    """One line of the table of settings, for `--help` and the documentation."""

    group: str
    variable: str
    default: str
    unit: str
    reason: str


def setting_rows(cls: type[Settings]) -> list[SettingRow]:
    """Every setting of `cls`, its own first."""
    rows = []
    for owner, names in groups(cls).items():
        group = (owner.__doc__ or owner.__name__).strip().splitlines()[0].rstrip(".")
        for name in names:
            field = cls.model_fields[name]
            unit = unit_of(name, field) or _kind(field)
            reason = field.description or ""
            if get_origin(field.annotation) is Literal:
                reason += " One of: " + ", ".join(map(str, get_args(field.annotation))) + "."
            rows.append(SettingRow(group, variable(name), _default(field), unit, reason))
    return rows


def unknown_variables(cls: type[Settings], environ: Mapping[str, str]) -> list[tuple[str, str | None]]:
    """HELIOGRAPH_* variables that no setting of `cls` reads, each with the one that was probably meant."""
    names = [name.upper() for name in cls.model_fields]
    found = []
    for given in sorted(environ):
        upper = given.upper()
        if not upper.startswith(PREFIX) or upper.removeprefix(PREFIX) in names or upper in USED_BY_CLIENTS:
            continue
        if SERVICE_LINK.search(upper) or _is_service_link_value(environ[given]):
            continue
        close = difflib.get_close_matches(upper.removeprefix(PREFIX), names, n=1, cutoff=0.7)
        found.append((given, variable(close[0]) if close else None))
    return found


def read_command_line(
    cls: type[S],
    *,
    service: str,
    version: str,
    summary: str,
    argv: Sequence[str] | None = None,
    out: TextIO | None = None,
    err: TextIO | None = None,
) -> S:
    """The settings, from the environment; or SystemExit where the command line or an error asks for it.

    `--help` lists all settings, `--version` prints the version, `--check` validates and exits: 0, or 2 with one line
    on stderr for each setting that is wrong.
    """
    out, err = out or sys.stdout, err or sys.stderr
    arguments = list(sys.argv[1:] if argv is None else argv)
    program = f"heliograph-{service}"
    if {"-h", "--help"} & set(arguments):
        _leave(ExitCode.OK, out, help_text(cls, program=program, version=version, summary=summary))
    if "--version" in arguments:
        _leave(ExitCode.OK, out, f"{program} {version}")
    unknown = [argument for argument in arguments if argument != "--check"]
    if unknown:
        what = "--help, --version or --check; settings are environment variables"
        _leave(ExitCode.SETTINGS, err, f"{program}: {redact_text(unknown[0])!r} is no option: use {what}")
    problems: list[str] = []
    settings: S | None = None
    try:
        settings = cls()
    except ValidationError as error:
        problems = validation_lines(cls, error, os.environ)
    except SettingsError as error:
        problems = [_undecodable(cls, error)]
    if settings is None:
        _leave(ExitCode.SETTINGS, err, "\n".join(problems))
    if "--check" in arguments:
        for name, meant in unknown_variables(cls, os.environ):
            hint = f"; did you mean {meant}?" if meant else ""
            err.write(f"{name}: no setting of {program}{hint}\n")
        _leave(ExitCode.OK, out, f"{program}: settings are valid")
    return settings


def validation_lines(cls: type[Settings], error: ValidationError, environ: Mapping[str, str]) -> list[str]:
    """One line a setting: the variable, the value unless it is secret, what was wrong, what would be right."""
    given = {name.upper(): value for name, value in environ.items()}
    lines: dict[str, str] = {}
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        message = problem["msg"].removeprefix("Value error, ")
        message = message[:1].lower() + message[1:]
        name = str(problem["loc"][0]).lower() if problem["loc"] else ""
        field = cls.model_fields.get(name)
        if field is None:
            lines.setdefault("", f"settings: {message}")
            continue
        shown = variable(name)
        value = given.get(shown)
        if value is not None:
            shown += " (value not shown):" if is_secret(field) else f"={_short(value)}:"
        hint = ""
        if value is not None and _is_service_link_value(value):
            hint = "; Kubernetes set it for a Service of that name: set enableServiceLinks: false on the pod"
        lines.setdefault(name, f"{shown} {message}; right: {_wanted(name, field)}{hint}")
    return list(lines.values())


def help_text(cls: type[Settings], *, program: str, version: str, summary: str, columns: int | None = None) -> str:
    """The help page: usage, then every setting with its default, unit and reason."""
    columns = max(80, columns or shutil.get_terminal_size((140, 24)).columns)
    rows = setting_rows(cls)
    widths = [
        max(len("Variable"), *(len(row.variable) for row in rows)),
        min(28, max(len("Default"), *(len(row.default) for row in rows))),
        max(len("Unit"), *(len(row.unit) for row in rows)),
    ]
    lines = [
        f"{program} {version}: {summary}",
        "",
        f"usage: {program} [--help | --version | --check]",
        "",
        "  --check    validate the settings and exit: 0 when they are right, 2 when not",
        "",
        "Settings are environment variables; an empty one counts as not set.",
        "Exit codes: " + ", ".join(f"{code.value} {code.name.lower()}" for code in ExitCode) + ".",
    ]
    group = ""
    for row in rows:
        if row.group != group:
            group = row.group
            head = [text.ljust(width) for text, width in zip(("Variable", "Default", "Unit"), widths, strict=True)]
            lines += ["", f"{group}:", "  " + "  ".join([*head, "Reason"])]
        left = f"  {row.variable:<{widths[0]}}  {row.default:<{widths[1]}}  {row.unit:<{widths[2]}}  "
        indent = " " * (sum(widths) + 8)
        if columns - len(indent) < 40:  # narrower than a readable column
            lines.append(left.rstrip())
            left = indent = " " * 6
        lines += textwrap.wrap(row.reason, columns, initial_indent=left, subsequent_indent=indent)
    return "\n".join(lines)


def _default(field: FieldInfo) -> str:
    value = field.default
    if field.default_factory is not None or value is None or value == "":
        return "(none)"
    if isinstance(value, SecretStr):
        return redact_text(value.get_secret_value())
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | list):
        return ",".join(map(str, value)) or "(none)"
    return str(value)


def _kind(field: FieldInfo) -> str:
    kinds = types_in(field.annotation)
    if get_origin(field.annotation) is Literal:
        return "choice"
    if bool in kinds:
        return "true/false"
    return "list" if tuple in kinds or KafkaProperties in field.metadata else "text"


def _wanted(name: str, field: FieldInfo) -> str:
    wanted = unit_of(name, field) or _kind(field)
    if get_origin(field.annotation) is Literal:
        wanted = "one of " + ", ".join(map(str, get_args(field.annotation)))
    for part in field.metadata:
        for attribute, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<")):
            bound = getattr(part, attribute, None)
            if bound is not None:
                wanted += f", {sign} {bound}"
    return f"{wanted} (default {_default(field)})"


def _short(value: str) -> str:
    value = redact_text(value)
    return repr(value if len(value) <= SHOWN_CHARS else value[:SHOWN_CHARS] + "…")


def _is_service_link_value(value: str) -> bool:
    return value.startswith(("tcp://", "udp://"))


def _undecodable(cls: type[Settings], error: SettingsError) -> str:
    found = re.search(r'field "([^"]+)"', str(error))
    name = found.group(1) if found else ""
    field = cls.model_fields.get(name)
    return f"{variable(name)} is no JSON; right: {_wanted(name, field)}" if field else "settings: one is no JSON"


def _leave(code: ExitCode, stream: TextIO, text: str) -> NoReturn:
    stream.write(text + "\n")
    raise SystemExit(int(code))
