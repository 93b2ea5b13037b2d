"""The same spans through OpenTelemetry: by its conventions, over OTLP/HTTP, only when its variables ask for it."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv.attributes import error_attributes, http_attributes, server_attributes, url_attributes
from opentelemetry.trace import SpanKind, StatusCode

from meshlite.telemetry import otel
from meshlite.telemetry.otel import Exporter
from meshlite.telemetry.traces import asked_for, protocol
from tests.conftest import FREE_PORTS, StartMesh
from tests.test_traces import PARENT, TRACE, traces

METHOD, ROUTE = http_attributes.HTTP_REQUEST_METHOD, http_attributes.HTTP_ROUTE
STATUS, RESENT = http_attributes.HTTP_RESPONSE_STATUS_CODE, http_attributes.HTTP_REQUEST_RESEND_COUNT
ERROR = error_attributes.ERROR_TYPE
Seen = InMemorySpanExporter


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def seen() -> Iterator[Seen]:
    exporter = InMemorySpanExporter()
    yield exporter
    exporter.shutdown()


def exporter(seen: Seen) -> Exporter:
    return Exporter(SimpleSpanProcessor(seen), "1.2.3", os.environ)


def by_id(seen: Seen) -> dict[str, ReadableSpan]:
    return {f"{span.context.span_id:016x}": span for span in seen.get_finished_spans()}


def named(seen: Seen, name: str) -> list[ReadableSpan]:
    return [span for span in seen.get_finished_spans() if span.name == name]


async def test_the_spans_that_go_out_are_those_that_are_kept(start_mesh: StartMesh, seen: Seen) -> None:
    """Under the same ids and parents, each with its service as resource, at the same times, once."""
    world = await start_mesh(export=exporter(seen).export)
    await world.order(("SKU-1", 1))
    (trace,) = await traces(world)
    out = by_id(seen)
    assert len(out) == len(seen.get_finished_spans()) == len(trace["spans"])
    for span in trace["spans"]:
        told = out[span["span_id"]]
        assert f"{told.context.trace_id:032x}" == trace["trace_id"]
        assert (f"{told.parent.span_id:016x}" if told.parent else None) == span["parent_id"]
        assert told.resource.attributes["service.name"] == span["service"]
        assert told.resource.attributes["service.namespace"] == "meshlite"
        assert (told.end_time - told.start_time) / 1e6 == pytest.approx(span["ms"], abs=0.01)
        assert told.instrumentation_scope.name == "meshlite"
        assert told.status.status_code is StatusCode.UNSET
    began = min(told.start_time for told in out.values())
    assert {round((out[span["span_id"]].start_time - began) / 1e6) for span in trace["spans"]} == {
        round(span["start_ms"]) for span in trace["spans"]
    }


async def test_names_kinds_and_attributes_are_those_of_the_conventions(start_mesh: StartMesh, seen: Seen) -> None:
    """What the conventions for HTTP require of a server's and of a client's span, and for databases of a commit."""
    world = await start_mesh(export=exporter(seen).export)
    await world.order(("SKU-1", 1))
    (server,) = named(seen, "POST /orders")
    assert server.kind is SpanKind.SERVER
    assert dict(server.attributes) | {"meshlite.request_id": ""} == {
        METHOD: "POST",
        ROUTE: "/orders",
        STATUS: 201,
        url_attributes.URL_PATH: "/orders",
        url_attributes.URL_SCHEME: "http",
        "meshlite.caller": "external",
        "meshlite.request_id": "",
    }
    spans = named(seen, "PUT /reservations/{order_id}")
    assert [span.kind for span in spans] == [SpanKind.SERVER, SpanKind.CLIENT]
    client = dict(spans[1].attributes)
    assert client[url_attributes.URL_FULL].startswith(world.url("inventory") + "/reservations/")
    assert world.url("inventory") == f"http://{client[server_attributes.SERVER_ADDRESS]}:{client['server.port']}"
    assert (client[METHOD], client[STATUS], client["url.template"]) == ("PUT", 201, "/reservations/{order_id}")
    assert not {RESENT, ERROR} & client.keys()
    (call,) = named(seen, "orders→inventory PUT /reservations/{order_id}")
    assert (call.kind, call.attributes["meshlite.breaker.state"]) == (SpanKind.INTERNAL, "closed")
    commit = named(seen, "COMMIT inventory")[0]
    assert (commit.kind, commit.attributes["db.system.name"]) == (SpanKind.CLIENT, "sqlite")
    assert commit.attributes["db.operation.name"] == "COMMIT"


@pytest.mark.looptime
async def test_what_failed_was_sent_again_or_refused_says_so(start_mesh: StartMesh, seen: Seen) -> None:
    """`error.type` and the status of an error; the count of repeats; a refusal is no request on the wire."""
    rule = ("service='inventory'", "kind='error'", "status=503", "times=1", "enabled=true")
    world = await start_mesh(*(f"faults.once.{key}" for key in rule), export=exporter(seen).export)
    await world.get("orders", "/orders")
    struck, first, _, second = named(seen, "GET /inventory")
    assert (struck.attributes["meshlite.fault"], struck.attributes[ERROR]) == ("once", "503")
    assert (first.kind, first.attributes[ERROR], first.status.status_code) == (SpanKind.CLIENT, "503", StatusCode.ERROR)
    assert RESENT not in first.attributes and second.attributes[RESENT] == 1
    assert second.status.status_code is StatusCode.UNSET
    seen.clear()
    world.mesh.edges["orders", "inventory"].set_mode("forced_open")
    await world.order(("SKU-1", 1))
    refused, call, server = seen.get_finished_spans()
    assert (refused.kind, refused.attributes[ERROR]) == (SpanKind.INTERNAL, "circuit_open")
    assert refused.attributes["meshlite.refused"] == "circuit_open"
    assert (call.attributes[ERROR], call.status.description) == ("circuit_open", "circuit_open")
    assert (server.attributes[STATUS], server.attributes[ERROR]) == (503, "503")
    seen.clear()
    await world.get("users", "/users/999")
    (server,) = seen.get_finished_spans()
    assert (server.attributes[STATUS], server.status.status_code) == (404, StatusCode.UNSET)
    assert ERROR not in server.attributes


async def test_a_strangers_flag_and_the_sdks_sampler_decide_what_goes_out(
    start_mesh: StartMesh, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is not sampled is kept here all the same; who is, is our span's parent, with its state."""
    world = await start_mesh(export=exporter(seen).export)
    for flags in ("00", "01"):
        headers = {"Traceparent": f"00-{TRACE}-{PARENT}-{flags}", "Tracestate": "a=1,b=2"}
        await world.get("users", "/users/1", headers=headers)
    (span,) = seen.get_finished_spans()
    assert f"{span.context.trace_id:032x}" == TRACE
    assert (f"{span.parent.span_id:016x}", span.parent.is_remote) == (PARENT, True)
    assert span.context.trace_state.to_header() == "a=1,b=2"
    assert len(await traces(world)) == 2
    seen.clear()
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    world.mesh.traces.export = exporter(seen).export
    await world.get("users", "/users/1")
    assert not seen.get_finished_spans()


async def test_resources_are_as_the_variables_say(
    start_mesh: StartMesh, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name stands before each service's, attributes are added, a namespace takes the place of ours."""
    monkeypatch.setenv("OTEL_SERVICE_NAME", "shop")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,service.namespace=mine")
    world = await start_mesh(export=exporter(seen).export)
    await world.get("users", "/users/1")
    (span,) = seen.get_finished_spans()
    assert span.resource.attributes["service.name"] == "shop-users"
    assert span.resource.attributes["service.namespace"] == "mine"
    assert span.resource.attributes["deployment.environment.name"] == "test"


async def test_an_export_that_raises_is_dropped_and_the_request_lives(start_mesh: StartMesh) -> None:
    """Logged once; traces are kept as before."""
    tried = 0

    def broken(*_: object) -> None:
        nonlocal tried
        tried += 1
        raise RuntimeError("no")

    world = await start_mesh(export=broken)
    for _ in range(3):
        assert (await world.get("users", "/users/1")).status == 200
    assert (tried, len(world.logged("sink.dropped")), len(await traces(world))) == (1, 1, 3)


async def test_a_collector_that_takes_nothing_holds_up_the_end_for_a_while_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it has not taken by then is lost."""
    released = threading.Event()

    class Stuck(SpanProcessor):
        def shutdown(self) -> None:
            released.wait()

    monkeypatch.setattr(otel, "PATIENCE", 0.05)
    async with asyncio.timeout(10):
        await Exporter(Stuck(), "1.2.3", {}).close()
    assert not released.is_set()
    released.set()


@pytest.mark.parametrize(
    ("environ", "asked"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "shop"}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "console"}, False),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://c:4318/v1/metrics"}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "True"}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "false"}, True),
    ],
)
def test_what_asks_for_it(environ: dict[str, str], asked: bool) -> None:
    """An endpoint, or the exporter's name; an empty variable counts as unset."""
    assert asked_for(environ) is asked


def test_the_protocol_of_traces_goes_before_the_general_one() -> None:
    """Ours is the default of neither being set."""
    assert protocol({}) == "http/protobuf"
    general = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    assert protocol(general) == "grpc"
    assert protocol({**general, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}) == "http/protobuf"


class Process:
    """meshlite as a process of its own, asked for one request and then told to stop; what it has logged."""

    def __init__(self, *command: str, **environ: str) -> None:
        settings = [text for key in (*FREE_PORTS, "mesh.data=:memory:") for text in ("--set", key)]
        self._command = (sys.executable, *command, *settings, "--log-format", "json")
        self._environ = {**os.environ, **environ}

    async def run(self, world: Any = None, **headers: str) -> str:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*self._command, env=self._environ, stdout=pipe, stderr=pipe)
        assert process.stdout and process.stderr
        try:
            async with asyncio.timeout(30):
                url = b""
                while not (line := await process.stdout.readline()).startswith(b"Ctrl-C"):
                    assert line, await process.stderr.read()
                    if line.startswith(b"  users "):
                        url = line.split()[1]
                import aiohttp

                async with aiohttp.request("GET", f"{url.decode()}/users/1?include=orders", headers=headers) as answer:
                    assert answer.status == 200
                process.send_signal(signal.SIGTERM)
                _, log = await process.communicate()
                assert process.returncode == 0
                return log.decode()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


@pytest.mark.slow
async def test_they_arrive_over_otlp(aiohttp_server: Any) -> None:
    """At a receiver on a real socket, as protobuf, the rest of them when the mesh ends."""
    received: list[ExportTraceServiceRequest] = []

    async def take(request: web.Request) -> web.Response:
        assert request.content_type == "application/x-protobuf"
        received.append(ExportTraceServiceRequest.FromString(await request.read()))
        return web.Response(content_type="application/x-protobuf")

    app = web.Application()
    app.router.add_post("/v1/traces", take)
    receiver = await aiohttp_server(app)
    process = Process("-m", "meshlite", OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{receiver.port}")
    log = await process.run(Traceparent=f"00-{TRACE}-{PARENT}-01")
    found: dict[str, list[Any]] = {}
    for message in received:
        for resource in message.resource_spans:
            service = {each.key: each.value.string_value for each in resource.resource.attributes}["service.name"]
            found.setdefault(service, []).extend(span for scope in resource.scope_spans for span in scope.spans)
    assert {service: len(spans) for service, spans in found.items()} == {"users": 3, "orders": 3, "inventory": 1}
    spans = [span for each in found.values() for span in each]
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    ids = {span.span_id for span in spans}
    assert [span.parent_span_id.hex() for span in spans if span.parent_span_id not in ids] == [PARENT]
    logged = {line.partition('"span_id":"')[2][:16] for line in log.splitlines() if "request.completed" in line}
    assert {span.span_id.hex() for span in spans if span.kind == span.SPAN_KIND_SERVER} == logged


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "pip install opentelemetry-sdk "),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "only http/protobuf is spoken here"),
        ({}, ""),
    ],
)
async def test_where_the_extra_is_missing_one_line_says_so_and_the_mesh_runs(
    environ: dict[str, str], said: str
) -> None:
    """And where nothing asks for it, nothing is imported and nothing said."""
    without = "import sys; sys.modules['opentelemetry'] = None; from meshlite.cli import main; sys.exit(main())"
    lines = [line for line in (await Process("-c", without, **environ).run()).splitlines() if "not_exported" in line]
    assert len(lines) == bool(said)
    assert all(said in line for line in lines)
