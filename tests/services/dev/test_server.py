"""The development server on this loop: what its services share, how it begins, how it ends."""

import asyncio
import json
import socket
import subprocess
import sys
import time

import httpx
import pytest

from heliograph.cli.keys import Algorithm, SigningKey
from heliograph.client import Client, ClosedError, Message, PublishRefused
from heliograph.core.errors import InvalidValueError
from heliograph.dev import server
from heliograph.dev.options import DevOptions, DevServerError
from heliograph.dev.server import DevServer

FREE = DevOptions(port=0)


def client(dev: DevServer, token: str | None = None) -> Client:
    return Client(dev.url("edge"), token=token or dev.token(), proxy=None)


async def test_the_router_confirms_what_the_edge_wrote() -> None:
    async with DevServer(FREE) as dev, client(dev) as one:
        for number in range(3):
            await one.publish("demo:planner:1", number)
        deadline = time.monotonic() + 20
        while dev.memory.live.head("demo:planner:1").confirmed < 3:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        assert await dev.memory.index.first("demo:planner:1") is not None


async def test_it_ends_with_nothing_left_running() -> None:
    before = asyncio.all_tasks()
    async with DevServer(FREE) as dev, client(dev) as one:
        await one.publish("demo:planner:1", 1)
    assert dev.memory.log.records("heliograph.demo.log")
    assert asyncio.all_tasks() == before


async def test_services_end_one_after_the_other_the_edge_first() -> None:
    dev = DevServer(FREE)
    await dev.start()
    ended: list[str] = []
    for life in dev._lives:
        life.task.add_done_callback(lambda task: ended.append(task.get_name()))
    assert await dev.stop()
    await asyncio.sleep(0)
    assert ended == ["edge", "router", "replay", "registry"]


async def test_a_tenant_that_was_named_is_there_and_apart_from_others() -> None:
    async with DevServer(DevOptions(port=0, tenants=("acme", "globex"))) as dev:
        assert dev.tenants == ["acme", "globex"]
        async with client(dev, dev.token(tenant="globex")) as one:
            await one.publish("globex:planner:1", 1)
            with pytest.raises(PublishRefused) as refused:
                await one.publish("acme:planner:1", 1)
        assert refused.value.code == "forbidden"


async def test_a_tenant_may_be_a_whole_record() -> None:
    record = {"tenant": "acme", "limits": {"max_payload_bytes": 10}}
    async with DevServer(DevOptions(port=0, tenants=(record,))) as dev, client(dev) as one:
        with pytest.raises(PublishRefused) as refused:
            await one.publish("acme:planner:1", "more than ten bytes")
    assert refused.value.code == "payload_too_large"


async def test_tenants_that_share_a_topic_are_apart_all_the_same() -> None:
    tenants = tuple({"tenant": name, "isolation": "shared"} for name in ("acme", "globex"))
    async with DevServer(DevOptions(port=0, tenants=tenants)) as dev:
        shared = [name for name in dev.memory.log.topics if "_shared" in name and name.endswith(".log")]
        for name in ("acme", "globex"):
            async with client(dev, dev.token(tenant=name)) as one:
                await one.publish(f"{name}:planner:1", name)
        assert {record.value for record in dev.memory.log.records(shared[0])} == {b'"acme"', b'"globex"'}
        for name, other in (("acme", "globex"), ("globex", "acme")):
            headers = {"authorization": f"Bearer {dev.token(tenant=name)}"}
            async with httpx.AsyncClient(trust_env=False, headers=headers) as http:
                page = await http.get(dev.url("replay") + f"/v1/history/{name}/planner/1")
                assert [message["payload"] for message in page.json()["messages"]] == [name]
                assert (await http.get(dev.url("replay") + f"/v1/history/{other}/planner/1")).status_code == 403


@pytest.mark.parametrize("tenant", ["Acme", "", {"tenant": "acme", "limit": {}}])
def test_a_tenant_that_is_none_is_refused_before_anything_starts(tenant: str | dict[str, object]) -> None:
    with pytest.raises(InvalidValueError):
        DevServer(DevOptions(port=0, tenants=(tenant,)))


async def test_tokens_of_a_key_that_is_kept_outlive_a_restart() -> None:
    key = SigningKey.generate(Algorithm.EDDSA)
    async with DevServer(FREE, key) as dev:
        token = dev.token()
    async with DevServer(FREE, key) as again, client(again, token) as one:
        await one.publish("demo:planner:1", 1)
    async with DevServer(FREE) as other:
        with pytest.raises(ClosedError):
            await client(other, token).connect()


async def test_a_port_that_is_taken_is_named_and_nothing_is_left_running() -> None:
    before = asyncio.all_tasks()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(DevServerError, match=f"edge can't listen on 127.0.0.1:{port}") as error:
            await DevServer(DevOptions(port=port)).start()
    assert error.value.code == "port_taken"
    assert asyncio.all_tasks() == before


async def test_a_service_that_does_not_become_ready_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "START_TIMEOUT_S", 1.0)
    before = asyncio.all_tasks()
    dev = DevServer(FREE)
    dev.memory.live.stop()
    with pytest.raises(DevServerError, match=r"not ready after 1 s: {'edge': .*'live'"):
        await dev.start()
    assert asyncio.all_tasks() == before


async def test_a_service_that_fails_is_told() -> None:
    async with DevServer(FREE) as dev:
        failed = asyncio.create_task(dev.failed())
        next(service for service in dev.services if service.name == "replay").liveness.fail("broken for good")
        async with asyncio.timeout(20):
            assert await failed == "replay"


async def test_what_is_past_its_retention_is_forgotten_and_readers_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "RETENTION_CHECK_S", 0.01)
    bounded = {"tenant": "demo", "topics": {"log": {"partitions": 1, "retention_bytes": 20_000}}}
    async with DevServer(DevOptions(port=0, tenants=(bounded,))) as dev, client(dev) as one:
        for _ in range(30):
            receipt = await one.publish("demo:planner:1", "x" * 1_000)
        deadline = time.monotonic() + 20
        while len(dev.memory.log.records("heliograph.demo.log")) == 30:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        assert receipt.position is not None
        first = receipt.position[:23] + f"{1:016d}"
        headers = {"authorization": f"Bearer {dev.token()}"}
        async with httpx.AsyncClient(trust_env=False, headers=headers) as http:
            page = await http.get(dev.url("replay") + "/v1/history/demo/planner/1", params={"after": first})
        assert [gap["reason"] for gap in page.json()["gaps"]] == ["retention"]


@pytest.mark.parametrize("keep", [True, False], ids=["data-kept", "data-lost"])
async def test_control_is_deferred_while_the_live_path_is_away_and_delivered_when_it_is_back(keep: bool) -> None:
    """What an installation does without its Redis, all services together."""
    session = "demo:planner:1"
    async with DevServer(FREE) as dev, client(dev) as one:
        await one.publish(session, "before")
        dev.memory.live.stop()
        deferred = await one.publish(session, "while away", cls="control")
        assert deferred.deferred
        dev.memory.live.restart(keep=keep)
        async with client(dev) as reader, reader.subscribe(session, "earliest") as subscription:
            seen: list[object] = []
            async with asyncio.timeout(30):
                async for item in subscription:
                    if isinstance(item, Message):
                        seen.append(item.data)
                    if seen[-1:] == ["while away"]:
                        break
    assert seen in (["before", "while away"], ["while away"]) if not keep else seen == ["before", "while away"]


async def test_two_of_them_share_nothing() -> None:
    async with DevServer(FREE) as one, DevServer(FREE) as other:
        async with client(one) as publisher:
            await publisher.publish("demo:planner:1", 1)
        assert other.memory.log.records("heliograph.demo.log") == []
        with pytest.raises(ClosedError):
            await client(other, one.token()).connect()


def test_clients_of_redis_and_kafka_are_not_even_imported() -> None:
    """They are half a second of a start, and nobody may need them installed one day."""
    code = (
        "import json, sys, heliograph.dev.server; print(json.dumps([name.partition('.')[0] for name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout)).isdisjoint({"redis", "confluent_kafka"})


def test_the_plugin_imports_next_to_nothing() -> None:
    """Every run of pytest in that environment pays for it."""
    code = "import json, sys, pytest; before = set(sys.modules); import heliograph.dev.pytest_plugin; " + (
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert imported - set(sys.stdlib_module_names) == {"heliograph"}
    assert [name for name in json.loads(done.stdout) if name.startswith("heliograph")] == [
        "heliograph",
        "heliograph.core",
        "heliograph.core.errors",
        "heliograph.dev",
        "heliograph.dev.options",
        "heliograph.dev.process",
        "heliograph.dev.pytest_plugin",
    ]
