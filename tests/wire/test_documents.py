"""The services' own documents: OpenAPI, and Swagger UI without any outside request."""

import re

import msgspec
import pytest
from openapi_spec_validator import validate

from tests.conftest import World

APPS = ["users", "orders", "inventory", "control"]
ROUTES = {
    "users": {"GET /users", "POST /users", "GET /users/{id}", "PATCH /users/{id}", "DELETE /users/{id}"},
    "orders": {"GET /orders", "POST /orders", "GET /orders/{id}", "POST /orders/{id}/cancel"},
    "inventory": {
        "GET /inventory",
        "GET /inventory/{sku}",
        "PUT /inventory/{sku}",
        "PUT /reservations/{order_id}",
        "DELETE /reservations/{order_id}",
    },
    "control": {"GET /api/services", "GET /api/edges"},
}


@pytest.mark.parametrize("app", APPS)
async def test_the_openapi_document_is_valid_and_whole(world: World, app: str) -> None:
    """OpenAPI 3.1 by the validator, with every route of the contract."""
    document = (await world.get(app, "/openapi.json")).json
    validate(document)
    routes = {f"{method.upper()} {path}" for path, item in document["paths"].items() for method in item}
    assert ROUTES[app] <= routes
    assert {"GET /healthz", "GET /readyz"} <= routes


@pytest.mark.parametrize("app", APPS)
async def test_every_operation_says_how_it_fails(world: World, app: str) -> None:
    """Errors are problem documents, each type named where it can happen."""
    document = (await world.get(app, "/openapi.json")).json
    for path, item in document["paths"].items():
        for method, operation in item.items():
            for status, response in operation["responses"].items():
                if int(status) >= 400 and path != "/readyz":
                    assert list(response["content"]) == ["application/problem+json"], (method, path)


@pytest.mark.parametrize("app", APPS)
async def test_the_docs_page_asks_nobody_outside(world: World, app: str) -> None:
    """All that the page refers to is here, and the browser is told to ask nobody else."""
    page = await world.get(app, "/docs")
    assert page.headers["Content-Security-Policy"].startswith("default-src 'self'")
    places = re.findall(r'(?:href|src)="([^"]+)"', page.body.decode())
    assert len(places) >= 4
    for place in places:
        assert place.startswith(("/docs/", "data:"))
        if place.startswith("/"):
            assert (await world.get(app, place)).status == 200
    assert "SwaggerUIBundle" in (await world.get(app, "/docs/start.js")).body.decode()
    assert (await world.get(app, "/docs/LICENSE")).status == 404


@pytest.mark.parametrize("app", APPS)
async def test_who_finds_nothing_is_told_where_to_look(world: World, app: str) -> None:
    """The detail of a path without a route names the page that lists the routes."""
    assert (await world.get(app, "/nowhere")).json["detail"] == "no route /nowhere; see /docs"


async def test_answers_are_what_the_document_says(world: World) -> None:
    """Live answers have the fields that their schemas require."""
    document = (await world.get("orders", "/openapi.json")).json
    order = (await world.order(("SKU-1", 1))).json
    assert set(document["components"]["schemas"]["Order"]["required"]) <= set(order)
    assert msgspec.json.decode(msgspec.json.encode(order)) == order


@pytest.mark.parametrize("app", APPS)
async def test_links_lead_to_operations_with_such_parameters(world: World, app: str) -> None:
    """What follows an answer is an operation of the same document, and its parameters are."""
    document = (await world.get(app, "/openapi.json")).json
    operations = [operation for item in document["paths"].values() for operation in item.values()]
    names = {one["operationId"]: {parameter["name"] for parameter in one["parameters"]} for one in operations}
    links = [
        link for one in operations for answer in one["responses"].values() for link in answer.get("links", {}).values()
    ]
    assert links
    for link in links:
        assert link["parameters"].keys() <= names[link["operationId"]]


@pytest.mark.parametrize("app", APPS)
async def test_patterns_are_those_of_json_schema(world: World, app: str) -> None:
    """No Python in them: neither its `$`, nor half a character, nor its idea of a space."""
    patterns = re.findall(r'"pattern":"((?:[^"\\]|\\.)*)"', (await world.get(app, "/openapi.json")).body.decode())
    assert patterns
    for pattern in patterns:
        assert not re.search(r"\(\?[!=<]|ud800|\\s", pattern), pattern


async def test_a_whole_number_may_have_a_point(world: World) -> None:
    """To JSON Schema 2.0 is an integer; 2.5 is none, and neither is what a float cannot hold exactly."""
    for quantity, status in (("2.0", 201), ("2e0", 201), ("2.5", 422), ("1e300", 422), ('"2"', 422)):
        body = f'{{"user_id": 1, "items": [{{"sku": "SKU-1", "quantity": {quantity}}}]}}'
        headers = {"Content-Type": "application/json"}
        answer = await world.ask("POST", "orders", "/orders", data=body, headers=headers)
        assert answer.status == status, answer
    fault = {"service": "users", "kind": "error", "status": 503.0, "times": 2.0}
    assert (await world.ask("PUT", "control", "/api/faults/f", fault)).status == 201


async def test_null_is_no_word_of_a_query(world: World) -> None:
    """`include=null` is a text that is not allowed, and not "nothing given"."""
    answer = await world.get("users", "/users/1?include=null")
    assert (answer.status, answer.json["errors"][0]["pointer"]) == (422, "include")
