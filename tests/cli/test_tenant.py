"""`heliograph tenant` on stores in memory, and once on the real ones."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
import yaml
from typer.testing import Result

from heliograph.cli.keys import Algorithm, SigningKey
from heliograph.protocol.tenants import Revocation, Tenant, decode_tenant
from heliograph.service.commands import tenant as command
from heliograph.service.commands.tenant import Stores
from heliograph.service.revoking import change_record, with_revocations
from heliograph.stores.keys import Topics
from heliograph.stores.memory.log import MemoryLog, MemoryLogAdmin
from heliograph.stores.memory.metadata.tenants import MemoryTenantStore

Invoke = Callable[..., Result]


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> Stores:
    stores = Stores(MemoryLogAdmin(MemoryLog()), MemoryTenantStore(), Topics("hg"))

    @asynccontextmanager
    async def connected() -> AsyncIterator[Stores]:
        yield stores

    monkeypatch.setattr(command, "connected", connected)
    return stores


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., str]:
    def write(**document: object) -> str:
        path = tmp_path / "tenant.yaml"
        path.write_text(yaml.safe_dump({"tenant": "acme", **document}))
        return str(path)

    return write


File = Callable[..., str]


def topics(log: int) -> dict[str, object]:
    return {"log": {"partitions": log}}


def test_a_new_tenant_gets_its_topics_and_its_record(stores: Stores, invoke: Invoke, file: File) -> None:
    settings = {"log": {"partitions": 3, "retention_s": 3600}, "telemetry": {"partitions": 1}}
    own = {"auditor": {"log": {"partitions": 2}}}
    done = invoke_here(invoke, "tenant", "apply", file(topics=settings, agent_types=own), "--json")
    assert json.loads(done.stdout) == {
        "tenant": "acme",
        "dry_run": False,
        "changed": True,
        "record": "created",
        "fields": [],
        "behind": [],
        "created": ["hg.acme.log", "hg.acme.deferred", "hg.acme.telemetry", "hg.acme.auditor.log", "hg.dead"],
        "grown": [],
        "altered": [],
        "warnings": [],
    }
    found = asyncio.run(stores.admin.describe(["hg.acme.log", "hg.acme.auditor.log"]))
    assert found["hg.acme.log"].partitions == 3
    assert found["hg.acme.log"].config["retention.ms"] == "3600000"
    assert found["hg.acme.log"].config["message.timestamp.type"] == "LogAppendTime"
    assert found["hg.acme.auditor.log"].partitions == 2
    record = asyncio.run(stores.tenants.get("acme"))
    assert record is not None
    assert decode_tenant(record).topics.log.partitions == 3


def test_applying_the_same_file_again_changes_nothing(stores: Stores, invoke: Invoke, file: File) -> None:
    path = file()
    invoke_here(invoke, "tenant", "apply", path)
    version = asyncio.run(stores.tenants.version())
    done = invoke_here(invoke, "tenant", "apply", path)
    assert "up to date acme: nothing to change" in done.stdout
    assert asyncio.run(stores.tenants.version()) == version


def test_growth_and_changed_settings_are_shown_and_done(stores: Stores, invoke: Invoke, file: File) -> None:
    invoke_here(invoke, "tenant", "apply", file(topics=topics(2)))
    changed = {"log": {"partitions": 4, "retention_s": 60}}
    done = invoke_here(invoke, "tenant", "apply", file(topics=changed, suspended=True))
    assert "hg.acme.log" in done.stdout
    assert "2 → 4 partitions" in done.stdout
    assert "retention.ms: 604800000 → 60000" in done.stdout
    assert "suspended" in done.stdout
    found = asyncio.run(stores.admin.describe(["hg.acme.log"]))["hg.acme.log"]
    assert (found.partitions, found.config["retention.ms"]) == (4, "60000")


def test_topics_never_shrink(stores: Stores, invoke: Invoke, file: File) -> None:
    invoke_here(invoke, "tenant", "apply", file(topics=topics(4)))
    done = invoke_here(invoke, "tenant", "apply", file(topics=topics(2)), "--json")
    assert [each["code"] for each in json.loads(done.stdout)["warnings"]] == ["fewer_partitions"]
    assert asyncio.run(stores.admin.describe(["hg.acme.log"]))["hg.acme.log"].partitions == 4


def test_a_dry_run_changes_nothing(stores: Stores, invoke: Invoke, file: File) -> None:
    done = invoke_here(invoke, "tenant", "apply", file(), "--dry-run")
    assert done.stdout.startswith("would change")
    assert asyncio.run(stores.admin.describe(["hg.acme.log"])) == {}
    assert asyncio.run(stores.tenants.get("acme")) is None


def test_a_file_that_get_shows_is_taken_by_apply(stores: Stores, invoke: Invoke, file: File) -> None:
    invoke_here(invoke, "tenant", "apply", file(topics=topics(2), allowed_origins=["https://app.example"]))
    shown = invoke_here(invoke, "tenant", "get", "acme").stdout
    done = invoke_here(invoke, "tenant", "apply", "-", stdin=shown)
    assert "nothing to change" in done.stdout
    as_json = invoke_here(invoke, "tenant", "get", "acme", "--json").stdout
    assert json.loads(as_json) == yaml.safe_load(shown)


def test_a_record_that_can_not_be_read_is_replaced(stores: Stores, invoke: Invoke, file: File) -> None:
    asyncio.run(stores.tenants.put("acme", b'{"tenant": 7}'))
    assert "unreadable" in invoke_here(invoke, "tenant", "list").stdout
    invoke_here(invoke, "tenant", "apply", file())
    assert "active" in invoke_here(invoke, "tenant", "list").stdout


def test_all_tenants_are_listed(stores: Stores, invoke: Invoke, file: File) -> None:
    assert "no tenants" in invoke_here(invoke, "tenant", "list").stderr
    key = SigningKey.generate(Algorithm.EDDSA, "key-1")
    invoke_here(invoke, "tenant", "apply", file(auth={"jwks": key.jwks()}))
    done = invoke_here(invoke, "tenant", "list", "--json")
    assert json.loads(done.stdout) == {
        "tenant": "acme", "state": "active", "isolation": "dedicated",
        "keys": ["key-1"], "log_partitions": 6, "retention_s": 604800,
    }  # fmt: skip
    assert "7d" in invoke_here(invoke, "tenant", "list").stdout


def test_a_tenant_is_forgotten_and_its_messages_stay(stores: Stores, invoke: Invoke, file: File) -> None:
    invoke_here(invoke, "tenant", "apply", file())
    invoke_here(invoke, "tenant", "delete", "acme", "--yes")
    assert asyncio.run(stores.tenants.get("acme")) is None
    assert "hg.acme.log" in asyncio.run(stores.admin.describe(["hg.acme.log"]))


def test_its_messages_go_only_when_that_is_said(stores: Stores, invoke: Invoke, file: File) -> None:
    invoke_here(invoke, "tenant", "apply", file())
    assert invoke("tenant", "delete", "acme", "--topics").exit_code == 2  # nobody can be asked
    assert asyncio.run(stores.tenants.get("acme")) is not None
    invoke_here(invoke, "tenant", "delete", "acme", "--topics", "--yes")
    assert asyncio.run(stores.admin.describe(["hg.acme.log", "hg.acme.deferred"])) == {}
    assert "hg.dead" in asyncio.run(stores.admin.describe(["hg.dead"]))


def test_shared_tenants_get_topics_that_others_share_too(stores: Stores, invoke: Invoke, file: File) -> None:
    shared = {"isolation": "shared", "topics": {"log": {"partitions": 4, "retention_s": 2 * 86_400}}}
    done = json.loads(invoke_here(invoke, "tenant", "apply", file(**shared), "--json").stdout)
    assert done["created"] == ["hg._shared.7d.log", "hg._shared.30d.deferred", "hg.dead"]
    found = asyncio.run(stores.admin.describe(["hg._shared.7d.log"]))["hg._shared.7d.log"]
    assert (found.partitions, found.config["retention.ms"]) == (4, str(7 * 86_400_000))
    again = json.loads(invoke_here(invoke, "tenant", "apply", file(**shared), "--json").stdout)
    assert again["changed"] is False
    other = file(tenant="beta", isolation="shared", topics={"log": {"partitions": 2}})
    done = json.loads(invoke_here(invoke, "tenant", "apply", other, "--json").stdout)
    assert (done["created"], done["grown"], done["warnings"]) == ([], [], [])
    assert stored(stores, "beta").topics.log.partitions == 4


def test_a_shared_topic_grows_for_who_asks_for_more_and_others_go_on(
    stores: Stores, invoke: Invoke, file: File
) -> None:
    for tenant, partitions in (("acme", 4), ("beta", 9), ("acme", 4)):
        path = file(tenant=tenant, isolation="shared", topics={"log": {"partitions": partitions}})
        done = json.loads(invoke_here(invoke, "tenant", "apply", path, "--json").stdout)
        if tenant == "beta":
            assert done["grown"] == [{"topic": "hg._shared.7d.log", "from": 4, "to": 9}]
    assert [stored(stores, name).topics.log.partitions for name in ("acme", "beta")] == [9, 9]
    assert stored(stores, "acme").topics.log.earlier_partitions == [4]


def test_counts_of_partitions_that_sessions_were_begun_with_are_remembered(
    stores: Stores, invoke: Invoke, file: File
) -> None:
    for partitions in (2, 4, 9, 3):
        invoke_here(invoke, "tenant", "apply", file(topics=topics(partitions)))
    assert stored(stores).topics.log.earlier_partitions == [2, 4, 9]
    asyncio.run(stores.tenants.delete("acme"))
    invoke_here(invoke, "tenant", "apply", file(topics=topics(12)))
    assert stored(stores).topics.log.earlier_partitions == [9]


@pytest.mark.parametrize(("before", "after"), [("dedicated", "shared"), ("shared", "dedicated")])
def test_isolation_can_not_be_changed(stores: Stores, invoke: Invoke, file: File, before: str, after: str) -> None:
    invoke_here(invoke, "tenant", "apply", file(isolation=before))
    for arguments in ([], ["--dry-run"]):
        refused = invoke("tenant", "apply", file(isolation=after), *arguments)
        assert refused.exit_code != 0
        assert f"{before}, as it is: messages can't move between topics" in refused.stderr
    assert stored(stores).isolation == before


def test_a_tenant_whose_record_was_lost_is_not_made_shared_over_its_own_topics(
    stores: Stores, invoke: Invoke, file: File
) -> None:
    invoke_here(invoke, "tenant", "apply", file())
    asyncio.run(stores.tenants.delete("acme"))
    refused = invoke("tenant", "apply", file(isolation="shared"))
    assert refused.exit_code != 0
    assert "there is a topic hg.acme.log" in refused.stderr


def test_a_shared_tenants_retention_changes_within_its_class(stores: Stores, invoke: Invoke, file: File) -> None:
    def kept(days: float) -> str:
        return file(isolation="shared", topics={"log": {"retention_s": int(days * 86_400)}})

    invoke_here(invoke, "tenant", "apply", kept(7))
    invoke_here(invoke, "tenant", "apply", kept(3))
    assert stored(stores).topics.log.retention_s == 3 * 86_400
    for days in (1, 7.5):
        refused = invoke("tenant", "apply", kept(days))
        assert refused.exit_code != 0
        assert "tenant.topics.log.retention_s" in refused.stderr
        assert "it is in the shared topics of 7d" in refused.stderr


def test_deleting_a_shared_tenant_leaves_the_topics_to_the_others(stores: Stores, invoke: Invoke, file: File) -> None:
    invoke_here(invoke, "tenant", "apply", file(isolation="shared"))
    done = invoke_here(invoke, "tenant", "delete", "acme", "--topics", "--yes")
    assert "until their retention is over" in done.stderr
    assert asyncio.run(stores.admin.describe(["hg._shared.7d.log"])).keys() == {"hg._shared.7d.log"}


def stored(stores: Stores, tenant: str = "acme") -> Tenant:
    record = asyncio.run(stores.tenants.get(tenant))
    assert record is not None
    return decode_tenant(record)


def revoked(stores: Stores) -> list[Revocation]:
    record = asyncio.run(stores.tenants.get("acme"))
    assert record is not None
    return decode_tenant(record).auth.revoked


def test_a_token_and_a_subject_are_revoked(stores: Stores, invoke: Invoke, file: File) -> None:
    invoke_here(invoke, "tenant", "apply", file())
    invoke_here(invoke, "tenant", "revoke", "acme", "--jti", "t-1")
    done = invoke_here(
        invoke, "tenant", "revoke", "acme", "--subject", "intern", "--before", "2026-01-31T12:00:00Z", "--json"
    )
    assert json.loads(done.stdout) == {
        "tenant": "acme",
        "changed": True,
        "revoked": [{"jti": "t-1"}, {"subject": "intern", "before": 1769860800}],
        "behind": [],
    }
    assert revoked(stores) == [Revocation("t-1"), Revocation(subject="intern", before=1769860800)]
    shown = invoke_here(
        invoke, "tenant", "revoke", "acme", "--subject", "intern", "--before", "2026-01-31T12:00:00Z"
    ).stdout
    assert "nothing to change" in shown
    assert "before 2026-01-31T12:00:00+00:00" in shown


def test_now_covers_what_was_issued_in_this_second(stores: Stores, invoke: Invoke, file: File) -> None:
    invoke_here(invoke, "tenant", "apply", file())
    begin = int(time.time())
    invoke_here(invoke, "tenant", "revoke", "acme", "--subject", "intern", "--before", "now")
    (one,) = revoked(stores)
    assert one.before is not None
    assert begin < one.before <= int(time.time()) + 1


def test_of_two_revocations_of_a_subject_the_one_that_covers_more_stays(
    stores: Stores, invoke: Invoke, file: File
) -> None:
    invoke_here(invoke, "tenant", "apply", file())
    for before, kept in (("2026-02-01", 0), ("2026-03-01", 1), ("2026-01-01", 1)):
        invoke_here(invoke, "tenant", "revoke", "acme", "--subject", "a", "--before", f"{before}T00:00:00Z")
        assert [one.before for one in revoked(stores)] == [(1769904000, 1772323200)[kept]]
    invoke_here(invoke, "tenant", "revoke", "acme", "--subject", "a")
    assert revoked(stores) == [Revocation(subject="a")]


def test_a_revocation_is_lifted(stores: Stores, invoke: Invoke, file: File) -> None:
    invoke_here(invoke, "tenant", "apply", file())
    for name in ("a", "b"):
        invoke_here(invoke, "tenant", "revoke", "acme", "--subject", name)
    invoke_here(invoke, "tenant", "revoke", "acme", "--subject", "a", "--lift")
    assert revoked(stores) == [Revocation(subject="b")]


def test_applying_a_file_that_knows_nothing_of_revocations_keeps_them(
    stores: Stores, invoke: Invoke, file: File
) -> None:
    path = file(auth={"revoked": [{"jti": "t-1"}]})
    invoke_here(invoke, "tenant", "apply", path)
    invoke_here(invoke, "tenant", "revoke", "acme", "--subject", "intern")
    assert "nothing to change" in invoke_here(invoke, "tenant", "apply", path).stdout
    invoke_here(invoke, "tenant", "apply", file(suspended=True))
    assert revoked(stores) == [Revocation("t-1"), Revocation(subject="intern")]


def test_what_is_revoked_while_a_file_is_applied_stays_revoked(
    stores: Stores, invoke: Invoke, file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    invoke_here(invoke, "tenant", "apply", file())
    replace = stores.tenants.replace

    async def late(tenant: str, before: bytes | None, record: bytes) -> bool:
        """Somebody revokes between the look at the record and its change."""
        monkeypatch.setattr(stores.tenants, "replace", replace)
        await change_record(
            stores.tenants, tenant, lambda found: with_revocations(found or Tenant(tenant), [Revocation("t-9")])
        )
        return await replace(tenant, before, record)

    monkeypatch.setattr(stores.tenants, "replace", late)
    invoke_here(invoke, "tenant", "apply", file(suspended=True))
    record = asyncio.run(stores.tenants.get("acme"))
    assert record is not None
    assert decode_tenant(record).suspended
    assert revoked(stores) == [Revocation("t-9")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "what is to be revoked?"),
        (("--lift",), "what is to be revoked?"),
        (("--jti", ""), "revocation is ''"),
        (("--subject", "x" * 256), "length <= 255"),
        (("--jti", "t", "--before", "soon"), "no time"),
        (("--jti", "t", "--before", "now", "--lift"), "--lift"),
    ],
)
def test_a_revocation_that_says_nothing_or_nonsense_is_not_made(
    stores: Stores, invoke: Invoke, file: File, arguments: tuple[str, ...], said: str
) -> None:
    invoke_here(invoke, "tenant", "apply", file())
    done = invoke("tenant", "revoke", "acme", *arguments)
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert revoked(stores) == []


def test_more_revocations_than_a_record_may_hold_are_refused(stores: Stores, invoke: Invoke, file: File) -> None:
    invoke_here(invoke, "tenant", "apply", file(auth={"revoked": [{"jti": f"t-{at}"} for at in range(1_000)]}))
    done = invoke("tenant", "revoke", "acme", "--jti", "one-more")
    assert done.exit_code == 2
    assert "at most 1000; rotate the key" in done.stderr
    assert len(revoked(stores)) == 1_000


def test_a_key_that_will_not_be_used_is_a_warning(stores: Stores, invoke: Invoke, file: File) -> None:
    done = invoke_here(invoke, "tenant", "apply", file(auth={"jwks": {"keys": [{"kty": "OKP", "kid": "odd"}]}}))
    assert "warning: key odd will not be used" in done.stderr


@pytest.mark.parametrize("arguments", [("get", "nobody"), ("delete", "nobody"), ("revoke", "nobody", "--jti", "t")])
def test_a_tenant_that_is_not_there_is_told(stores: Stores, invoke: Invoke, arguments: tuple[str, ...]) -> None:
    done = invoke("tenant", *arguments)
    assert done.exit_code == 1
    assert "there is no tenant nobody" in done.stderr


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"tenant: [", "no YAML"),
        (b"tenant: Acme", "Acme"),
        (b"tenant: acme\nlimitz: {}", "limitz"),
        (b"tenant: acme\ntopics: {log: {partitions: 0}}", "partitions"),
        (b"- a", "tenant"),
        (b"\x80", "no YAML"),
        (b"x" * (command.MAX_FILE_BYTES + 1), "above"),
        (b"tenant: acme\nauth: {jwks: {keys: [{kty: OKP, kid: a, d: hush}]}}", "private key"),
    ],
)
def test_a_file_that_is_wrong_is_a_usage_error(invoke: Invoke, tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "tenant.yaml").write_bytes(content)
    done = invoke("tenant", "apply", str(tmp_path / "tenant.yaml"))
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert "hush" not in done.output


def test_a_file_that_is_not_there_is_a_usage_error(invoke: Invoke) -> None:
    assert invoke("tenant", "apply", "/nowhere/tenant.yaml").exit_code == 2


def test_a_setting_that_is_wrong_is_a_usage_error(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOGRAPH_REDIS_URL", "http://:secret@nowhere")
    done = invoke("tenant", "list")
    assert done.exit_code == 2
    assert "HELIOGRAPH_REDIS_URL" in done.stderr
    assert "secret" not in done.output


def test_stores_that_are_away_are_told(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOGRAPH_REDIS_URL", "redis://127.0.0.1:1")
    done = invoke("tenant", "list")
    assert done.exit_code == 5
    assert "HELIOGRAPH_REDIS_URL" in done.stderr


def test_on_real_stores(
    invoke: Invoke, file: File, monkeypatch: pytest.MonkeyPatch, kafka_bootstrap: str, redis_url: str
) -> None:
    prefix, name = f"t{uuid4().hex[:12]}", f"t{uuid4().hex[:12]}"
    monkeypatch.setenv("HELIOGRAPH_KAFKA_BOOTSTRAP_SERVERS", kafka_bootstrap)
    monkeypatch.setenv("HELIOGRAPH_REDIS_URL", redis_url)
    monkeypatch.setenv("HELIOGRAPH_TOPIC_PREFIX", prefix)
    path = file(tenant=name, topics={"log": {"partitions": 1}, "deferred": {"partitions": 1}})
    first = invoke("tenant", "apply", path, "--json")
    assert first.exit_code == 0, first.output
    assert json.loads(first.stdout)["created"] == [
        f"{prefix}.{name}.log",
        f"{prefix}.{name}.deferred",
        f"{prefix}.dead",
    ]
    again = invoke("tenant", "apply", path, "--json")
    assert json.loads(again.stdout)["changed"] is False
    grown = invoke(
        "tenant", "apply", file(tenant=name, topics={"log": {"partitions": 2}, "deferred": {"partitions": 1}})
    )
    assert "1 → 2 partitions" in grown.stdout
    assert name in invoke("tenant", "list").stdout
    assert invoke("tenant", "delete", name, "--topics", "--yes").exit_code == 0
    assert name not in invoke("tenant", "list").stdout


def invoke_here(invoke: Invoke, *arguments: str, stdin: str | None = None) -> Result:
    """Run it, and see it succeed."""
    done = invoke(*arguments, stdin=stdin)
    assert done.exit_code == 0, done.output
    return done
