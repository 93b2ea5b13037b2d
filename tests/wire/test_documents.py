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


async def test_answers_are_what_the_document_says(world: World) -> None:
    """Live answers have the fields that their schemas require."""
    document = (await world.get("orders", "/openapi.json")).json
    order = (await world.order(("SKU-1", 1))).json
    assert set(document["components"]["schemas"]["Order"]["required"]) <= set(order)
    assert msgspec.json.decode(msgspec.json.encode(order)) == order
