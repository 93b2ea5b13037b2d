"""The control plane over HTTP."""

from collections.abc import Callable

from aiohttp import web
from msgspec import Struct

from meshlite import __version__
from meshlite.config import EdgePolicy
from meshlite.control.guard import make_guard
from meshlite.mesh import Mesh
from meshlite.wire.messages import reply
from meshlite.wire.routes import Routes

MESH = web.AppKey("mesh", Mesh)
routes = Routes("meshlite control", "What is running, and how it fares.")


class ServiceView(Struct, frozen=True):
    """A service: where it is, and whether it takes requests."""

    name: str
    url: str
    state: str
    in_flight: int


class ServiceList(Struct, frozen=True):
    """All services."""

    services: list[ServiceView]


class BreakerView(Struct, frozen=True):
    """A breaker: its state, why, and in how many seconds it lets a call in (null: now, or nobody knows)."""

    key: str
    state: str
    reason: str
    retry_after: float | None


class EdgeView(Struct, frozen=True):
    """An edge: its policy in force (null: switched off), its breakers, what is under way, attempts per request."""

    caller: str
    callee: str
    policy: EdgePolicy
    breakers: list[BreakerView]
    in_flight: int
    waiting: int
    amplification: float


class EdgeList(Struct, frozen=True):
    """All edges."""

    edges: list[EdgeView]


@routes.add("GET", "/api/services", "List the services", {200: ServiceList})
async def list_services(request: web.Request) -> web.Response:
    services = request.app[MESH].services.values()
    return reply(ServiceList([ServiceView(s.name, s.url, s.state, s.boundary.in_flight) for s in services]))


@routes.add("GET", "/api/edges", "List the edges, with their policies and breakers", {200: EdgeList})
async def list_edges(request: web.Request) -> web.Response:
    return reply(
        EdgeList(
            [
                EdgeView(
                    edge.caller,
                    edge.callee,
                    edge.policy,
                    [BreakerView(key, str(b.state), b.reason, b.retry_after) for key, b in edge.breakers()],
                    edge.in_flight,
                    edge.waiting,
                    round(edge.amplification, 3),
                )
                for edge in request.app[MESH].edges.values()
            ]
        )
    )


async def metrics(request: web.Request) -> web.Response:
    mesh = request.app[MESH]
    for edge in mesh.edges.values():  # time alone moves a breaker too, and no event tells of it until somebody looks
        for key, breaker in edge.breakers():
            mesh.metrics.breaker(edge.caller, edge.callee, key, str(breaker.state))
    body = mesh.metrics.exposition()
    return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


def create_app(mesh: Mesh) -> tuple[web.Application, Callable[[web.Request], None]]:
    """The control app of `mesh`, and the guard at its door."""
    app = web.Application()
    app[MESH] = mesh
    app.router.add_get("/metrics", metrics)
    routes.mount(app, lambda: mesh.state, __version__)
    return app, make_guard(mesh.config)
