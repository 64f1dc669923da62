"""Every port of the services to the outside. `memory/`, `redis/` and `kafka/` implement them.

One contract suite (`tests/stores`: `live`, `log`, `metadata`) runs against each implementation; what is not in it is
not promised.

Two styles, on purpose: what the hot path calls takes a callback and returns at once (no task, no future a message; the
callback runs on the event loop, never inside the call), everything else is a coroutine. Sessions are passed as their
canonical text (`SessionKey` has checked it). Times are Unix ms where stores compare them, durations seconds.
"""

from heliograph.stores.ports.connections import Connection, ConnectionStore, EdgeLease
from heliograph.stores.ports.edge_orders import DrainOrder, EdgeOrders, ShedOrder, StandingOrders
from heliograph.stores.ports.errors import CorruptError, StoreError
from heliograph.stores.ports.expiries import SessionExpiries
from heliograph.stores.ports.history import IndexEntry, PositionIndex, RehydratedPage, Rehydration, RehydrationRequest
from heliograph.stores.ports.leases import Leases
from heliograph.stores.ports.live import (
    Ack,
    Acknowledged,
    AckStatus,
    Append,
    Appended,
    AppendStatus,
    Bounds,
    Head,
    LiveListener,
    LiveLoad,
    LiveMemory,
    LivePressure,
    LiveStore,
    Page,
    Unconfirmed,
)
from heliograph.stores.ports.log import (
    LogAccess,
    LogAdmin,
    LogConsumer,
    LogLoad,
    LogReader,
    LogRecord,
    LogWriter,
    Scanned,
    TopicInfo,
    TopicSpec,
)
from heliograph.stores.ports.quotas import QuotaGrant, QuotaRequest, QuotaStore
from heliograph.stores.ports.serving import DueSession, Order, Served, ServeStore, ServeView, Worker
from heliograph.stores.ports.tenants import Owner, TenantStore

__all__ = [
    "Ack",
    "AckStatus",
    "Acknowledged",
    "Append",
    "AppendStatus",
    "Appended",
    "Bounds",
    "Connection",
    "ConnectionStore",
    "CorruptError",
    "DrainOrder",
    "DueSession",
    "EdgeLease",
    "EdgeOrders",
    "Head",
    "IndexEntry",
    "Leases",
    "LiveListener",
    "LiveLoad",
    "LiveMemory",
    "LivePressure",
    "LiveStore",
    "LogAccess",
    "LogAdmin",
    "LogConsumer",
    "LogLoad",
    "LogReader",
    "LogRecord",
    "LogWriter",
    "Order",
    "Owner",
    "Page",
    "PositionIndex",
    "QuotaGrant",
    "QuotaRequest",
    "QuotaStore",
    "RehydratedPage",
    "Rehydration",
    "RehydrationRequest",
    "Scanned",
    "ServeStore",
    "ServeView",
    "Served",
    "SessionExpiries",
    "ShedOrder",
    "StandingOrders",
    "StoreError",
    "TenantStore",
    "TopicInfo",
    "TopicSpec",
    "Unconfirmed",
    "Worker",
]
