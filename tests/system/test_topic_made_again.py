"""A topic is deleted and made again under a running system: everybody says so, and what can be is written again."""

import asyncio

import httpx
import pytest
from msgspec import Raw
from tests.system import log_reading
from tests.system.history import Kind
from tests.system.rig import Rig, until
from tests.system.test_tenants import open_when_known

from heliograph.local.services import ServiceProcess
from heliograph.protocol.frames import Publish, Published
from heliograph.stores.kafka import KafkaLogAdmin

pytestmark = pytest.mark.xdist_group("system-services")

MESSAGES = 20


async def test_a_topic_made_again_is_said_and_the_hot_windows_are_written_to_it(rig: Rig) -> None:
    tenant = f"again-{rig.session()[-6:]}"
    readers = [*rig.stack.edges, *rig.stack.routers]
    known = {one: value(rig, one, "topics_known") for one in readers}
    await asyncio.to_thread(rig.apply, tenant)
    session, topic = rig.session(tenant), rig.topics.log(tenant)
    line = await open_when_known(rig.edges[0], rig.token(tenant))
    published = [await line.ask(Publish(session, Raw(b"%d" % n), n + 1)) for n in range(MESSAGES)]
    await line.close()
    positions = [answer.position for answer in published if isinstance(answer, Published)]
    await rig.confirmed([session])
    await until("all know the topic", lambda: all(value(rig, one, "topics_known") > known[one] for one in readers))
    await read(rig, tenant, session)
    before = {one: value(rig, one, "topics_recreated_total") for one in readers}

    admin = KafkaLogAdmin({"bootstrap.servers": rig.kafka.bootstrap_servers})
    await admin.delete(topic)
    await admin.close()
    await asyncio.to_thread(rig.apply, tenant)
    await until(
        "routers and edges have noticed",
        lambda: all(value(rig, one, "topics_recreated_total") > before[one] for one in readers),
        60.0,
    )
    await until(
        "all of the hot window was voided",
        lambda: sum(value(rig, one, "voided_total") for one in rig.stack.routers) >= MESSAGES,
        60.0,
    )
    await rig.confirmed([session], 60.0)
    records = await asyncio.to_thread(log_reading.read, rig.kafka.bootstrap_servers, {}, [topic])
    entries = log_reading.entries_of(records, {session})
    assert {entry.position for entry in entries if entry.kind is Kind.MESSAGE} == set(positions)
    await until_replays_say_so(rig, tenant, session)
    async with httpx.AsyncClient(trust_env=False) as http:
        for one in [*readers, *rig.stack.replays]:
            ready = (await http.get(f"http://127.0.0.1:{one.port}/readyz")).json()
            (condition,) = [found for found in ready["conditions"] if found["name"] == "topics"]
            assert condition["state"] == "degraded", one.service
            assert topic in condition["last_error"]
            assert ready["ready"]
    line = await open_when_known(rig.edges[1], rig.token(tenant))
    assert isinstance(await line.ask(Publish(session, Raw(b'"later"'), 1)), Published)
    await line.close()


async def until_replays_say_so(rig: Rig, tenant: str, session: str) -> None:
    """A replay looks at a topic when somebody asks for it."""
    async with asyncio.timeout(30.0):
        while any(value(rig, one, "topics_recreated_total") == 0 for one in rig.stack.replays):
            await read(rig, tenant, session)


def value(rig: Rig, service: ServiceProcess, name: str) -> float:
    return rig.metric(service, f"heliograph_{service.service.rstrip('0123456789-')}_{name}")


async def read(rig: Rig, tenant: str, session: str) -> None:
    """Have both replays look at the session's topic."""
    headers = {"Authorization": f"Bearer {rig.token(tenant)}"}
    async with httpx.AsyncClient(trust_env=False, headers=headers, timeout=30.0) as http:
        for url in rig.replays:
            answer = await http.get(f"{url}/v1/history/{session.replace(':', '/')}")
            assert answer.status_code == 200, answer.text
