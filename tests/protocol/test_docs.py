"""The generated part of docs/ is what the code makes."""

import re
from pathlib import Path

import pytest
import yaml

from heliograph.local.docs.__main__ import DIRECTORY, main
from heliograph.local.docs.reference import INDEX, as_yaml, rendered
from heliograph.protocol.asyncapi import asyncapi
from heliograph.protocol.codes import CLOSES, CODES, GapReason
from heliograph.protocol.headers import HEADERS
from heliograph.protocol.messages import Message, message_from_record, record_headers
from heliograph.protocol.vectors import DOCUMENTS
from heliograph.stores.keys import REDIS_KEYS


def page(name: str) -> str:
    return rendered()[f"reference/{name}"]


def test_the_files_are_what_the_code_makes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0, capsys.readouterr().out


def test_a_stale_file_is_found_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--directory", str(tmp_path), "--crds", str(tmp_path / "crds")]
    assert main([*where, "--check"]) == 1
    assert main(where) == 0
    assert main([*where, "--check"]) == 0
    codes = tmp_path / "reference" / "codes.md"
    codes.write_text("old", encoding="utf-8")
    capsys.readouterr()
    assert main([*where, "--check"]) == 1
    assert capsys.readouterr().out == f"out of date: run `make docs`: {codes}\n"
    assert codes.read_text(encoding="utf-8") == "old"


def test_the_index_names_every_file() -> None:
    assert {f"reference/{name}" for name in (*INDEX, "README.md")} == set(rendered())
    assert DIRECTORY.name == "docs"


def test_pages_have_a_row_for_everything_there_is() -> None:
    closes, codes, keys, headers = (
        page("close-codes.md"), page("codes.md"), page("redis-keys.md"), page("topics-and-headers.md"),
    )  # fmt: skip
    assert all(f"| {close.code} | `{close.name}` |" in closes for close in CLOSES.values())
    assert all(f"| `{code}` |" in codes for code in (*CODES, *GapReason.ALL))
    assert all(key.pattern.replace("|", "\\|") in keys for key in REDIS_KEYS)
    assert all(f"| `{header.name}` |" in headers for header in HEADERS)


@pytest.mark.parametrize("name", [name for name in INDEX if name.endswith(".md")])
def test_tables_have_as_many_cells_in_every_row(name: str) -> None:
    tables = re.findall(r"(?:^\|.*\|\n)+", page(name), re.MULTILINE)
    assert tables
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1


def test_the_yaml_is_the_document() -> None:
    document = asyncapi()
    assert yaml.safe_load(as_yaml(document)) == document
    assert "&id" not in as_yaml(document)


# ---- the table of headers -------------------------------------------------------------------------------------------


def example() -> list[tuple[str, bytes]]:
    return [(header.name, header.example.encode()) for header in HEADERS]


def test_the_examples_of_the_headers_are_a_record() -> None:
    message = message_from_record(b"acme:planner:trip-42", b"{}", example())
    assert isinstance(message, Message)
    assert dict(record_headers(message)) == {**dict(example())}


def test_the_table_says_which_headers_are_always_there() -> None:
    always = {header.name for header in HEADERS if header.always}
    known = {header.name for header in HEADERS}
    records = [{header["name"] for header in case["record"]["headers"]} for case in DOCUMENTS["messages"]["cases"]]
    assert set.intersection(*records) == always
    assert set.union(*records) == known
    assert all(bool(header.when) != header.always for header in HEADERS)
