"""The rival: the same three services in bare aiohttp, in one process on one uvloop loop, answering from memory.

Written for speed, as one who knows aiohttp would: no access log, no middleware, no validation, msgspec for JSON, one
ClientSession for all hops with no limit of its own, no cookies, no default headers that nobody reads. No policies, no
metrics, no logs, no database. What it answers to a GET is what meshlite answers on its demonstration data.

    python benchmarks/bare.py USERS_PORT ORDERS_PORT INVENTORY_PORT

`GET /users/{id}` · `GET /orders?user_id=` (one hop, to inventory) · `GET /inventory?sku=` · `PUT /reservations/{id}` ·
`POST /orders` (a hop to users and one to inventory, as meshlite's; nothing durable)
"""

import asyncio
import sys
import uuid
from urllib.parse import urlencode

import aiohttp
import msgspec
import uvloop
from aiohttp import web
from yarl import URL

USERS = {1: {"id": 1, "name": "Ada Lovelace", "email": "ada@example.com", "created_at": "2026-01-05T09:00:00Z"}}
PRODUCTS = {
    sku: {
        "sku": sku,
        "name": name,
        "unit_price": price,
        "on_hand": on_hand,
        "reserved": reserved,
        "available": on_hand - reserved,
    }
    for sku, name, price, on_hand, reserved in (
        ("SKU-1", "Espresso cup", 900, 5000, 3),
        ("SKU-2", "Moka pot", 3450, 400, 1),
        ("SKU-3", "Hand grinder", 7900, 120, 0),
        ("SKU-4", "Kettle", 5200, 80, 1),
        ("SKU-5", "Kitchen scale", 2800, 60, 0),
    )
}
ORDERS = {
    1: [
        {
            "id": "00000000-0000-4000-8000-000000000001",
            "user_id": 1,
            "items": [
                {"sku": "SKU-1", "quantity": 2, "unit_price": 900},
                {"sku": "SKU-2", "quantity": 1, "unit_price": 3450},
            ],
            "status": "confirmed",
            "created_at": "2026-01-08T08:00:00Z",
        }
    ]
}
SESSION = web.AppKey("session", aiohttp.ClientSession)
PEERS = web.AppKey("peers", dict[str, str])
encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder().decode


def reply(value: object, status: int = 200) -> web.Response:
    return web.Response(body=encode(value), status=status, headers={"Content-Type": "application/json"})


async def get_user(request: web.Request) -> web.Response:
    user = USERS.get(int(request.match_info["id"]))
    return reply(user) if user else reply({"detail": "no such user"}, 404)


async def list_orders(request: web.Request) -> web.Response:
    orders = ORDERS.get(int(request.query["user_id"]), [])
    skus = sorted({item["sku"] for order in orders for item in order["items"]})
    query = urlencode([("sku", sku) for sku in skus])
    url = URL(f"{request.app[PEERS]['inventory']}/inventory?{query}", encoded=True)
    async with request.app[SESSION].get(url) as response:
        products = {product["sku"]: product for product in decode(await response.read())["items"]}
    shown = [
        {**order, "items": [{**item, "product": products.get(item["sku"])} for item in order["items"]]}
        for order in orders
    ]
    return reply({"orders": shown, "next": None, "degraded": []})


async def create_order(request: web.Request) -> web.Response:
    new = decode(await request.read())
    session, peers = request.app[SESSION], request.app[PEERS]
    async with session.get(URL(f"{peers['users']}/users/{new['user_id']}", encoded=True)) as response:
        await response.read()
        if response.status != 200:
            return reply({"detail": "no such user"}, 422)
    order_id = str(uuid.uuid4())
    url = URL(f"{peers['inventory']}/reservations/{order_id}", encoded=True)
    async with session.put(url, data=encode({"items": new["items"]})) as response:
        items = decode(await response.read())["items"]
    order = {"id": order_id, "user_id": new["user_id"], "items": items, "status": "confirmed"}
    return reply(order, 201)


async def list_products(request: web.Request) -> web.Response:
    skus = request.query.getall("sku", PRODUCTS)
    return reply({"items": [PRODUCTS[sku] for sku in skus if sku in PRODUCTS], "next": None})


async def put_reservation(request: web.Request) -> web.Response:
    lines = decode(await request.read())["items"]
    items = [
        {**line, "unit_price": PRODUCTS[line["sku"]]["unit_price"], "product": PRODUCTS[line["sku"]]} for line in lines
    ]
    return reply({"order_id": request.match_info["order_id"], "items": items}, 201)


async def main(users: int, orders: int, inventory: int) -> None:
    """Serve until told to stop."""
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("User-Agent", "Accept-Encoding"),
    )
    peers = {"users": f"http://127.0.0.1:{users}", "inventory": f"http://127.0.0.1:{inventory}"}
    for port, routes in (
        (users, [web.get("/users/{id}", get_user)]),
        (orders, [web.get("/orders", list_orders), web.post("/orders", create_order)]),
        (inventory, [web.get("/inventory", list_products), web.put("/reservations/{order_id}", put_reservation)]),
    ):
        app = web.Application()
        app[SESSION], app[PEERS] = session, peers
        app.add_routes(routes)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(*map(int, sys.argv[1:4])))
