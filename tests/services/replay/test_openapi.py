"""Replay's OpenAPI document says what it answers; a fuzzer holds it to that."""

import asyncio
from itertools import product
from pathlib import Path
from typing import Any

import jsonschema
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import ignored_auth, negative_data_rejection, positive_data_acceptance
from tests.services.replay.rig import World, message, world_in

from heliograph.replay.export_handlers import PARTITIONS_PATH
from heliograph.replay.export_handlers import PATH as EXPORT_PATH
from heliograph.replay.handlers import PATH


async def test_a_page_is_as_the_document_says(world: World) -> None:
    world.write(message(1), message(3, event_type="note"), message(1, "1764000200000-00000001"))
    await world.start()
    document = (await world.client.get("/openapi.json")).json()
    content = document["paths"]["/v1/history/{tenant}/{agent_type}/{session_id}"]["get"]["responses"]["200"]["content"]
    assert set(content) == {"application/json", "application/x-ndjson"}
    schema = {**content["application/json"]["schema"], "components": document["components"]}
    page = await world.page()
    assert page.gaps
    assert page.epochs
    jsonschema.validate(page.content, schema, cls=jsonschema.Draft202012Validator)


async def test_whatever_is_asked_the_answer_is_as_the_document_says(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        world.write(*(message(seq) for seq in range(1, 21)))
        await world.start()
        await asyncio.to_thread(fuzz, str(world.client.base_url), world.headers())
        assert (await world.page()).complete
        assert world.value("http_errors_total") == 0


def fuzz(base: str, headers: dict[str, str]) -> None:
    """Good and bad requests, for sessions that the token may read and for any."""
    schema = schemathesis.openapi.from_url(base + "/openapi.json")
    for path, mode in product((PATH, EXPORT_PATH, PARTITIONS_PATH), (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)):
        # Token and path may have been the bad part, and are good now: what must be refused has tests of its own.
        excluded = [ignored_auth, negative_data_rejection]
        if path == EXPORT_PATH:  # what is spelled as a resume token need not be one
            excluded.append(positive_data_acceptance)
        ask(schema[path]["GET"], mode, base_url=base, headers=headers, timeout=20, excluded_checks=excluded)


def ask(operation: Any, mode: GenerationMode, **options: Any) -> None:
    """Requests of one kind."""

    @settings(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode), ours=st.booleans())
    def one(case: Any, ours: bool) -> None:
        if ours:
            known = {"tenant": "acme", "agent_type": "planner", "session_id": "trip-42"}
            case.path_parameters = {name: known[name] for name in case.path_parameters}
        case.call_and_validate(**options)

    one()
