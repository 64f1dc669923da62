"""The schemas of what replay answers, for its OpenAPI document: made from the frames' own types."""

from collections.abc import Callable
from typing import Any

import msgspec
from fastapi import FastAPI

from heliograph.protocol.exports import ExportedRecord
from heliograph.protocol.frames import Epoch, Gap, MessageFrame
from heliograph.replay.rendering import JSON, NDJSON

REF = "#/components/schemas/{name}"


def components() -> dict[str, Any]:
    """Schemas of the frames, and of a page of them."""
    refs, schemas = msgspec.json.schema_components([MessageFrame, Gap, Epoch, ExportedRecord], ref_template=REF)
    position = {"anyOf": [{"type": "string"}, {"type": "null"}]}
    return {
        **schemas,
        "HistoryPage": {
            "title": "HistoryPage",
            "description": "A part of a session's history. Frames are what a subscriber gets, byte for byte.",
            "type": "object",
            "required": ["session", "messages", "gaps", "epochs", "next", "complete", "resume"],
            "properties": {
                "session": {"type": "string"},
                "messages": {"type": "array", "items": refs[0], "description": "In order, each position once."},
                "gaps": {"type": "array", "items": refs[1], "description": "Positions that will not come, and why."},
                "epochs": {"type": "array", "items": refs[2], "description": "Where positions begin anew."},
                "next": {**position, "description": "Ask for it as `after` to go on; null: nothing is left."},
                "complete": {"type": "boolean", "description": "All that was asked for and exists was read."},
                "resume": {**position, "description": "Hand it back with `next`: the read goes on where it broke off."},
            },
        },
    }


def responses() -> dict[int | str, dict[str, Any]]:
    """What the history route answers with 200."""
    return {
        200: {
            "description": "A page, or a stream of frames, one a line, the last of type `end`",
            "content": {
                JSON: {"schema": {"$ref": REF.format(name="HistoryPage")}},
                NDJSON: {"schema": {"type": "string"}},
            },
        }
    }


def export_responses() -> dict[int | str, dict[str, Any]]:
    """What the export route answers with 200."""
    described = (
        "Lines of JSON, told apart by `type`: `record` (ExportedRecord); `mark`, from whose `resume` on an answer that "
        "was cut off is gone on with; `error`; and the last of type `end`, which says whether it is `complete`"
    )
    return {200: {"description": described, "content": {NDJSON: {"schema": {"type": "string"}}}}}


def span_responses() -> dict[int | str, dict[str, Any]]:
    """What the route of an export's partitions answers with 200."""
    offset = {"type": "integer", "minimum": 0}
    fields = {"topic": {"type": "string"}, "partition": offset, "start": offset, "end": offset}
    properties = {**fields, "resume": {"type": "string", "description": "Asks for all of this partition."}}
    span = {"type": "object", "required": list(properties), "properties": properties}
    schema = {
        "type": "object",
        "required": ["tenant", "partitions"],
        "properties": {"tenant": {"type": "string"}, "partitions": {"type": "array", "items": span}},
    }
    return {
        200: {"description": "Every partition that holds records of the tenant", "content": {JSON: {"schema": schema}}}
    }


def document(app: FastAPI) -> None:
    """Add the schemas to the application's document."""
    made: Callable[[], dict[str, Any]] = app.openapi

    def openapi() -> dict[str, Any]:
        found = made()
        found.setdefault("components", {}).setdefault("schemas", {}).update(components())
        return found

    app.openapi = openapi  # type: ignore[method-assign] # FastAPI's own way to extend a document
