"""The edge's settings, besides those that services share."""

from typing import Annotated, Literal

from pydantic import AfterValidator

from heliograph.core import limits
from heliograph.core.addresses import ClientAddresses
from heliograph.edge.pressure_settings import PressureSettings
from heliograph.service.settings import (
    CommaList,
    KafkaSettings,
    RedisSettings,
    ServiceSettings,
    TokenSettings,
    setting,
)


def _check_networks(value: tuple[str, ...]) -> tuple[str, ...]:
    ClientAddresses(value)
    return value


Networks = Annotated[CommaList, AfterValidator(_check_networks)]


class EdgeSettings(PressureSettings, ServiceSettings, KafkaSettings, RedisSettings, TokenSettings):
    """What an edge needs to know. Limits of one tenant are in the tenant's record."""

    edge_name: str = setting("", "Name in the registry, unique and stable. Empty: the host's name and the port.")
    advertise_address: str = setting("", "Where this edge can be reached, for the registry. Empty: host and port.")
    allowed_origins: CommaList = setting(
        (), "Origins of web pages that may connect, besides each tenant's own; `*`: any. Agents send none and may."
    )
    payload_ceiling_bytes: int = setting(
        limits.MAX_PAYLOAD_BYTES,
        "Largest payload of any tenant; sizes the inbound frame buffer. Kafka's message.max.bytes must hold it twice.",
        ge=1024,
        le=limits.MAX_PAYLOAD_BYTES_CEILING,
    )
    heartbeat_interval_s: float = setting(
        10.0, "Pings: below the 60 s after which balancers cut idle connections; a dead agent is noticed in 30.", gt=0
    )
    handshakes_per_s: float = setting(
        500.0, "Handshakes served: 0.7 ms of CPU each, so two thirds of a core stay with who is connected.", gt=0
    )
    handshakes_cap_per_s: float = setting(
        2_000.0, "Handshakes answered at all: between the two, clients are told when to come back.", gt=0
    )
    concurrent_handshakes: int = setting(
        4_000,
        "Sockets not known yet to be any client's that are served: eight seconds of the pace, less than the ten that"
        " clients wait; some 80 MB.",
        unit="sockets",
        ge=1,
    )
    concurrent_handshakes_cap: int = setting(
        8_000, "So many are answered: between the two, clients are told when to come back.", unit="sockets", ge=1
    )
    trusted_proxies: Networks = setting(
        (), "Networks (10.0.0.0/8) of proxies of your own, who say for whom they connect. Nobody else is believed."
    )
    trusted_proxy_header: Literal["x-forwarded-for", "forwarded"] = setting(
        "x-forwarded-for", "The header that they write, and that no client gets past them; the other is not read."
    )
    connections_per_address: int = setting(
        0,
        "Of one address behind a trusted proxy (IPv6: of a /64). 0: no limit; many may share one.",
        unit="connections",
        ge=0,
    )
    limit_direct_addresses: bool = setting(
        False,
        "That limit also for peers that are no trusted proxy. A proxy that was not named would be one client.",
    )
    hello_timeout_s: float = setting(
        10.0, "From handshake to `hello`: a slow mobile network needs seconds, an attacker wants minutes.", gt=0
    )
    frame_timeout_s: float = setting(
        30.0, "From the first byte of a frame or message to its end: the largest payload at 20 KB/s.", gt=0
    )
    idle_timeout_s: float = setting(
        300.0, "A connection that neither subscribes nor publishes is closed: clients that leak cost memory.", gt=0
    )
    max_errors: int = setting(
        20, "Bad frames until a connection is closed: a broken client must not fill the logs.", unit="frames", ge=1
    )
    refreshes_per_s: float = setting(
        0.5, "New tokens of one connection looked at: each costs 0.1 ms, and one in some minutes is usual.", gt=0
    )
    outbound_soft_bytes: int = setting(256 * 1024, "Waiting for one reader: above, its telemetry is shed.", ge=32_768)
    outbound_hard_bytes: int = setting(
        1024 * 1024, "Above, nothing is queued for it and it catches up from the hot window.", ge=65_536
    )
    no_progress_timeout_s: float = setting(
        30.0, "A reader that takes no byte for so long is gone; mobile networks hand over in less.", gt=0
    )
    socket_send_buffer_bytes: int = setting(
        128 * 1024, "The kernel's part of a connection's queue; unbounded it would hide a stuck reader.", ge=4096
    )
    durable_wait_s: float = setting(
        1.0, "A publish that is not in the log after this is answered as pending; `confirmed` follows.", gt=0
    )
    log_delivery_timeout_s: float = setting(
        10.0, "The producer gives a record up after this; the router writes it from the hot window then.", ge=1
    )
    log_linger_ms: float = setting(2.0, "Waiting for records of one batch: less latency or fewer requests.", ge=0)
    log_in_flight_per_tenant: int = setting(
        20_000,
        "Unacknowledged records of one tenant: its stuck partition must not fill everybody's queue. 2,000/s for as long"
        " as a record is tried.",
        unit="records",
        ge=1,
    )
    topics_check_s: float = setting(
        10.0, "Between looks whether topics are still the same: one made again has none of what was durable.", gt=0
    )
    heads_interval_s: float = setting(
        5.0, "How often subscribed sessions are compared with their heads: a lost last message is found by this.", gt=0
    )
    history_reads: int = setting(
        16,
        "Pages of hot windows read at a time, for who is behind: 256 KiB each of Redis' reply buffers. Others wait, by"
        " tenants in turn.",
        unit="pages",
        ge=1,
    )
    rehydration_timeout_s: float = setting(
        5.0, "Waiting for replay to answer for a subscriber that is behind the hot window.", gt=0
    )
    subscribe_timeout_s: float = setting(
        10.0, "Until a subscription that the live path can't take is refused; the client comes back.", gt=0
    )
    serve_check_s: float = setting(
        2.0, "How often it is made sure that this edge's workers are still known: one that is not is told.", gt=0
    )
    lease_s: float = setting(
        6.0, "Of this edge in the registry: agents of an edge that died are known lost after this.", ge=1
    )
    presence_subscribers: int = setting(
        200,
        "Of a session on this edge. Who comes to one that has more is not announced: each join would go to all of them,"
        " so a session's joins would cost its square. The registry answers instead.",
        unit="subscribers",
        ge=0,
    )
    http_batch_messages: int = setting(
        limits.MAX_BATCH_MESSAGES, "Messages of one HTTP batch.", unit="messages", ge=1, le=10_000
    )
    http_requests_per_tenant: int = setting(
        256,
        "Of one tenant under way: each holds its body, and waits a second for a log that is away.",
        unit="requests",
        ge=1,
    )
    http_request_bytes: int = setting(
        4 * 1024 * 1024, "Body of one HTTP request: a batch of 64 messages of the default limit.", ge=65_536
    )
