"""Tenants are made what their resources say, and a look that finds nothing to do does nothing."""

import base64
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from tests.services.operator.tenant_rig import DEFERRED, KEY, LOG, OTHER_KEY, Rig
from tests.stores.live.helpers import ROOMY, message

from heliograph.operator.kube import CONFIG_MAPS, SECRETS, TENANTS, KubeError, Object
from heliograph.operator.reconciler import Key
from heliograph.operator.tenants.crd import WATCHED_LABEL
from heliograph.operator.tenants.look import FINALIZER
from heliograph.operator.tenants.stores import NamedLogAdmin
from heliograph.protocol.tenants import Tenant, encode_tenant
from heliograph.stores.memory.log import MemoryLogAdmin
from heliograph.stores.ports import LogAdmin, Owner, StoreError, TopicInfo
from heliograph.stores.redis.metadata import MetadataClient, RedisTenantStore

LABELS = {WATCHED_LABEL: "true"}


def setter(path: str, value: Any) -> Any:
    """A change of one field of an object."""

    def change(body: Object) -> None:
        *way, last = path.split("/")
        for name in way:
            body = body.setdefault(name, {})
        if value is None:
            body.pop(last, None)
        else:
            body[last] = value

    return change


async def test_a_new_tenant_gets_topics_a_record_and_a_status_with_few_writes() -> None:
    rig = Rig()
    await rig.make()
    rig.kube.written()
    await rig.look()
    record = await rig.record()
    assert record is not None
    assert record.auth.jwks == {"keys": [KEY]}
    assert (rig.partitions(LOG), rig.partitions(DEFERRED), rig.partitions("hg.dead")) == (2, 1, 1)
    assert await rig.stores.tenants.owner("acme") == Owner("team", "acme", rig.body()["metadata"]["uid"])
    for kind in ("Ready", "TopicsReady", "QuotasApplied", "KeysReady"):
        assert rig.condition(kind)[0] == "True", kind
    assert rig.condition("Paused")[0] == "False"
    status = rig.body()["status"]
    assert (status["tenant"], status["observedGeneration"], status["keys"]) == ("acme", 1, ["k1"])
    assert [one["name"] for one in status["topics"]] == [DEFERRED, LOG]
    assert (status["connections"], status["messages"]) == (0, 0)
    assert [one["message"] for one in rig.kube.events("Applied")]
    assert len(rig.kube.written(events=True)) <= 6


async def test_what_we_wrote_ourselves_is_no_news_and_what_others_wrote_is() -> None:
    rig = Rig()
    await rig.make()
    rig.told.clear()
    await rig.look()
    assert rig.told == []
    await rig.kube.patch(TENANTS, "team", "acme", {"metadata": {"labels": {"a": "b"}}})
    assert rig.told == [Key("Tenant", "team", "acme")]


class ReadOnly:
    """A LogAdmin that is only asked."""

    def __init__(self, admin: LogAdmin) -> None:
        self.describe, self.messages = admin.describe, admin.messages

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} of something that is as it should be")


async def test_a_look_that_finds_all_as_it_should_be_writes_nothing() -> None:
    rig = Rig()
    await rig.make(access=None)
    await rig.look()
    rig.kube.written()
    version = await rig.stores.tenants.version()
    only_asked = replace(rig.stores, admin=ReadOnly(rig.stores.admin), access=ReadOnly(rig.stores.admin))
    for operator in (rig, Rig(rig.kube, only_asked)):  # the same one, and one that was restarted
        await operator.reconciler.start()
        await operator.look()
        assert operator.kube.written(events=True) == []
    assert await rig.stores.tenants.version() == version


async def test_partitions_grow_and_sessions_of_before_are_found() -> None:
    rig = Rig()
    await rig.make()
    await rig.look()
    await rig.change(setter("spec/topics/log/partitions", 5))
    await rig.look()
    record = await rig.record()
    assert record is not None
    assert (rig.partitions(LOG), record.topics.log.partitions, record.topics.log.earlier_partitions) == (5, 5, [2])
    (log,) = [one for one in rig.body()["status"]["topics"] if one["name"] == LOG]
    assert (log["partitions"], log["earlierPartitions"]) == (5, [2])
    assert any("grew topic" in one["message"] for one in rig.kube.events("Applied"))


async def test_earlier_counts_are_remembered_where_the_metadata_store_forgot_them() -> None:
    rig = Rig()
    await rig.make()
    await rig.look()
    await rig.change(setter("spec/topics/log/partitions", 5))
    await rig.look()
    await rig.stores.tenants.delete("acme")
    await rig.stores.tenants.own("acme", await rig.stores.tenants.owner("acme"), None)
    await rig.look()
    record = await rig.record()
    assert record is not None
    assert record.topics.log.earlier_partitions == [2]
    assert rig.condition("Ready")[0] == "True"  # it had the tenant: nobody has to say so again


async def test_drift_is_corrected_and_more_partitions_by_hand_are_said() -> None:
    rig = Rig()
    await rig.make()
    await rig.look()
    rig.log.topics[LOG].config["retention.ms"] = "1"
    await rig.stores.admin.grow(DEFERRED, 3)
    await rig.look()
    assert rig.log.topics[LOG].config["retention.ms"] == "604800000"
    assert rig.partitions(DEFERRED) == 3
    status, reason, message = rig.condition("TopicsReady")
    assert (status, reason) == ("True", "TopicsAsWanted")
    assert "has 3 partitions" in message


async def test_topics_of_an_unmanaged_tenant_are_left_and_nobody_writes_to_partitions_that_are_not_there() -> None:
    rig = Rig()
    await rig.make()
    await rig.look()
    await rig.kube.patch(TENANTS, "team", "acme", {"metadata": {"annotations": {"heliograph.dev/unmanaged": "true"}}})
    rig.log.topics[LOG].config["retention.ms"] = "1"
    await rig.change(setter("spec/topics/log/partitions", 9))
    await rig.look()
    record = await rig.record()
    assert record is not None
    assert (rig.partitions(LOG), record.topics.log.partitions) == (2, 2)
    assert rig.log.topics[LOG].config["retention.ms"] == "1"
    assert rig.condition("TopicsReady")[1] == "Unmanaged"
    await rig.stores.admin.delete(DEFERRED)
    await rig.look()
    assert rig.condition("TopicsReady")[:2] == ("False", "TopicsMissing")
    assert rig.condition("Ready")[:2] == ("False", "TopicsMissing")


async def test_the_oldest_of_two_has_the_tenant_and_the_other_gets_it_when_that_one_is_gone() -> None:
    rig = Rig()
    await rig.make("first")
    await rig.make("second")
    await rig.look("second")  # looked at first, and the younger one all the same
    await rig.look("first")
    assert rig.condition("Ready", "first")[0] == "True"
    assert rig.condition("Ready", "second")[:2] == ("False", "Conflict")
    assert "team/first" in rig.condition("Ready", "second")[2]
    assert FINALIZER not in rig.body("second")["metadata"].get("finalizers", [])
    await rig.kube.delete(TENANTS, "team", "second")
    await rig.make("third")
    await rig.look("third")
    await rig.kube.delete(TENANTS, "team", "first")
    rig.told.clear()
    await rig.look("first")
    assert Key("Tenant", "team", "third") in rig.told
    await rig.look("third")
    assert rig.condition("Ready", "third")[0] == "True"


async def test_the_end_of_one_that_never_had_the_tenant_takes_nothing_away() -> None:
    rig = Rig()
    await rig.make("first")
    await rig.make("second", reclaimPolicy="Delete")
    await rig.look("first")
    await rig.look("second")
    await rig.kube.delete(TENANTS, "team", "second")
    await rig.look("second")
    assert await rig.record() is not None
    assert LOG in rig.log.topics


async def test_another_namespace_does_not_get_what_was_kept_unless_it_is_said() -> None:
    rig = Rig()
    await rig.make()
    await rig.look()
    await rig.kube.delete(TENANTS, "team", "acme")
    await rig.look()
    assert await rig.record() is None
    assert LOG in rig.log.topics
    assert "topics stay" in rig.kube.events("Retained")[0]["message"]
    await rig.make(namespace="others")
    await rig.look(namespace="others")
    assert rig.condition("Ready", namespace="others")[:2] == ("False", "NotItsData")
    assert "team/acme" in rig.condition("Ready", namespace="others")[2]
    strict = Rig(rig.kube, rig.stores, adoption=False)
    await rig.kube.patch(TENANTS, "others", "acme", {"metadata": {"annotations": {"heliograph.dev/adopt": "true"}}})
    await strict.look(namespace="others")
    assert rig.condition("Ready", namespace="others")[:2] == ("False", "NotItsData")
    await rig.look(namespace="others")
    assert rig.condition("Ready", namespace="others")[0] == "True"
    owner = await rig.stores.tenants.owner("acme")
    assert owner is not None
    assert owner.namespace == "others"


async def test_the_same_namespace_gets_what_was_kept() -> None:
    rig = Rig()
    await rig.make()
    await rig.look()
    await rig.kube.delete(TENANTS, "team", "acme")
    await rig.look()
    await rig.make("again")
    await rig.look("again")
    assert rig.condition("Ready", "again")[0] == "True"


async def test_a_tenant_that_was_applied_by_hand_is_taken_over_only_where_it_is_said() -> None:
    rig = Rig()
    await rig.stores.tenants.put("acme", encode_tenant(Tenant(tenant="acme")))
    await rig.make()
    await rig.look()
    assert rig.condition("Ready")[:2] == ("False", "NotItsData")
    await rig.kube.patch(TENANTS, "team", "acme", {"metadata": {"annotations": {"heliograph.dev/adopt": "true"}}})
    await rig.look()
    assert rig.condition("Ready")[0] == "True"


async def test_an_owner_in_a_namespace_that_is_not_seen_is_taken_to_be_there() -> None:
    rig = Rig(namespaces=("team",))
    await rig.stores.tenants.own("acme", None, Owner("elsewhere", "acme", "uid-9"))
    await rig.make()
    await rig.look()
    assert rig.condition("Ready")[:2] == ("False", "Conflict")


async def test_suspension_is_in_the_record_and_the_tenant_is_not_ready_then() -> None:
    rig = Rig()
    await rig.make()
    await rig.look()
    await rig.change(setter("spec/suspended", True))
    await rig.look()
    record = await rig.record()
    assert record is not None
    assert record.suspended
    assert rig.condition("Ready")[:2] == ("False", "Suspended")
    assert rig.metrics.value("tenants_unmet", {"condition": "Ready"}) == 0, "somebody wants it so"
    await rig.change(setter("spec/suspended", False))
    await rig.look()
    assert rig.condition("Ready")[0] == "True"


async def test_a_deleted_tenant_whose_policy_says_so_leaves_nothing() -> None:
    rig = Rig()
    await rig.make(reclaimPolicy="Delete", agentTypes={"auditor": {"log": {"partitions": 1}}}, topics={"telemetry": {}})
    await rig.look()
    assert "hg.acme.auditor.log" in rig.log.topics
    await rig.change(setter("spec/topics/telemetry", {"logged": False}))
    await rig.look()
    await rig.stores.serving.keep("acme:auditor")
    sessions = ["acme:planner:trip-1", "acme:auditor:trip-2", "acmeother:planner:trip-3"]
    for session in sessions:
        rig.live_server.append(message(session), ROOMY)
    await rig.kube.delete(TENANTS, "team", "acme")
    await rig.look()
    heads = await rig.stores.live.heads(sessions)
    assert [bool(head.epoch) for head in heads] == [False, False, True]
    assert set(rig.log.topics) == {"hg.dead"}
    assert await rig.record() is None
    assert await rig.stores.tenants.owner("acme") is None
    assert await rig.stores.serving.kinds() == {}
    assert (TENANTS, "team", "acme") not in rig.kube.objects
    assert "removed with its data" in rig.kube.events("Deleted")[0]["message"]


async def test_while_kafka_is_away_what_needs_no_topics_is_applied_and_nothing_is_written_twice() -> None:
    rig = Rig()
    await rig.make()
    await rig.look()
    rig.log.available = False
    await rig.change(setter("spec/suspended", True))
    await rig.change(setter("spec/topics/log/partitions", 7))
    with pytest.raises(StoreError):
        await rig.look()
    record = await rig.record()
    assert record is not None
    assert (record.suspended, record.topics.log.partitions) == (True, 2)
    assert rig.condition("TopicsReady")[:2] == ("Unknown", "KafkaUnavailable")
    assert rig.condition("QuotasApplied")[0] == "True"
    rig.kube.written()
    for _ in range(3):
        with pytest.raises(StoreError):
            await rig.look()
    assert rig.kube.written(events=True) == []
    rig.log.available = True
    await rig.look()
    record = await rig.record()
    assert record is not None
    assert record.topics.log.partitions == 7
    assert rig.condition("TopicsReady")[0] == "True"


async def test_a_new_tenant_waits_for_kafka() -> None:
    rig = Rig()
    rig.log.available = False
    await rig.stores.tenants.own("acme", None, None)
    await rig.make()
    with pytest.raises(StoreError):
        await rig.look()
    assert await rig.record() is None
    for kind in ("Ready", "TopicsReady"):
        assert rig.condition(kind)[:2] == ("Unknown", "KafkaUnavailable")
    assert rig.metrics.value("tenants_unmet", {"condition": "Ready"}) == 1
    assert rig.metrics.value("tenants_unmet", {"condition": "KeysReady"}) == 0
    rig.log.available = True
    await rig.look()
    assert rig.condition("Ready")[0] == "True"
    assert rig.metrics.value("tenants_unmet", {"condition": "Ready"}) == 0


async def test_deletion_waits_for_kafka_unless_it_is_forced() -> None:
    rig = Rig()
    await rig.make(reclaimPolicy="Delete")
    await rig.look()
    await rig.kube.delete(TENANTS, "team", "acme")
    rig.log.available = False
    with pytest.raises(StoreError):
        await rig.look()
    assert rig.condition("Ready")[:2] == ("False", "DeletionBlocked")
    assert await rig.record() is None  # clients are refused by now
    await rig.kube.patch(
        TENANTS, "team", "acme", {"metadata": {"annotations": {"heliograph.dev/force-finalize": "true"}}}
    )
    await rig.look()
    assert (TENANTS, "team", "acme") not in rig.kube.objects
    assert f"topic {LOG}" in rig.kube.events("LeftBehind")[0]["message"]


class Asked(MemoryLogAdmin):
    """Counts how often it is asked for topics."""

    times = 0

    async def describe(self, topics: Sequence[str]) -> dict[str, TopicInfo]:
        self.times += 1
        return await super().describe(topics)


async def test_where_kafka_is_gone_for_good_it_is_not_asked_for_each_of_many_topics() -> None:
    """Each would take its time-out, and all of them more than a look has."""
    before = Rig()
    types = {f"type-{number}": {"log": {"partitions": 1}} for number in range(20)}
    await before.make(reclaimPolicy="Delete", agentTypes=types, annotations={"heliograph.dev/force-finalize": "true"})
    await before.look()
    await before.kube.delete(TENANTS, "team", "acme")
    before.log.available = False
    asked = Asked(before.log)
    await Rig(before.kube, replace(before.stores, admin=NamedLogAdmin(asked))).look()
    assert (TENANTS, "team", "acme") not in before.kube.objects
    assert asked.times == 1
    (left,) = before.kube.events("LeftBehind")
    assert all(f"topic hg.acme.type-{number}.log" in left["message"] for number in range(20))


async def test_where_the_metadata_store_is_gone_for_good_force_lets_a_tenant_go_as_well() -> None:
    before = Rig()
    await before.make(reclaimPolicy="Delete")
    await before.look()
    await before.kube.delete(TENANTS, "team", "acme")
    gone = MetadataClient("redis://127.0.0.1:1/0")
    rig = Rig(before.kube, replace(before.stores, tenants=RedisTenantStore(gone)))
    with pytest.raises(StoreError):
        await rig.look()
    forced = {"metadata": {"annotations": {"heliograph.dev/force-finalize": "true"}}}
    await rig.kube.patch(TENANTS, "team", "acme", forced)
    await rig.look()
    assert (TENANTS, "team", "acme") not in rig.kube.objects
    (said,) = rig.kube.events("LeftBehind")
    assert {"whose it is", "its record"} <= set(said["message"].partition(": ")[2].split(", "))
    assert LOG not in before.log.topics  # what can be removed is
    await gone.close()


async def test_a_paused_tenant_is_left_alone_and_says_so() -> None:
    rig = Rig()
    await rig.make()
    await rig.look()
    await rig.kube.patch(TENANTS, "team", "acme", {"metadata": {"annotations": {"heliograph.dev/paused": "true"}}})
    await rig.change(setter("spec/suspended", True))
    await rig.look()
    record = await rig.record()
    assert record is not None
    assert not record.suspended
    assert rig.condition("Paused")[0] == "True"
    assert rig.condition("Ready")[0] == "True"
    rig.kube.written()
    await rig.look()
    assert rig.kube.written(events=True) == []
    await rig.kube.patch(TENANTS, "team", "acme", {"metadata": {"annotations": {"heliograph.dev/paused": None}}})
    await rig.look()
    assert rig.condition("Paused")[0] == "False"
    assert rig.condition("Ready")[1] == "Suspended"


# ---- keys -----------------------------------------------------------------------------------------------------------


def secret(name: str, data: dict[str, bytes], labels: dict[str, str] | None = None) -> dict[str, Any]:
    encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
    return {"metadata": {"name": name, "labels": LABELS if labels is None else labels}, "data": encoded}


def jwks(*keys: dict[str, str]) -> bytes:
    return json.dumps({"keys": keys}).encode()


FROM_SECRET = {"jwksFrom": {"secretKeyRef": {"name": "keys", "key": "jwks"}}}


async def test_keys_come_from_a_secret_and_a_change_of_it_is_taken_up() -> None:
    rig = Rig()
    await rig.kube.create(SECRETS, "team", secret("keys", {"jwks": jwks(KEY)}))
    await rig.make(auth=FROM_SECRET)
    await rig.look()
    assert rig.body()["status"]["keys"] == ["k1"]
    changed = secret("keys", {"jwks": jwks(KEY, OTHER_KEY)})
    rig.told.clear()
    await rig.kube.patch(SECRETS, "team", "keys", {"data": changed["data"]})
    assert rig.told == [Key("Tenant", "team", "acme")]
    await rig.look()
    record = await rig.record()
    assert record is not None
    assert rig.body()["status"]["keys"] == ["k1", "k2"]
    assert len(record.auth.jwks["keys"]) == 2


async def test_keys_come_from_a_config_map() -> None:
    rig = Rig()
    body = {"metadata": {"name": "keys", "labels": LABELS}, "data": {"jwks": jwks(KEY).decode()}}
    await rig.kube.create(CONFIG_MAPS, "team", body)
    await rig.make(auth={"jwksFrom": {"configMapKeyRef": {"name": "keys", "key": "jwks"}}})
    await rig.look()
    assert rig.condition("KeysReady")[:2] == ("True", "KeysLoaded")


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (None, "NotFound"),
        (secret("keys", {"other": b""}), "NotFound"),
        (secret("keys", {"jwks": jwks(KEY)}, labels={}), "NotLabelled"),
        (secret("keys", {"jwks": b"hunter2"}), "Unreadable"),
        (secret("keys", {"jwks": jwks({**KEY, "d": "hunter2"})}), "Invalid"),
        (secret("keys", {"jwks": jwks({"kid": "k", "kty": "oct", "k": "hunter2"})}), "NoUsableKeys"),
    ],
)  # fmt: skip
async def test_keys_that_can_not_be_used_are_said_and_what_is_secret_is_not(
    made: dict[str, Any] | None, reason: str
) -> None:
    rig = Rig()
    if made is not None:
        await rig.kube.create(SECRETS, "team", made)
    await rig.make(auth=FROM_SECRET)
    await rig.look()
    assert rig.condition("KeysReady")[:2] == ("False", reason)
    assert rig.condition("Ready")[:2] == ("False", reason)
    assert "hunter2" not in json.dumps(rig.body()["status"]) + json.dumps(rig.kube.events())


async def test_keys_that_are_lost_stay_in_force() -> None:
    rig = Rig()
    await rig.kube.create(SECRETS, "team", secret("keys", {"jwks": jwks(KEY)}))
    await rig.make(auth=FROM_SECRET)
    await rig.look()
    await rig.kube.delete(SECRETS, "team", "keys")
    await rig.look()
    record = await rig.record()
    assert record is not None
    assert record.auth.jwks["keys"] == [KEY]
    assert rig.condition("KeysReady")[:2] == ("False", "NotFound")


async def test_keys_from_a_url_are_fetched_again_and_the_former_ones_hold_while_they_can_not_be() -> None:
    rig = Rig()
    url = "https://login.example.com/jwks"
    rig.urls[url] = {"keys": [KEY]}
    await rig.make(auth={"jwksFrom": {"url": url}})
    again = await rig.look()
    assert again is not None
    assert again.after_s == pytest.approx(300.0)
    assert rig.condition("KeysReady")[0] == "True"
    del rig.urls[url]
    await rig.look()
    assert rig.condition("KeysReady")[:2] == ("Unknown", "FetchFailed")
    assert rig.condition("Ready")[0] == "True"
    record = await rig.record()
    assert record is not None
    assert record.auth.jwks["keys"] == [KEY]


async def test_a_tenant_whose_url_never_answered_has_no_keys_and_is_not_ready() -> None:
    rig = Rig()
    url = "https://login.example.com/jwks"
    await rig.make(auth={"jwksFrom": {"url": url}})
    assert await rig.look() is not None, "it is looked at again"
    for kind in ("KeysReady", "Ready"):
        assert rig.condition(kind)[:2] == ("False", "FetchFailed")
    rig.urls[url] = {"keys": [KEY]}
    await rig.look()
    assert rig.condition("Ready")[0] == "True"


# ---- access ---------------------------------------------------------------------------------------------------------

ACCESS = {"passwordFrom": {"secretKeyRef": {"name": "kafka", "key": "password"}}}


async def test_consumers_of_a_tenant_get_a_user_and_rights_and_lose_them_again() -> None:
    rig = Rig()
    await rig.kube.create(SECRETS, "team", secret("kafka", {"password": b"one\n"}))
    await rig.make(access=ACCESS)
    requeue = await rig.look()
    assert (rig.access.passwords, rig.body()["status"]["access"]) == ({}, {"user": "hg.acme"}), "told before it is done"
    assert rig.condition("AccessReady")[:2] == ("Unknown", "Granting")
    assert requeue is not None
    assert requeue.after_s == 0
    await rig.look()
    assert rig.access.passwords == {"hg.acme": "one"}
    assert await rig.access.readable("hg.acme") == {"hg.acme."}
    assert rig.condition("AccessReady")[0] == "True"
    assert rig.body()["status"]["access"]["user"] == "hg.acme"
    await rig.kube.patch(SECRETS, "team", "kafka", {"data": secret("kafka", {"password": b"two"})["data"]})
    await rig.look()
    assert rig.access.passwords == {"hg.acme": "two"}
    rig.kube.written()
    await rig.look()
    assert rig.kube.written(events=True) == []
    await rig.kube.patch(TENANTS, "team", "acme", {"spec": {"access": None}})
    await rig.look()
    assert rig.access.passwords == {}
    assert await rig.access.readable("hg.acme") == set()
    assert "access" not in rig.body()["status"]
    assert rig.condition("AccessReady") == ("", "", "")


@pytest.mark.parametrize("end", ["spec", "tenant"])
async def test_what_an_operator_that_was_killed_had_granted_is_taken_away_by_the_next(end: str) -> None:
    """It died after the user was made, before it could say so; and meanwhile nobody wants that any more."""
    rig = Rig()
    await rig.kube.create(SECRETS, "team", secret("kafka", {"password": b"one"}))
    await rig.make(access=ACCESS)
    await rig.look()
    await rig.access.set_user("hg.acme", "one")
    await rig.access.allow("hg.acme", "hg.acme.")
    await rig.kube.patch(TENANTS, "team", "acme", {"spec": {"access": None}})
    if end == "tenant":
        await rig.kube.delete(TENANTS, "team", "acme")
    await rig.look()
    assert rig.access.passwords == {}
    assert await rig.access.readable("hg.acme") == set()


async def test_access_that_can_not_be_had_takes_nothing_else_along() -> None:
    rig = Rig()
    await rig.make(access=ACCESS)
    await rig.look()
    assert rig.condition("AccessReady")[:2] == ("False", "NotFound")
    assert rig.condition("Ready")[0] == "True"


# ---- what can't be --------------------------------------------------------------------------------------------------


async def test_a_spec_that_no_record_can_be_made_of_is_said_and_not_tried_again() -> None:
    rig = Rig()
    await rig.make()
    await rig.look()
    await rig.change(setter("spec/topics/log/config", {"cleanup.policy": "compact"}))
    assert await rig.look() is None
    assert rig.condition("Ready")[:2] == ("False", "InvalidSpec")
    assert "cleanup.policy" in rig.condition("Ready")[2]
    assert await rig.record() is not None


async def test_a_look_that_another_operator_got_ahead_of_is_a_conflict_and_harms_nothing() -> None:
    rig = Rig()
    await rig.make()

    def interfere(verb: str, kind: object, name: str) -> None:
        if verb == "patch" and kind == TENANTS:
            rig.kube.before = lambda verb, kind, name: None
            rig.body()["metadata"]["resourceVersion"] = "another"

    rig.kube.before = interfere
    with pytest.raises(KubeError) as caught:
        await rig.look()
    assert caught.value.code == "kube_conflict"
    await rig.look()
    assert rig.condition("Ready")[0] == "True"


async def test_a_tenant_that_is_gone_is_forgotten() -> None:
    rig = Rig()
    assert await rig.look("never") is None


async def test_a_namespace_whose_rights_are_gone_does_not_keep_the_operator_from_starting() -> None:
    rig = Rig(namespaces=("gone", "team"))
    rig.kube.closed.add("gone")
    await rig.make()
    await rig.reconciler.start()
    await rig.look()
    assert rig.condition("Ready")[0] == "True"


# ---- several operators in one cluster -------------------------------------------------------------------------------

OURS = {"environment": "staging"}


async def test_with_labels_only_tenants_that_have_them_are_looked_at() -> None:
    rig = Rig(labels=OURS)
    await rig.make(labels={**OURS, "team": "a"})
    await rig.make("other", tenant="other", labels={"environment": "production"})
    await rig.reconciler.start()
    assert rig.told == [Key("Tenant", "team", "acme")]
    for name in ("acme", "other"):
        await rig.look(name)
    assert rig.condition("Ready")[0] == "True"
    assert "status" not in rig.body("other")
    assert "finalizers" not in rig.body("other")["metadata"]
    await rig.kube.delete(TENANTS, "team", "other")  # nothing of ours holds it
    assert (TENANTS, "team", "other") not in rig.kube.objects


async def test_a_tenant_that_loses_the_label_is_left_as_it_is_to_whoever_it_is_now() -> None:
    rig = Rig(labels=OURS)
    await rig.make(labels=OURS)
    await rig.look()
    await rig.kube.patch(TENANTS, "team", "acme", {"metadata": {"labels": {"environment": "production"}}})
    rig.kube.written()
    await rig.look()
    assert rig.kube.written() == []
    assert await rig.record() is not None
    another = Rig(rig.kube, rig.stores, labels={"environment": "production"})
    await another.look()
    assert another.condition("Ready")[0] == "True"
    await rig.kube.delete(TENANTS, "team", "acme")
    await rig.look()
    assert (TENANTS, "team", "acme") in rig.kube.objects
    await another.look()
    assert (TENANTS, "team", "acme") not in rig.kube.objects


@pytest.mark.parametrize("where", ["team", "others"])
async def test_a_tenant_that_another_operators_resource_has_is_a_conflict(where: str) -> None:
    """Also where it may be adopted, and in the namespace of the other one: that one is there, if not seen."""
    rig = Rig()
    await rig.make()
    await rig.look()
    one = Rig(rig.kube, rig.stores, labels=OURS)
    await one.make("mine", where, labels=OURS, annotations={"heliograph.dev/adopt": "true"})
    await one.reconciler.start()
    await one.look("mine", where)
    assert one.condition("Ready", "mine", where)[:2] == ("False", "Conflict")
    await rig.kube.delete(TENANTS, "team", "acme")
    await rig.look()
    await one.look("mine", where)
    assert one.condition("Ready", "mine", where)[0] == "True"
