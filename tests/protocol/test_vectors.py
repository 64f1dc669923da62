"""The files in libs/protocol/vectors are what the code makes, and the code makes what it always made."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from tests.protocol.strict_client import strict_json

from heliograph.protocol import frames
from heliograph.protocol.frames import decode_client_frame, decode_server_frame, encode
from heliograph.protocol.messages import frame, message_from_record
from heliograph.protocol.vectors.__main__ import DIRECTORY, main


def load(name: str) -> Any:
    return json.loads((DIRECTORY / name).read_text(encoding="utf-8"))


def as_bytes(case: dict[str, str]) -> bytes:
    return case["text"].encode() if "text" in case else base64.b64decode(case["base64"])


def test_the_files_are_what_the_code_makes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0, capsys.readouterr().out
    assert capsys.readouterr().out == ""


def test_a_difference_is_found_named_and_written_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--directory", str(tmp_path)]
    assert main([*where, "--write"]) == 0
    assert main(where) == 0
    (tmp_path / "sessions.json").write_text("{}", encoding="utf-8")
    (tmp_path / "stale.json").write_text("{}", encoding="utf-8")
    capsys.readouterr()
    assert main(where) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"differs: {tmp_path / 'sessions.json'}",
        f"differs: {tmp_path / 'stale.json'}",
    ]
    assert main([*where, "--write"]) == 0
    assert main(where) == 0
    assert not (tmp_path / "stale.json").exists()


def test_the_readme_has_a_row_for_every_file() -> None:
    readme = (DIRECTORY / "README.md").read_text(encoding="utf-8")
    assert all(f"| `{path.name}` |" in readme for path in DIRECTORY.glob("*.json"))


def test_a_frame_has_the_bytes_it_had_in_the_first_release() -> None:
    case = next(case for case in load("messages.json")["cases"] if case["what"] == "with a producer seq")
    assert case["frame"]["text"] == (
        '{"type":"message","position":"1764000000000-1a2b3c4d-0000000000000042","session":"acme:planner:trip-42",'
        '"message_id":"m-1","time":1764000000123,"producer":"planner/main","class":"event","payload":{"text":"hi"}}'
    )
    assert case["content"]["text"] == '"class":"event","payload":{"text":"hi"}}'
    assert case["extras"]["text"] == "4fGh0pQ2xY7a 7"


def test_a_record_has_the_headers_it_had_in_the_first_release() -> None:
    case = next(case for case in load("messages.json")["cases"] if case["what"] == "every field")
    assert [header["name"] for header in case["record"]["headers"]] == [
        "ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "ce_partitionkey", "ce_class", "ce_producer",
        "content-type", "ce_sequence", "ce_incarnation", "ce_producerseq", "ce_correlationid", "ce_causationid",
        "ce_replyto", "traceparent",
    ]  # fmt: skip


def test_a_session_lives_where_it_lived_in_the_first_release() -> None:
    case = next(c for c in load("shards-and-partitions.json")["cases"] if c["session"] == "acme:planner:trip-42")
    assert case == {
        "session": "acme:planner:trip-42",
        "crc32": 3_021_093_802,
        "virtual_shard": 170,
        "murmur2": -105_990_472,
        "partitions": {"1": 0, "6": 4, "12": 4, "100": 76},
    }


def test_every_message_case_can_be_made_from_its_record_by_reading_the_file_alone() -> None:
    for case in load("messages.json")["cases"]:
        record = case["record"]
        headers = [(header["name"], as_bytes(header)) for header in record["headers"]]
        message = message_from_record(as_bytes(record["key"]), as_bytes(record["value"]), headers)
        assert frame(message) == as_bytes(case["frame"])


def test_a_retry_has_the_hash_of_the_first_and_nothing_else_has() -> None:
    hashes = {case["what"]: case["content_hash"] for case in load("messages.json")["cases"]}
    retry = "its retry by a new start of the producer: same content"
    assert hashes[retry] == hashes["with a producer seq"]
    assert len(set(hashes.values())) == len(hashes) - 2  # that, and the one that differs in its time only


def test_every_frame_type_and_every_field_is_in_a_vector() -> None:
    for name, types in (("client-frames.json", frames.CLIENT_TYPES), ("server-frames.json", frames.SERVER_TYPES)):
        cases = load(name)["good"]
        assert {case["type"] for case in cases} == set(types) - {"message"}
        for type_ in types:
            texts = [strict_json(case["text"]) for case in cases if case["type"] == type_]
            fields = {field for case in cases if case["type"] == type_ for field in case["frame"]}
            assert all(any(field in text for text in texts) for field in fields), type_


def test_server_frames_are_encoded_as_the_file_says() -> None:
    for case in load("server-frames.json")["good"]:
        decoded = decode_server_frame(case["text"])
        assert decoded is not None
        assert encode(decoded) == as_bytes(case)


def test_client_frames_are_decoded_as_the_file_says() -> None:
    for case in load("client-frames.json")["good"]:
        assert type(decode_client_frame(as_bytes(case))).__name__.lower() == case["type"]
