"""Metrics: their sums agree with what was done, and what is gone is not shown."""

import asyncio
import sqlite3
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from meshlite.events import BATCH, PROBES, Bus, CallCompleted, RequestCompleted
from meshlite.storage import Database
from meshlite.telemetry.metrics import Metrics, Tally
from tests.conftest import StartMesh, World
from tests.telemetry.exposed import Exposed, read, scrape, trouble

REQUESTS, CALLS = "meshlite_request_duration_seconds", "meshlite_call_duration_seconds"
EDGE = {"caller": "orders", "callee": "inventory"}


@pytest.mark.looptime
async def test_requests_in_the_metrics_are_those_that_were_made_and_logged(world: World) -> None:
    """A client's N requests, and what they led to between services: the counters' sum, and as many lines in the log."""
    made = [world.get("users", "/users/1?include=orders") for _ in range(10)]
    made += [world.get("orders", "/orders?user_id=1") for _ in range(10)]
    made += [world.order(("SKU-1", 1)) for _ in range(5)]
    made += [world.get("inventory", f"/inventory/SKU-{n}") for n in range(20)]
    made += [world.get("users", "/nowhere"), world.ask("BREW", "users", "/users")]
    answers = await asyncio.gather(*made)
    seen = await scrape(world)
    attempts = seen.sum("meshlite_call_attempts_total")
    assert attempts >= 10 + 10 + 2 * 5
    assert seen.sum(f"{REQUESTS}_count") == len(made) + attempts == len(world.logged("request.completed"))
    for kind in ("2", "4", "5"):
        logged = sum(str(line["status"]).startswith(kind) for line in world.logged("request.completed"))
        assert seen.sum(f"{REQUESTS}_count", status=f"{kind}xx") == logged
    assert seen.sum(f"{REQUESTS}_count", status="4xx") == sum(400 <= answer.status < 500 for answer in answers)
    assert seen.sum(f"{REQUESTS}_bucket", le="+Inf") == seen.sum(f"{REQUESTS}_count")
    assert seen.one(f"{REQUESTS}_count", method="other") == 1


@pytest.mark.parametrize("look", ["exposition", "tallies", "outcomes"])
def test_what_was_told_last_is_counted_when_somebody_looks(look: str) -> None:
    """Facts are counted many at a time, and never kept longer than that: whoever looks sees all of them."""
    metrics, bus = Metrics("1"), Bus(lambda *broken: None)
    metrics.listen(bus)
    for number in range(1, 1_001):
        bus.publish(CallCompleted("orders", "inventory", "ok", 1, 0.001))
        assert len(bus._noted) < BATCH
        if number in (1, 100, 1_000):
            match getattr(metrics, look)():
                case (bytes(text), _):
                    assert (
                        f'{CALLS}_count{{callee="inventory",caller="orders",outcome="ok"}} {number}.0' in text.decode()
                    )
                case {"orders→inventory": Tally(total)}:
                    assert total == number
                case {"orders→inventory": {"ok": count}}:
                    assert count == number


def test_a_strangers_methods_take_no_memory() -> None:
    """However many they make up: they are counted as one, and not among a service's tally."""
    metrics, bus = Metrics("1"), Bus(lambda *broken: None)
    metrics.listen(bus)
    for number in range(1_000):
        bus.publish(RequestCompleted("users", f"M{number}", "unmatched", 404, 1.0, "r", "external"))
    assert metrics.tallies() == {}
    assert not metrics._of_request
    text, _ = metrics.exposition()
    assert f'{REQUESTS}_count{{method="other",route="unmatched",service="users",status="4xx"}} 1000.0' in text.decode()


def test_durations_are_summed_in_seconds() -> None:
    """Of requests and of calls: a rate of the sum over that of the count is the mean."""
    metrics, bus = Metrics("1"), Bus(lambda *broken: None)
    metrics.listen(bus)
    for number in range(1, 101):
        bus.publish(RequestCompleted("users", "GET", "/users", 200, float(number), "r", "external"))
        bus.publish(CallCompleted("orders", "inventory", "ok", 1, number / 100))
    text = metrics.exposition()[0].decode()
    sums = {line.partition("{")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if "_sum{" in line}
    assert sums[f"{REQUESTS}_sum"] == pytest.approx(5.05)
    assert sums[f"{CALLS}_sum"] == pytest.approx(50.5)


async def test_probes_are_counted_and_can_be_told_apart(world: World) -> None:
    """By their route, which is the same in every service."""
    for path in ("/healthz", "/readyz", "/users/1"):
        await world.get("users", path)
    seen = await scrape(world)
    counted = {route: seen.sum(f"{REQUESTS}_count", service="users", route=route) for route in PROBES}
    assert {route for route, count in counted.items() if count} == {"/healthz", "/readyz"}
    assert seen.sum(f"{REQUESTS}_count", service="users") == 3


@pytest.mark.looptime
async def test_calls_attempts_and_retries_add_up(world: World) -> None:
    """Three failures open a breaker: two of the first call, one of the second; the third call never leaves."""
    await trouble(world)
    seen = await scrape(world)
    by_outcome = {name: seen.sum(f"{CALLS}_count", outcome=name, **EDGE) for name in ("ok", "injected", "circuit_open")}
    assert seen.sum(f"{CALLS}_count", **EDGE) == sum(by_outcome.values())
    assert (by_outcome["injected"], by_outcome["circuit_open"]) == (1, 2)
    assert seen.one("meshlite_call_retries_total", **EDGE) == 1
    assert seen.one("meshlite_call_attempts_total", **EDGE) == by_outcome["ok"] + 3
    assert seen.one("meshlite_injected_faults_total", service="inventory", fault="f") == 3
    assert seen.one("meshlite_breaker_moves_total", state="open", **EDGE) == 1
    assert seen.sum("meshlite_breaker_moves_total") == 1
    assert seen.one("meshlite_call_retries_total", caller="users", callee="orders") == 0, "it is there from the start"


@pytest.mark.looptime
async def test_a_breaker_is_in_one_state_and_is_not_shown_when_it_is_gone(world: World) -> None:
    """A breaker for each route takes the place of the edge's: what the old one was is no longer said of anyone."""
    await trouble(world)
    state = "meshlite_breaker_state"
    old = await scrape(world)
    assert old.sum(state, key="edge", **EDGE) == old.one(state, key="edge", state="open", **EDGE) == 1
    assert len(old.all(state, key="edge", **EDGE)) == 6
    world.set_faults("edges.orders.inventory.breaker.per=route")
    assert (await world.get("orders", "/orders")).status == 200
    new = await scrape(world)
    assert new.all(state, key="edge", **EDGE) == []
    assert new.one(state, key="GET /inventory", state="closed", **EDGE) == new.sum(state, **EDGE) == 1
    world.set_faults("edges.orders.inventory.breaker=false")
    assert (await scrape(world)).all(state, **EDGE) == []


@pytest.mark.looptime
async def test_open_seconds_only_ever_grow(world: World) -> None:
    """Two seconds of a breaker that a new policy replaced, three forced open, and five until the first probe may come.

    Half-open and closed count nothing, however often and when it is looked at.
    """
    edge, seen = world.mesh.edges["orders", "inventory"], []
    fault = "faults.f.kind=error", "faults.f.status=500", "faults.f.service=inventory", "faults.f.enabled=true"

    async def after(seconds: float) -> float:
        for _ in range(round(seconds / 0.125)):
            await asyncio.sleep(0.125)
            seen.append(edge.open_seconds().get("edge", 0.0))
        seen.append((await scrape(world)).sum("meshlite_breaker_open_seconds_total", key="edge", **EDGE))
        return round(seen[-1], 1)  # a retry's pause is less

    await world.get("orders", "/orders")
    assert await after(1) == 0
    await trouble(world)
    assert await after(2) == 2
    world.set_faults(*fault, "edges.orders.inventory.breaker.max_failures=1")
    assert await after(1) == 2
    edge.set_mode("forced_open")
    assert await after(3) == 5
    edge.set_mode("auto")
    assert await after(1) == 5
    await world.get("orders", "/orders")
    assert world.breaker("orders", "inventory") == "open"
    assert await after(4) == 9
    assert await after(3) == 10
    edge.reset()
    assert await after(1) == 10
    world.set_faults("edges.orders.inventory.breaker=false")
    assert await after(1) == 10
    assert seen == sorted(seen)


@pytest.mark.looptime
async def test_what_is_under_way_waits_or_is_shed_is_shown(start_mesh: StartMesh) -> None:
    """One place and one to wait in, at the callee and at the edge: who is inside, who waits, who was sent away."""
    world = await start_mesh(
        *("policy.admission.max_concurrent=1", "policy.admission.max_waiting=1"),
        *("edges.orders.inventory.bulkhead.max_concurrent=1", "edges.orders.inventory.bulkhead.max_waiting=1"),
        *("edges.orders.inventory.timeout=20.0", "edges.orders.inventory.attempt_timeout=20.0"),
        *("faults.f.kind=delay", "faults.f.seconds=2.0", "faults.f.service=inventory", "faults.f.enabled=true"),
    )
    direct = [asyncio.ensure_future(world.get("inventory", "/inventory")) for _ in range(5)]
    await asyncio.sleep(1)
    seen = await scrape(world)
    here = {"service": "inventory"}
    assert seen.one("meshlite_requests_in_flight", **here) == 2
    assert seen.one("meshlite_requests_waiting", **here) == 1
    assert seen.one("meshlite_requests_shed_total", **here) == 3
    assert seen.sum(f"{REQUESTS}_count", status="5xx", **here) == 3
    assert seen.sum("meshlite_requests_shed_total", service="users") == 0
    assert sorted(answer.status for answer in await asyncio.gather(*direct)) == [200, 200, 503, 503, 503]

    edge = world.mesh.edges["orders", "inventory"]
    calls = [asyncio.ensure_future(edge.get("/inventory")) for _ in range(2)]
    await asyncio.sleep(1)
    seen = await scrape(world)
    assert seen.one("meshlite_call_attempts_in_flight", **EDGE) == 1
    assert seen.one("meshlite_call_attempts_waiting", **EDGE) == 1
    await asyncio.gather(*calls)
    seen = await scrape(world)
    for name in ("requests_in_flight", "requests_waiting", "call_attempts_in_flight", "call_attempts_waiting"):
        assert seen.sum(f"meshlite_{name}") == 0
    assert seen.one("meshlite_requests_shed_total", **here) == 3


@pytest.mark.looptime
async def test_amplification_is_attempts_per_call(start_mesh: StartMesh) -> None:
    """A callee that fails every call, asked twice each time: two."""
    world = await start_mesh("edges.orders.inventory.breaker=false", "faults.f.kind=error", "faults.f.status=500",
        "faults.f.service=inventory", "faults.f.enabled=true")  # fmt: skip
    for _ in range(4):
        await world.get("orders", "/orders")
        await asyncio.sleep(1)  # what may always be retried is three a second
    seen = await scrape(world)
    assert seen.one("meshlite_call_amplification_ratio", **EDGE) == 2
    assert seen.one("meshlite_call_amplification_ratio", caller="users", callee="orders") == 1


async def test_a_service_that_is_stopped_is_not_up(world: World) -> None:
    """Zero, not absent; and one again when it is back, with all that had been counted of it."""
    await world.get("inventory", "/inventory")
    await world.mesh.stop_service("inventory")
    seen = await scrape(world)
    assert {name: seen.one("meshlite_service_up", service=name) for name in ("users", "orders", "inventory")} == {
        "users": 1, "orders": 1, "inventory": 0}  # fmt: skip
    await world.mesh.start_service("inventory")
    await world.get("inventory", "/inventory")
    seen = await scrape(world)
    assert seen.one("meshlite_service_up", service="inventory") == 1
    assert seen.sum(f"{REQUESTS}_count", service="inventory", route="/inventory") == 2


async def test_commits_are_told_with_their_size(tmp_path: Path) -> None:
    """Who writes in the same turn shares a commit: ten writes each, and how long it took."""
    told: list[tuple[int, float]] = []
    database = Database(tmp_path / "t.db", ["CREATE TABLE t (v)"], "", lambda *commit: told.append(commit))

    def write(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO t VALUES (1)")

    for _ in range(3):
        await asyncio.gather(*(database.write(write) for _ in range(10)))
    await database.close()
    assert [writes for writes, _ in told] == [10, 10, 10]
    assert all(seconds > 0 for _, seconds in told)


def test_what_is_exactly_at_a_bound_is_in_its_bucket() -> None:
    """Buckets add up to the count; sizes have their own bounds, durations those that are usual."""
    metrics = Metrics("0")
    for size in (1, 2, 3, 4, 300):
        metrics.commits("users")(size, size / 1000)
    seen = read(metrics.exposition()[0].decode())
    size, seconds = "meshlite_storage_commit_batch_size", "meshlite_storage_commit_duration_seconds"
    for le, count in (("1.0", 1), ("2.0", 2), ("4.0", 4), ("256.0", 4), ("+Inf", 5)):
        assert seen.one(f"{size}_bucket", le=le) == count
    for le, count in (("0.001", 1), ("0.0025", 2), ("0.005", 4), ("0.25", 4), ("0.5", 5), ("+Inf", 5)):
        assert seen.one(f"{seconds}_bucket", le=le) == count
    assert (seen.one(f"{size}_sum"), seen.one(f"{seconds}_sum")) == (310, 0.31)


@pytest.mark.parametrize("place", ["memory", "file"])
async def test_every_services_commits_are_in_the_metrics(start_mesh: StartMesh, tmp_path: Path, place: str) -> None:
    """On disk or in memory, of each service that wrote, and on after it was restarted."""
    world = await start_mesh(data=tmp_path / "data" if place == "file" else None)
    for _ in range(2):
        assert (await world.order(("SKU-1", 1))).status == 201
        await world.mesh.restart_service("inventory")
    name = {"email": "x@example.com", "name": "X"}
    assert (await world.ask("POST", "users", "/users", name)).status == 201
    seen = await scrape(world)
    size, duration = "meshlite_storage_commit_batch_size", "meshlite_storage_commit_duration_seconds"
    for service, least in (("users", 1), ("orders", 4), ("inventory", 2)):
        assert seen.one(f"{size}_sum", service=service) >= least
        assert seen.one(f"{duration}_count", service=service) == seen.one(f"{size}_count", service=service) >= 1
        assert seen.one(f"{duration}_sum", service=service) > 0


@pytest.mark.looptime
async def test_openmetrics_is_spoken_to_who_asks_for_it(world: World) -> None:
    """As Prometheus asks; the same series with the same values. Anybody else gets the text that everything reads."""
    await trouble(world)
    asked = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.1"
    answer = await world.get("control", "/metrics", headers={"Accept": asked})
    assert answer.headers["Content-Type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert answer.headers["Vary"] == "Accept"
    text = answer.body.decode()
    families = list(text_string_to_metric_families(text))  # it is strict, and needs the `# EOF`
    said = {(s.name, frozenset(s.labels.items())) for family in families for s in family.samples}
    for accept in ("*/*", "text/plain", "application/openmetrics-textual", ";;,=", ""):
        plain = await world.get("control", "/metrics", headers={"Accept": accept})
        assert plain.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        seen: Exposed = read(plain.body.decode())
        assert said <= {(name, labels) for name, labels in seen.samples}
        assert not [name for name, _ in seen.samples if name.endswith("_created")]


async def test_an_order_that_is_refused_before_it_is_begun_counts_as_a_refused_call(world: World) -> None:
    """Once, as its trace says, although nothing was asked of the edge but whether it would let it through."""
    world.mesh.edges["orders", "inventory"].set_mode("forced_open")
    for _ in range(3):
        order = {"user_id": 1, "items": [{"sku": "SKU-1", "quantity": 1}]}
        assert (await world.ask("POST", "orders", "/orders", order)).status == 503
    seen = await scrape(world)
    refused = {"caller": "orders", "callee": "inventory", "outcome": "circuit_open"}
    assert seen.one(f"{CALLS}_count", **refused) == 3
    assert world.mesh.metrics.tallies()["orders→inventory"][:3] == (3, 3, 3)
