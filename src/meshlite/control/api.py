"""The control plane over HTTP: the services and their edges, the config, the log, and what is to become of them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Literal

from aiohttp import web
from msgspec import Meta, Struct
from msgspec.structs import asdict

from meshlite import __version__
from meshlite.config import EDGES, HOT, SERVICES
from meshlite.control import overview, traces  # noqa: F401  their routes
from meshlite.control.base import FEED, LINES, MESH, RATES, Lines, routes, unknown
from meshlite.control.feed import KINDS, Feed
from meshlite.control.guard import make_guard
from meshlite.control.history import HISTORY, History
from meshlite.control.load import TRAFFIC, Traffic
from meshlite.control.overview import edge_shown, edge_views
from meshlite.control.page import PAGE, Page, page_file
from meshlite.control.rates import Rate, Rates
from meshlite.control.text import reply
from meshlite.control.views import EdgeList, EdgeView, ServiceList, ServiceView, service_view
from meshlite.errors import StartError
from meshlite.events import BreakerMoved
from meshlite.keys import flat, sources
from meshlite.mesh import Mesh
from meshlite.resilience.edge import Edge
from meshlite.wire.messages import Text, body, query
from meshlite.wire.problems import Problem

_CHANGES = ("foreign-origin", "unsupported-media-type")
_OF_BODIES = ("body-too-large", "invalid-fields")


class NewMode(Struct, frozen=True, forbid_unknown_fields=True):
    """The mode of an edge's breakers."""

    mode: Literal["auto", "forced_open", "disabled", "metrics_only"]


class ResetReport(Struct, frozen=True):
    """What was switched off, closed and started, and the services that cannot be started."""

    faults: list[str]
    breakers: list[str]
    services: list[str]
    not_started: list[str]


class ConfigValue(Struct, frozen=True):
    """A value in force, and where it came from: "default", "file", "flag" or "api"."""

    key: str
    value: Any
    source: str


class ConfigView(Struct, frozen=True):
    """All values in force, the file they were read from, and the keys whose new values wait for a restart.

    `problems` are what is wrong with the file just now: what was in force before stays.
    """

    config: list[ConfigValue]
    file: str | None
    needs_restart: list[str]
    problems: list[str]
    problems_since: str | None


class ConfigQuery(Struct, frozen=True):
    """The keys that begin so, such as `edges.orders.`; all of them if not given."""

    prefix: Text | None = None


class LogQuery(Struct, frozen=True):
    """The last so many lines, of one service, of one event, of at least a level."""

    limit: Annotated[int, Meta(ge=1, le=1_000, description="how many at the most")] = 100
    service: Text | None = None
    event: Text | None = None
    level: Literal["debug", "info", "warning", "error"] = "debug"


class LogList(Struct, frozen=True):
    """Lines of the log, the newest first."""

    logs: list[dict[str, Any]]


@routes.add("GET", "/api/services", "List the services", {200: ServiceList})
async def list_services(request: web.Request) -> web.Response:
    rates = request.app[RATES].now()
    return reply(ServiceList([service_view(service, rates) for service in request.app[MESH].services.values()]))


@routes.add(
    "POST",
    "/api/services/{name}/{action}",
    "Stop it (what is in flight may finish), kill it (nothing may), start it, or stop and start it",
    {200: ServiceView},
    path_types={"name": Literal["users", "orders", "inventory"], "action": Literal["start", "stop", "kill", "restart"]},
    problems=(*_CHANGES, "not-found", "not-started"),
)
async def command_service(request: web.Request) -> web.Response:
    mesh, name, action = request.app[MESH], request.match_info["name"], request.match_info["action"]
    commands = {
        "start": mesh.start_service,
        "stop": mesh.stop_service,
        "kill": mesh.kill_service,
        "restart": mesh.restart_service,
    }
    if name not in SERVICES:
        raise unknown("service", name, SERVICES)
    if action not in commands:
        raise unknown("action", action, commands)
    try:
        await commands[action](name)
    except StartError as error:
        raise Problem("not-started", str(error)) from error
    return reply(service_view(mesh.services[name], request.app[RATES].now()))


@routes.add("GET", "/api/edges", "List the edges, with their policies and breakers", {200: EdgeList})
async def list_edges(request: web.Request) -> web.Response:
    return reply(EdgeList(edge_views(request.app, request.app[RATES].now())))


_OF_EDGE: dict[str, Any] = {
    "path_types": {"caller": Literal["users", "orders"], "callee": Literal["users", "orders", "inventory"]},
    "problems": ("malformed-request", *_CHANGES, "not-found", "no-breaker", *_OF_BODIES),
}


def _of(request: web.Request) -> Edge:
    caller, callee = request.match_info["caller"], request.match_info["callee"]
    edge = request.app[MESH].edges.get((caller, callee))
    if edge is None:
        raise unknown("edge", f"{caller}→{callee}", [f"{caller}→{callee}" for caller, callee in EDGES])
    return edge


@routes.add(
    "GET",
    "/api/edges/{caller}/{callee}",
    "Get one edge",
    {200: EdgeView},
    path_types=_OF_EDGE["path_types"],
    problems=("not-found",),
)
async def get_edge(request: web.Request) -> web.Response:
    return reply(edge_shown(request.app, _of(request)))


@routes.add(
    "PUT",
    "/api/edges/{caller}/{callee}/breaker",
    "Set the mode of an edge's breakers",
    {200: EdgeView},
    body=NewMode,
    **_OF_EDGE,
)
async def set_breaker(request: web.Request) -> web.Response:
    edge = _of(request)
    new = await body(request, NewMode)
    try:
        edge.set_mode(new.mode)
    except ValueError as error:
        raise Problem("no-breaker", str(error)) from error
    return reply(edge_shown(request.app, edge))


@routes.add(
    "POST", "/api/edges/{caller}/{callee}/breaker/reset", "Close an edge's breakers", {200: EdgeView}, **_OF_EDGE
)
async def reset_breaker(request: web.Request) -> web.Response:
    edge = _of(request)
    edge.reset()
    return reply(edge_shown(request.app, edge))


@routes.add(
    "POST",
    "/api/reset",
    "All faults off, all breakers closed, all services started",
    {200: ResetReport},
    problems=(*_CHANGES, "not-started"),
)
async def reset(request: web.Request) -> web.Response:
    mesh = request.app[MESH]
    switched = [name for name, rule in mesh.config.faults.items() if rule.enabled]
    for name in switched:
        mesh.inforce.edit(name, {"enabled": False})
    started: list[str] = []
    failed: dict[str, str] = {}
    for name, service in mesh.services.items():
        if service.state != "running":
            try:
                await mesh.start_service(name)
                started.append(name)
            except StartError as error:  # the rest is done all the same
                failed[name] = str(error)
    closed = []
    for edge in mesh.edges.values():
        if edge.mode != "auto" or any(not breaker.pristine for _, breaker in edge.breakers()):
            closed.append(edge.name)
        edge.reset()
    report = ResetReport(switched, closed, started, list(failed))
    if failed:
        raise Problem("not-started", "; ".join(failed.values()), more=asdict(report))
    return reply(report)


@routes.add(
    "GET",
    "/api/config",
    "The config in force, and where each value came from",
    {200: ConfigView},
    query=ConfigQuery,
    problems=("invalid-fields",),
)
async def get_config(request: web.Request) -> web.Response:
    mesh, prefix = request.app[MESH], query(request, ConfigQuery).prefix or ""
    config, begun = mesh.config, sources(mesh.inforce.begun, prefix)
    origin = sources(config, prefix) | {key: source for key, source in begun.items() if key.split(".", 1)[0] not in HOT}
    values = [
        ConfigValue(key, "hidden" if key == "control.token" and value else value, origin[key])
        for key, value in flat(config, prefix).items()
    ]
    kept = mesh.inforce
    file = str(config.path) if config.path else None
    return reply(ConfigView(values, file, list(kept.waiting), list(kept.problems), kept.problems_since))


_LEVELS = ("debug", "info", "warning", "error")


@routes.add(
    "GET", "/api/logs", "The last lines of the log", {200: LogList}, query=LogQuery, problems=("invalid-fields",)
)
async def list_logs(request: web.Request) -> web.Response:
    asked = query(request, LogQuery)
    found: list[dict[str, Any]] = []
    for line in request.app[LINES]():
        if asked.service is not None and line.get("service") != asked.service:
            continue
        if asked.event is not None and line.get("event") != asked.event:
            continue
        if _LEVELS.index(line["level"]) >= _LEVELS.index(asked.level):
            found.append(dict(line))
        if len(found) >= asked.limit:
            break
    return reply(LogList(found))


@routes.add(
    "GET",
    "/api/events",
    "The mesh's facts as they come: server-sent events, each `data` a JSON object",
    {200: str},
    media="text/event-stream",
    headers={
        "Last-Event-ID": ("the id of the event that was seen last: what came after it comes first", r"^[\x21-\x7e]+$")
    },
    problems=("overloaded",),
)
async def events(request: web.Request) -> web.StreamResponse:
    return await request.app[FEED].serve(request)


@routes.add("GET", "/metrics", "All metrics, as Prometheus reads them", {200: str}, media="text/plain")
async def metrics(request: web.Request) -> web.Response:
    body, kind = request.app[MESH].metrics.exposition(",".join(request.headers.getall("Accept", ())))
    return web.Response(body=body, headers={"Content-Type": kind, "Vary": "Accept"})


async def _sampling(app: web.Application) -> AsyncIterator[None]:
    """Once a second, for as long as the app runs: rates are sampled, and the feed told of them; breakers looked at."""
    mesh, feed, history = app[MESH], app[FEED], app[HISTORY]

    def each(rates: dict[str, Rate]) -> None:
        rates.pop("control", None)  # to ask how the mesh fares is no traffic of the mesh's
        outcomes = history.tell(rates, mesh.metrics.outcomes())
        if rates:
            feed.tell("requests.summarized", {"rates": rates, "outcomes": outcomes})
        for edge in mesh.edges.values():
            for _, breaker in edge.breakers():
                _ = breaker.state  # time alone moves a breaker too, and it says so to whoever looks

    task = asyncio.create_task(app[RATES].run(each, mesh.log), name="rates")
    yield
    task.cancel()
    await asyncio.wait([task])


_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


async def _for_browsers(_: web.Request, response: web.StreamResponse) -> None:
    """What is said here is kept by nobody, taken for nothing else, and is no part of another site's page."""
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)


async def _end(app: web.Application) -> None:
    app[FEED].close()
    await app[TRAFFIC].stop()


def create_app(mesh: Mesh, lines: Lines = tuple) -> tuple[web.Application, Callable[[web.Request], None]]:
    """The control app of `mesh`, and the guard at its door. `lines` gives the log's last lines, the newest first."""
    app = web.Application()
    app[MESH], app[FEED], app[LINES] = mesh, Feed(), lines
    app[RATES], app[HISTORY], app[PAGE] = Rates(mesh.metrics.tallies, mesh.clock), History(), Page()
    app[TRAFFIC] = Traffic(mesh)
    mesh.bus.subscribe(app[FEED].hear, *KINDS)
    mesh.bus.subscribe(app[HISTORY].hear, BreakerMoved)
    app.cleanup_ctx.append(_sampling)
    app.on_shutdown.append(_end)
    app.on_response_prepare.append(_for_browsers)
    routes.mount(app, lambda: mesh.state, __version__)
    app.router.add_get("/page/{file}", page_file)
    return app, make_guard(mesh.config)
