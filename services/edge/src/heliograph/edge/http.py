"""Publish over HTTP: `POST /v1/sessions/{tenant}/{agent_type}/{session_id}/messages`, one message or a batch.

For publishers that have no connection: webhooks, jobs, tests. A batch is taken in order and stops at the first message
that is refused; each message has its result.
"""

import asyncio
import secrets
import time
from collections import OrderedDict
from typing import Annotated, Any

import msgspec
from fastapi import Response
from msgspec import Meta, Raw, Struct

from heliograph.core.errors import InvalidValueError
from heliograph.core.messages import AckMode, MessageClass
from heliograph.core.scopes import Operation
from heliograph.core.sessions import SessionKey
from heliograph.edge.connections import Connections
from heliograph.edge.metrics import EdgeMetrics
from heliograph.edge.publication import Publication
from heliograph.edge.publishing import PublishPath
from heliograph.edge.senders import Sender
from heliograph.edge.session_routes import SessionRoutes, json_content, schema
from heliograph.edge.tenants import Target, TenantState
from heliograph.edge.usage import session_retry_ms
from heliograph.protocol.codes import CODES
from heliograph.protocol.frames import Name, Publish, SessionReference, TraceParent, is_utf8
from heliograph.service.http import HttpError
from heliograph.service.tokens import Identity
from heliograph.stores.ports import Appended, StoreError

MAX_SENDERS = 10_000
"""Publishers whose rate is remembered at once; the one unused longest is forgotten."""


class PostedMessage(Struct, rename={"class_": "class"}, omit_defaults=True, forbid_unknown_fields=True):
    """One message to publish."""

    payload: Raw
    class_: MessageClass = MessageClass.EVENT
    ack: AckMode | None = None
    message_id: Name | None = None
    event_type: Name | None = None
    correlation_id: Name | None = None
    causation_id: Name | None = None
    reply_to: SessionReference | None = None
    content_type: Name | None = None
    traceparent: TraceParent | None = None


class PostedBatch(Struct, forbid_unknown_fields=True):
    """Several, in order."""

    messages: Annotated[list[PostedMessage], Meta(min_length=1)]


class Result(Struct, omit_defaults=True):
    """What became of one message. `code` is set where it was refused."""

    durable: bool = False
    position: str | None = None
    message_id: str | None = None
    pending: bool = False
    duplicate: bool = False
    deferred: bool = False
    """In the log, not yet in its place: the live path is away."""
    code: str | None = None
    message: str | None = None
    retry_after_ms: int | None = None


class _Fields(Struct):
    messages: Raw | msgspec.UnsetType = msgspec.UNSET


_batch_decoder = msgspec.json.Decoder(PostedBatch)
_message_decoder = msgspec.json.Decoder(PostedMessage)
_fields_decoder = msgspec.json.Decoder(_Fields)


class HttpAnswers:
    """Where the answer of one posted message goes."""

    __slots__ = ("result", "taken")

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.result: asyncio.Future[Result] = loop.create_future()
        self.taken = asyncio.Event()
        """Set once the live store took or refused it: then the next of a batch may be judged."""

    def published(self, publication: Publication, *, durable: bool, pending: bool, duplicate: bool) -> None:
        position = publication.position if publication.epoch else None
        message_id = publication.message.message_id
        self._set(Result(durable, position, message_id, pending, duplicate, publication.deferred))

    def confirmed(self, publication: Publication) -> None:
        """Answered as pending already; whoever posted asks again by message id, or reads the history."""

    def refused(
        self, request_id: int | None, code: str, message: str, *, retry_after_ms: int | None, expected: int | None
    ) -> None:
        del request_id, expected
        self._set(Result(code=code, message=message, retry_after_ms=retry_after_ms))

    def _set(self, result: Result) -> None:
        self.taken.set()
        if not self.result.done():
            self.result.set_result(result)


class PostedPublication(Publication):
    """A publication that tells when it was appended."""

    __slots__ = ()

    def appended(self, answer: Appended | StoreError) -> None:
        super().appended(answer)
        assert isinstance(self.answers, HttpAnswers)
        self.answers.taken.set()


class HttpPublishing:
    """The route, and what it remembers."""

    def __init__(
        self,
        connections: Connections,
        path: PublishPath,
        metrics: EdgeMetrics,
        *,
        batch_messages: int,
    ) -> None:
        self._connections = connections
        self._path = path
        self._metrics = metrics
        self._batch_messages = batch_messages
        self._senders: OrderedDict[tuple[str, str], Sender] = OrderedDict()

    def install(self, routes: SessionRoutes) -> None:
        """Add the route."""
        one, batch = schema(PostedMessage), schema(PostedBatch)
        routes.add(
            "POST",
            "messages",
            Operation.PUBLISH,
            self.publish,
            [PostedMessage, PostedBatch, Result],
            operation_id="publish",
            summary="Publish one message, or a batch in order",
            openapi_extra={"requestBody": {"required": True, "content": json_content({"anyOf": [one, batch]})}},
            responses=_responses(),
        )

    async def publish(self, key: SessionKey, tenant: TenantState, who: Identity, body: bytes) -> Response:
        """One request's messages, and their answer."""
        messages, batch = self._decode(body)
        target = self._connections.target(key, tenant)
        if not self._connections.usage.publishes(target, time.monotonic()):
            raise HttpError("too_many_sessions", retry_after_ms=session_retry_ms())
        results = await self._publish_all(target, who, messages)
        if batch:
            for code in {one.code for one in results if one.code is not None}:
                self._connections.refusals.say("refused", code, who.tenant, subject=who.subject, operation="publish")
            return _answer(207 if any(one.code for one in results) else 200, {"results": results})
        result = results[0]
        if result.code is not None:
            raise HttpError(result.code, result.message, retry_after_ms=result.retry_after_ms)
        return _answer(202 if result.pending else 200, result)

    def _decode(self, body: bytes) -> tuple[list[PostedMessage], bool]:
        if not is_utf8(body):
            raise HttpError("malformed", "the body is not UTF-8")
        try:
            batch = _fields_decoder.decode(body).messages is not msgspec.UNSET
            messages = _batch_decoder.decode(body).messages if batch else [_message_decoder.decode(body)]
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            raise HttpError("malformed", str(error)[:300]) from None
        if len(messages) > self._batch_messages:
            raise HttpError("batch_too_large", f"{len(messages)} messages; at most {self._batch_messages}")
        return messages, batch

    async def _publish_all(self, target: Target, who: Identity, messages: list[PostedMessage]) -> list[Result]:
        """Each is appended before the next is judged; the log is waited for together."""
        answers: list[HttpAnswers] = []
        refused: Result | None = None
        for posted in messages:
            one = HttpAnswers()
            answers.append(one)
            if refused is not None:
                self._metrics.refused.labels("batch_stopped").n += 1
                one.refused(None, "batch_stopped", CODES["batch_stopped"].meaning, retry_after_ms=None, expected=None)
                continue
            self._publish_one(one, target, who, posted)
            await one.taken.wait()
            if one.result.done() and one.result.result().code is not None:
                refused = one.result.result()
        return list(await asyncio.gather(*(one.result for one in answers)))

    def _publish_one(self, answers: HttpAnswers, target: Target, who: Identity, posted: PostedMessage) -> None:
        refusal = self._sender(who).admit(target.tenant, posted.class_, time.monotonic(), len(posted.payload))
        if refusal is not None:
            code, wait_ms = refusal
            self._metrics.refused.labels(code).n += 1
            answers.refused(None, code, CODES[code].meaning, retry_after_ms=wait_ms, expected=None)
            return
        frame = Publish(
            session=target.session,
            payload=posted.payload,
            class_=posted.class_,
            ack=posted.ack,
            message_id=posted.message_id,
            event_type=posted.event_type,
            correlation_id=posted.correlation_id,
            causation_id=posted.causation_id,
            reply_to=posted.reply_to,
            content_type=posted.content_type,
            traceparent=posted.traceparent,
        )
        if frame.ack is AckMode.NONE or (frame.ack is None and frame.class_ is MessageClass.TELEMETRY):
            frame.ack = AckMode.ACCEPTED  # an HTTP request has an answer in any case
        try:
            id_ = secrets.token_urlsafe(15)
            self._path.publish(answers, target, frame, who.subject, None, id_, PostedPublication)
        except InvalidValueError as error:
            self._metrics.refused.labels(error.code).n += 1
            answers.refused(None, error.code, error.message, retry_after_ms=None, expected=None)

    def _sender(self, who: Identity) -> Sender:
        key = (who.tenant, who.subject)
        sender = self._senders.get(key)
        if sender is None:
            sender = self._senders[key] = Sender()
            if len(self._senders) > MAX_SENDERS:
                self._senders.popitem(last=False)
        else:
            self._senders.move_to_end(key)
        return sender


def _answer(status: int, body: object) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")


def _responses() -> dict[int | str, dict[str, Any]]:
    results = {"type": "array", "items": schema(Result)}
    batch = {"type": "object", "required": ["results"], "properties": {"results": results}}
    return {
        200: {"description": "Published", "content": json_content({"anyOf": [schema(Result), batch]})},
        202: {"description": "Accepted; not yet known to be durable", "content": json_content(schema(Result))},
        207: {"description": "Some of the batch was refused", "content": json_content(batch)},
    }
