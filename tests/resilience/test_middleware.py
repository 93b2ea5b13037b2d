"""The middleware over real sockets: when a request counts, and as what."""

import asyncio
import gc
import socket
import warnings
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass

import aiohttp
import pytest
from aiohttp import web

from meshlite import BreakerRegistry, CircuitBreaker, CircuitBreakerMiddleware, CircuitOpenError
from meshlite.errors import BulkheadFullError, CalleeFailed, CallTimedOut
from meshlite.resilience.middleware import origin
from meshlite.testing import ManualClock

CHUNK = b"x" * 1000


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
async def callee(aiohttp_server):
    """A callee that misbehaves as its path says; `callee.go` lets a stream go on."""
    go = asyncio.Event()

    async def status(request):
        return web.Response(status=int(request.match_info["status"]), headers=dict(request.query), text="hello")

    async def stream(request):
        response = web.StreamResponse()
        if request.query.get("length"):
            response.content_length = 2 * len(CHUNK)
        await response.prepare(request)
        await response.write(CHUNK)
        await go.wait()
        go.clear()
        if request.path == "/breaks":
            request.transport.abort()
        await response.write(CHUNK)
        return response

    app = web.Application()
    app.router.add_get("/status/{status}", status)
    app.router.add_get("/stream", stream)
    app.router.add_get("/breaks", stream)
    server = await aiohttp_server(app)
    server.go = go
    yield server
    go.set()


def session_with(middleware, **settings):
    return aiohttp.ClientSession(middlewares=(middleware,), **settings)


def only(middleware):
    (breaker,) = middleware.breakers
    return breaker


@pytest.mark.parametrize(
    ("status", "fails"), [(200, False), (304, False), (404, False), (408, True), (429, True), (500, True), (599, True)]
)
async def test_statuses_count_as_they_mean(callee, clock, status, fails):
    """5xx, 408 and 429 fail; every other answer is a success."""
    middleware = CircuitBreakerMiddleware(clock=clock)
    async with session_with(middleware) as session, session.get(callee.make_url(f"/status/{status}")) as response:
        await response.read()
    snapshot = only(middleware).snapshot()
    assert (snapshot.total_failures, snapshot.total_successes, snapshot.in_flight) == (fails, not fails, 0)


async def test_a_refusal_is_a_connection_error_and_a_circuit_open_error(callee, clock):
    """So existing error handling works; it names the origin and knows when to come back, and nothing is sent."""
    middleware = CircuitBreakerMiddleware(max_failures=1, clock=clock)
    async with session_with(middleware) as session:
        await session.get(callee.make_url("/status/500"))
        with pytest.raises(aiohttp.ClientConnectionError) as caught:
            await session.get(callee.make_url("/status/200"))
    error = caught.value
    assert isinstance(error, CircuitOpenError)
    assert (error.state, error.retry_after) == ("open", 30)
    assert error.why.startswith("1 consecutive failure, last: HTTP 500 after")
    assert error.name == str(callee.make_url("/")).rstrip("/")
    assert error.__cause__ is None
    assert only(middleware).reason.startswith("1 consecutive failure, last: HTTP 500 after")


async def test_each_origin_has_its_own_breaker(callee, aiohttp_server, clock):
    """Two services on one host do not share one."""
    other = await aiohttp_server(web.Application())
    middleware = CircuitBreakerMiddleware(max_failures=1, clock=clock)
    async with session_with(middleware) as session:
        await session.get(callee.make_url("/status/500"))
        assert (await session.get(other.make_url("/"))).status == 404
    assert [breaker.state for breaker in middleware.breakers] == ["open", "closed"]
    assert [key for key, _ in middleware.breakers.items()] == [
        str(server.make_url("/")).rstrip("/") for server in (callee, other)
    ]


async def test_the_key_can_be_a_function_of_the_request(callee, clock):
    """A breaker for each tenant, say."""
    middleware = CircuitBreakerMiddleware(key=lambda request: request.headers["tenant"], max_failures=1, clock=clock)
    async with session_with(middleware) as session:
        await session.get(callee.make_url("/status/500"), headers={"tenant": "a"})
        assert (await session.get(callee.make_url("/status/200"), headers={"tenant": "b"})).status == 200
    assert middleware.breakers["a"].state == "open"


async def test_a_connection_that_fails_is_a_failure(unused_tcp_port, clock):
    """Nobody listens there."""
    middleware = CircuitBreakerMiddleware(max_failures=1, clock=clock)
    async with session_with(middleware) as session:
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(f"http://127.0.0.1:{unused_tcp_port}/")
    assert "ClientConnectorError" in only(middleware).reason


async def test_a_success_counts_when_the_body_is_complete(callee, clock):
    """Not at the headers; a status that fails counts at once."""
    middleware = CircuitBreakerMiddleware(clock=clock)
    async with session_with(middleware) as session, session.get(callee.make_url("/stream")) as response:
        assert only(middleware).snapshot().total_successes == 0
        assert only(middleware).in_flight == 1
        callee.go.set()
        assert await response.read() == 2 * CHUNK
        assert only(middleware).snapshot().total_successes == 1
    assert only(middleware).snapshot()[-4:] == (1, 0, 0, 0)


async def test_settled_by_headers_a_success_counts_at_once(callee, clock):
    """For who wants that: long polls and event streams."""
    middleware = CircuitBreakerMiddleware(settle="headers", clock=clock)
    async with session_with(middleware) as session, session.get(callee.make_url("/stream")):
        assert only(middleware).snapshot().total_successes == 1


@pytest.mark.parametrize("length", ["", "yes"])
async def test_a_body_that_breaks_off_is_a_failure(callee, clock, length):
    """With a length announced and without."""
    middleware = CircuitBreakerMiddleware(max_failures=1, clock=clock)
    async with (
        session_with(middleware) as session,
        session.get(callee.make_url(f"/breaks?length={length}")) as response,
    ):
        callee.go.set()
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    assert "ClientPayloadError" in only(middleware).reason


@pytest.mark.parametrize("how", ["release", "close", "leave"])
async def test_a_response_let_go_early_counts_as_it_looked(callee, clock, how):
    """Released, closed, or its block left: the answer was a good one so far."""
    middleware = CircuitBreakerMiddleware(clock=clock)
    async with session_with(middleware) as session:
        async with session.get(callee.make_url("/stream")) as response:
            if how != "leave":
                getattr(response, how)()
        assert only(middleware).snapshot()[-4:] == (1, 0, 0, 0)
        assert only(middleware).in_flight == 0


async def test_a_response_that_is_forgotten_gives_its_place_back_with_its_connection(callee, clock):
    """aiohttp keeps both until the session ends, and warns; so does the permit."""
    middleware = CircuitBreakerMiddleware(clock=clock)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        async with session_with(middleware) as session:
            await session.get(callee.make_url("/stream"))
            assert only(middleware).in_flight == 1
        await asyncio.sleep(0)
        gc.collect()
    assert {warning.category for warning in warned} == {ResourceWarning, RuntimeWarning}
    assert only(middleware).in_flight == 0
    assert only(middleware).snapshot()[-4:] == (0, 0, 1, 0)


async def test_a_caller_cancelled_while_reading_is_neutral(callee, clock):
    """Before the headers and in the body alike."""
    middleware = CircuitBreakerMiddleware(clock=clock)

    async def read(session):
        async with session.get(callee.make_url("/stream")) as response:
            await response.read()

    async with session_with(middleware) as session:
        for moments in (0, 50):
            task = asyncio.create_task(read(session))
            await asyncio.sleep(0)
            for _ in range(moments):
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
    assert only(middleware).snapshot()[-4:] == (0, 0, 2, 0)
    assert only(middleware).in_flight == 0


async def test_the_sessions_own_timeout_in_the_body_is_a_failure(callee, clock):
    """A callee that stalls in mid-body fails the call."""
    middleware = CircuitBreakerMiddleware(clock=clock)
    for timeout in (aiohttp.ClientTimeout(total=0.05), aiohttp.ClientTimeout(sock_read=0.05)):
        async with (
            session_with(middleware, timeout=timeout) as session,
            session.get(callee.make_url("/stream")) as answer,
        ):
            with pytest.raises(TimeoutError):
                await answer.read()
    assert only(middleware).snapshot()[-4:] == (0, 2, 0, 0)


@pytest.fixture
def black_hole():
    """An address that takes no connection and refuses none: its queue is full, and further SYNs are dropped."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield "http://{}:{}/".format(*listener.getsockname())


async def aside(request, handler):
    return await asyncio.create_task(handler(request))


@pytest.mark.parametrize("outer", [(), (aside,)], ids=["this task", "another task"])
@pytest.mark.looptime
async def test_the_sessions_total_timeout_while_it_connects_is_a_failure(black_hole, outer):
    """Its timer cancels the task, as a caller might; but it is the callee that does not answer."""
    seen = []
    middleware = CircuitBreakerMiddleware(max_failures=1, classify=lambda answer, permit: seen.append(answer))
    async with aiohttp.ClientSession(
        middlewares=(*outer, middleware), timeout=aiohttp.ClientTimeout(total=3)
    ) as session:
        with pytest.raises(TimeoutError):
            await session.get(black_hole)
        with pytest.raises(CircuitOpenError):
            await session.get(black_hole)
    assert only(middleware).reason.startswith("1 consecutive failure, last: TimeoutError after")
    assert list(map(type, seen)) == [TimeoutError]


@pytest.mark.parametrize("moment", [2.0, 3.0], ids=["before", "at the same time"])
@pytest.mark.looptime
async def test_a_caller_cancelled_while_it_connects_is_neutral(black_hole, moment):
    """Also in the very moment of the session's own timeout; so is a deadline around it."""
    middleware = CircuitBreakerMiddleware(max_failures=1)
    async with session_with(middleware, timeout=aiohttp.ClientTimeout(total=3)) as session:
        task = asyncio.create_task(session.get(black_hole))
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(moment, task.cancel)
        await asyncio.wait([task])
        assert task.cancelled()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(session.get(black_hole), 1.0)
    assert only(middleware).snapshot()[-4:] == (0, 0, 2, 0)


@pytest.mark.looptime
async def test_a_timer_that_tells_nothing_of_itself_is_a_cancellation(black_hole, monkeypatch):
    """Should aiohttp change it, the breaker says nothing rather than something wrong."""
    monkeypatch.setattr("meshlite.resilience.middleware._user_request", lambda request: object())
    middleware = CircuitBreakerMiddleware(max_failures=1)
    async with session_with(middleware, timeout=aiohttp.ClientTimeout(total=3)) as session:
        with pytest.raises(TimeoutError):
            await session.get(black_hole)
    assert only(middleware).snapshot()[-4:] == (0, 0, 1, 0)


async def test_a_long_stream_is_not_a_hung_probe(callee, clock):
    """It has shown that the callee works when its lease is over; that it goes on keeps nobody out."""
    middleware = CircuitBreakerMiddleware(max_failures=1, probe_timeout=20, clock=clock)
    async with session_with(middleware) as session:
        await session.get(callee.make_url("/status/500"))
        clock.advance(30)
        async with session.get(callee.make_url("/stream")) as response:
            assert await response.content.readexactly(len(CHUNK)) == CHUNK
            clock.advance(15)
            assert only(middleware).state == "half_open"
            clock.advance(5)
            assert only(middleware).state == "closed"
            callee.go.set()
            await response.read()
    assert only(middleware).state == "closed"
    assert only(middleware).in_flight == 0


async def test_an_idle_stream_is_not_a_hung_probe(callee, clock):
    """Its headers came in time; that events are rare says nothing against it."""
    middleware = CircuitBreakerMiddleware(max_failures=1, probe_timeout=20, clock=clock)
    async with session_with(middleware) as session:
        await session.get(callee.make_url("/status/500"))
        clock.advance(30)
        async with session.get(callee.make_url("/stream")):
            assert only(middleware).state == "half_open"
            clock.advance(20)
            assert only(middleware).state == "closed"


async def test_a_probe_whose_body_breaks_off_within_its_lease_has_failed(callee, clock):
    """The headers alone do not close it."""
    middleware = CircuitBreakerMiddleware(max_failures=1, probe_timeout=20, clock=clock)
    async with session_with(middleware) as session:
        await session.get(callee.make_url("/status/500"))
        clock.advance(30)
        async with session.get(callee.make_url("/breaks")) as response:
            clock.advance(19)
            callee.go.set()
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()
    assert only(middleware).state == "open"


@pytest.mark.parametrize(
    ("value", "wait"), [("120", 120), ("5", 30), ("soon", 30), ("", 30), ("Thu, 01 Jan 1970 00:00:00 GMT", 30)]
)
async def test_the_callees_retry_after_can_set_the_open_time(callee, clock, value, wait):
    """In seconds; what cannot be read, or is over, is not heeded."""
    middleware = CircuitBreakerMiddleware(max_failures=1, clock=clock)
    async with session_with(middleware) as session:
        await session.get(callee.make_url("/status/503").with_query({"Retry-After": value}))
    assert only(middleware).retry_after == wait


async def test_classify_sees_the_answer_and_the_permit(callee, clock):
    """Shed answers can be ignored while closed and fail a probe; None leaves it to the default."""

    def classify(answer, permit):
        if isinstance(answer, aiohttp.ClientResponse) and answer.headers.get("x-envoy-overloaded"):
            return "failure" if permit.probe else "ignored"
        return "ignored" if isinstance(answer, CallTimedOut) else None

    async def inner(request, handler):
        if request.url.path == "/late":
            raise CallTimedOut("late")
        if request.url.path == "/full":
            raise BulkheadFullError("full")
        return await handler(request)

    middleware = CircuitBreakerMiddleware(max_failures=1, classify=classify, clock=clock)
    async with aiohttp.ClientSession(middlewares=(middleware, inner)) as session:
        shed = callee.make_url("/status/503").with_query({"x-envoy-overloaded": "true"})
        await session.get(shed)
        for path, error in (("/late", CallTimedOut), ("/full", BulkheadFullError)):
            with pytest.raises(error):
                await session.get(callee.make_url(path))
        assert only(middleware).snapshot()[-4:] == (0, 0, 3, 0)
        await session.get(callee.make_url("/status/500"))
        clock.advance(30)
        await session.get(shed)
    assert only(middleware).reason.startswith("a probe failed: HTTP 503")


@pytest.mark.parametrize("path", ["/status/200", "/stream"])
async def test_a_classification_that_raises_keeps_no_permit(callee, clock, path):
    """Its error goes to the caller."""
    middleware = CircuitBreakerMiddleware(classify=lambda answer, permit: 1 / 0, clock=clock)
    async with session_with(middleware) as session:
        with pytest.raises(ZeroDivisionError):
            await session.get(callee.make_url(path))
    assert only(middleware).in_flight == 0


async def test_a_classification_that_raises_in_mid_body_is_logged(callee, clock, caplog):
    """The reader gets the error of the body, not that of the judgement."""

    def classify(answer, permit):
        if isinstance(answer, BaseException):
            raise ZeroDivisionError

    middleware = CircuitBreakerMiddleware(classify=classify, clock=clock)
    async with session_with(middleware) as session, session.get(callee.make_url("/breaks")) as response:
        callee.go.set()
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    assert "breaker.classify_failed" in caplog.text
    assert only(middleware).in_flight == 0


async def test_a_body_read_further_in_settles_at_once(callee, clock):
    """An inner middleware that reads the body leaves nothing to watch."""

    async def reads(request, handler):
        response = await handler(request)
        callee.go.set()
        await response.read()
        return response

    middleware = CircuitBreakerMiddleware(clock=clock)
    async with aiohttp.ClientSession(middlewares=(middleware, reads)) as session:
        response = await session.get(callee.make_url("/stream"))
        assert type(response.content) is aiohttp.StreamReader
        assert only(middleware).snapshot().total_successes == 1


async def test_a_websocket_settles_at_the_handshake(aiohttp_server, clock):
    """What follows is no answer to wait for."""

    async def socket(request):
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        await ws.send_str((await ws.receive_str()).upper())
        await ws.close()
        return ws

    app = web.Application()
    app.router.add_get("/", socket)
    server = await aiohttp_server(app)
    middleware = CircuitBreakerMiddleware(clock=clock)
    async with session_with(middleware) as session, session.ws_connect(server.make_url("/")) as ws:
        assert only(middleware).snapshot().total_successes == 1
        await ws.send_str("hi")
        assert await ws.receive_str() == "HI"


async def test_a_ready_registry_is_used_and_can_be_inspected(callee, clock):
    """Its breakers are those that the middleware asks."""
    seen = []
    breaker = CircuitBreaker("edge", max_failures=1, clock=clock, listeners=[seen.append])
    registry = BreakerRegistry(lambda key: breaker)
    middleware = CircuitBreakerMiddleware(registry)
    async with session_with(middleware) as session:
        await session.get(callee.make_url("/status/500"))
    assert breaker.state == "open"
    assert middleware.breakers is registry
    assert [event.name for event in seen] == ["edge"]


async def test_the_listener_hears_of_every_breaker(callee, clock):
    """The events bear the origin's name."""
    seen = []
    middleware = CircuitBreakerMiddleware(max_failures=1, listener=seen.append, clock=clock)
    async with session_with(middleware) as session:
        await session.get(callee.make_url("/status/500"))
    assert [(event.name, event.to_state) for event in seen] == [(only(middleware).name, "open")]


@pytest.mark.parametrize(
    "settings",
    [
        {"settle": "trailers"},
        {"max_failures": 0},
        {"breakers": BreakerRegistry(), "max_failures": 1},
        {"breakers": BreakerRegistry(), "listener": print},
        {"breakers": CircuitBreaker()},
        {"breakers": BreakerRegistry(), "max_breakers": 0},
        {"breakers": BreakerRegistry(), "failure_exceptions": OSError},
        {"max_breakers": 0},
        {"failures": OSError},
        {"ignores": OSError},
        {"failure_result": bool},
        {"key": None},
        {"key": "tenant"},
        {"classify": "failure"},
        {"classify": asyncio.sleep},
        {"listener": []},
        {"name": "x"},
    ],
    ids=repr,
)
def test_settings_that_cannot_be_meant_are_refused_when_it_is_made(settings):
    """Not at the first request."""
    with pytest.raises(ValueError, match="registry.*" * (len(settings) > 1) + list(settings)[-1]):
        CircuitBreakerMiddleware(**settings)


@pytest.fixture
async def raw():
    """Start a server that does with each connection what it is told to; return its URL."""
    async with AsyncExitStack() as stack:

        async def start(handle):
            async def quietly(reader, writer):
                try:
                    await handle(reader, writer)
                except (asyncio.IncompleteReadError, ConnectionError):
                    pass
                finally:
                    writer.close()

            server = await asyncio.start_server(quietly, "127.0.0.1", 0)
            stack.callback(server.close)
            return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"

        yield start


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def answers_once(reader, writer):
    """Each connection answers one request, and is closed at the second."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(OK)
    await reader.readuntil(b"\r\n\r\n")


async def disconnects(reader, writer):
    """No request is answered."""
    await reader.readuntil(b"\r\n\r\n")


async def fetch(session, url, method="GET", **more):
    async with session.request(method, url, **more) as response:
        return await response.read()


@pytest.mark.parametrize("body", [{}, {"method": "PUT", "data": b"xx"}], ids=repr)
async def test_a_stale_connection_that_aiohttp_mends_by_itself_is_neutral(raw, clock, body):
    """Its repeat counts: it is not refused, and a probe on a stale connection does not open the breaker again."""
    url = await raw(answers_once)
    middleware = CircuitBreakerMiddleware(max_failures=1, clock=clock)
    async with session_with(middleware) as session:
        for _ in range(3):
            assert await fetch(session, url, **body) == b"ok"
        assert only(middleware).snapshot()[-4:] == (3, 0, 2, 0)
        only(middleware).acquire().failure()
        clock.advance(30)
        assert await fetch(session, url, **body) == b"ok"
    assert only(middleware).state == "closed"


async def pieces():
    yield b"x"


@pytest.mark.parametrize(
    ("outer", "request_", "ignored"),
    [
        ((), {}, 1),
        ((aside,), {}, 1),
        ((), {"method": "POST"}, 0),
        ((), {"method": "PUT", "data": pieces}, 0),
    ],
    ids=["get", "another task", "not idempotent", "a body that is spent"],
)
async def test_a_server_that_always_disconnects_fails(raw, clock, outer, request_, ignored):
    """Only what aiohttp repeats is excused, and only once."""
    url = await raw(disconnects)
    middleware = CircuitBreakerMiddleware(max_failures=1, clock=clock)
    data = request_.get("data")
    async with aiohttp.ClientSession(middlewares=(*outer, middleware)) as session:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await fetch(session, url, **{**request_, "data": data and data()})
    assert only(middleware).snapshot()[-4:] == (0, 1, ignored, 0)


async def test_a_redirect_does_not_make_a_request_repeatable(raw, aiohttp_server, clock):
    """aiohttp goes by the method that the request began with."""
    there = await raw(disconnects)

    async def see_other(request):
        raise web.HTTPSeeOther(there)

    app = web.Application()
    app.router.add_post("/", see_other)
    server = await aiohttp_server(app)
    middleware = CircuitBreakerMiddleware(max_failures=1, clock=clock)
    async with session_with(middleware) as session:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await fetch(session, server.make_url("/"), "POST")
    assert [breaker.state for breaker in middleware.breakers] == ["closed", "open"]


async def test_two_middlewares_excuse_the_same_failure(raw, clock):
    """Each has breakers of its own."""
    url = await raw(answers_once)
    middlewares = [CircuitBreakerMiddleware(max_failures=1, clock=clock) for _ in range(2)]
    async with aiohttp.ClientSession(middlewares=middlewares) as session:
        for _ in range(2):
            assert await fetch(session, url) == b"ok"


async def spoilt():
    yield b"x"
    raise ValueError("mine")


@pytest.mark.parametrize(
    "request_", [{"headers": {"a": "b\r\nc"}}, {"method": "POST", "data": spoilt}], ids=["header", "body"]
)
async def test_an_error_of_the_callers_own_says_nothing_of_the_callee(raw, clock, request_):
    """A header that cannot be sent; a body whose making fails."""

    async def waits(reader, writer):
        await reader.read()

    url = await raw(waits)
    middleware = CircuitBreakerMiddleware(max_failures=1, clock=clock)
    data = request_.get("data")
    async with session_with(middleware) as session:
        with pytest.raises((ValueError, aiohttp.ClientConnectionError)):
            await fetch(session, url, **{**request_, "data": data and data()})
    assert only(middleware).snapshot()[-4:] == (0, 0, 1, 0)


GROUP = ExceptionGroup("both", [RuntimeError(), BulkheadFullError("full")])
RAISED = [
    (RuntimeError(), "ignored"),
    (ValueError(), "ignored"),
    (aiohttp.InvalidURL("x"), "ignored"),
    (aiohttp.NonHttpUrlClientError("x"), "ignored"),
    (BulkheadFullError("full"), "ignored"),
    (GROUP, "ignored"),
    (aiohttp.ClientPayloadError(), "failure"),
    (ConnectionResetError(), "failure"),
    (TimeoutError(), "failure"),
    (CallTimedOut("late"), "failure"),
    (ExceptionGroup("all", [GROUP, OSError()]), "failure"),
]


@pytest.mark.parametrize(("exc", "outcome"), RAISED, ids=repr)
@pytest.mark.parametrize("classify", [None, lambda answer, permit: None], ids=["default", "classify"])
async def test_only_errors_of_the_network_and_the_callee_fail(clock, exc, outcome, classify):
    """Others, such as those of an inner middleware, say nothing; of a group, what is in it speaks."""

    async def inner(request, handler):
        raise exc

    middleware = CircuitBreakerMiddleware(clock=clock, classify=classify)
    async with aiohttp.ClientSession(middlewares=(middleware, inner)) as session:
        with pytest.raises((type(exc), aiohttp.ClientOSError)):  # which aiohttp makes of an OSError
            await session.get("http://a.test")
    facts = only(middleware).snapshot()
    assert (facts.total_failures, facts.total_ignored) == (outcome == "failure", outcome == "ignored")


async def test_classify_sees_a_group_before_what_is_in_it(clock):
    """And what is in it where it leaves the group open; a retry_after in it is heeded."""
    seen = []

    async def inner(request, handler):
        raise ExceptionGroup("both", [ValueError(), CalleeFailed("busy", status=503, retry_after=77)])

    def classify(answer, permit):
        seen.append(type(answer))

    middleware = CircuitBreakerMiddleware(max_failures=1, clock=clock, classify=classify)
    async with aiohttp.ClientSession(middlewares=(middleware, inner)) as session:
        with pytest.raises(ExceptionGroup):
            await session.get("http://a.test")
    assert seen == [ExceptionGroup, ValueError, CalleeFailed]
    assert only(middleware).retry_after == 77


async def test_a_session_closed_before_the_answer_is_neutral(raw, clock):
    """aiohttp's own error comes to the caller, be the breaker open by then."""

    async def waits(reader, writer):
        await reader.read()

    url = await raw(waits)
    for opened in (False, True):
        middleware = CircuitBreakerMiddleware(max_failures=1, clock=clock)
        session = session_with(middleware)
        asking = [asyncio.create_task(fetch(session, url, method)) for method in ("GET", "POST")]
        await asyncio.sleep(0.05)
        if opened:
            only(middleware).acquire().failure()
        await session.close()
        for each in await asyncio.gather(*asking, return_exceptions=True):
            assert isinstance(each, aiohttp.ClientConnectionError)
            assert not isinstance(each, CircuitOpenError)
        assert only(middleware).snapshot()[-4:-2] == (0, opened)


async def test_a_session_closed_in_mid_body_is_neutral(callee, clock):
    """Its reader waits, says aiohttp, until the timeout; that is not the callee's."""
    middleware = CircuitBreakerMiddleware(max_failures=1, clock=clock)
    async with (
        session_with(middleware, timeout=aiohttp.ClientTimeout(total=0.1)) as session,
        session.get(callee.make_url("/stream?length=yes")) as response,
    ):
        reading = asyncio.create_task(response.read())
        await asyncio.sleep(0.01)
        await session.close()
        with pytest.raises((TimeoutError, aiohttp.ClientError)):
            await reading
    assert only(middleware).snapshot()[-4:] == (0, 0, 1, 0)


@dataclass(frozen=True)
class FrozenError(Exception):
    code: int


async def test_an_exception_that_takes_no_notes_comes_out_as_it_is(clock):
    """A frozen one is not replaced by the error of writing to it, and its permit is reported."""

    async def inner(request, handler):
        raise FrozenError(3)

    middleware = CircuitBreakerMiddleware(clock=clock, classify=lambda answer, permit: "failure")
    async with aiohttp.ClientSession(middlewares=(middleware, inner)) as session:
        with pytest.raises(FrozenError):
            await session.get("http://a.test")
    assert only(middleware).snapshot()[-4:] == (0, 1, 0, 0)


async def test_the_origin_is_scheme_host_and_port():
    """Written the same whether the port is spelled out or not."""
    seen = []

    async def catch(request, handler):
        seen.append(origin(request))
        raise aiohttp.ClientConnectionError

    async with aiohttp.ClientSession(middlewares=(catch,)) as session:
        for url in ("http://a.test", "http://u:p@a.test:80/x?y", "https://a.test", "http://[::1]:8080/"):
            with pytest.raises(aiohttp.ClientConnectionError):
                await session.get(url)
    assert seen == ["http://a.test:80", "http://a.test:80", "https://a.test:443", "http://[::1]:8080"]
