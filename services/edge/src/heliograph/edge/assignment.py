"""A worker's offer, and a session that it was given: a subscription from the workers' cursor, under a lease."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from heliograph.core.history import Start
from heliograph.core.positions import Position
from heliograph.edge.subscription import Subscription, parse_start
from heliograph.stores.ports import Order

if TYPE_CHECKING:
    from heliograph.edge.connection import Connection
    from heliograph.edge.sessions import Sessions


class Offer:
    """A connection that serves an agent type."""

    __slots__ = ("agent_type", "capacity", "connection", "held", "kind", "name")

    def __init__(self, name: str, connection: "Connection", agent_type: str, kind: str, capacity: int) -> None:
        self.name = name
        """Of the worker, in the store."""
        self.connection = connection
        self.agent_type = agent_type
        self.kind = kind
        self.capacity = capacity
        self.held: dict[str, Assignment] = {}
        """By session; also those that are being given back, until their cursor is stored."""


NOTHING: Mapping[str, Offer] = MappingProxyType({})
"""Of all connections that serve nothing."""


class Assignment(Subscription):
    """The subscription of a worker to a session that it has. `assigned` is its answer."""

    __slots__ = ("fence", "offer")

    def __init__(self, order: Order, offer: Offer, sessions: "Sessions") -> None:
        start: Position | Start = Start.EARLIEST if order.start is None else parse_start(order.start)
        super().__init__(order.session, start, offer.connection, sessions, None)
        self.answered = True
        self.offer = offer
        self.fence = order.fence
