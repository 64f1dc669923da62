"""Replay's settings, besides those that services share."""

from heliograph.core.limits import PAGE_BYTES
from heliograph.service.settings import (
    KafkaSettings,
    RedisSettings,
    ServiceSettings,
    TokenSettings,
    setting,
)


class ReplaySettings(ServiceSettings, KafkaSettings, RedisSettings, TokenSettings):
    """What replay needs to know."""

    port: int = setting(8081, "The edge has 8080, the registry 8082. 0 picks a free one.", unit="TCP port", ge=0)
    page_messages: int = setting(
        1_000, "Messages of a page, and what a request gets that asks for no number.", unit="messages", ge=1, le=10_000
    )
    page_bytes: int = setting(
        4 * 1024 * 1024,
        "Frames of a page (one more frame may begin below it): a page is held in memory.",
        ge=PAGE_BYTES,
    )
    page_seconds: float = setting(
        10.0, "Reading for a page: what proxies and clients wait for without a byte.", unit="s", gt=0
    )
    stream_messages: int = setting(
        1_000_000, "Messages of one NDJSON stream; the last line says where to go on.", unit="messages", ge=1
    )
    stream_bytes: int = setting(1024 * 1024 * 1024, "Frames of one NDJSON stream.", ge=PAGE_BYTES)
    stream_seconds: float = setting(
        120.0, "One NDJSON stream, however slowly it is read: a reader holds a Kafka client.", unit="s", gt=0
    )
    beginning_scan_records: int = setting(
        5_000_000,
        "Records looked through for the first message of a session that the index or live store place later: 10 s.",
        unit="records",
        ge=0,
    )
    http_readers: int = setting(
        4, "Requests that read the log at once; more wait. Each is a Kafka client of some 20 MB.", unit="readers", ge=1
    )
    http_readers_per_tenant: int = setting(
        2, "Of those, for one tenant: a tenant that exports must leave room for others.", unit="readers", ge=1
    )
    http_waiting: int = setting(
        32, "Requests that may wait for a reader; beyond, they are told to come back.", unit="requests", ge=0
    )
    http_wait_s: float = setting(5.0, "How long a request waits for a reader.", gt=0)
    rehydration_readers: int = setting(
        4, "Edges' requests answered at once, by readers of their own.", unit="readers", ge=1
    )
    rehydration_readers_per_tenant: int = setting(
        2, "Of those, for one tenant: its reconnect storm must not hold up others.", unit="readers", ge=1
    )
    rehydration_seconds: float = setting(
        5.0, "Reading for one page of an edge: its subscriber waits; past it the page ends as it is.", unit="s", gt=0
    )
    rehydration_tenant_bytes: int = setting(
        64 * 1024 * 1024, "Pages of a tenant in the metadata Redis, within one to two minutes.", ge=PAGE_BYTES
    )
    rehydration_total_bytes: int = setting(
        256 * 1024 * 1024, "Pages of all tenants in the metadata Redis, within one to two minutes.", ge=PAGE_BYTES
    )
    settle_s: float = setting(
        60.0,
        "A message of an epoch that is over may still reach the log this long; until then a read that comes to the "
        "epoch's end is told to come again. More than the edges' delivery timeout, clocks' difference included.",
        gt=0,
    )
