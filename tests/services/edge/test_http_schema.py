"""The OpenAPI document is one, and the API is what it says: examples made from it, good and bad, over real HTTP."""

import asyncio
from typing import Any

import httpx
import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from tests.services.edge.rig import Edge, World

OWN = {"tenant": "acme", "agent_type": "planner", "session_id": "1"}
"""A session that the token allows."""

EXAMPLES = 30
"""Of each kind: a second or two. They are the same in every run (`derandomize`)."""

BEYOND_SCHEMAS = {"value_invalid", "session_invalid", "payload_not_base64", "ack_impossible"}
"""What a schema can't say: names without control characters, one field that forbids another."""


@pytest.fixture
async def document(edge: Edge) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=edge.url) as http:
        found: dict[str, Any] = (await http.get("/openapi.json")).json()
        return found


async def test_the_document_describes_the_routes_and_nothing_internal(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    described = {path: {method: one["operationId"] for method, one in of.items()} for path, of in operations(document)}
    session = "/v1/sessions/{tenant}/{agent_type}/{session_id}"
    assert described == {f"{session}/messages": {"post": "publish"}, f"{session}/expiry": {"put": "expire"}}
    for _, of in operations(document):
        for operation in of.values():
            assert operation["security"]
            parameters = [(one["name"], one["in"]) for one in operation["parameters"]]
            assert parameters == [("tenant", "path"), ("agent_type", "path"), ("session_id", "path")]
            assert all(one["schema"]["pattern"] for one in operation["parameters"])


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return list(document["paths"].items())


async def test_every_reference_of_the_document_leads_somewhere(document: dict[str, Any]) -> None:
    def references(node: object) -> list[str]:
        if isinstance(node, dict):
            own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
            return own + [one for value in node.values() for one in references(value)]
        if isinstance(node, list):
            return [one for value in node for one in references(value)]
        return []

    found = references(document)
    assert found
    for reference in found:
        at: Any = document
        for part in reference.removeprefix("#/").split("/"):
            at = at[part]


async def test_its_schemas_are_schemas_and_take_what_is_meant(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)

    def takes(name: str, body: object) -> bool:
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        return jsonschema.Draft202012Validator(schema).is_valid(body)

    assert takes("PostedMessage", {"payload": None, "class": "control", "ack": "accepted"})
    assert takes("PostedBatch", {"messages": [{"payload": 1}]})
    assert not takes("PostedMessage", {"class": "event"})
    assert not takes("PostedMessage", {"payload": 1, "colour": "blue"})
    assert not takes("PostedBatch", {"messages": []})
    assert takes("PostedExpiry", {"expires_in_s": 3_600})
    assert not takes("PostedExpiry", {"expires_in_s": -1})


@pytest.mark.parametrize("name", ["publish", "expire"])
@pytest.mark.parametrize(
    ("mode", "path"),
    [(GenerationMode.POSITIVE, OWN), (GenerationMode.NEGATIVE, OWN), (GenerationMode.NEGATIVE, None)],
    ids=["good", "bad", "bad anywhere"],
)
async def test_examples_made_from_the_document_are_answered_as_it_says(
    world: World, edge: Edge, document: dict[str, Any], mode: GenerationMode, path: dict[str, Any] | None, name: str
) -> None:
    """Schemathesis' own checks hold: no 5xx, status, content type, headers and body as documented, bad data refused,
    unknown methods 405, and no answer without a token.
    """
    await world.put_tenant("acme", limits={"connection_messages_per_s": 1e6, "connection_burst_messages": 10**6})
    token = world.token(scopes=["publish:*:*", "admin:*:*"])
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=edge.url)
    every = [result.ok() for result in schema.get_all_operations()]  # type: ignore[union-attr] # a broken one fails here
    (operation,) = [one for one in every if one.definition.raw["operationId"] == name]
    statuses: set[int] = set()

    @settings(
        max_examples=EXAMPLES, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(case=operation.as_strategy(generation_mode=mode, path_parameters=path))
    def each(case: Case[Any]) -> None:
        response = case.call(headers={"Authorization": f"Bearer {token}"})
        statuses.add(response.status_code)
        unsaid = response.status_code == 400 and response.json()["code"] in BEYOND_SCHEMAS
        case.validate_response(response, excluded_checks=[positive_data_acceptance] if unsaid else [])

    await asyncio.to_thread(each)
    assert edge.value("http_errors_total") == 0
    assert 200 in statuses or mode is GenerationMode.NEGATIVE
