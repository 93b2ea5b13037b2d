"""The page on the circuit breaker: its code runs, and does what the page says."""

import json
import re
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import generate_latest

from meshlite import BreakerMoved, CircuitBreaker, CircuitBreakerMiddleware, CircuitOpenError, Snapshot

PAGE = (Path(__file__).parents[1] / "docs" / "breaker.md").read_text(encoding="utf-8")


@pytest.fixture
def page():
    """All the page's Python, run from top to bottom in one namespace."""

    async def charge(card):
        return f"charged {card}"

    namespace = {"charge": charge}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(block, "docs/breaker.md", "exec"), namespace)
    return namespace


async def test_the_five_line_start_works(page):
    """A call goes through, and the session has the middleware."""
    assert await page["pay"]("card") == "charged card"
    async with page["new_session"]() as session:
        assert isinstance(session._middlewares[0], CircuitBreakerMiddleware)


async def test_every_way_in_counts(page):
    """All five examples of one block succeed once each."""
    breaker = CircuitBreaker()

    async def work():
        return None

    await page["ways"](breaker, work)
    assert breaker.snapshot().total_successes == 5


async def test_the_recipe_with_aiohttp_retry_gets_its_answer(page, aiohttp_server):
    """The second attempt succeeds."""

    async def flaky(request):
        hits.append(request.path)
        return web.Response(status=503 if len(hits) == 1 else 200, text="hello")

    hits = []
    app = web.Application()
    app.router.add_get("/", flaky)
    server = await aiohttp_server(app)
    page["aiohttp"] = aiohttp
    assert await page["fetch"](server.make_url("/")) == "hello"
    assert len(hits) == 2


async def test_the_recipe_with_a_fallback_falls_back(page):
    """Only when the breaker is open."""
    breaker = CircuitBreaker()

    async def ask(user):
        return [user]

    assert await page["recommendations"](breaker, ask, "ann") == ["ann"]
    breaker.force_open()
    assert await page["recommendations"](breaker, ask, "ann") == []


async def test_the_recipe_per_tenant_keeps_tenants_apart(page):
    """Each has its own breaker."""

    async def work():
        return 1

    page["tenants"]["a"].force_open()
    assert await page["for_tenant"]("b", work) == 1
    assert page["tenants"]["a"].state == "forced_open"


def test_the_recipe_for_metrics_counts_calls_and_moves(page):
    """Those of all breakers of the registry, named by their keys."""
    breaker = page["middleware"].breakers["https://a.test:443"]
    breaker.acquire().success()
    for _ in range(5):
        breaker.acquire().failure()
    with pytest.raises(CircuitOpenError):
        breaker.acquire()
    text = generate_latest(page["metrics"]).decode()
    for line in (
        'breaker_moves_total{breaker="https://a.test:443",to="open"} 1.0',
        'breaker_open{breaker="https://a.test:443"} 1.0',
        'breaker_calls_total{breaker="https://a.test:443",outcome="successes"} 1.0',
        'breaker_calls_total{breaker="https://a.test:443",outcome="failures"} 5.0',
        'breaker_calls_total{breaker="https://a.test:443",outcome="refused"} 1.0',
    ):
        assert line in text


def test_a_snapshot_as_json_has_names():
    """As the page says; a state is its word."""
    facts = json.loads(json.dumps(CircuitBreaker("payments").snapshot()._asdict()))
    assert (facts["name"], facts["state"], facts["retry_after"]) == ("payments", "closed", None)


def test_the_recipes_for_tests_pass(page):
    """They are tests themselves."""
    page["test_it_lets_a_probe_in_after_the_open_time"]()
    page["test_a_trace"]()


TABLES = [
    ("## Settings", set(CircuitBreaker.__init__.__kwdefaults__)),
    ("`breaker.snapshot()` is", set(Snapshot._fields)),
    ("A listener gets a", set(BreakerMoved._fields)),
]


@pytest.mark.parametrize(("before", "names"), TABLES, ids=["settings", "snapshot", "moved"])
def test_the_pages_tables_name_everything(before, names):
    """And nothing that does not exist."""
    table = PAGE.partition(before)[2].partition("\n|")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (`\w+`.*?) \|", table, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == names
