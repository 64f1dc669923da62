"""Tables of the chart: all values, from comments of values.yaml that begin with `--`; the operator's rights. And what
its schema says of an EdgeFleet, which the custom resource definition knows.

A line-wise reading beside the YAML parser's, which drops comments: keys by their indentation, defaults from the parser.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from heliograph.operator.crds import CRDS

FLEET_BY_CHART = ("deploymentRef", "min", "max")
"""Of an EdgeFleet's spec: the chart says them, and its templates why they can't be given."""
RULES = Path("templates") / "operator" / "_rules.tpl"
_KEY = re.compile(r"^( *)([A-Za-z][A-Za-z0-9]*):")
_COMMENT = re.compile(r"^ *# ?(.*)$")


@dataclass(frozen=True, slots=True)
class Value:
    """One value that people set."""

    path: str
    default: Any
    text: str


def values(text: str) -> Iterator[Value]:
    """Every value with a comment that begins with `--`, in the order of the file."""
    parsed = yaml.safe_load(text)
    place: list[tuple[int, str]] = []
    comment: list[str] | None = None
    for line in text.splitlines():
        said = _COMMENT.match(line)
        if said is not None:
            if said[1].startswith("-- "):
                comment = [said[1].removeprefix("-- ")]
            elif comment is not None:
                comment.append(said[1])
            continue
        key = _KEY.match(line)
        if key is not None:
            place = [(indent, name) for indent, name in place if indent < len(key[1])] + [(len(key[1]), key[2])]
            if comment is not None:
                names = [name for _, name in place]
                default = parsed
                for name in names:
                    default = default[name]
                yield Value(".".join(names), default, " ".join(comment))
        comment = None


def undescribed(text: str) -> list[str]:
    """Paths of values that no comment describes, neither their own nor one of what they are in."""
    described = {value.path for value in values(text)}

    def missing(path: str, value: Any) -> Iterator[str]:
        if path in described:
            return
        if isinstance(value, dict) and value:
            for name, inner in value.items():
                yield from missing(f"{path}.{name}" if path else name, inner)
        else:
            yield path

    return list(missing("", yaml.safe_load(text)))


def table(text: str) -> str:
    rows = ["| value | default | what it is |", "| --- | --- | --- |"]
    for value in values(text):
        default = json.dumps(value.default, ensure_ascii=False)
        rows.append(f"| `{value.path}` | `{default}` | {value.text} |".replace("\\|", "|"))
    return "\n".join(rows) + "\n"


def rules_table(template: str) -> str:
    """The operator's rules with the comment before each: the template has no placeholders inside."""
    text = template.partition('"heliograph.operatorRules" -}}\n')[2].partition("{{- end -}}")[0]
    rows = ["| what | verbs | why |", "| --- | --- | --- |"]
    for comment, rule in re.findall(r"((?:^#.*\n)*)(^- (?:.*\n)(?:^  .*\n)+)", text, re.MULTILINE):
        one = yaml.safe_load(rule)[0]
        group = f" ({one['apiGroups'][0]})" if one["apiGroups"][0] else ""
        why = " ".join(line.removeprefix("# ") for line in comment.splitlines())
        rows.append(f"| {', '.join(one['resources'])}{group} | {', '.join(one['verbs'])} | {why} |")
    return "\n".join(rows) + "\n"


def values_schema(chart: Path) -> str:
    """values.schema.json, with what an EdgeFleet can be told: a slip in `edge.fleet.spec` is refused like any other."""
    schema: dict[str, Any] = json.loads((chart / "values.schema.json").read_text(encoding="utf-8"))
    (version,) = CRDS["edgefleets.heliograph.dev.yaml"]()["spec"]["versions"]
    fleet = _closed(version["schema"]["openAPIV3Schema"]["properties"]["spec"])
    del fleet["required"]
    fleet["properties"] |= {name: {} for name in FLEET_BY_CHART}
    schema["$defs"]["fleetSpec"] = fleet
    return json.dumps(schema, indent=2) + "\n"


def _closed(schema: Any) -> Any:
    """A structural schema as JSON Schema, which refuses what it does not know."""
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {name: _closed(inner) for name, inner in schema.items() if not name.startswith("x-kubernetes-")}
    return {**kept, "additionalProperties": False} if kept.get("type") == "object" and "properties" in kept else kept


def readme(chart: Path) -> str:
    """The chart's README with the table as values.yaml has it."""
    return filled(chart / "README.md", "values", table((chart / "values.yaml").read_text(encoding="utf-8")))


def install_page(page: Path, chart: Path) -> str:
    """The page on installing, with the operator's rights as the chart has them."""
    return filled(page, "rules", rules_table((chart / RULES).read_text(encoding="utf-8")))


def filled(page: Path, name: str, content: str) -> str:
    """The page with `content` between its marks of that name."""
    begin, end = f"<!-- {name}: written by `make docs` -->", f"<!-- /{name} -->"
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n\n{content}\n{end}{after}"
