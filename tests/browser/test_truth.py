"""What the page says is so: of the mesh in a sentence, of the link to it, of what happened before somebody looked."""

import copy
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Open, StartMeshlite

pytestmark = [pytest.mark.browser]
GONE = "Failed to load resource|ERR_"
STORY = "What happened, the latest first"

Overview = dict[str, Any]


def edge(overview: Overview, name: str) -> Any:
    (found,) = [each for each in overview["edges"] if f"{each['caller']}→{each['callee']}" == name]
    return found


def service(overview: Overview, name: str) -> Any:
    (found,) = [each for each in overview["services"] if each["name"] == name]
    return found


def asked(overview: Overview) -> None:
    """As it is while traffic flows, and all is well."""
    for each in overview["services"]:
        each.update(rate=20.0, p99_ms=4.0)


def fault(overview: Overview, name: str = "f", **rule: Any) -> None:
    usual = {"service": "users", "kind": "error", "status": 503}
    overview["faults"].append({"name": name, "enabled": True, "hits": 1, "warnings": [], **usual, **rule})


def opened(overview: Overview, name: str) -> None:
    """Its breaker, after three failures in a row."""
    breaker = {"key": "edge", "state": "open", "reason": "3 consecutive failures"}
    edge(overview, name).update(breakers=[breaker])


def users_fail_outside(overview: Overview) -> None:
    asked(overview)
    fault(overview, caller="external")
    service(overview, "users").update(error_rate=1.0)


def orders_slow_outside(overview: Overview) -> None:
    asked(overview)
    fault(overview, service="orders", kind="delay", seconds=4.0, caller="external")
    service(overview, "orders").update(p99_ms=4000.0)


def connections_cut(overview: Overview) -> None:
    asked(overview)
    fault(overview, kind="reset", caller="external")
    overview["load"].update(running=True, sent=10, failed=3)


def errors_of_its_own(overview: Overview) -> None:
    asked(overview)
    service(overview, "orders").update(error_rate=0.02)


def slow_by_itself(overview: Overview) -> None:
    asked(overview)
    service(overview, "orders").update(p99_ms=1500.0)


def two_troubles(overview: Overview) -> None:
    asked(overview)
    service(overview, "users").update(state="stopped", reason="killed")
    fault(overview, "inventory-fails", service="inventory")
    opened(overview, "orders→inventory")


def a_fault_for_others(overview: Overview) -> None:
    asked(overview)
    fault(overview, service="inventory", caller="external")
    opened(overview, "orders→inventory")


def by_hand(overview: Overview) -> None:
    fault(overview, "inventory-fails", service="inventory")
    edge(overview, "orders→inventory").update(mode="forced_open", breakers=[])


def many(overview: Overview) -> None:
    asked(overview)
    for number in range(10):
        fault(overview, f"f{number}")


def strikes_nothing(overview: Overview) -> None:
    asked(overview)
    service(overview, "orders").update(error_rate=0.02)
    fault(overview, hits=0, warnings=["caller: inventory never asks users"], caller="inventory")


def has_struck_nothing(overview: Overview) -> None:
    asked(overview)
    fault(overview, "late", service="inventory", hits=0)
    opened(overview, "orders→inventory")


def open_for_itself(overview: Overview) -> None:
    fault(overview, "late", service="inventory", hits=0)
    opened(overview, "orders→inventory")


def not_asked_yet(overview: Overview) -> None:
    fault(overview, hits=0)


def never_to_strike(overview: Overview) -> None:
    fault(overview, hits=0, warnings=["route: users has none like '/x'"])


def half_open(overview: Overview) -> None:
    asked(overview)
    breaker = {"key": "edge", "state": "half_open", "reason": "", "probe_successes": 1}
    edge(overview, "orders→inventory").update(breakers=[breaker])


def failed_just_now(overview: Overview) -> None:
    asked(overview)
    edge(overview, "orders→inventory").update(error_rate=0.12)


def switched(overview: Overview, name: str, mode: str) -> None:
    """Its breaker, by hand, or "none" by the policy."""
    found = edge(overview, name)
    if mode == "none":
        found.update(breakers=[], policy={**found["policy"], "breaker": None})
    else:
        found.update(mode=mode, breakers=[{**found["breakers"][0], "state": mode}])


def failed_and_disabled(overview: Overview) -> None:
    failed_just_now(overview)
    switched(overview, "orders→inventory", "disabled")


def failed_and_counts_only(overview: Overview) -> None:
    failed_just_now(overview)
    switched(overview, "orders→inventory", "metrics_only")


def failed_without_a_breaker(overview: Overview) -> None:
    failed_just_now(overview)
    switched(overview, "orders→inventory", "none")


def well_and_disabled(overview: Overview) -> None:
    asked(overview)
    switched(overview, "orders→users", "disabled")


def quiet_and_two_off(overview: Overview) -> None:
    switched(overview, "orders→users", "none")
    switched(overview, "orders→inventory", "disabled")


def down_and_disabled(overview: Overview) -> None:
    asked(overview)
    service(overview, "inventory").update(state="stopped", reason="killed")
    switched(overview, "orders→inventory", "disabled")


def ruleless(overview: Overview, name: str) -> None:
    """Its policy has a breaker, and no rule that opens it."""
    found = edge(overview, name)
    found["policy"] = {**found["policy"], "breaker": {**found["policy"]["breaker"], "max_failures": None}}


def failed_without_a_rule(overview: Overview) -> None:
    failed_just_now(overview)
    ruleless(overview, "orders→inventory")


def quiet_and_without_a_rule(overview: Overview) -> None:
    ruleless(overview, "orders→users")
    switched(overview, "orders→inventory", "disabled")


def by_route(overview: Overview, **states: str) -> None:
    """The routes of orders→inventory, by their methods, each with a breaker of its own."""
    asked(overview)
    found = edge(overview, "orders→inventory")
    found["policy"] = {**found["policy"], "breaker": {**found["policy"]["breaker"], "per": "route"}}
    usual = {**found["breakers"][0], "reason": "3 consecutive failures"}
    paths = {"GET": "/inventory", "PUT": "/reservations/{order_id}", "DELETE": "/reservations/{order_id}"}
    found.update(breakers=[{**usual, "key": f"{key} {paths[key]}", "state": state} for key, state in states.items()])
    found["rate"] = 20.0


def one_route_open(overview: Overview) -> None:
    by_route(overview, GET="closed", PUT="open", DELETE="closed")


def a_route_that_nobody_notices(overview: Overview) -> None:
    by_route(overview, GET="closed", PUT="closed", DELETE="open")


def all_routes_open(overview: Overview) -> None:
    by_route(overview, GET="open", PUT="open")


def one_route_half_open(overview: Overview) -> None:
    by_route(overview, GET="closed", PUT="half_open")


def a_route_that_nobody_probes(overview: Overview) -> None:
    one_route_half_open(overview)
    edge(overview, "orders→inventory")["breakers"][1]["age"] = 20.0


def half_open_and_quiet(overview: Overview) -> None:
    found = edge(overview, "orders→inventory")
    found.update(breakers=[{**found["breakers"][0], "state": "half_open", "reason": "", "probe_successes": 1}])


def due_and_quiet(overview: Overview) -> None:
    opened(overview, "orders→inventory")
    edge(overview, "orders→inventory")["breakers"][0].update(retry_after=0.0)


def half_open_and_asked(overview: Overview) -> None:
    half_open_and_quiet(overview)
    asked(overview)
    edge(overview, "orders→inventory")["rate"] = 5.0


def closed_again(overview: Overview) -> None:
    asked(overview)
    found = edge(overview, "orders→inventory")
    found["breakers"][0].update(reason="2 probes succeeded", age=3.0)
    found.update(error_rate=0.89, refused_rate=0.85, outcomes={"ok": 11, "circuit_open": 85, "timeout": 4}, rate=10.0)


def closed_again_and_failing(overview: Overview) -> None:
    closed_again(overview)
    edge(overview, "orders→inventory")["breakers"][0]["consecutive_failures"] = 2


def closed_again_and_another_fails(overview: Overview) -> None:
    closed_again(overview)
    edge(overview, "users→orders").update(error_rate=0.4, refused_rate=0.0, outcomes={"ok": 6, "http_503": 4}, rate=1.0)


def closed_again_and_a_fault(overview: Overview) -> None:
    closed_again(overview)
    fault(overview)


def the_bulkhead_was_full(overview: Overview) -> None:
    asked(overview)
    edge(overview, "orders→inventory").update(error_rate=0.2, refused_rate=0.2, outcomes={"bulkhead_full": 2})


VERDICTS: list[tuple[Callable[[Overview], None], str, str]] = [
    (asked, "good All is well.", "At the three services together: 60/s requests"),
    (asked, "good All is well.", "None failed; 99 of 100 take no more than 4.0 ms."),
    (users_fail_outside, "warn Users answers 503 to external (f).", "100 % of the requests to users failed"),
    (
        orders_slow_outside,
        "warn Orders 4 s slow to external (f).",
        "1 of 100 requests to orders takes about 4.0 s or longer",
    ),
    (connections_cut, "warn Users resets connections to external (f).", "3 of the 10 requests sent had no good answer"),
    (errors_of_its_own, "warn Orders answers with errors.", "2.0 % of the requests to orders failed"),
    (slow_by_itself, "warn Orders is slow.", "1 of 100 requests to orders takes about 1.5 s or longer"),
    (
        two_troubles,
        "bad The breaker orders → inventory is open.",
        "Cause: inventory answers 503 (inventory-fails). Also: users was killed.",
    ),
    (
        a_fault_for_others,
        "bad The breaker orders → inventory is open.",
        "| Also: inventory answers 503 to external (f).",
    ),
    (
        by_hand,
        "bad The breaker orders → inventory is open.",
        "| Also: inventory answers 503 (inventory-fails).",
    ),
    (many, "warn 10 faults are on.", "Nobody has been hurt so far."),
    (
        strikes_nothing,
        "warn Orders answers with errors.",
        "The log has each of them. | On, but has struck nothing: users answers 503 to inventory (f).",
    ),
    (
        has_struck_nothing,
        "bad The breaker orders → inventory is open.",
        "new orders are refused with 503. | On, but has struck nothing: inventory answers 503 (late).",
    ),
    (
        open_for_itself,
        "bad The breaker orders → inventory is open.",
        "| On, but has struck nothing: inventory answers 503 (late).",
    ),
    (not_asked_yet, "warn Users answers 503 (f).", "Nobody asks anything, so nobody notices."),
    (
        never_to_strike,
        "idle All is well, and nobody asks anything.",
        "| On, but has struck nothing: users answers 503 (f).",
    ),
    (half_open, "warn The breaker orders → inventory is half-open.", "1 of the 2 that close it have succeeded."),
    (failed_just_now, "warn Calls orders → inventory have failed.", "12 % of the calls orders → inventory failed"),
    (failed_just_now, "warn Calls orders → inventory have failed.", "Enough of them in a row open the breaker."),
    (
        failed_and_disabled,
        "warn Calls orders → inventory have failed.",
        "ten seconds. Its breaker is switched off by hand, and opens for nothing. No fault",
    ),
    (
        failed_and_counts_only,
        "warn Calls orders → inventory have failed.",
        "ten seconds. Its breaker is set to count only, by hand, and opens for nothing. No fault",
    ),
    (
        failed_without_a_breaker,
        "warn Calls orders → inventory have failed.",
        "ten seconds. Its breaker is switched off by the policy, and opens for nothing. No fault",
    ),
    (
        well_and_disabled,
        "good All is well.",
        "4.0 ms. The breaker orders → users is switched off by hand, and opens for nothing. |",
    ),
    (
        quiet_and_two_off,
        "idle All is well, and nobody asks anything.",
        "The breakers orders → inventory and orders → users are switched off, and open for nothing.",
    ),
    (
        down_and_disabled,
        "bad Inventory was killed.",
        "no connection. The breaker orders → inventory is switched off by hand, and opens for nothing. |",
    ),
    (
        failed_without_a_rule,
        "warn Calls orders → inventory have failed.",
        "ten seconds. Its breaker is left without a rule by the policy, and opens for nothing. No fault",
    ),
    (
        quiet_and_without_a_rule,
        "idle All is well, and nobody asks anything.",
        "and orders → users are switched off or without a rule, and open for nothing.",
    ),
    (
        one_route_open,
        "bad The breaker orders → inventory is open for PUT /reservations/{order_id}.",
        "3 consecutive failures. 2 of 3 routes go through. New orders are refused with 503. |",
    ),
    (
        a_route_that_nobody_notices,
        "bad The breaker orders → inventory is open for DELETE /reservations/{order_id}.",
        "3 consecutive failures. 2 of 3 routes go through. |",
    ),
    (
        all_routes_open,
        "bad The breaker orders → inventory is open for GET /inventory and PUT /reservations/{order_id}.",
        "3 consecutive failures. Lists of orders come without the products' details (degraded); new orders are refused",
    ),
    (
        one_route_half_open,
        "warn The breaker orders → inventory is half-open for PUT /reservations/{order_id}.",
        "One that fails opens it again. 1 of 2 routes goes through. |",
    ),
    (
        a_route_that_nobody_probes,
        "warn The breaker orders → inventory is half-open for PUT /reservations/{order_id}.",
        "1 of 2 routes goes through. Nobody asks anything here, so nothing probes it: send traffic, or Reset.",
    ),
    (
        half_open_and_quiet,
        "warn The breaker orders → inventory is half-open.",
        "opens it again. Nobody asks anything here, so nothing probes it: send traffic, or Reset.",
    ),
    (
        due_and_quiet,
        "bad The breaker orders → inventory is open.",
        "with 503. Nobody asks anything here, so nothing probes it: send traffic, or Reset.",
    ),
    (half_open_and_asked, "warn The breaker orders → inventory is half-open.", "One that fails opens it again. |"),
    (
        closed_again,
        "good The breaker orders → inventory has closed again.",
        "2 probes succeeded. 4.0 % of the calls orders → inventory failed and 85 % were refused meanwhile in the last "
        "ten seconds. No fault is on now. |",
    ),
    (
        closed_again_and_failing,
        "warn Calls orders → inventory have failed.",
        "Enough of them in a row open the breaker.",
    ),
    (
        closed_again_and_another_fails,
        "warn Calls users → orders have failed.",
        "40 % of the calls users → orders failed",
    ),
    (closed_again_and_a_fault, "warn Users answers 503 (f).", "were refused meanwhile in the last ten seconds. |"),
    (
        the_bulkhead_was_full,
        "warn Calls orders → inventory were refused.",
        "20 % of the calls orders → inventory were refused in the last ten seconds. No fault",
    ),
]


def test_the_headline_is_true(meshlite: StartMeshlite, look: Open) -> None:
    """Whom it hurts, wherever that shows; the cause is one that lies behind the edge; of many faults the number."""
    page = look(meshlite())
    quiet = page.evaluate("fetch('/api/overview').then((answer) => answer.json())")
    for change, head, text in VERDICTS:
        overview = copy.deepcopy(quiet)
        overview["faults"] = []
        change(overview)
        said = page.evaluate("async (it) => (await import('/page/verdict.js')).verdict(it)", overview)
        assert " ".join(said[:2]) == head, change.__name__
        assert text in " | ".join(said[2:]), change.__name__


MAP = '[data-edge="orders→inventory"]'
SHOWN: list[tuple[Callable[[Overview], None], str, str]] = [
    (one_route_open, MAP, "breaker open for PUT /reservations/{order_id},"),
    (one_route_open, f"{MAP} .word", "1 of 3 open"),
    (one_route_open, "#edge .why", "Open for PUT /reservations/{order_id}: every call is refused at once; nothing is"),
    (one_route_open, "#edge .why", "2 of 3 routes go through."),
    (one_route_open, "#edge details[open]:not(.moves)", "3 breakers, one for each route"),
    (half_open_and_quiet, "#edge .next", "none under way; 1 at a time. Nobody asks anything here, so nothing"),
    (due_and_quiet, "#edge .next", "one that fails opens it again. Nobody asks anything here, so nothing probes it"),
    (failed_without_a_rule, MAP, "breaker closed, no rule,"),
    (failed_without_a_rule, "#edge .hero.off .why", "Calls go through: its policy has no rule that opens it."),
    (failed_without_a_rule, "#edge .facts", "failed12 %refused0 %"),
    (closed_again, "#edge .facts", "failed4.0 %refused85 %"),
    (closed_again, MAP, "4.0 % failed, 85 % refused"),
    (closed_again, f"{MAP} .value.hurt", "85 % refused"),
]


def test_the_map_and_the_panel_say_what_the_headline_says(meshlite: StartMeshlite, look: Open) -> None:
    """One route is not the edge; what nobody probes or no rule opens is said; one word for one number."""
    page = look(meshlite())
    quiet, told = page.evaluate("fetch('/api/overview').then((answer) => answer.json())"), Overview()
    page.route("**/api/overview", lambda route: route.fulfill(json=told))
    for change, selector, text in SHOWN:
        told.update(copy.deepcopy(quiet))
        change(told)
        page.evaluate("import('/page/live.js').then(({ refresh }) => refresh())")
        found = page.locator(selector).first
        if selector == MAP:
            expect(found).to_have_attribute("aria-label", re.compile(re.escape(text).replace("/", ".")))
        else:
            expect(found).to_contain_text(text)


def forced_open(overview: Overview) -> None:
    switched(overview, "orders→inventory", "forced_open")


def durable(overview: Overview) -> None:
    overview["durable"] = True


NO_CONNECTION = "Then orders→inventory gets no connection"
WILL: list[tuple[Callable[[Overview], None], str, str, str]] = [
    (durable, "kill", f"{NO_CONNECTION}, and after some failures in a row its breaker opens.", "lost"),
    (durable, "kill", "get no answer. What was answered is on disk.", "memory"),
    (durable, "restart", "starts again with what is on disk.", "lost"),
    (asked, "kill", "get no answer. All its data is lost, for it is in memory", "on disk"),
    (asked, "stop", "All its data is lost, for it is in memory", "on disk"),
    (asked, "restart", "starts again as new.", "on disk"),
    (one_route_open, "stop", "after some failures in a row the breaker of the route opens.", "already"),
    (half_open, "kill", f"{NO_CONNECTION}, and at the next probe its breaker opens.", "failures in a row"),
    (all_routes_open, "kill", "orders→inventory is refused already: its breaker is open.", "Then"),
    (forced_open, "kill", "orders→inventory is refused already: its breaker is forced open.", "Then"),
    *(
        (change, "kill", f"{NO_CONNECTION}. Its breaker is {why}, and opens for nothing.", "its breaker opens")
        for change, why in (
            (failed_and_disabled, "switched off by hand"),
            (failed_and_counts_only, "set to count only, by hand"),
            (failed_without_a_breaker, "switched off by the policy"),
            (failed_without_a_rule, "left without a rule by the policy"),
        )
    ),
]


def test_a_dialog_promises_what_will_be(meshlite: StartMeshlite, look: Open) -> None:
    """No breaker that cannot open or is open already, and no disk where there is none."""
    page = look(meshlite())
    quiet = page.evaluate("fetch('/api/overview').then((answer) => answer.json())")
    asks = """async ([it, action]) => {
      const { command } = await import("/page/services.js");
      return command(it, it.services.find(({ name }) => name === "inventory"), action).confirm.join(" ");
    }"""
    for change, action, text, never in WILL:
        overview = copy.deepcopy(quiet)
        change(overview)
        said = page.evaluate(asks, [overview, action])
        assert text in said, (change.__name__, action, said)
        assert never not in said, (change.__name__, action, said)


def test_what_is_on_disk_is_not_lost(meshlite: StartMeshlite, look: Open) -> None:
    """The mesh itself says where its data is."""
    page = look(meshlite("mesh.data=kept"))
    page.get_by_role("button", name="Inventory crashes").click()
    expect(page.get_by_role("dialog")).to_contain_text("What was answered is on disk.")


def test_a_breaker_without_a_rule_is_not_green(meshlite: StartMeshlite, look: Open) -> None:
    """As the config switches off the one that there is."""
    page = look(meshlite("edges.orders.inventory.breaker.max_failures=false"))
    expect(page.locator("#edge .hero.off .word")).to_have_text("closed, no rule")
    expect(page.locator(".verdict")).to_contain_text("inventory is left without a rule by the policy, and opens for")


def test_a_route_that_breaks_is_told_by_its_name(meshlite: StartMeshlite, look: Open) -> None:
    """In the headline, in what happened, and in the table, which then is unfolded."""
    mesh = meshlite('edges.orders.inventory.breaker.per="route"')
    page = look(mesh)
    mesh.ask("PUT", "/api/load", {"rate": 30, "seconds": 60})
    expect(page.locator("#edge")).to_contain_text("answered")
    rule = {"service": "inventory", "kind": "error", "status": 503, "method": "PUT", "enabled": True}
    mesh.ask("PUT", "/api/faults/f", rule)
    route = "PUT /reservations/{order_id}"
    head = page.get_by_role("heading", name=f"The breaker orders → inventory is open for {route}.")
    expect(head).to_be_visible()
    expect(page.get_by_label(STORY)).to_contain_text(f"orders → inventory {route} open: 3 consecutive failures")
    expect(page.locator("#edge").get_by_role("row", name=re.compile("^PUT .* (half-)?open"))).to_be_visible()


def test_a_mesh_that_hangs_is_not_live(meshlite: StartMeshlite, look: Open) -> None:
    """Its connections stay, and no answer comes: within five seconds the page says so, and again when one comes."""
    mesh = meshlite()
    page = look(mesh, forgiven=GONE)
    link = page.locator(".link")
    expect(link).to_have_text("live")
    mesh.send(signal.SIGSTOP)
    try:
        expect(link).to_have_text("no answer", timeout=6_000)
        expect(page.get_by_text("The mesh does not answer.")).to_be_visible()
    finally:
        mesh.send(signal.SIGCONT)
    expect(link).to_have_text("live")


def hide(page: Page, hidden: bool) -> None:
    """As the browser tells a page that another tab covers it."""
    page.evaluate(
        """(hidden) => {
          Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
          document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


def test_a_tab_that_nobody_sees_holds_no_connection(meshlite: StartMeshlite, look: Open) -> None:
    """It gives its stream back and asks nothing; seen again, it is told what it missed, and nothing twice."""
    mesh = meshlite()
    page = look(mesh)
    story = page.get_by_label(STORY)
    mesh.ask("PATCH", "/api/faults/slow-inventory", {"enabled": True})
    expect(story).to_contain_text("slow-inventory switched on")
    with page.expect_event("requestfailed", lambda request: request.url.endswith("/api/events")):
        hide(page, True)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    mesh.ask("PATCH", "/api/faults/slow-inventory", {"enabled": False})
    page.wait_for_timeout(2_500)
    assert requests == []
    with page.expect_request("**/api/events") as again:
        hide(page, False)
    assert re.fullmatch("[0-9a-f]+-[0-9]+", again.value.headers["last-event-id"])
    expect(story).to_contain_text("slow-inventory switched off")
    assert story.inner_text().count("slow-inventory") == 2


def test_a_config_file_that_is_wrong_is_said_as_long_as_it_is(
    meshlite: StartMeshlite, look: Open, tmp_path: Path
) -> None:
    """Above the headline, also to whoever comes later; it goes with the mistake, although no value has changed."""
    mesh, file = meshlite(), tmp_path / "config.toml"
    page = look(mesh)
    file.write_text('[policy]\ntimeout = -1\nattempt_timeout = "x"\n')
    said = page.get_by_role("status").filter(has_text="The config file is wrong")
    expect(said).to_contain_text(
        "policy.timeout: expected a number above 0, got -1 (and 1 more). What was in force before stays."
    )
    later = look(mesh).get_by_role("status").filter(has_text="The config file is wrong")
    expect(later).to_be_visible()
    file.write_text("[policy]\n")
    expect(said).to_have_count(0)
    expect(later).to_have_count(0)


def test_what_waits_for_a_restart_is_said_as_long_as_it_does(
    meshlite: StartMeshlite, look: Open, tmp_path: Path
) -> None:
    """Above the headline, also to whoever comes later; it goes when the file says again what is in force."""
    mesh, file = meshlite(), tmp_path / "config.toml"
    page = look(mesh)
    expect(page.locator("[data-edge]")).to_have_count(3)
    file.write_text("[mesh]\nshutdown_grace = 7\n[limits]\nconnections = 100\n")
    said = page.get_by_role("status").filter(has_text="Waits for a restart")
    expect(said).to_contain_text("Waits for a restart: limits.connections, mesh.shutdown_grace")
    later = look(mesh).get_by_role("status").filter(has_text="Waits for a restart")
    expect(later).to_be_visible()
    file.write_text("[policy]\n")
    expect(said).to_have_count(0)
    expect(later).to_have_count(0)


@pytest.mark.parametrize("locale", ["en-US", "de-DE"])
def test_there_is_one_form_of_time(meshlite: StartMeshlite, look: Open, locale: str) -> None:
    """24 hours, from 00, wherever the reader is, also of a restart."""
    mesh = meshlite()
    page = look(mesh, forgiven=GONE, locale=locale, timezone_id="UTC")
    midnight = "async () => (await import('/page/words.js')).time(Date.UTC(2026, 0, 2) / 1000)"
    assert page.evaluate(midnight) == "00:00:00"
    expect(page.locator("[data-edge]")).to_have_count(3)
    mesh.stop()
    mesh.start()
    said = page.get_by_role("status").filter(has_text="The mesh was restarted")
    expect(said).to_have_text(re.compile(r"at \d\d:\d\d:\d\d: all is loaded anew"))


def test_what_a_hand_did_is_said_in_words(meshlite: StartMeshlite, look: Open) -> None:
    """Not in the config's own, in which the reason names the mode."""
    mesh = meshlite()
    page = look(mesh)
    reason = page.locator("#edge .reason")
    for mode, text in {"forced_open": "forced open", "metrics_only": "metrics only", "auto": "automatic"}.items():
        mesh.ask("PUT", "/api/edges/orders/inventory/breaker", {"mode": mode})
        expect(reason).to_have_text(f"Set to {text} by hand.")


def test_the_story_begins_before_the_page_was_opened(meshlite: StartMeshlite, look: Open) -> None:
    """Whatever the log has lost meanwhile: how a service went, and the seconds of the chart."""
    mesh = meshlite()
    mesh.ask("PUT", "/api/load", {"rate": 50, "seconds": 30})
    mesh.ask("POST", "/api/services/users/kill")
    page = look(mesh)
    for _ in range(2):
        expect(page.get_by_label(STORY)).to_contain_text("users stopped: killed")
        expect(page.locator(".plots .u-over").first).to_be_visible()
        assert page.get_by_label(STORY).inner_text().count("killed") == 1
        page.reload()


def test_any_token_can_be_given(meshlite: StartMeshlite, look: Open) -> None:
    """Also one that is beyond Latin-1: a wrong one is said to be wrong, the right one stays; links that need it go."""
    page = look(meshlite("control.token=žluťoučký-кот"), forgiven=GONE)
    token = page.get_by_label("Token")
    token.fill("пароль-пароль")
    page.get_by_role("button", name="Open").click()
    expect(page.get_by_role("alert")).to_have_text("That is not it.")
    page.reload()
    token.fill("žluťoučký-кот")
    page.get_by_role("button", name="Open").click()
    expect(page.locator(".link")).to_have_text("live")
    page.reload()
    expect(page.locator("[data-edge]")).to_have_count(3)
    expect(page.get_by_role("link", name="API")).to_have_count(0)


def test_a_fault_changes_its_kind_and_says_what_it_cannot_strike(meshlite: StartMeshlite, look: Open) -> None:
    """What belonged to the old kind goes with it; what is wrong with a key that has no field is said all the same."""
    mesh = meshlite()
    page = look(mesh, forgiven=GONE)
    rule = {"service": "users", "kind": "error", "statuses": {"500": 1}, "caller": "inventory"}
    mesh.ask("PUT", "/api/faults/mixed", rule)
    row = page.locator(".faults li").filter(has_text="mixed")
    expect(row).to_contain_text("inventory never asks users")
    row.get_by_role("button", name="Change").click()
    form = page.locator(".fault-form")
    form.get_by_text("Which requests").click()
    form.get_by_label("Status").fill("500")
    form.get_by_role("button", name="Change it").click()
    expect(form.get_by_role("alert")).to_contain_text("statuses")
    form.get_by_label("What it does").select_option("delay")
    form.get_by_role("button", name="Change it").click()
    expect(row).to_contain_text("users 5 s slow to inventory")


def test_what_cannot_be_done_is_said_in_words(meshlite: StartMeshlite, look: Open) -> None:
    """A mesh that has gone, and one that refuses: each once, below and beside the form."""
    mesh = meshlite()
    page = look(mesh, forgiven=GONE)
    form = page.locator(".fault-form")
    form.get_by_label("What it does").select_option("delay")
    form.get_by_label("Distribution").select_option("pareto")
    form.get_by_role("button", name="Make it").click()
    said = page.get_by_role("contentinfo")
    expect(said).to_contain_text("pareto is a distribution around seconds")
    seen = " ".join(said.locator(":scope > :not([role=status])").all_inner_texts())
    assert seen.count("pareto is") == 1  # once more for who cannot see it
    mesh.stop()
    form.get_by_label("Jitter, seconds").fill("0.5")
    form.get_by_role("button", name="Make it").click()
    expect(form.get_by_role("alert")).to_have_text("the mesh does not answer")
