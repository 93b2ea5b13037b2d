"""All that the dashboard shows of the present moment, in one answer: it asks once a second, and after each event."""

from aiohttp import web
from msgspec import Struct

from meshlite import __version__
from meshlite.control.base import FEED, MESH, RATES, routes
from meshlite.control.faults import FaultView, view
from meshlite.control.history import HISTORY
from meshlite.control.load import TRAFFIC, LoadView
from meshlite.control.rates import Rate
from meshlite.control.text import reply
from meshlite.control.views import EdgeView, ServiceView, edge_view, service_view
from meshlite.resilience.edge import Edge
from meshlite.wire.times import now


class Overview(Struct, frozen=True):
    """The mesh at this moment. `run` is another text after each start of the mesh.

    `durable` is whether a service finds its data again after a stop: not where `mesh.data` is ":memory:".
    """

    at: str
    run: str
    version: str
    state: str
    durable: bool
    services: list[ServiceView]
    edges: list[EdgeView]
    faults: list[FaultView]
    load: LoadView


def edge_views(app: web.Application, rates: dict[str, Rate]) -> list[EdgeView]:
    """All edges."""
    mesh, history = app[MESH], app[HISTORY]
    total, admission = mesh.metrics.outcomes(), mesh.config.policy.admission
    return [edge_view(edge, admission, rates, history.recent(edge.name, total)) for edge in mesh.edges.values()]


def edge_shown(app: web.Application, edge: Edge) -> EdgeView:
    """One edge."""
    mesh = app[MESH]
    recent = app[HISTORY].recent(edge.name, mesh.metrics.outcomes())
    return edge_view(edge, mesh.config.policy.admission, app[RATES].now(), recent)


@routes.add("GET", "/api/overview", "Services, edges and faults at once", {200: Overview})
async def get_overview(request: web.Request) -> web.Response:
    app, mesh = request.app, request.app[MESH]
    rates = app[RATES].now()
    return reply(
        Overview(
            at=now(),
            run=app[FEED].boot,
            version=__version__,
            state=mesh.state,
            durable=mesh.config.data is not None,
            services=[service_view(service, rates) for service in mesh.services.values()],
            edges=edge_views(app, rates),
            faults=[view(mesh, name) for name in mesh.config.faults],
            load=app[TRAFFIC].view(),
        )
    )
