"""Limits that formats and decisions share. Each has a unit and a reason; services make the settable ones settings."""

MAX_PAYLOAD_BYTES = 64 * 1024
"""Default bound on a payload. Agents pass references to large things; a hot window of 1,000 stays below 64 MiB."""

MAX_PAYLOAD_BYTES_CEILING = 512 * 1024
"""What the setting may be raised to: Kafka's default message.max.bytes (1 MiB) less headers, with a factor to spare."""

MAX_INBOUND_FRAME_OVERHEAD_BYTES = 8 * 1024
"""Bytes of an inbound frame besides its payload, checked before decoding."""

MAX_MESSAGE_ID_LENGTH = 128
MAX_NAME_LENGTH = 128
"""Consumer, producer, correlation and causation ids, reply addresses, event types."""

MAX_SUBSCRIPTIONS_PER_CONNECTION = 1_000
"""A supervisor that follows many sessions fits; a client that leaks subscriptions does not."""

MAX_BATCH_MESSAGES = 500
"""Messages of one HTTP batch: bounds the work that one request can queue."""

PRODUCER_RING = 64
"""Unanswered publishes a client keeps at most per session and class, and what duplicates are judged by."""

PRODUCERS_PER_SESSION = 1_000
"""Producer incarnations remembered per session (about 1.5 KB each when busy)."""

MESSAGE_ID_MEMORY_S = 600
"""How long an id that the caller chose is judged."""

CONSUMERS_PER_SESSION = 1_000
"""Cursors kept per session (about 0.1 KB each): far above what follows one session by name, and no leak of names."""

UNCONFIRMED_MESSAGES = 1_000
"""W: `append` refuses while this many of a session are unconfirmed; readers of the log hold at most as many."""
UNCONFIRMED_BYTES = 8 * 1024 * 1024
"""W in bytes of payload."""

WINDOW_MESSAGES = 1_000
"""Hot window: what a client that reconnects within minutes needs."""
WINDOW_BYTES = 8 * 1024 * 1024

SESSION_TTL_S = 24 * 3600
"""A session idle this long, and wholly confirmed, leaves Redis; its next message begins a fresh epoch."""

ANNOUNCED_S = 600
"""How long it is remembered that a join or leave was announced: whoever may still say it again does so sooner."""

PAGE_BYTES = 256 * 1024
"""History is read in pages: a larger reply stalls Redis and gets a subscribed connection killed."""

RECORD_OVERHEAD_BYTES = 512
"""What a message counts besides its payload wherever bytes are bounded, so that empty ones aren't free."""

VIRTUAL_SHARDS = 256
"""Virtual shards sessions hash onto. Stored with the data: changing it later means a new live store."""
