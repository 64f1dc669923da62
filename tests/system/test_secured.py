"""Everything over TLS, a user for each service with the documented rights and no others; and who is refused."""

import asyncio
import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer
from redis import Redis as Admin
from tests.certificates import certificate
from tests.secured import password_of
from tests.system import log_reading
from tests.system.history import Outcome
from tests.system.load import load
from tests.system.rig import SETTINGS, TENANT, until
from tests.system.secured import SecureRig, running_secure_rig
from tests.systems import Systems

from heliograph.local.services import ServiceProcess, ask

pytestmark = pytest.mark.xdist_group("system-secured")

REFUSALS = ("AUTHORIZATION_FAILED", "AUTHENTICATION", "NOPERM", "NOAUTH", "WRONGPASS", "no permissions")
"""What Kafka and Redis say to somebody who may not, in a service's log."""


@pytest.fixture
async def rig(systems: Systems, tmp_path_factory: pytest.TempPathFactory) -> SecureRig:
    made = systems.take("secured", lambda: running_secure_rig(tmp_path_factory.mktemp("secured")))
    await made.heal()
    return made


def refused(rig: SecureRig) -> set[str]:
    """What any service was refused since the rig began, by their logs and Redis' own account."""
    said = {
        line
        for service in rig.stack.services
        for line in service.log.read_text(encoding="utf-8").splitlines()
        if any(word in line for word in REFUSALS)
    }
    for redis in rig.secured_redis.values():
        with Admin.from_url(redis.server.url) as admin:
            said |= {str(entry) for entry in admin.acl_log()}
    return said


async def test_nothing_is_lost_and_nobody_refused_when_services_and_the_live_redis_come_back_under_load(
    rig: SecureRig,
) -> None:
    """Publishing, deferring, resuming, reconciling, replaying: each service uses all rights that it has."""
    async with load(rig) as run:
        await run.more()
        for process in (rig.stack.edges[0], rig.stack.routers[0]):
            await run.busy()
            run.history.note(f"kill -9 {process.name}")
            await rig.kill(process)
            await run.more()
            await rig.launch(process)
            await rig.ready(process)
        run.history.note("stop redis")
        await rig.stop(rig.redis)
        await until("some are deferred", lambda: run.outcomes(Outcome.DEFERRED) >= 10)
        await rig.launch(rig.redis)
        await rig.ready(rig.redis)
        run.history.note("redis is back")
        await until("what was deferred is delivered", lambda: not run.deferred())
        await run.more()
    assert refused(rig) == set()
    for service in rig.stack.services:
        said = ask(service.port, "/readyz")
        assert said is not None
        assert json.loads(said[1])["degraded"] == [], (service.name, said)


async def test_a_record_that_nobody_can_read_is_set_aside_in_a_topic_that_the_router_may_make(rig: SecureRig) -> None:
    producer = Producer({"bootstrap.servers": rig.kafka.bootstrap_servers})
    producer.produce(rig.topics.log(TENANT), b"poison", b"no session")
    assert producer.flush(30) == 0

    def set_aside() -> list[bytes | None]:
        return [record.value() for record in log_reading.read(rig.kafka.bootstrap_servers, {}, [rig.topics.dead])]

    async with asyncio.timeout(60):
        while b"poison" not in await asyncio.to_thread(set_aside):
            await asyncio.sleep(0.2)
    assert refused(rig) == set()


# ---- who is refused -------------------------------------------------------------------------------------------------

WRONG = f"wrong-{secrets.token_hex(8)}"
"""A password."""

KAFKA_REFUSES = "sasl.password or sasl.mechanism of kafka_properties"
KAFKA_UNKNOWN = "ssl.ca.location"
LIVE_REFUSES = "user and password in redis_url"
METADATA_REFUSES = "user and password in metadata_redis_url"
LIVE_UNKNOWN = "ssl_ca_certs in redis_url"
METADATA_UNKNOWN = "ssl_ca_certs in metadata_redis_url"


@pytest.fixture
def unknown(tmp_path: Path) -> Path:
    """Somebody else's certificate."""
    return certificate(tmp_path)


@pytest.fixture
def lone(rig: SecureRig, tmp_path: Path) -> Iterator[list[ServiceProcess]]:
    """Services of a test, ended with it."""
    started: list[ServiceProcess] = []
    yield started
    for service in started:
        service.kill()


def settings(rig: SecureRig, service: str, what: str, password: str | None, ca: Path | None) -> dict[str, str]:
    """Those of a service, with a wrong password or certificate for Kafka, or for all Redis."""
    right = {**SETTINGS, "topic_prefix": rig.prefix, **rig.settings_of(service)}
    if what == "kafka":
        return {**right, "kafka_properties": json.dumps(rig.secured.properties(service, password, ca))}
    redis = rig.secured_redis
    names = {"redis_url": redis["live"], "metadata_redis_url": redis["metadata"], "token_redis_url": redis["token"]}
    return right | {
        name: server.url_of(password_of(server.user) if password is None else password, ca)
        for name, server in names.items()
    }


@pytest.mark.parametrize(
    ("service", "what", "words_password", "words_ca"),
    [
        ("edge", "kafka", [KAFKA_REFUSES], [KAFKA_UNKNOWN]),
        ("router", "kafka", [KAFKA_REFUSES], [KAFKA_UNKNOWN]),
        ("replay", "kafka", [KAFKA_REFUSES], [KAFKA_UNKNOWN]),
        ("edge", "redis", [LIVE_REFUSES, METADATA_REFUSES], [LIVE_UNKNOWN, METADATA_UNKNOWN]),
        ("registry", "redis", [LIVE_REFUSES, METADATA_REFUSES], [LIVE_UNKNOWN, METADATA_UNKNOWN]),
    ],
)
async def test_a_wrong_password_and_an_unknown_certificate_are_said_with_the_setting_and_without_the_secret(
    rig: SecureRig,
    lone: list[ServiceProcess],
    unknown: Path,
    tmp_path: Path,
    service: str,
    what: str,
    words_password: list[str],
    words_ca: list[str],
) -> None:
    wrong = {
        "password": (settings(rig, service, what, WRONG, None), words_password),
        "certificate": (settings(rig, service, what, None, unknown), words_ca),
    }
    for name, (given, _) in wrong.items():
        lone.append(ServiceProcess(service, tmp_path, given, name=f"{service}-{name}"))
        await rig.launch(lone[-1])
    for process, (_, words) in zip(lone, wrong.values(), strict=True):
        await until(
            f"{process.name} says {words} at /readyz",
            lambda process=process, words=words: all(word in readiness(process) for word in words),  # type: ignore[misc]
            60.0,
            lambda process=process: readiness(process),  # type: ignore[misc]
        )
        shown = readiness(process) + process.log.read_text(encoding="utf-8")
        assert all(word in shown for word in words)
        for secret in (WRONG, password_of(service), password_of("heliograph")):
            assert secret not in shown
        assert process.running


def readiness(process: ServiceProcess) -> str:
    answer = ask(process.port, "/readyz")
    return "" if answer is None else answer[1]
