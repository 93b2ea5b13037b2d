"""The inventory service over HTTP."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from aiohttp import web
from msgspec import Meta, Struct

from meshlite.context import Context
from meshlite.services.inventory.domain import (
    OrderId,
    Product,
    ProductChange,
    Refused,
    Reservation,
    ReservationRequest,
    Sku,
)
from meshlite.services.inventory.store import DEMONSTRATION, MIGRATIONS, InventoryStore
from meshlite.storage import Database
from meshlite.validation import Fault, faults
from meshlite.wire.messages import Cursor, Limit, body, cursor_after, query, read_cursor, reply
from meshlite.wire.problems import FieldError, Problem, invalid
from meshlite.wire.routes import Routes

STORE = web.AppKey("store", InventoryStore)
BODY_PROBLEMS = [
    "malformed-request",
    "unsupported-media-type",
    "body-too-large",
    "invalid-fields",
    "storage-unavailable",
]

routes = Routes("meshlite inventory", "What there is, and who has reserved a part of it. It asks nobody.")


class ProductList(Struct, frozen=True):
    """A page of products; `next` is the cursor of the page after it, null at the end."""

    items: list[Product]
    next: str | None


class ProductQuery(Struct, frozen=True):
    """Which products: `sku` may be given several times."""

    limit: Limit = 50
    cursor: Cursor | None = None
    sku: Annotated[list[str], Meta(max_length=200)] | None = None


@routes.add(
    "GET",
    "/inventory",
    "List products, in the order of their skus",
    {200: ProductList},
    query=ProductQuery,
    problems=["malformed-request", "invalid-fields", "storage-unavailable"],
)
async def list_products(request: web.Request) -> web.Response:
    page = query(request, ProductQuery)
    store, after = request.app[STORE], read_cursor("products", page.cursor) or ""
    limit = page.limit + 1
    products = store.page(after, limit) if page.sku is None else store.some(page.sku, after, limit)
    more = len(products) > page.limit
    products = products[: page.limit]
    return reply(ProductList(products, cursor_after("products", products[-1].sku) if more else None))


@routes.add(
    "GET",
    "/inventory/{sku}",
    "Get one product",
    {200: Product},
    path_types={"sku": Sku},
    problems=["not-found", "storage-unavailable"],
)
async def get_product(request: web.Request) -> web.Response:
    sku = request.match_info["sku"]
    product = request.app[STORE].get(sku) if not faults(sku, Sku) else None
    if product is None:
        raise Problem("not-found", f"there is no product {sku}")
    return reply(product)


@routes.add(
    "PUT",
    "/inventory/{sku}",
    "Create or replace a product",
    {200: Product, 201: Product},
    body=ProductChange,
    path_types={"sku": Sku},
    problems=[*BODY_PROBLEMS, "below-reserved"],
    links={"get_product": {"sku": "$response.body#/sku"}, "list_products": {"sku": "$response.body#/sku"}},
)
async def put_product(request: web.Request) -> web.Response:
    sku = _path(request, "sku", Sku)
    change = await body(request, ProductChange)
    try:
        product, new = await request.app[STORE].put(sku, change)
    except Refused as refused:
        raise _problem(refused) from refused
    return reply(product, 201, {"Location": f"/inventory/{sku}"}) if new else reply(product)


@routes.add(
    "PUT",
    "/reservations/{order_id}",
    "Reserve stock for an order; repeating it changes nothing",
    {200: Reservation, 201: Reservation},
    body=ReservationRequest,
    path_types={"order_id": OrderId},
    links={"delete_reservation": {"order_id": "$response.body#/order_id"}},
    problems=[*BODY_PROBLEMS, "unknown-sku", "out-of-stock", "reservation-differs", "reservation-released"],
)
async def put_reservation(request: web.Request) -> web.Response:
    order_id = _path(request, "order_id", OrderId)
    wanted = await body(request, ReservationRequest)
    seen: set[str] = set()
    twice = [i for i, line in enumerate(wanted.items) if line.sku in seen or seen.add(line.sku)]  # type: ignore[func-returns-value]
    if twice:
        raise invalid(
            [Fault(("items", i, "sku"), f"{wanted.items[i].sku} is there twice: add the quantities") for i in twice]
        )
    try:
        reservation, new = await request.app[STORE].reserve(order_id, wanted.items)
    except Refused as refused:
        raise _problem(refused) from refused
    return reply(reservation, 201 if new else 200)


@routes.add(
    "DELETE",
    "/reservations/{order_id}",
    "Release what an order has reserved, for good",
    {204: None},
    path_types={"order_id": OrderId},
    problems=["invalid-fields", "storage-unavailable"],
)
async def delete_reservation(request: web.Request) -> web.Response:
    await request.app[STORE].release(_path(request, "order_id", OrderId))
    return web.Response(status=204)


def _path(request: web.Request, name: str, kind: Any) -> str:
    value = request.match_info[name]
    if bad := faults(value, kind, (name,)):
        raise invalid(bad, pointers=False)
    return value


def _problem(refused: Refused) -> Problem:
    errors = [
        FieldError(f"/items/{i}/{'sku' if refused.kind == 'unknown-sku' else 'quantity'}", text)
        for i, text in refused.errors
    ]
    return Problem(refused.kind, str(refused), errors=errors)


def create_app(context: Context) -> web.Application:
    """The inventory service, ready to be mounted."""
    app = web.Application()

    async def database(app: web.Application) -> AsyncIterator[None]:
        database = Database(context.database, MIGRATIONS, DEMONSTRATION, context.committed)
        app[STORE] = InventoryStore(database)
        yield
        await database.close()

    app.cleanup_ctx.append(database)
    routes.mount(app, context.state, context.version)
    return app
