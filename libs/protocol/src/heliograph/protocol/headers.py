# ruff: noqa: E501 - a table
"""The headers of a log record, as a table: what each is, and when it is there. `messages.py` writes and reads them.

They are CloudEvents 1.0 attributes in the Kafka binding's binary mode (1.0.2): `ce_` and the attribute's name, UTF-8.
Names of our own attributes are lower-case letters, at most 20, as CloudEvents asks. Readers ignore headers they don't
know.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HeaderInfo:
    """A row of the documentation. `always`: in every record of a message that we write."""

    name: str
    always: bool
    when: str
    meaning: str
    example: str


HEADERS: tuple[HeaderInfo, ...] = (
    HeaderInfo("ce_specversion", True, "", "CloudEvents version.", "1.0"),
    HeaderInfo("ce_id", True, "", "Message id; with `ce_source` it names the message.", "4fGh0pQ2xY7a.e7"),
    HeaderInfo("ce_source", True, "", "The session as a path.", "/acme/planner/trip-42"),
    HeaderInfo("ce_type", True, "", "Event type; `dev.heliograph.message` where the publisher gave none.", "com.example.order"),
    HeaderInfo("ce_time", True, "", "When an edge accepted it: RFC 3339, UTC, milliseconds.", "2025-11-24T16:00:00.123Z"),
    HeaderInfo("ce_partitionkey", True, "", "The session; equal to the record's key.", "acme:planner:trip-42"),
    HeaderInfo("ce_class", True, "", "`control`, `event` or `telemetry`.", "event"),
    HeaderInfo("ce_producer", True, "", "Who published: the token's subject, with the producer's name where it has one.", "planner/main"),
    HeaderInfo("content-type", True, "", "Media type of the value; `application/json` where the publisher gave none.", "application/json"),
    HeaderInfo("ce_sequence", False, "it has a position (not: telemetry, deferred)", "Position; sorts as text.", "1764000000000-1a2b3c4d-0000000000000042"),
    HeaderInfo("ce_incarnation", False, "the producer counts", "One start of the producer.", "4fGh0pQ2xY7a"),
    HeaderInfo("ce_producerseq", False, "with `ce_incarnation`", "The producer's counter, per session and class, from 1.", "7"),
    HeaderInfo("ce_byworker", False, "a connection published it that serves the session's agent type", "No worker need be found for it.", "1"),
    HeaderInfo("ce_correlationid", False, "given", "What the publisher said it belongs to.", "request-1"),
    HeaderInfo("ce_causationid", False, "given", "The message that caused it.", "m-0"),
    HeaderInfo("ce_replyto", False, "given", "The session that answers should go to.", "acme:planner:replies"),
    HeaderInfo("traceparent", False, "traced", "W3C trace context; not a CloudEvents attribute in Kafka.", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
)  # fmt: skip
