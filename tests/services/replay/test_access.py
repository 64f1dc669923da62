"""Who may read what, and what is answered to who may not."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.services.replay.rig import SESSION, World, message, until

from heliograph.protocol.messages import record_headers
from heliograph.replay.places import Resume, topic_tag
from heliograph.replay.scanning import BATCH


async def code(answer: Any) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


async def test_without_a_token_nothing_is_read(world: World) -> None:
    await world.start()
    assert await code(await world.get(token={})) == (401, "unauthenticated")
    assert await code(await world.get(token={"authorization": "Bearer nonsense"})) == (401, "unauthenticated")


async def test_the_scope_says_which_sessions(world: World) -> None:
    world.write(message(1))
    await world.start()
    for scope in ("history:planner:trip-42", "history:planner:trip-*", "history:*:*"):
        assert (await world.get(token=world.headers(scope=scope))).status_code == 200
    for scope in ("history:tool:*", "history:planner:trip-43", "subscribe:*:*", "admin:*:*"):
        assert await code(await world.get(token=world.headers(scope=scope))) == (403, "forbidden")


async def test_another_tenants_session_is_forbidden_whether_it_exists_or_not(world: World) -> None:
    world.write(message(1))
    await world.start()
    token = world.headers("other")
    answers = [
        await world.get(session, token=token) for session in (SESSION, "acme:planner:trip-99", "nobody:a:trip-42")
    ]
    assert [await code(answer) for answer in answers] == [(403, "forbidden")] * 3
    assert len({answer.text.replace("trip-99", "trip-42").replace(":a:", ":planner:") for answer in answers}) == 1


@pytest.mark.parametrize(
    "session", ["acme:Planner:1", "acme:planner:é", "acme:planner:a%2Fb", "acme:planner:_", "acme:-:1"]
)
async def test_what_is_no_session_is_refused(world: World, session: str) -> None:
    await world.start()
    answer = await world.get(session)
    assert answer.status_code in (400, 403, 404)
    assert answer.json()["code"] in ("session_invalid", "value_invalid", "not_found", "forbidden")


@pytest.mark.parametrize(
    "params",
    [
        {"after": "1"},
        {"after": "1764000000000-1a2b3c4d-9999999999999999"},
        {"until": "latest"},
        {"from_time": "2025-11-24"},
        {"from_time": "1764000000"},
        {"from_time": "2025-11-24T16:00:00"},
        {"until_time": "2025-02-30T00:00:00Z"},
        {"limit": 0},
        {"limit": "many"},
        {"limit": 10**9},
        {"format": "xml"},
        {"resume": "x"},
        {"resume": "~1.2"},
    ],
)
async def test_what_makes_no_sense_is_refused(world: World, params: dict[str, Any]) -> None:
    await world.start()
    status, said = await code(await world.get(**params))
    assert (status, said) == (400, "value_invalid")


async def test_any_resume_of_the_right_shape_is_harmless(world: World) -> None:
    world.write(message(1), message(2))
    await world.start()
    topic = topic_tag(world.log.topics[world.topic].topic_id)
    for resume in (f"{0:016x}~1.2", f"{topic}~999999.0", f"{topic}~0.{10**17}", f"{topic}~0.0~1.0~2.0"):
        page = await world.page(resume=resume)
        assert len(page.frames) in (0, 2)


def test_a_resume_is_fit_for_a_url_whatever_the_topics_id() -> None:
    resume = Resume(topic_tag("a+b/c=="), {2: 7, 0: 10**12})
    assert Resume.parse(str(resume)) == resume
    assert set(str(resume)) <= set("0123456789abcdef~.")


async def test_a_log_that_is_away_is_said_with_a_code(world: World) -> None:
    await world.start()
    world.log.available = False
    assert await code(await world.get()) == (503, "log_unavailable")
    assert await code(await world.get(format="ndjson")) == (503, "log_unavailable")
    assert world.value("reads_held") == 0


async def test_above_their_bound_reads_are_told_to_come_back(world: World) -> None:
    await world.start(http_readers=1, http_waiting=0)
    world.log.available = True
    scan = world.http_log.scan
    answers: list[Any] = []

    async def slow(*arguments: object, **options: object):  # type: ignore[no-untyped-def] # as the one it stands for
        if not answers:
            answers.append(None)
            answers.append(await world.get())
            answers.append(await world.get(format="ndjson"))
        async for step in scan(*arguments, **options):  # type: ignore[arg-type]
            yield step

    world.http_log.scan = slow  # type: ignore[method-assign]
    world.write(message(1))
    assert len((await world.page()).frames) == 1
    for answer in answers[1:]:
        assert await code(answer) == (429, "too_many_requests")
        assert answer.headers["retry-after"] == "1"
    assert world.value("requests_refused_total", reason="too_many_requests") == 2


async def test_corrupt_records_harm_nobody(world: World) -> None:
    for value, headers in (
        (b"[" * 10_000, record_headers(message(1))),
        (b"\xff", record_headers(message(2))),
        (b"{}", [("ce_id", None)]),
        (b"{}", [(name, b"\xff") for name, _ in record_headers(message(3))]),
        (None, record_headers(message(4))),
    ):
        world.write_record(value, headers)
    world.write(message(5))
    await world.start()
    page = await world.page()
    assert len(page.frames) == 1
    assert [(gap["from"][-1], gap["to"][-1], gap["reason"]) for gap in page.gaps] == [
        ("1", "1", "corrupt"),
        ("2", "2", "corrupt"),
        ("3", "3", "never_written"),
        ("4", "4", "corrupt"),
    ]


async def test_probes_and_metrics_answer(world: World) -> None:
    await world.start()
    assert (await world.client.get("/livez")).status_code == 200
    assert (await world.client.get("/readyz")).json()["ready"] is True
    assert "heliograph_replay_records_scanned_total" in (await world.client.get("/metrics")).text


TAKEN_BACK: list[tuple[dict[str, Any], str]] = [
    ({"revoked": [{"subject": "you"}]}, "token_revoked"),
    ({"jwks": {"keys": []}}, "unauthenticated"),
]


@pytest.mark.parametrize(("change", "said"), TAKEN_BACK)
@pytest.mark.parametrize(
    ("path", "reads_by"),
    [("/v1/history/acme/planner/trip-42?format=ndjson", "scan"), ("/v1/export/acme", "read")],
)
async def test_a_token_that_is_taken_back_ends_the_streams_that_it_opened(
    world: World, path: str, reads_by: str, change: dict[str, Any], said: str
) -> None:
    """What was sent stands, and the last line says where one would go on."""
    world.write(*(message(seq) for seq in range(1, 4 * BATCH)))
    await world.start()
    read = getattr(world.http_log, reads_by)
    before = world.value("tenant_changes_total")

    async def interrupted(*arguments: Any, **options: Any) -> AsyncIterator[Any]:
        steps = 0
        async for step in read(*arguments, **options):
            steps += 1
            if steps == 2:
                await world.put_tenant("acme", auth={"jwks": world.signer("acme").jwks(), **change})
                await until(lambda: world.value("tenant_changes_total") > before)
            yield step

    setattr(world.http_log, reads_by, interrupted)
    answer = await world.client.get(path, headers=world.headers())
    assert answer.status_code == 200
    *lines, error, end = map(json.loads, answer.content.splitlines())
    messages = [line for line in lines if "message_id" in line]
    assert error["code"] == said
    assert 0 < len(messages) < 4 * BATCH - 1
    assert not end["complete"]
    assert end["resume"] or end["next"] == messages[-1]["position"]
    assert await code(await world.client.get(path, headers=world.headers())) == (401, said)
    assert world.value("requests_refused_total", reason=said) == 1
