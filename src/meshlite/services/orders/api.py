"""The orders service over HTTP."""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from typing import Annotated

from aiohttp import web
from msgspec import Meta, Struct

from meshlite.context import Context
from meshlite.errors import CallError
from meshlite.resilience.edge import Edge
from meshlite.services.orders.checkout import Checkout
from meshlite.services.orders.domain import NewOrder, Order, UserId
from meshlite.services.orders.peers import products_of
from meshlite.services.orders.store import DEMONSTRATION, MIGRATIONS, OrderStore
from meshlite.storage import Database
from meshlite.validation import Fault
from meshlite.wire.degraded import degraded_headers, note
from meshlite.wire.messages import Cursor, Limit, body, cursor_after, query, read_number, reply
from meshlite.wire.problems import CONTENT_TYPE, FieldError, Problem, invalid
from meshlite.wire.routes import Routes

STORE = web.AppKey("store", OrderStore)
CHECKOUT = web.AppKey("checkout", Checkout)
INVENTORY = web.AppKey("inventory", Edge)
ID_TYPE = {"id": Annotated[str, Meta(min_length=1, max_length=64)]}
_LATEST = 2**62
_KEY = re.compile(r'"([\x20\x21\x23-\x7e]{1,255})"|([\x21\x23-\x7e]{1,255})')
KEY_HEADER = "Idempotency-Key"

routes = Routes(
    "meshlite orders",
    "Who has bought what. To place an order it needs users and inventory; to show one it can do without.",
)


class OrderQuery(Struct, frozen=True):
    """Which orders: all, or those of one user."""

    limit: Limit = 50
    cursor: Cursor | None = None
    user_id: UserId | None = None


class OrderList(Struct, frozen=True):
    """A page of orders, newest first; `degraded` names what could not be asked, and is missing from them."""

    orders: list[Order]
    next: str | None
    degraded: list[str]


@routes.add(
    "GET",
    "/orders",
    "List orders, newest first",
    {200: OrderList},
    query=OrderQuery,
    problems=["malformed-request", "invalid-fields", "storage-unavailable"],
)
async def list_orders(request: web.Request) -> web.Response:
    page = query(request, OrderQuery)
    rows = request.app[STORE].page(page.user_id, read_number("orders", page.cursor, _LATEST), page.limit + 1)
    more = len(rows) > page.limit
    rows = rows[: page.limit]
    following = cursor_after("orders", rows[-1][0]) if more else None
    orders, lacking = await _with_products(request.app[INVENTORY], [order for _, order in rows])
    if lacking is None:
        return reply(OrderList(orders, following, []))
    return reply(OrderList(orders, following, ["inventory"]), headers=degraded_headers(note("inventory", lacking)))


@routes.add(
    "POST",
    "/orders",
    "Place an order",
    {201: Order},
    body=NewOrder,
    links={
        "get_order": {"id": "$response.body#/id"},
        "cancel_order": {"id": "$response.body#/id"},
        "list_orders": {"user_id": "$response.body#/user_id"},
    },
    headers={KEY_HEADER: ("repeat a request with the same key, and it is carried out once", f"^({_KEY.pattern})$")},
    problems=[
        "malformed-request",
        "unsupported-media-type",
        "body-too-large",
        "invalid-fields",
        "unknown-user",
        "unknown-sku",
        "idempotency-key-reused",
        "out-of-stock",
        "idempotency-in-progress",
        "dependency-unavailable",
        "storage-unavailable",
    ],
)
async def create_order(request: web.Request) -> web.Response:
    key, checkout = _key(request), request.app[CHECKOUT]
    try:
        new = await _new_order(request)
    except Problem as problem:
        if key is None or problem.status != 422:
            raise
        answer, repeated = await checkout.refuse(problem, key, hashlib.sha256(await request.read()).hexdigest())
    else:
        answer, repeated = await checkout.place(new, key)
    headers = {"Content-Type": "application/json" if answer.status < 400 else CONTENT_TYPE}
    if answer.location is not None:
        headers["Location"] = answer.location
    if repeated:
        headers["Idempotent-Replayed"] = "true"
    return web.Response(status=answer.status, body=answer.body, headers=headers)


@routes.add(
    "GET",
    "/orders/{id}",
    "Get one order",
    {200: Order},
    path_types=ID_TYPE,
    problems=["not-found", "storage-unavailable"],
)
async def get_order(request: web.Request) -> web.Response:
    order = _found(request)
    return await _shown(request, order, 200)


@routes.add(
    "POST",
    "/orders/{id}/cancel",
    "Cancel an order and give its stock back",
    {200: Order, 202: Order},
    path_types=ID_TYPE,
    links={"get_order": {"id": "$response.body#/id"}},
    problems=["not-found", "not-cancellable", "storage-unavailable"],
)
async def cancel_order(request: web.Request) -> web.Response:
    order = _found(request)
    status = order.status
    if status == "confirmed":
        status = await request.app[CHECKOUT].cancel(order)
    if status in ("pending", "rejected"):
        raise Problem("not-cancellable", f"order {order.id} is {status}: only confirmed orders can be cancelled")
    order = Order(order.id, order.user_id, order.items, status, order.created_at)
    return await _shown(request, order, 202 if status == "cancelling" else 200)


async def _new_order(request: web.Request) -> NewOrder:
    new = await body(request, NewOrder)
    seen: set[str] = set()
    for i, line in enumerate(new.items):
        if line.sku in seen:
            raise invalid([Fault(("items", i, "sku"), f"{line.sku} is there twice: add the quantities")])
        seen.add(line.sku)
    return new


def _found(request: web.Request) -> Order:
    order_id = request.match_info["id"]
    order = request.app[STORE].get(order_id) if len(order_id) <= 64 and order_id.isascii() else None
    if order is None:
        raise Problem("not-found", f"there is no order {order_id}")
    return order


def _key(request: web.Request) -> str | None:
    given = request.headers.getall(KEY_HEADER, [])
    if not given:
        return None
    found = _KEY.fullmatch(given[0])
    if found is None or len(given) > 1:
        detail = "expected one, of 1 to 255 printable ASCII characters, bare, if without spaces, or in double quotes"
        raise Problem("malformed-request", f"{KEY_HEADER}: {detail}", errors=[FieldError(KEY_HEADER, detail)])
    return found[1] or found[2]


async def _shown(request: web.Request, order: Order, status: int) -> web.Response:
    orders, lacking = await _with_products(request.app[INVENTORY], [order])
    if lacking is None:
        return reply(orders[0], status)
    shown = Order(order.id, order.user_id, order.items, order.status, order.created_at, ["inventory"])
    return reply(shown, status, degraded_headers(note("inventory", lacking)))


async def _with_products(inventory: Edge, orders: list[Order]) -> tuple[list[Order], CallError | None]:
    """The orders with their products, or without them and with the reason why."""
    skus = {item.sku for order in orders for item in order.items}
    if not skus:
        return orders, None
    try:
        products = await products_of(inventory, skus)
    except CallError as error:
        return orders, error
    return [order.with_products(products) for order in orders], None


def create_app(context: Context) -> web.Application:
    """The orders service, ready to be mounted."""
    app = web.Application()
    users, app[INVENTORY] = context.peers["users"], context.peers["inventory"]

    async def running(app: web.Application) -> AsyncIterator[None]:
        database = Database(context.database, MIGRATIONS, DEMONSTRATION, context.committed)
        app[STORE] = OrderStore(database)
        app[CHECKOUT] = checkout = Checkout(app[STORE], users, app[INVENTORY], context.log)
        reconciler = asyncio.create_task(checkout.reconcile(), name="orders-reconciler")
        yield
        await checkout.finish(context.grace)
        reconciler.cancel()  # first, lest it begin with what is cut here
        await asyncio.wait([reconciler])
        await checkout.close()
        await database.close()

    app.cleanup_ctx.append(running)
    routes.mount(app, context.state, context.version)
    return app
