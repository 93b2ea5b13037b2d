"""The dashboard in a real browser: what a person sees of a mesh, does to it, and reads of what became of that."""

import re
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.conftest import Open, StartMeshlite

pytestmark = [pytest.mark.browser]
QUICK = "edges.orders.inventory.breaker.reset_timeout=2"
WIDE, NARROW = (1280, 800), (390, 844)
GONE = "Failed to load resource|ERR_"


def edge(page: Page, name: str) -> Any:
    return page.locator(f'[data-edge="{name}"]')


def panel(page: Page) -> Any:
    return page.locator("#edge")


def test_the_map_has_every_service_and_every_edge(meshlite: StartMeshlite, look: Open) -> None:
    """Who calls whom, each breaker closed, and the same as a table."""
    page = look(meshlite())
    for name in ("users", "orders", "inventory"):
        expect(page.get_by_role("button", name=re.compile(f"^{name}, running"))).to_be_visible()
    edges = page.locator("[data-edge]")
    expect(edges).to_have_count(3)
    names = {each.get_attribute("data-edge") for each in edges.all()}
    assert names == {"users→orders", "orders→inventory", "orders→users"}
    for each in edges.all():
        expect(each).to_have_attribute("aria-label", re.compile("breaker closed"))
    page.get_by_text("The same as a table").click()
    expect(page.get_by_role("row", name=re.compile("orders → inventory closed"))).to_be_visible()


def test_the_first_load_is_a_hundred_kilobytes_at_most(meshlite: StartMeshlite, look: Open) -> None:
    """Over the wire, headers and data included, until the charts are there too."""
    mesh = meshlite()
    mesh.ask("PUT", "/api/load", {"rate": 20, "seconds": 1})
    page = look(mesh)
    expect(panel(page).locator("canvas").first).to_be_visible()
    network, sizes = page.context.new_cdp_session(page), list[int]()
    network.send("Network.enable")
    network.send("Network.setCacheDisabled", {"cacheDisabled": True})
    network.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    page.reload()
    expect(panel(page).locator("canvas").first).to_be_visible()
    assert 60_000 < sum(sizes) <= 100_000, sizes


def test_a_preset_opens_the_breaker_and_all_heals_again(meshlite: StartMeshlite, look: Open) -> None:
    """One click: traffic, the fault where it hits, the breaker open, why, and until when; another click: closed."""
    page = look(meshlite(QUICK))
    expect(page.get_by_role("heading", name="All is well, and nobody asks anything.")).to_be_visible()
    preset = page.get_by_role("button", name="Inventory 5 s slow")
    preset.click()
    expect(page.get_by_role("heading", name="The breaker orders → inventory is open.")).to_be_visible()
    expect(page.get_by_text("Cause: inventory 5 s slow (slow-inventory)")).to_be_visible()
    expect(edge(page, "orders→inventory")).to_have_attribute("aria-label", re.compile("breaker open"))
    expect(page.get_by_role("button", name=re.compile("^inventory, running.*fault: 5 s slow"))).to_be_visible()
    expect(panel(page).locator(".reason")).to_have_text(re.compile("3 consecutive failures|probe failed"))
    expect(panel(page).get_by_role("timer")).to_have_attribute(
        "aria-label", re.compile(r"Until the next probe: [012] s")
    )
    expect(page.get_by_role("contentinfo")).to_contain_text(
        """/api/faults/slow-inventory -H 'Content-Type: application/json' -d '{"enabled":true}'"""
    )
    expect(panel(page)).to_contain_text("refused by the breaker")
    expect(page.get_by_label("What happened, the latest first")).to_contain_text("slow-inventory switched on")
    preset.click()
    expect(panel(page).locator(".hero .word")).to_have_text("closed")
    expect(panel(page).locator(".reason")).to_have_text("2 probes succeeded.")
    expect(page.get_by_role("heading", name="The breaker orders → inventory has closed again.")).to_be_visible()
    expect(page.locator(".verdict")).to_contain_text("were refused meanwhile in the last ten seconds.")
    expect(page.get_by_role("heading", name="All is well.")).to_be_visible(timeout=20_000)


def test_a_service_is_stopped_and_started(meshlite: StartMeshlite, look: Open) -> None:
    """What will happen is said first, with its command; then the map has it stopped, and running again."""
    page = look(meshlite())
    page.get_by_role("tab", name="Services and log").click()
    page.get_by_role("button", name="Stop inventory").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("orders→inventory gets no connection")
    expect(dialog).to_contain_text("/api/services/inventory/stop")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.get_by_role("button", name=re.compile("^inventory, running"))).to_be_visible()
    page.get_by_role("button", name="Stop inventory").click()
    dialog.get_by_role("button", name="Stop inventory").click()
    expect(page.get_by_role("button", name=re.compile("^inventory, stopped"))).to_be_visible()
    expect(page.get_by_role("heading", name="Inventory is stopped.")).to_be_visible()
    page.get_by_role("button", name="Start inventory", exact=True).click()
    expect(page.get_by_role("button", name=re.compile("^inventory, running"))).to_be_visible()
    expect(page.get_by_label("What happened, the latest first")).to_contain_text("inventory running")


def test_a_trace_shows_the_attempt_that_was_refused(meshlite: StartMeshlite, look: Open) -> None:
    """Of an order that failed, filtered: the call, and the attempt that an open breaker did not let through."""
    page = look(meshlite())
    page.get_by_role("button", name="Force open").click()
    expect(panel(page).locator(".hero .word")).to_have_text("forced open")
    page.get_by_role("button", name="Send traffic").click()
    expect(panel(page)).to_contain_text("refused by the breaker")
    page.get_by_role("tab", name="Traces").click()
    page.get_by_role("combobox", name=re.compile("^Outcome")).select_option("failed")
    page.get_by_role("list", name="Traces").get_by_role("button").filter(has_text="POST /orders").first.click()
    spans = page.locator(".waterfall .spans li")
    expect(spans.filter(has_text="attempt 1")).to_contain_text("not sent: refused by the breaker (forced open)")
    expect(spans.filter(has_text="orders→inventory PUT /reservations/{order_id}")).to_be_visible()


def test_a_connection_that_broke_is_not_one_that_never_was(meshlite: StartMeshlite, look: Open) -> None:
    """A trace tells them apart; the counts of an edge do not, and say so."""
    mesh = meshlite()
    page = look(mesh)
    mesh.ask("PUT", "/api/edges/orders/inventory/breaker", {"mode": "disabled"})
    mesh.ask("POST", "/api/services/inventory/kill")
    page.get_by_role("button", name="Send traffic").click()
    expect(panel(page).locator(".ends")).to_contain_text("no connection, or it broke")
    page.get_by_role("tab", name="Traces").click()
    page.get_by_role("combobox", name=re.compile("^Outcome")).select_option("failed")
    spans = page.locator(".waterfall .spans")
    expect(spans).to_contain_text("no connection")
    mesh.ask("POST", "/api/services/inventory/start")
    rule = {"service": "inventory", "kind": "reset", "phase": "response", "caller": "orders", "enabled": True}
    mesh.ask("PUT", "/api/faults/lost", rule)
    page.get_by_role("combobox", name=re.compile("^Fault")).select_option("lost")
    expect(spans).to_contain_text("the connection broke")
    expect(spans).to_contain_text("sent no answer · ⚡ lost")


def test_a_log_line_leads_to_its_trace(meshlite: StartMeshlite, look: Open) -> None:
    """The lines of one service alone, and from one of them to what it was a part of."""
    page = look(meshlite())
    page.get_by_role("button", name="Send traffic").click()
    page.get_by_role("button", name=re.compile("^inventory, running")).click()
    lines = page.get_by_label("Log lines, the newest first")
    expect(lines).to_contain_text("inventory")
    assert all(re.search(r"service\s*inventory", each) for each in lines.get_by_role("listitem").all_inner_texts())
    lines.get_by_role("button", name="Trace").last.click()
    expect(page.locator(".waterfall")).to_contain_text("inventory GET /inventory")


def test_a_trace_that_is_not_kept_is_said_to_be_gone(meshlite: StartMeshlite, look: Open) -> None:
    """What a log line names may be one of many good answers; the note goes with the next look at the list."""
    page = look(meshlite(), forgiven=GONE)
    page.get_by_role("button", name="Send traffic").click()
    expect(panel(page)).to_contain_text("answered")
    page.evaluate("""import("/page/traces.js").then(({ openTrace }) => openTrace("a".repeat(32)))""")
    note = page.get_by_role("status").filter(has_text="is not kept")
    expect(note).to_contain_text("a" * 32)
    expect(page.get_by_role("list", name="Traces").get_by_role("button").first).to_be_visible()
    page.get_by_role("button", name="Ask again").click()
    expect(note).to_have_count(0)


def test_a_restart_of_the_mesh_is_survived_and_said(meshlite: StartMeshlite, look: Open) -> None:
    """While it is gone the page says so; when it is back, so it does, and shows what is now."""
    mesh = meshlite()
    page = look(mesh, forgiven=GONE)
    page.get_by_role("button", name="Force open").click()
    expect(panel(page).locator(".hero .word")).to_have_text("forced open")
    mesh.stop()
    expect(page.get_by_text("The mesh does not answer.")).to_be_visible()
    mesh.start()
    expect(page.get_by_text("The mesh was restarted at")).to_be_visible()
    expect(panel(page).locator(".hero .word")).to_have_text("closed")
    page.get_by_role("button", name="Disable").click()
    expect(panel(page).locator(".hero .word")).to_have_text("disabled")


def test_an_edge_tells_its_policy_and_obeys_a_hand(meshlite: StartMeshlite, look: Open) -> None:
    """Chosen by the keyboard: each value with its source; forced open, left to itself, reset."""
    page = look(meshlite("edges.users.orders.timeout=1.5"))
    edge(page, "users→orders").focus()
    page.keyboard.press("Enter")
    expect(panel(page).get_by_role("heading", name="users → orders")).to_be_visible()
    panel(page).get_by_text("Its policy, and where each value comes from").click()
    expect(panel(page).get_by_role("row", name="timeout 1.5 flag", exact=True)).to_be_visible()
    expect(panel(page).get_by_role("row", name="attempt_timeout 0.9 default")).to_be_visible()
    page.get_by_role("button", name="Force open").click()
    expect(edge(page, "users→orders")).to_have_attribute("aria-label", re.compile("forced open"))
    page.get_by_role("button", name="Automatic").click()
    expect(edge(page, "users→orders")).to_have_attribute("aria-label", re.compile("breaker closed"))


def test_the_edge_that_a_hand_was_laid_on_stays(meshlite: StartMeshlite, look: Open) -> None:
    """Until then the panel shows the edge that is in trouble; from then on that one, whatever opens elsewhere."""
    mesh = meshlite()
    page, other = look(mesh), look(mesh)
    panel(page).get_by_role("button", name="Disable").click()
    mesh.ask("PUT", "/api/faults/f", {"service": "users", "kind": "reset", "caller": "orders", "enabled": True})
    mesh.ask("PUT", "/api/load", {"rate": 50, "seconds": 30})
    for each in (page, other):
        expect(edge(each, "orders→users")).to_have_attribute("aria-label", re.compile("breaker (half-)?open"))
    expect(panel(other).get_by_role("heading", name="orders → users")).to_be_visible()
    expect(panel(page).get_by_role("heading", name="orders → inventory")).to_be_visible()
    panel(page).get_by_role("group", name="Edge to look at").get_by_role("button").first.click()
    expect(panel(page).get_by_role("heading", name="users → orders")).to_be_visible()


def test_edges_and_presets_bear_words(meshlite: StartMeshlite, look: Open) -> None:
    """Each edge by its name where it is picked, each preset that is on; the tabs end where what is in them ends."""
    page = look(meshlite())
    picks = panel(page).get_by_role("group", name="Edge to look at").get_by_role("button")
    expect(picks).to_contain_text(["users → orders", "orders → inventory", "orders → users"])
    expect(page.get_by_role("button", name=re.compile("^orders → users ?, closed"))).to_be_visible()
    preset = page.get_by_role("button", name="Users cuts connections")
    expect(preset).not_to_contain_text("Click to mend it.")
    preset.click()
    expect(preset).to_contain_text(re.compile("on, [56][0-9] s left Click to mend it."))
    tab, form = (page.locator(each).bounding_box() for each in ("#panel", "#fault-form"))
    assert tab is not None
    assert form is not None
    assert tab["height"] < form["height"] + 20


def test_a_fault_of_ones_own(meshlite: StartMeshlite, look: Open) -> None:
    """The form has the fields of its kind; what is wrong is said beside the field; what is right is switched on."""
    page = look(meshlite(), forgiven=GONE)  # 422 is an error to the console
    form = page.locator(".fault-form")
    form.get_by_label("What it does").select_option("error")
    expect(form.get_by_label("Status")).to_have_value("503")
    expect(form.get_by_label("Jitter, seconds")).to_have_count(0)
    form.get_by_label("What it does").select_option("delay")
    form.get_by_label("Distribution").select_option("pareto")
    form.get_by_role("button", name="Make it").click()
    expect(form.get_by_role("alert")).to_contain_text("pareto is a distribution around seconds")
    form.get_by_label("Jitter, seconds").fill("0.5")
    form.get_by_role("button", name="Make it").click()
    row = page.locator(".faults li").filter(has_text="my-fault")
    expect(row).to_contain_text(re.compile(r"inventory 5 s ± 0.5 s slow.*left"))
    page.get_by_role("button", name="Switch all off").click()
    expect(row).to_contain_text("off")
    row.get_by_role("button", name="Remove").click()
    expect(row).to_have_count(0)


def test_a_charts_point_leads_to_its_traces(meshlite: StartMeshlite, look: Open) -> None:
    """A click into the last seconds of the chart lists what was asked then."""
    page = look(meshlite())
    page.get_by_role("button", name="Send traffic").click()
    plot = page.locator(".plots .u-over").first
    expect(page.get_by_label("Stop traffic")).to_have_count(0)
    expect(panel(page)).to_contain_text(re.compile(r"[2-9]\d answered"))
    box = plot.bounding_box()
    assert box is not None
    plot.click(position={"x": box["width"] - 8, "y": box["height"] / 2})
    expect(page.locator(".moment")).to_contain_text("around")
    expect(page.get_by_role("list", name="Traces").get_by_role("button").first).to_be_visible()


def past(page: Page, seconds: int) -> None:
    """As if so much had been asked of the edge until now."""
    page.evaluate(
        """async (seconds) => {
          const { state, set, meshTime } = await import("/page/store.js");
          const now = Math.floor(meshTime());
          state.history["orders→inventory"] = Array.from({ length: seconds }, (_, place) => (
            { at: now - seconds + place, p50: 3, p99: 20, outcomes: { ok: 57 } }));
          set({});
        }""",
        seconds,
    )


def test_a_click_on_a_chart_is_where_it_was(meshlite: StartMeshlite, look: Open) -> None:
    """Without a mouse that moved there before, as a finger has none; beyond the edge it is the edge."""
    page = look(meshlite())
    expect(page.locator("[data-edge]")).to_have_count(3)
    past(page, 300)
    plot = page.locator(".plots .u-over").first
    expect(plot).to_be_visible()
    click = """async (over, share) => {
      const { state, meshTime } = await import("/page/store.js");
      const { left, width, top } = over.getBoundingClientRect();
      over.dispatchEvent(new MouseEvent("click", { clientX: left + share * width, clientY: top + 20, bubbles: true }));
      const { since, until } = state.traces;
      return meshTime() - (Date.parse(since) + Date.parse(until)) / 2000;
    }"""
    for share, ago in {1.2: 0, 0.5: 152, 0: 305}.items():
        assert plot.evaluate(click, share) == pytest.approx(ago, abs=10)


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_a_chart_has_labels_enough(meshlite: StartMeshlite, look: Open, size: tuple[int, int]) -> None:
    """Three to six moments, and three numbers at least, however long the time that is drawn."""
    page = look(meshlite(), width=size[0], height=size[1])
    page.add_init_script(
        """window.drawn = [];
        const fill = CanvasRenderingContext2D.prototype.fillText;
        CanvasRenderingContext2D.prototype.fillText = function (text, ...more) {
          window.drawn.push(text);
          return fill.call(this, text, ...more);
        };"""
    )
    page.reload()
    expect(page.locator("[data-edge]")).to_have_count(3)
    past(page, 60)
    expect(page.locator(".plots .u-over")).to_have_count(2)
    for seconds in (60, 150, 200, 300, 420, 595):
        page.evaluate("window.drawn = []")
        past(page, seconds)
        drawn = page.evaluate(
            """async () => {
              while (window.drawn.length < 7) await new Promise(requestAnimationFrame);
              return [...new Set(window.drawn)];
            }"""
        )
        assert 3 <= sum(bool(re.fullmatch(r"\d\d:\d\d:\d\d", text)) for text in drawn) <= 6, (seconds, drawn)
        assert sum(text.isdigit() for text in drawn) >= 3, (seconds, drawn)


def test_a_moment_of_which_nothing_is_kept_says_what_to_do(meshlite: StartMeshlite, look: Open) -> None:
    """The slowest first; where there are none any more, what is kept of the minutes around it."""
    page = look(meshlite())
    page.get_by_role("button", name="Send traffic").click()
    expect(panel(page)).to_contain_text("answered")
    page.evaluate(
        """import("/page/traces.js").then(({ tracesAt }) => tracesAt("orders→inventory", Date.now() / 1000 - 30))"""
    )
    expect(page.get_by_role("combobox", name=re.compile("^Which"))).to_have_value("slowest")
    expect(page.locator("#panel")).to_contain_text("No trace of that moment is kept")
    page.get_by_role("button", name="What is kept of the minute before and after").press("Enter")
    expect(page.get_by_role("list", name="Traces").get_by_role("button").first).to_be_visible()
    expect(page.locator("#panel")).to_be_focused()
    page.get_by_role("button", name="Any time").press("Enter")
    expect(page.locator("#panel")).to_be_focused()
    expect(page.locator(".moment")).to_have_count(0)


def test_the_token_is_asked_for_and_stays_in_the_tab(meshlite: StartMeshlite, look: Open) -> None:
    """The page comes without it and shows nothing; a wrong one is said to be wrong; none of it goes into a URL."""
    page = look(meshlite("control.token=s3cret-token"), forgiven=GONE)
    token = page.get_by_label("Token")
    token.fill("no-such-token")
    page.get_by_role("button", name="Open").click()
    expect(page.get_by_role("alert")).to_have_text("That is not it.")
    expect(page.locator("[data-edge]")).to_have_count(0)
    token.fill("s3cret-token")
    page.get_by_role("button", name="Open").click()
    expect(page.locator("[data-edge]")).to_have_count(3)
    expect(page.locator(".link")).to_have_text("live")
    page.reload()
    expect(page.locator("[data-edge]")).to_have_count(3)
    page.get_by_role("button", name="Put all back").focus()
    expect(page.get_by_role("contentinfo")).to_contain_text('-H "Authorization: Bearer $TOKEN"')
    assert "s3cret" not in page.url + page.inner_text("body")


def test_an_answer_that_comes_before_the_browser_has_painted_is_drawn(meshlite: StartMeshlite, look: Open) -> None:
    """Of a mesh with a token there is but one answer: that it wants it."""
    page = look(meshlite("control.token=s3cret-token"), forgiven=GONE)
    page.add_init_script(
        """const later = window.setTimeout;
        window.setTimeout = (work, milliseconds = 0, ...more) => later(work, milliseconds + 2000, ...more);
        window.requestAnimationFrame = (work) => later(work, 2000);"""
    )
    page.reload()
    expect(page.get_by_label("Token")).to_be_visible()


def test_what_the_mesh_tells_is_text(meshlite: StartMeshlite, look: Open) -> None:
    """Markup in a fault's keys is shown as it is; nothing of it is run."""
    mesh = meshlite()
    page = look(mesh)
    markup = "<img src=x onerror=alert(1)>"
    rule = {"service": "users", "kind": "error", "status": 500, "route": markup, "enabled": True}
    mesh.ask("PUT", "/api/faults/marked", rule)
    expect(page.locator(".faults li").filter(has_text="marked")).to_contain_text(f"route {markup}")
    assert page.locator("img[src=x]").count() == 0


@pytest.mark.parametrize("tab", ["Faults", "Services and log", "Traces"])
def test_an_open_page_asks_once_a_second(meshlite: StartMeshlite, look: Open, tab: str) -> None:
    """Whatever is looked at: one answer a second beside the stream of events."""
    page = look(meshlite())
    expect(page.locator("[data-edge]")).to_have_count(3)
    page.get_by_role("tab", name=tab).click()
    page.wait_for_timeout(1500)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(6000)
    assert 4 <= len(asked) <= 7, asked


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_has_no_serious_accessibility_fault(
    meshlite: StartMeshlite, look: Open, size: tuple[int, int], scheme: str
) -> None:
    """What axe-core calls serious or critical: in no tab, while a breaker is open and in the dialog."""
    page = look(meshlite(), width=size[0], height=size[1], color_scheme=scheme, forgiven="axe")
    page.get_by_role("button", name="Inventory 5 s slow").click()
    expect(page.get_by_role("heading", name="The breaker orders → inventory is open.")).to_be_visible()
    for summary in page.locator("summary").all():
        summary.click()
    for tab in ("Faults", "Services and log", "Traces"):
        page.get_by_role("tab", name=tab).click()
        if tab == "Traces":
            expect(page.locator(".waterfall")).to_be_visible()
        check_axe(page)
    page.get_by_role("button", name="Inventory crashes").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    check_axe(page)


def check_axe(page: Page) -> None:
    found = Axe().run(page).response["violations"]
    grave = [each for each in found if each["impact"] in ("serious", "critical")]
    assert [(each["id"], [node["html"][:200] for node in each["nodes"]]) for each in grave] == []


@pytest.mark.parametrize("width", [360, 390, 768])
def test_nothing_is_wider_than_a_phone(meshlite: StartMeshlite, look: Open, width: int) -> None:
    """No tab has to be scrolled sideways, with all there is to be shown."""
    page = look(meshlite(), width=width, height=800)
    page.get_by_role("button", name="Inventory 5 s slow").click()
    expect(page.get_by_role("heading", name="The breaker orders → inventory is open.")).to_be_visible()
    for tab in ("Faults", "Services and log", "Traces"):
        page.get_by_role("tab", name=tab).click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("size", [WIDE, NARROW, (320, 568)], ids=["wide", "narrow", "small"])
def test_a_dialog_and_a_command_can_be_read_whole(meshlite: StartMeshlite, look: Open, size: tuple[int, int]) -> None:
    """Nothing sticks out of the screen or is cut off; a long command at the bottom is shown when it is asked for."""
    page = look(meshlite(), width=size[0], height=size[1])
    page.get_by_role("button", name="Inventory crashes").click()
    dialog = page.get_by_role("dialog")
    box = dialog.bounding_box()
    assert box is not None
    assert box["x"] >= 16
    assert box["width"] <= min(480, size[0] - 32)
    assert box["y"] >= 0
    assert box["y"] + box["height"] <= size[1]
    cut = "(all) => all.filter((it) => it.clientWidth && it.scrollWidth > it.clientWidth).map((it) => it.tagName)"
    assert dialog.locator(":scope, :scope *").evaluate_all(cut) == []
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Lost answers").click()
    command = page.get_by_role("contentinfo").locator("code")
    expect(command).to_contain_text("/reservations/*")
    # An ellipsis is drawn where a line clamp cuts, and only there.
    cut = "(code) => [getComputedStyle(code).webkitLineClamp, code.scrollHeight > code.clientHeight]"
    assert command.evaluate(cut) == ["2", True]
    command.click()
    assert command.evaluate(
        "(code) => [code.scrollWidth - code.clientWidth, code.scrollHeight - code.clientHeight]"
    ) == [0, 0]


def test_tabs_go_by_arrows_and_motion_can_be_off(meshlite: StartMeshlite, look: Open) -> None:
    """As the ARIA pattern has it; and whoever wants no motion sees none."""
    page = look(meshlite(), reduced_motion="reduce")
    page.get_by_role("tab", name="Faults").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Services and log")).to_be_focused()
    expect(page.get_by_label("Log lines, the newest first")).to_be_visible()
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("tab", name="Faults")).to_have_attribute("aria-selected", "true")
    page.get_by_role("button", name="Send traffic").click()
    expect(page.get_by_role("heading", name="All is well.")).to_be_visible()
    assert page.evaluate("document.getAnimations().length") == 0


def test_the_keyboard_stays_where_it_is(meshlite: StartMeshlite, look: Open) -> None:
    """Whatever a button does, it is there afterwards, and the next press of Tab goes on from it."""
    page = look(meshlite())
    for name, word in (("Force open", "forced open"), ("Disable", "disabled"), ("Automatic", "closed")):
        button = panel(page).get_by_role("button", name=name, exact=True)
        button.focus()
        page.keyboard.press("Enter")
        expect(panel(page).locator(".hero .word")).to_have_text(word)
        expect(button).to_be_focused()
        expect(button).to_have_attribute("aria-pressed", "true")
    page.get_by_role("tab", name="Services and log").click()
    stop = page.get_by_role("button", name="Stop inventory")
    dialog = page.get_by_role("dialog")
    for key, state in (("Escape", "running"), ("Enter", "running"), ("Tab", "stopped")):
        stop.focus()
        page.keyboard.press("Enter")
        expect(dialog.get_by_role("button", name="Leave it")).to_be_focused()
        page.keyboard.press(key)
        if key == "Tab":
            page.keyboard.press("Enter")
        expect(dialog).to_be_hidden()
        expect(page.get_by_role("button", name=re.compile(f"^inventory, {state}"))).to_be_visible()
        expect(stop).to_be_focused()
    expect(stop).to_have_attribute("aria-disabled", "true")
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()


def test_a_fault_that_goes_leaves_the_keyboard_in_its_list(meshlite: StartMeshlite, look: Open) -> None:
    """Removing one takes its button along; changing one leads to the form."""
    page = look(meshlite())
    row = page.locator(".faults li").filter(has_text="slow-inventory")
    row.get_by_role("button", name="Change").press("Enter")
    expect(page.get_by_role("button", name="Change it, and switch it on")).to_be_visible()
    page.locator("#fault-form").get_by_role("button", name="Leave it").press("Enter")
    expect(page.locator("#fault-form")).to_be_focused()
    row.get_by_role("button", name="Remove").press("Enter")
    expect(row).to_have_count(0)
    expect(page.locator("#panel")).to_be_focused()


def test_what_is_asked_for_comes_into_view(meshlite: StartMeshlite, look: Open) -> None:
    """On a phone, where each thing lies below the other: the edge, the log, the form, the waterfall."""
    page = look(meshlite(), width=NARROW[0], height=NARROW[1])
    page.get_by_role("button", name="Send traffic").click()
    edge(page, "users→orders").click()
    expect(panel(page)).to_be_in_viewport()
    expect(panel(page)).to_be_focused()
    page.get_by_role("button", name=re.compile("^inventory, running")).click()
    expect(page.locator("#panel")).to_be_focused()
    expect(page.locator("#panel")).to_be_in_viewport(ratio=0.3)
    page.get_by_role("tab", name="Faults").click()
    page.locator(".faults li").get_by_role("button", name="Change").first.click()
    expect(page.locator("#fault-form")).to_be_focused()
    expect(page.locator("#fault-form h3")).to_be_in_viewport()
    page.get_by_role("tab", name="Traces").click()
    page.get_by_role("list", name="Traces").get_by_role("button").nth(1).click()
    expect(page.locator("#waterfall")).to_be_focused()
    expect(page.locator("#waterfall h3")).to_be_in_viewport()


def test_a_trace_stands_still_while_others_come(meshlite: StartMeshlite, look: Open) -> None:
    """The list goes on; the one that is shown stays, until another is picked."""
    page = look(meshlite())
    page.get_by_role("button", name="Send traffic").click()
    page.get_by_role("tab", name="Traces").click()
    shown = page.locator("#waterfall code")
    first = shown.inner_text()
    top = page.get_by_role("list", name="Traces").get_by_role("button").first
    expect(top).to_have_attribute("aria-pressed", "false")  # others have come
    expect(shown).to_have_text(first)


def test_the_log_is_in_the_readers_time(meshlite: StartMeshlite, look: Open) -> None:
    """As all else on the page: UTC is for machines."""
    page = look(meshlite(), timezone_id="Asia/Kathmandu")  # 5:45 h ahead
    page.get_by_role("tab", name="Services and log").click()
    line = page.get_by_label("Log lines, the newest first").locator("time").first
    stamp = datetime.fromisoformat(line.get_attribute("datetime") or "")
    local = stamp.astimezone(timezone(timedelta(hours=5, minutes=45)))
    expect(line).to_have_text(f"{local:%H:%M:%S}.{local.microsecond // 1000:03}")


def test_a_band_is_the_worst_of_an_edges_breakers(meshlite: StartMeshlite, look: Open) -> None:
    """With one for each route: that A closes is nothing to B, which is open, nor to C, which was before and is gone."""
    page = look(meshlite())
    script = """async () => {
      const { stretches } = await import("/page/charts.js");
      const move = (at, key, old, now) => ({ at, key, old, new: now });
      const moves = [
        move(100, "C", "closed", "open"), move(1100, "A", "closed", "open"), move(1200, "B", "closed", "open"),
        move(1250, "C", "open", "closed"), move(1300, "A", "open", "half_open"), move(1310, "A", "half_open", "closed"),
        move(1400, "B", "open", "half_open")];
      const breakers = [{ key: "A", state: "closed" }, { key: "B", state: "half_open" }, { key: "D", state: "closed" }];
      const edge = { breakers, mode: "auto", policy: { breaker: {} } };
      const still = { ...edge, breakers: [] };
      return [stretches(moves, 1600, edge), stretches(moves.slice(1), 1600, edge), stretches([], 1600, still)];
    }"""
    whole, late, quiet = page.evaluate(script)
    assert whole == [[1000, 1400, "open"], [1400, 1600, "half_open"]]
    assert late == whole
    assert quiet == [[1000, 1600, "closed"]]


def test_a_status_is_only_what_was_done(meshlite: StartMeshlite, look: Open) -> None:
    """What a button would do is shown, and read out only once it was pressed."""
    page = look(meshlite())
    status = page.get_by_role("contentinfo").get_by_role("status")
    button = page.get_by_role("button", name="Force open")
    button.focus()
    expect(page.get_by_role("contentinfo")).to_contain_text("does the same as")
    expect(status).to_have_text("")
    button.press("Enter")
    expect(status).to_have_text("done: Force open orders → inventory")


def test_faults_on_the_map_say_whom_they_strike_and_how_many_they_are(meshlite: StartMeshlite, look: Open) -> None:
    """Three are drawn; of more, two and their number. One of one caller is not one of all."""
    mesh = meshlite()
    page = look(mesh)
    tags = page.get_by_role("button", name=re.compile("^users, running")).locator(".fault text")
    for number, caller in enumerate(["orders", None, None, None]):
        rule = {"service": "users", "kind": "error", "status": 500 + number, "enabled": True}
        mesh.ask("PUT", f"/api/faults/f{number}", rule | ({"caller": caller} if caller else {}))
        if number == 2:
            expect(tags).to_have_text(["500 → orders", "501", "502"])
    expect(tags).to_have_text(["500 → orders", "501", "+ 2 more"])
