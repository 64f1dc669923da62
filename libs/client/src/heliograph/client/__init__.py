"""The Python SDK of Heliograph: publish, subscribe, ask and answer, over a connection that heals itself.

>>> from heliograph.client import Client, Gap, Message
"""

from heliograph.client.client import Client
from heliograph.client.errors import (
    AuthenticationError,
    ClientError,
    ClosedError,
    ConnectError,
    DurabilityUnknown,
    HeliographError,
    InvalidValueError,
    LeaseLost,
    PublishRefused,
    PublishUncertain,
    RefusedError,
    RequestTimeout,
    ServeRefused,
    SubscribeRefused,
    TokenExpiredError,
)
from heliograph.client.messages import Gap, Message, Presence
from heliograph.client.pressure import Pressure
from heliograph.client.receipts import Receipt
from heliograph.client.runner import ClientState
from heliograph.client.settings import ClientSettings
from heliograph.client.stats import ClientStats
from heliograph.client.subscription import PresenceSubscription, Subscription
from heliograph.client.tokens import Token
from heliograph.client.work import Work, WorkSession
from heliograph.core.backoff import BackoffPolicy
from heliograph.core.messages import AckMode, MessageClass
from heliograph.core.pressure import Level

__all__ = [
    "AckMode",
    "AuthenticationError",
    "BackoffPolicy",
    "Client",
    "ClientError",
    "ClientSettings",
    "ClientState",
    "ClientStats",
    "ClosedError",
    "ConnectError",
    "DurabilityUnknown",
    "Gap",
    "HeliographError",
    "InvalidValueError",
    "LeaseLost",
    "Level",
    "Message",
    "MessageClass",
    "Presence",
    "PresenceSubscription",
    "Pressure",
    "PublishRefused",
    "PublishUncertain",
    "Receipt",
    "RefusedError",
    "RequestTimeout",
    "ServeRefused",
    "SubscribeRefused",
    "Subscription",
    "Token",
    "TokenExpiredError",
    "Work",
    "WorkSession",
]
