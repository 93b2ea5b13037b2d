"""The retry options, with aiohttp-retry over real sockets: what is tried again, what never, and when."""

import asyncio

import aiohttp
import pytest
from aiohttp import web
from aiohttp_retry import ExponentialRetry, RetryClient

from meshlite import CircuitBreakerMiddleware, CircuitOpenError, RetryOptions
from meshlite.errors import BulkheadFullError, CalleeFailed, CalleeUnreachable


@pytest.fixture
async def callee(aiohttp_server):
    """A callee that answers with the statuses it is given, then 200; status 0 cuts the connection."""

    async def handle(request):
        server.hits += 1
        status = server.statuses.pop(0) if server.statuses else 200
        if status == 0:
            request.transport.abort()
        return web.Response(status=status or 200, headers=server.headers)

    app = web.Application()
    app.router.add_route("*", "/", handle)
    server = await aiohttp_server(app)
    server.statuses, server.headers, server.hits = [], {}, 0
    return server


def quick(**settings):
    return RetryOptions(attempts=3, base_delay=0.0001, **settings)


KEY = {"Idempotency-Key": "k"}
CASES = [
    ("GET", {}, [503], 200, 2),
    ("GET", {}, [503, 500, 502], 502, 3),
    ("GET", {}, [429], 200, 2),
    ("GET", {}, [404], 404, 1),
    ("GET", {}, [501], 501, 1),
    ("PUT", {}, [503], 200, 2),
    ("DELETE", {}, [503], 200, 2),
    ("POST", {}, [503], 503, 1),
    ("PATCH", {}, [503], 503, 1),
    ("POST", KEY, [503], 200, 2),
    ("POST", {"idempotency-key": "k"}, [503], 200, 2),
]


@pytest.mark.parametrize("case", CASES, ids=repr)
async def test_a_status_is_tried_again_if_the_request_may_be_repeated(callee, case):
    """Idempotent by its method or by its key."""
    method, headers, statuses, status, hits = case
    callee.statuses = list(statuses)
    async with aiohttp.ClientSession() as session:
        client = RetryClient(session, retry_options=quick())
        async with client.request(method, callee.make_url("/"), headers=headers) as response:
            assert response.status == status
    assert callee.hits == hits


@pytest.mark.parametrize(
    ("method", "headers", "again"), [("PUT", {}, True), ("POST", {}, False), ("POST", KEY, True)], ids=repr
)
@pytest.mark.parametrize("bound", [True, False])
async def test_a_broken_connection_is_tried_again_if_the_request_may_be_repeated(callee, method, headers, again, bound):
    """The breaker's middleware tells which request it was, or the options are bound to it."""
    callee.statuses = [0]
    middlewares = () if bound else (CircuitBreakerMiddleware(),)
    options = quick().bound(method, headers) if bound else quick()
    async with aiohttp.ClientSession(middlewares=middlewares) as session:
        client = RetryClient(session, retry_options=options)
        if again:
            async with client.request(method, callee.make_url("/"), headers=headers) as response:
                assert response.status == 200
        else:
            with pytest.raises(aiohttp.ServerDisconnectedError):
                await client.request(method, callee.make_url("/"), headers=headers)
    assert callee.hits == 1 + again


async def test_what_never_got_a_connection_is_tried_again_whatever_it_is(unused_tcp_port):
    """A POST too: nothing was sent."""
    tries = []

    async def count(request, handler):
        tries.append(request.method)
        return await handler(request)

    async with aiohttp.ClientSession(middlewares=(count,)) as session:
        client = RetryClient(session, retry_options=quick())
        with pytest.raises(aiohttp.ClientConnectorError):
            await client.post(f"http://127.0.0.1:{unused_tcp_port}/")
    assert tries == ["POST"] * 3


async def test_a_refusal_is_never_tried_again_with_these_options_but_is_with_stock_ones(callee):
    """Stock options that retry connection errors knock on the open breaker's door each time."""
    callee.statuses = [500, 500, 500]
    middleware = CircuitBreakerMiddleware(max_failures=1)
    async with aiohttp.ClientSession(middlewares=(middleware,)) as session:
        with pytest.raises(CircuitOpenError):
            await RetryClient(session, retry_options=quick()).get(callee.make_url("/"))
        (breaker,) = middleware.breakers
        assert (callee.hits, breaker.snapshot().total_refused) == (1, 1)
        stock = ExponentialRetry(attempts=3, start_timeout=0.0001, exceptions={aiohttp.ClientConnectionError})
        with pytest.raises(CircuitOpenError):
            await RetryClient(session, retry_options=stock).get(callee.make_url("/"))
        assert (callee.hits, breaker.snapshot().total_refused) == (1, 4)


async def test_an_answer_that_sheds_load_is_not_tried_again(callee):
    """A retry is what an overloaded callee needs least."""
    callee.statuses, callee.headers = [503], {"x-envoy-overloaded": "true"}
    async with aiohttp.ClientSession() as session:
        assert (await RetryClient(session, retry_options=quick()).get(callee.make_url("/"))).status == 503
    assert callee.hits == 1


ASKED = [
    ("3", 3.0),
    ("Thu, 01 Jan 1970 00:16:45 GMT", 5.0),
    ("Thu, 01 Jan 1970 00:00:00 GMT", 0.05),
    ("soon", 0.05),
    ("-1", 0.05),
    (None, 0.05),
]


@pytest.mark.parametrize(("value", "delay"), ASKED)
async def test_retry_after_is_honoured_in_seconds_and_as_a_date(callee, value, delay):
    """What cannot be read leaves the backoff."""
    callee.statuses, callee.headers = [503], {} if value is None else {"Retry-After": value}
    options = RetryOptions(random=lambda: 0.5, wall=lambda: 1000.0)
    async with aiohttp.ClientSession() as session, session.get(callee.make_url("/")) as response:
        assert options.get_timeout(1, response) == delay


async def test_a_retry_after_beyond_the_bound_is_not_waited_for(callee):
    """The answer goes to the caller at once."""
    callee.statuses, callee.headers = [503], {"Retry-After": "11"}
    async with aiohttp.ClientSession() as session:
        assert (await RetryClient(session, retry_options=quick()).get(callee.make_url("/"))).status == 503
    assert callee.hits == 1


def test_the_backoff_is_exponential_with_full_jitter():
    """A random part of base, twice base, four times base, up to the maximum."""
    options = RetryOptions(base_delay=0.1, max_delay=0.5, random=lambda: 0.5)
    assert [options.get_timeout(attempt) for attempt in (1, 2, 3, 4, 9)] == [0.05, 0.1, 0.2, 0.25, 0.25]
    assert RetryOptions(random=lambda: 0.0).get_timeout(5) == 0


ERRORS = [
    (CalleeUnreachable("x"), False, 0.05),
    (CalleeFailed("x", status=503, retry_after=7), False, 7),
    (BulkheadFullError("x"), False, 0.05),
    (TimeoutError(), False, 0.05),
    (aiohttp.ConnectionTimeoutError(), True, 0.05),
    (ValueError(), False, 0.05),
]


@pytest.mark.parametrize(("exc", "unknown", "delay"), ERRORS, ids=repr)
def test_exceptions_are_judged_by_what_they_say(exc, unknown, delay):
    """Without knowing the request only what was never sent is tried again; bound to a GET, failures of the network."""
    options = RetryOptions(random=lambda: 0.5)
    assert isinstance(exc, *options.exceptions) is unknown
    assert options.get_timeout(1) == delay
    network = not isinstance(exc, BulkheadFullError | ValueError)
    assert isinstance(exc, *options.bound("get").exceptions) is network


def test_an_error_that_was_not_sent_is_tried_again_and_one_asking_too_much_is_not():
    """`sent` and `retry_after` of the mesh's own errors are heeded."""
    unsent = CalleeUnreachable("x")
    unsent.sent = False
    assert RetryOptions().retries(unsent)
    assert not RetryOptions().bound("GET").retries(CalleeFailed("x", status=503, retry_after=11))
    assert RetryOptions(retry_after_max=60).bound("GET").retries(CalleeFailed("x", status=503, retry_after=11))


@pytest.mark.looptime
async def test_one_set_of_options_serves_concurrent_requests():
    """What one request's error asks for does not delay another's."""
    options = RetryOptions(random=lambda: 0.0)
    loop = asyncio.get_running_loop()

    class Session:
        async def request(self, method, url, **kwargs):
            if url not in tried:
                tried.add(url)
                raise CalleeUnreachable("x") if url == "quick" else CalleeFailed("x", status=503, retry_after=5)
            return "done"

    async def go(url):
        client = RetryClient.__new__(RetryClient)
        RetryClient.__init__(client, Session(), retry_options=options.bound("GET"))
        try:
            await client.get(url)
        except AttributeError:  # the answer is no response
            return loop.time()

    tried = set()
    assert await asyncio.gather(go("slow"), go("quick")) == pytest.approx([5, 0], abs=0.01)


NAN = float("nan")
WRONG = [
    {"attempts": 0},
    {"attempts": 2.0},
    {"attempts": True},
    {"base_delay": -0.1},
    {"base_delay": NAN},
    {"max_delay": -1},
    {"max_delay": "2"},
    {"retry_after_max": NAN},
    {"statuses": 503},
    {"statuses": ["503"]},
    {"random": 0.5},
    {"wall": None},
]


@pytest.mark.parametrize("settings", WRONG, ids=repr)
def test_options_that_cannot_be_meant_are_refused(settings):
    """Each gives a ValueError that names it."""
    with pytest.raises(ValueError, match=next(iter(settings))):
        RetryOptions(**settings)
