"""A service's routes, said once: what aiohttp serves, and what the OpenAPI document says of it."""

import functools
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import Payload, web
from aiohttp.abc import AbstractStreamWriter

from meshlite.events import PROBES
from meshlite.wire.messages import is_list, no_query, reply
from meshlite.wire.problems import CONTENT_TYPE, TYPES, Problem, ProblemDocument

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_REGEX = re.compile(r"\{(\w+):(?:[^{}]|\{[^{}]*\})+\}")
_SCHEMA = "#/components/schemas/{name}"
SWAGGER = Path(__file__).parents[1] / "swagger"


@dataclass(frozen=True, slots=True)
class Route:
    """One operation. `answers` maps a status to the body's type (None: no body); `problems` are their types.

    `media` is the content type of an answer with a body. `headers` are those that the operation reads, each with a
    description and a pattern. `links` maps operations that may follow success to their
    parameters, said as OpenAPI's runtime expressions.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    answers: Mapping[int, Any]
    query: type[msgspec.Struct] | None = None
    body: Any = None
    problems: Sequence[str] = ()
    headers: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    path_types: Mapping[str, Any] = field(default_factory=dict)
    media: str = "application/json"
    links: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    body_required: bool = True

    @property
    def template(self) -> str:
        """The path without the patterns of its parameters."""
        return _REGEX.sub(r"{\1}", self.path)


class Routes:
    """A service's operations, in order. `problems` are those that any of them may end in."""

    def __init__(self, title: str, description: str, problems: Sequence[str] = ()) -> None:
        self.title = title
        self.description = description
        self.problems = problems
        self._routes: list[Route] = []

    def add(
        self, method: str, path: str, summary: str, answers: Mapping[int, Any], **more: Any
    ) -> Callable[[Handler], Handler]:
        """A decorator that makes a handler an operation; `more` is as in `Route`."""

        def register(handler: Handler) -> Handler:
            self._routes.append(Route(method, path, handler, summary, answers, **more))
            return handler

        return register

    def mount(self, app: web.Application, state: Callable[[], str], version: str) -> None:
        """Serve all of it from `app`, with `/healthz`, `/readyz`, `/openapi.json` and `/docs`."""
        document = b""

        async def healthz(_: web.Request) -> web.Response:
            return reply({"status": "ok"})

        async def readyz(_: web.Request) -> web.Response:
            now = state()
            return reply({"status": now}, 200 if now == "running" else 503)

        async def openapi(_: web.Request) -> web.Response:
            nonlocal document
            document = document or msgspec.json.encode(_document(self, version, operations))
            return web.Response(body=document, content_type="application/json")

        operations = [
            *self._routes,
            Route("GET", "/healthz", healthz, "Is it alive?", {200: dict[str, str]}),
            Route("GET", "/readyz", readyz, "Does it take requests?", {200: dict[str, str], 503: dict[str, str]}),
        ]
        for route in operations:
            handler = route.handler if route.query or route.path in (*PROBES, "/") else _without_query(route.handler)
            if route.method == "GET":
                app.router.add_get(route.path, handler)  # and HEAD with it
            else:
                app.router.add_route(route.method, route.path, handler)
        app.router.add_get("/openapi.json", openapi)
        app.router.add_get("/docs", _docs(self.title))
        app.router.add_get("/docs/{file}", _docs_file)


def _without_query(handler: Handler) -> Handler:
    """`handler`, for which a query is a mistake."""

    async def checked(request: web.Request) -> web.StreamResponse:
        no_query(request)
        return await handler(request)

    return checked


def _document(routes: Routes, version: str, operations: Sequence[Route]) -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    kinds = {kind for route in operations for kind in (*route.answers.values(), route.body) if kind is not None}
    kinds |= {item.type for route in operations if route.query for item in msgspec.structs.fields(route.query)}
    kinds |= {kind for route in operations for kind in route.path_types.values()} | {ProblemDocument}
    ordered = sorted(kinds, key=str)
    schemas, components = msgspec.json.schema_components(ordered, ref_template=_SCHEMA)
    schemas, components = _portable(schemas), _portable(components)
    schema_of = dict(zip(ordered, schemas, strict=True))
    paths: dict[str, Any] = {}
    for route in operations:
        paths.setdefault(route.template, {})[route.method.lower()] = {
            "tags": ["probes" if route.template in PROBES else routes.title.removeprefix("meshlite ")],
            **_operation(route, schema_of, routes.problems),
        }
    info = {
        "title": routes.title,
        "version": version,
        "description": routes.description,
        "license": {"name": "MIT", "identifier": "MIT"},
    }
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": {"schemas": components}}


_SPACES = r"\x09-\x0d\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_ECMA = (("$(?!\\n)", "$"), (r"\ud800-\udfff", ""), (r"\s", _SPACES))
"""What our patterns have that ECMA-262 writes otherwise: the very end, half a character (which it has none of), and
Python's white space, which is not quite that of ECMA. The latter two are only ever parts of `[...]`."""


def _portable(schema: Any) -> Any:
    """A schema with its patterns in the dialect that JSON Schema means."""
    match schema:
        case {"pattern": str(pattern)}:
            for ours, theirs in _ECMA:
                pattern = pattern.replace(ours, theirs)
            return {**schema, "pattern": pattern}
        case dict():
            return {key: _portable(value) for key, value in schema.items()}
        case list() | tuple():
            return [_portable(item) for item in schema]
    return schema


def _operation(route: Route, schema_of: Mapping[Any, Any], problems: Sequence[str]) -> dict[str, Any]:
    parameters = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": schema_of.get(route.path_types.get(name), {"type": "string"}),
        }
        for name in re.findall(r"\{(\w+)\}", route.template)
    ]
    for item in msgspec.structs.fields(route.query) if route.query else ():
        schema = schema_of[item.type]
        if "anyOf" in schema:  # None only stands for "not given", which a query has no word for
            (arm,) = [arm for arm in schema["anyOf"] if arm != {"type": "null"}]
            schema = {**schema, **arm}
            del schema["anyOf"]
        style = {"style": "form", "explode": True} if is_list(item.type) else {}
        parameters.append({"name": item.encode_name, "in": "query", "required": False, "schema": schema, **style})
    for name, (description, pattern) in route.headers.items():
        schema = {"type": "string", "pattern": pattern}
        parameters.append(
            {"name": name, "in": "header", "description": description, "required": False, "schema": schema}
        )
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": route.handler.__name__,
        "parameters": parameters,
    }
    if route.body is not None:
        operation["requestBody"] = {
            "required": route.body_required,
            "content": {"application/json": {"schema": schema_of[route.body]}},
        }
    operation["responses"] = _responses(route, schema_of, [*route.problems, *problems])
    return operation


def _responses(route: Route, schema_of: Mapping[Any, Any], kinds: Sequence[str]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, kind in route.answers.items():
        content = {"content": {route.media: {"schema": schema_of[kind]}}} if kind is not None else {}
        links = {name: {"operationId": name, "parameters": parameters} for name, parameters in route.links.items()}
        responses[str(status)] = {"description": _PHRASES[status], **content, **({"links": links} if links else {})}
    problems: dict[int, list[str]] = {}
    for kind in kinds:
        problems.setdefault(TYPES[kind][0], []).append(kind)
    for status, names in sorted(problems.items()):
        content = {CONTENT_TYPE: {"schema": schema_of[ProblemDocument]}}
        described = "; ".join(f"{TYPES[name][1]} (`{name}`)" for name in names)
        responses[str(status)] = {"description": described, "content": content}
    return responses


_PHRASES = {200: "Here it is", 201: "Created", 202: "Accepted, will be completed", 204: "Done, no body", 503: "Not now"}


_DOCS = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><link rel="stylesheet" href="/docs/swagger-ui.css"><link rel="icon" href="data:,"></head>
<body><div id="docs"></div><script src="/docs/swagger-ui-bundle.js"></script><script src="/docs/start.js"></script>
</body></html>
"""
_START = 'SwaggerUIBundle({url: "/openapi.json", dom_id: "#docs", deepLinking: true, tryItOutEnabled: true});\n'
_POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PIECE = 65_536
_AS_SAID = {"X-Content-Type-Options": "nosniff"}


def _docs(title: str) -> Handler:
    async def docs(_: web.Request) -> web.StreamResponse:
        page = _DOCS.format(title=title)
        return web.Response(
            text=page, content_type="text/html", headers={"Content-Security-Policy": _POLICY, **_AS_SAID}
        )

    return docs


@functools.cache
def _swagger(name: str) -> bytes:
    """A file of Swagger UI, read once. Not by aiohttp: a part (`Range`) would be refused past every middleware."""
    return (SWAGGER / name).read_bytes()


class _Pieces(Payload):
    """A body that goes out as it is taken: a client that reads nothing holds a piece of it, not a copy of it all."""

    def __init__(self, value: bytes) -> None:
        super().__init__(value)
        self._size = len(value)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return str(self._value, encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        for start in range(0, len(self._value), _PIECE):
            await writer.write(self._value[start : start + _PIECE])


async def _docs_file(request: web.Request) -> web.StreamResponse:
    name = request.match_info["file"]
    if name == "start.js":
        return web.Response(text=_START, content_type="text/javascript", headers=_AS_SAID)
    if name in {"swagger-ui.css", "swagger-ui-bundle.js"}:
        kind = "text/css" if name.endswith(".css") else "text/javascript"
        headers = {"Cache-Control": "max-age=86400", **_AS_SAID}
        return web.Response(body=_Pieces(_swagger(name)), content_type=kind, headers=headers)
    raise Problem("not-found", f"no file {name} here")
