"""The router's settings, besides those that services share."""

from typing import Literal

from heliograph.core import limits
from heliograph.service.settings import KafkaSettings, RedisSettings, ServiceSettings, setting


class RouterSettings(ServiceSettings, KafkaSettings, RedisSettings):
    """What a router needs to know."""

    router_name: str = setting("", "Name in leases and logs. Empty: the host's name and a random part.")
    group: str = setting("", "Kafka consumer group of all routers. Empty: <topic prefix>.router.")
    group_protocol: Literal["auto", "consumer", "classic"] = setting(
        "auto", "KIP-848's `consumer` where the brokers have it: members come and go without stopping the others."
    )
    group_session_timeout_s: float = setting(
        10.0,
        "A router that died is replaced after this. With KIP-848 the brokers' "
        "group.consumer.min.session.timeout.ms (45 s by default) must allow it.",
        ge=1,
    )
    batch_records: int = setting(
        1_000, "Records worked on at once: one round trip to Redis each; some MB at most.", unit="records", ge=1
    )
    commit_interval_s: float = setting(
        0.25,
        "Between commits: each costs Kafka a write. What was not committed is worked on again after a restart, and what"
        " is missing in a session is not told earlier.",
        gt=0,
        le=60,
    )
    index_positions: int = setting(
        512,
        "A session is indexed every so many positions, 185 bytes each for as long as the log is kept: what replay reads"
        " in vain, besides the 1,000 that it begins early.",
        unit="positions",
        ge=1,
    )
    index_interval_s: float = setting(
        30.0,
        "A session that is quicker than that is indexed so often, or every eight times so many positions: what replay"
        " reads in vain is at most what its partition took in that time.",
        ge=0,
        le=3_600,
    )
    index_sessions: int = setting(
        200_000, "Sessions whose last index entry is remembered, about 250 bytes each.", unit="sessions", ge=1_000
    )
    log_delivery_timeout_s: float = setting(
        10.0, "The edges': how long they try to write a record. Nothing younger is written again.", ge=1
    )
    reconcile_margin_s: float = setting(
        3.0, "On top of that, for clocks that differ and an edge that was late.", ge=0, le=3_600
    )
    reconcile_interval_s: float = setting(1.0, "Between looks at sessions with unconfirmed messages.", gt=0)
    reconcile_messages_per_s: float = setting(
        5_000.0,
        "Messages of one router written again: half a minute of 1,000/s in a few seconds, and half a core is left for"
        " what comes meanwhile.",
        gt=0,
    )
    lease_s: float = setting(15.0, "Of a virtual shard: after it another router reconciles for one that died.", ge=1)
    dispatch_lease_s: float = setting(
        5.0, "Of giving out an agent type's sessions: after it another router goes on for one that died.", ge=1
    )
    edge_lease_s: float = setting(
        6.0,
        "The edges' `lease_s`: workers of an edge without a lease are lost, once the metadata store has answered for so"
        " long.",
        ge=1,
    )
    take_up_s: float = setting(
        5.0, "An edge that has not taken up a session it was given within this loses it to another worker.", ge=0.5
    )
    unserved_keep_s: float = setting(
        3_600.0, "An agent type without any worker for so long is forgotten; the next worker has it scanned for.", gt=0
    )
    serve_rescan_s: float = setting(
        600.0, "Between scans for sessions that should have a worker: for marks that were lost with an edge.", gt=0
    )
    expire_interval_s: float = setting(10.0, "Between looks for idle sessions.", gt=0)
    session_ttl_s: float = setting(
        float(limits.SESSION_TTL_S), "An idle, wholly confirmed session leaves Redis; its next message begins an epoch."
    )
    topics_check_s: float = setting(10.0, "Between looks at the topics' ids, which index entries carry.", gt=0)
    lag_interval_s: float = setting(5.0, "Between measurements of the lag.", gt=0)
    read_stuck_s: float = setting(
        60.0,
        "A call of Kafka's client library that lasts longer will not end, and no record is read meanwhile: the router "
        "says that it is not alive, and ends. Calls take 20 s at most.",
        ge=1,
    )
    deferred_pending_bytes: int = setting(
        64 * 1024 * 1024,
        "Deferred messages held until the live path takes them; beyond, the log is not read on: nothing in it could be "
        "confirmed meanwhile.",
        ge=1024 * 1024,
    )
    dead_pending_bytes: int = setting(
        16 * 1024 * 1024, "Poison records kept in memory while the dead-letter topic is away; beyond, read again.", ge=0
    )
    dead_retention_s: int = setting(
        30 * 24 * 3600, "Of the dead-letter topic, where the router creates it: time for somebody to look.", ge=60
    )
