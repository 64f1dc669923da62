"""A client that notes what it publishes and what its readers are given; agents use it like any other."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from heliograph.client import Client, ClientState, Gap, HeliographError, Message, Receipt, Subscription
from heliograph.core.sessions import SessionKey
from heliograph.local.demo.verdict import ClientCounters, Delivered, Published, Reading
from heliograph.protocol import messages

Listener = Callable[[str, Message], None]
"""Told (reader, message) of each message as it is handed out."""


@dataclass(slots=True)
class Call:
    """One call of `publish`."""

    client: str
    session: str
    class_: str
    began_s: float
    message_id: str | None = None
    """As it was given, if it was."""
    receipt: Receipt | None = None
    error: str | None = None
    cancelled: bool = False
    """The session that it belonged to was lost in the middle: whether it was published can only be seen."""

    @property
    def is_over(self) -> bool:
        return self.receipt is not None or self.error is not None or self.cancelled

    def published(self, seen: Mapping[tuple[str, str], str | None]) -> Published | None:
        """None where it was cancelled before it was published. `seen`: positions by session and message id."""
        fields = (self.client, self.session, self.class_, self.began_s)
        if self.cancelled:
            key = (self.session, self.message_id or "")
            if key not in seen:
                return None
            return Published(*fields, self.message_id, seen[key], durable=seen[key] is not None)
        if self.receipt is None:
            return Published(*fields, error=self.error or "it was never answered")
        receipt = self.receipt
        return Published(*fields, receipt.message_id, receipt.position, receipt.duplicate, receipt.is_durable)


class RecordedSubscription(Subscription):
    """A subscription that notes what it hands out. Stands in for `original`, which it keeps from being collected."""

    def __init__(self, original: Subscription, note: Callable[[Message | Gap], None]) -> None:
        vars(self).update(vars(original))
        self._original = original
        self._note = note

    async def __anext__(self) -> Message | Gap:
        item = await super().__anext__()
        self._note(item)
        return item


class RecordedClient(Client):
    """`name` is the agent's. What it published and read is in `calls` and `readings`."""

    def __init__(
        self,
        name: str,
        urls: list[str],
        token: str,
        *,
        on_message: Listener,
        on_change: Callable[[str, ClientState], None],
    ) -> None:
        super().__init__(
            urls,
            token=token,
            producer=name,
            agent=name,
            on_state=lambda state, _why: on_change(name, state),
            proxy=None,
        )
        self.name = name
        self.calls: list[Call] = []
        self.readings: list[Reading] = []
        self.answers: list[tuple[str, str]] = []
        """Question's id and text of each answer that was read."""
        self._on_message = on_message

    async def publish(self, session: str | SessionKey, data: object, **fields: Any) -> Receipt:
        class_ = str(fields.get("cls", "event"))
        if class_ == "telemetry":  # its receipt knows no id that the server gave
            fields.setdefault("id", uuid4().hex)
        call = Call(self.name, str(session), class_, time.monotonic(), fields.get("id"))
        self.calls.append(call)
        try:
            call.receipt = await super().publish(session, data, **fields)
        except HeliographError as error:
            call.error = f"{error.code}: {error.message}"
            raise
        except asyncio.CancelledError:
            call.cancelled = True
            raise
        return call.receipt

    def subscribe(  # type: ignore[override]  # the demo's agents don't ask for presence
        self, session: str | SessionKey, start: str = "latest", **options: Any
    ) -> Subscription:
        after = start if start not in ("latest", "earliest", "cursor") else None
        reading = Reading(self.name, str(session), after)
        self.readings.append(reading)

        def note(item: Message | Gap) -> None:
            if isinstance(item, Gap):
                reading.gaps.append(f"{item.reason} {item.first or ''}–{item.last or ''}")
                return
            at_s = time.monotonic()
            reading.messages.append(Delivered(item.id, item.class_, item.position, frame_of(item), at_s))
            if item.class_ == "event" and item.causation_id is not None and "answer" in item.data:
                self.answers.append((item.causation_id, item.data["answer"]))
            self._on_message(self.name, item)

        return RecordedSubscription(super().subscribe(session, start, **options), note)

    def counters(self) -> ClientCounters:
        stats = self.stats
        return ClientCounters(stats.connections, stats.resends, stats.duplicates, stats.holes)


def frame_of(message: Message) -> bytes:
    """The frame that `message` came in: the protocol fixes its spelling, so fields and payload give every byte."""
    return messages.frame(
        messages.Message(
            session=message.session,
            message_id=message.id,
            time_ms=message.time_ms,
            producer=message.producer,
            class_=message.class_,
            payload=message.payload,
            position=message.position,
            traceparent=message.traceparent,
            event_type=message.event_type,
            correlation_id=message.correlation_id,
            causation_id=message.causation_id,
            reply_to=message.reply_to,
            content_type=message.content_type,
        )
    )
