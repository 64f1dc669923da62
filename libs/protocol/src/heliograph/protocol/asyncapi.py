"""The AsyncAPI 3.0 document of `/v1/connect`, made from the frames and the golden vectors.

Seen from the server, as AsyncAPI wants it: it *receives* client frames and *sends* server frames.
"""

import json
from typing import Any

import msgspec

from heliograph.protocol import frames
from heliograph.protocol.codes import CLOSES
from heliograph.protocol.schemas import Schema, frame_components, frame_types, prose, type_name
from heliograph.protocol.vectors import DOCUMENTS

_EXAMPLES_PER_MESSAGE = 3

_ANSWERS: dict[str, tuple[str, ...]] = {
    "hello": ("welcome", "refused", "subscribed"),
    "subscribe": ("subscribed", "refused"),
    "unsubscribe": ("unsubscribed", "refused"),
    "publish": ("published", "refused"),
    "ack": ("acked", "refused"),
    "status": ("statusAnswer", "refused"),
    "serve": ("serving", "refused"),
    "refresh": ("refreshed", "refused"),
    "pong": (),
}
"""Client frame → what answers it. `error` may answer any."""

_ON_THEIR_OWN = (
    "message", "gap", "epoch", "presence", "confirmed", "assigned", "revoked", "notice", "reconnect", "ping", "error",
)  # fmt: skip
"""Server frames that nothing asked for."""


def asyncapi() -> Schema:
    """The document."""
    messages = {
        **{_message_name(frame): _message(frame) for frame in frame_types(frames.ClientFrame)},
        **{_message_name(frame): _message(frame) for frame in frame_types(frames.ServerFrame)},
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Heliograph",
            "version": frames.SUBPROTOCOL.rpartition(".v")[2],
            "description": "Realtime messages between agents, over WebSocket: one JSON object a text message, told"
            " apart by `type`. Members that are not listed here are to be ignored, and by clients types as well."
            " A connection begins with `hello`.\n\n" + _close_codes(),
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "edge": {
                "host": "{host}",
                "protocol": "wss",
                "description": "Any edge; they are all alike.",
                "variables": {"host": {"default": "localhost:8080", "description": "Where edges are reached."}},
                "security": [{"$ref": "#/components/securitySchemes/token"}],
            }
        },
        "channels": {
            "connect": {
                "address": frames.CONNECT_PATH,
                "description": f"WebSocket, subprotocol `{frames.SUBPROTOCOL}`.",
                "servers": [{"$ref": "#/servers/edge"}],
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
                "bindings": {
                    "ws": {
                        "method": "GET",
                        "headers": {
                            "type": "object",
                            "properties": {
                                "Sec-WebSocket-Protocol": {"type": "string", "const": frames.SUBPROTOCOL},
                                "Authorization": {
                                    "type": "string",
                                    "description": "`Bearer` and the token, where it is not in `hello`.",
                                },
                            },
                            "required": ["Sec-WebSocket-Protocol"],
                        },
                        "bindingVersion": "0.1.0",
                    }
                },
            }
        },
        "operations": {
            **{name: _received(name, answers) for name, answers in _ANSWERS.items()},
            **{name: _sent(name) for name in _ON_THEIR_OWN},
        },
        "components": {
            "messages": messages,
            "schemas": frame_components("#/components/schemas/{name}"),
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "Signed with one of the tenant's keys; in the handshake or in `hello`.",
                }
            },
        },
    }


def _message_name(frame: type[msgspec.Struct]) -> str:
    """`status` goes both ways: the answer is told apart."""
    return "statusAnswer" if frame is frames.StatusAnswer else type_name(frame)


def _message(frame: type[msgspec.Struct]) -> dict[str, Any]:
    message: dict[str, Any] = {
        "name": type_name(frame),
        "title": type_name(frame),
        "summary": prose(frame.__doc__ or ""),
        "payload": {"$ref": f"#/components/schemas/{frame.__name__}"},
        "examples": _examples(frame),
    }
    if "id" in frame.__struct_fields__ and frame is not frames.Presence:
        message["correlationId"] = {
            "description": "A number that the client chose; the one answer repeats it.",
            "location": "$message.payload#/id",
        }
    return message


def _examples(frame: type[msgspec.Struct]) -> list[dict[str, Any]]:
    if frame is frames.MessageFrame:
        cases = DOCUMENTS["messages"]["cases"]
        named = [(case["what"], case["frame"]["text"]) for case in cases]
    else:
        direction = "client-frames" if frame in frame_types(frames.ClientFrame) else "server-frames"
        cases = [case for case in DOCUMENTS[direction]["good"] if case["type"] == type_name(frame)]
        named = [(f"{_message_name(frame)} {number}", case["text"]) for number, case in enumerate(cases, 1)]
    return [{"name": name, "payload": json.loads(text)} for name, text in named[:_EXAMPLES_PER_MESSAGE]]


def _received(name: str, answers: tuple[str, ...]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "action": "receive",
        "channel": {"$ref": "#/channels/connect"},
        "messages": [{"$ref": f"#/channels/connect/messages/{name}"}],
    }
    if answers:
        operation["reply"] = {
            "channel": {"$ref": "#/channels/connect"},
            "messages": [{"$ref": f"#/channels/connect/messages/{answer}"} for answer in (*answers, "error")],
        }
    return operation


def _sent(name: str) -> dict[str, Any]:
    return {
        "action": "send",
        "channel": {"$ref": "#/channels/connect"},
        "messages": [{"$ref": f"#/channels/connect/messages/{name}"}],
    }


def _close_codes() -> str:
    rows = "\n".join(f"- {close.code} `{close.name}`: {close.meaning}" for close in CLOSES.values())
    return f"Close codes from 4000 to 4499 mean: come back with backoff; from 4500: do not come back.\n\n{rows}"
