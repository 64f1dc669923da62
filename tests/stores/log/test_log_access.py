"""Users of the log and what they may read: in memory, and on brokers with an authorizer."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from heliograph.local.java import prepare_jars
from heliograph.local.kafka import KafkaServer, Seat
from heliograph.stores.kafka import KafkaLogAccess
from heliograph.stores.memory.access import MemoryLogAccess
from heliograph.stores.ports import LogAccess, StoreError


@pytest.fixture
async def access(kind: str, request: pytest.FixtureRequest) -> AsyncIterator[LogAccess]:
    if kind == "memory":
        yield MemoryLogAccess()
        return
    found = KafkaLogAccess({"bootstrap.servers": request.getfixturevalue("kafka_server")().bootstrap_servers})
    yield found
    await found.close()


@pytest.fixture
def kafka_without_authorizer(tmp_path: Path) -> Iterator[str]:
    prepare_jars()
    server = KafkaServer(tmp_path, seat=Seat(settings={"authorizer.class.name": ""}))
    try:
        server.start()
        yield server.bootstrap_servers
    finally:
        server.kill()


async def test_users_and_rights_come_and_go_and_everything_may_be_said_twice(access: LogAccess) -> None:
    assert not await access.has_user("hg.acme")
    await access.drop_user("hg.acme")
    for password in ("one", "one", "two"):
        await access.set_user("hg.acme", password)
    assert await access.has_user("hg.acme")
    assert not await access.has_user("hg.beta")

    assert await access.readable("hg.acme") == set()
    for _ in range(2):
        await access.allow("hg.acme", "hg.acme.")
    await access.allow("hg.beta", "hg.beta.")
    assert await access.readable("hg.acme") == {"hg.acme."}

    for _ in range(2):
        await access.forbid("hg.acme")
    assert await access.readable("hg.acme") == set()
    assert await access.readable("hg.beta") == {"hg.beta."}
    for _ in range(2):
        await access.drop_user("hg.acme")
    assert not await access.has_user("hg.acme")


async def test_brokers_that_ask_nobody_have_no_rights_to_take_away(kafka_without_authorizer: str) -> None:
    """A password can be had there, rights can't: what was begun can be taken back all the same."""
    access = KafkaLogAccess({"bootstrap.servers": kafka_without_authorizer})
    await access.set_user("hg.acme", "one")
    with pytest.raises(StoreError) as caught:
        await access.allow("hg.acme", "hg.acme.")
    assert caught.value.code == "unavailable"
    await access.forbid("hg.acme")
    await access.drop_user("hg.acme")
    assert not await access.has_user("hg.acme")
    await access.close()
