"""The users service over HTTP."""

from collections.abc import AsyncIterator
from typing import Annotated, Literal

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType

from meshlite.context import Context
from meshlite.errors import CallError
from meshlite.resilience.edge import Edge
from meshlite.services.users.domain import EmailTaken, NewUser, User, UserChange
from meshlite.services.users.peers import orders_of
from meshlite.services.users.store import DEMONSTRATION, MIGRATIONS, UserStore
from meshlite.storage import Database
from meshlite.wire.degraded import degraded_headers, note
from meshlite.wire.messages import Page, body, cursor_after, query, read_number, reply
from meshlite.wire.problems import Problem
from meshlite.wire.routes import Routes

STORE = web.AppKey("store", UserStore)
ORDERS = web.AppKey("orders", Edge)
ID = r"{id:0|[1-9][0-9]{0,17}}"
ID_TYPE = {"id": Annotated[int, Meta(ge=0, lt=10**18)]}

routes = Routes(
    "meshlite users", "Who may order. With `include=orders` it asks the orders service, and does without it."
)


AsTold = Annotated[
    msgspec.Raw, Meta(extra_json_schema={"type": "object", "description": "an order, as orders tells it"})
]


class UserList(Struct, frozen=True):
    """A page of users; `next` is the cursor of the page after it, null at the end."""

    users: list[User]
    next: str | None


class UserQuery(Struct, frozen=True):
    """What is asked for besides."""

    include: Annotated[Literal["orders"] | None, Meta(description="the user's orders, the newest 50 at most")] = None


class UserView(User, frozen=True, kw_only=True):
    """A user, with its orders where they were asked for: null, and named in `degraded`, where they cannot be had."""

    orders: list[AsTold] | UnsetType | None = UNSET
    degraded: list[str] | UnsetType = UNSET


@routes.add(
    "GET",
    "/users",
    "List users, in the order of their ids",
    {200: UserList},
    query=Page,
    problems=["malformed-request", "invalid-fields", "storage-unavailable"],
)
async def list_users(request: web.Request) -> web.Response:
    page = query(request, Page)
    users = request.app[STORE].page(read_number("users", page.cursor, 0), page.limit + 1)
    more = len(users) > page.limit
    users = users[: page.limit]
    return reply(UserList(users, cursor_after("users", users[-1].id) if more else None))


@routes.add(
    "POST",
    "/users",
    "Create a user",
    {201: User},
    body=NewUser,
    links={name: {"id": "$response.body#/id"} for name in ("get_user", "change_user", "delete_user")},
    problems=[
        "malformed-request",
        "unsupported-media-type",
        "body-too-large",
        "invalid-fields",
        "email-taken",
        "storage-unavailable",
    ],
)
async def create_user(request: web.Request) -> web.Response:
    new = await body(request, NewUser)
    try:
        user = await request.app[STORE].create(new)
    except EmailTaken as error:
        raise _taken(error) from error
    return reply(user, 201, {"Location": f"/users/{user.id}"})


@routes.add(
    "GET",
    f"/users/{ID}",
    "Get one user",
    {200: UserView},
    query=UserQuery,
    path_types=ID_TYPE,
    problems=["not-found", "invalid-fields", "storage-unavailable"],
)
async def get_user(request: web.Request) -> web.Response:
    include = query(request, UserQuery).include
    user = _found(request, request.app[STORE].get(_id(request)))
    if include is None:
        return reply(user)
    try:
        found = await orders_of(request.app[ORDERS], user.id)
    except CallError as error:
        view = UserView(user.id, user.name, user.email, user.created_at, orders=None, degraded=["orders"])
        return reply(view, headers=degraded_headers(note("orders", error)))
    view = UserView(user.id, user.name, user.email, user.created_at, orders=found.orders, degraded=found.degraded)
    return reply(view, headers=degraded_headers(found.note) if found.note else None)


@routes.add(
    "PATCH",
    f"/users/{ID}",
    "Change a user",
    {200: User},
    body=UserChange,
    path_types=ID_TYPE,
    problems=[
        "malformed-request",
        "unsupported-media-type",
        "body-too-large",
        "invalid-fields",
        "not-found",
        "email-taken",
        "storage-unavailable",
    ],
)
async def change_user(request: web.Request) -> web.Response:
    change = await body(request, UserChange)
    try:
        user = await request.app[STORE].change(_id(request), change)
    except EmailTaken as error:
        raise _taken(error) from error
    return reply(_found(request, user))


@routes.add(
    "DELETE",
    f"/users/{ID}",
    "Delete a user without orders",
    {204: None},
    path_types=ID_TYPE,
    problems=["not-found", "user-has-orders", "storage-unavailable", "dependency-unavailable"],
)
async def delete_user(request: web.Request) -> web.Response:
    user_id = _id(request)
    _found(request, request.app[STORE].get(user_id))
    if (await orders_of(request.app[ORDERS], user_id, limit=1)).orders:
        raise Problem("user-has-orders", f"user {user_id} has orders, and they have to keep their user")
    if not await request.app[STORE].delete(user_id):
        _found(request, None)
    return web.Response(status=204)


def _id(request: web.Request) -> int:
    return int(request.match_info["id"])


def _found(request: web.Request, user: User | None) -> User:
    if user is None:
        raise Problem("not-found", f"there is no user {request.match_info['id']}")
    return user


def _taken(error: EmailTaken) -> Problem:
    return Problem("email-taken", f"another user has the email {error}")


def create_app(context: Context) -> web.Application:
    """The users service, ready to be mounted."""
    app = web.Application()
    app[ORDERS] = context.peers["orders"]

    async def database(app: web.Application) -> AsyncIterator[None]:
        database = Database(context.database, MIGRATIONS, DEMONSTRATION, context.committed)
        app[STORE] = UserStore(database)
        yield
        await database.close()

    app.cleanup_ctx.append(database)
    routes.mount(app, context.state, context.version)
    return app
