"""What the page looks like: nothing is cut, hidden, alike or elsewhere when somebody reads it or aims at it."""

import signal

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Open, StartMeshlite

pytestmark = [pytest.mark.browser]
GONE = "Failed to load resource|ERR_"


@pytest.mark.parametrize("width", [1280, 360])
def test_whoever_looks_further_down_is_told_that_the_mesh_is_gone(
    meshlite: StartMeshlite, look: Open, width: int
) -> None:
    """The banner stays in the window and covers nothing that has the keyboard; all below it is dimmed."""
    mesh = meshlite()
    page = look(mesh, forgiven=GONE, width=width)
    card = page.get_by_label("Faults, services, traces")
    expect(card).to_have_css("opacity", "1")
    page.get_by_role("tab", name="Faults").focus()
    mesh.send(signal.SIGKILL)
    banner = page.locator(".banner", has_text="The mesh does not answer.")
    expect(banner).to_be_in_viewport(ratio=1)
    for each in page.locator("main > :not(.banner-place)").all():
        assert float(each.evaluate("(it) => getComputedStyle(it).opacity")) < 0.8
    covered = """(all) => all.reverse().filter((it) => {
      it.focus();
      const [mine, other] = [it, document.querySelector(".banner")].map((each) => each.getBoundingClientRect());
      return mine.height && mine.top < other.bottom && mine.bottom > other.top;
    }).map((it) => it.outerHTML)"""
    assert page.locator("main").locator("button, select, input, summary, [tabindex='0']").evaluate_all(covered) == []


NAME = "x" * 63  # the longest of a fault, and nowhere to break it


def test_a_long_name_is_broken(meshlite: StartMeshlite, look: Open) -> None:
    """On a phone, in every place that says what is on, what happened, and what a button does."""
    mesh = meshlite("edges.orders.inventory.breaker.reset_timeout=60")
    page = look(mesh, width=360)
    mesh.ask("PUT", f"/api/faults/{NAME}", {"service": "inventory", "kind": "delay", "seconds": 5, "enabled": True})
    mesh.ask("PUT", "/api/load", {"rate": 20, "seconds": 60})
    expect(page.get_by_text("Cause: inventory 5 s slow")).to_contain_text(NAME)
    page.get_by_role("button", name=f"Change {NAME}").click()
    expect(page.get_by_role("heading", name=f"Change {NAME}")).to_be_visible()
    wide = """() => [...document.querySelectorAll("main *, .command *")].filter((it) => {
      const { right, width } = it.getBoundingClientRect();
      return width > 1 && right > innerWidth && !it.closest(".tabs, .scroll, .what, svg");
    }).map((it) => it.outerHTML.slice(0, 200))"""
    for tab in ("Services and log", "Traces", "Faults"):
        page.get_by_role("tab", name=tab).click()
        assert page.evaluate(wide) == [], tab
        assert page.evaluate("document.documentElement.scrollWidth") == 360, tab
    page.get_by_role("button", name=f"Remove {NAME}").focus()
    assert page.evaluate(wide) == []


# As if every edge were in this state: where that is drawn, if no news has come meanwhile.
SHOWN = """async ([shown, mode]) => {
  const { set, state } = await import("/page/store.js");
  const why = { open: "3 consecutive failures, last: no answer after 0.25 s", half_open: "the open time is over" };
  const breaker = { key: "edge", state: shown, reason: why[shown] ?? `set to ${mode} by hand`, age: 83, open_time: 30,
    retry_after: 12.4, probes: 0, probe_successes: 0, consecutive_failures: 0, failure_rate: null };
  const drawn = (edge) => ({ ...edge, mode, breakers: [{ ...edge.breakers[0], ...breaker }] });
  for (;;) {
    const overview = { ...state.overview, edges: state.overview.edges.map(drawn) };
    set({ overview, chosen: { edge: "orders→inventory", by: "person" } });
    await new Promise((done) => setTimeout(done, 30));
    if (state.overview !== overview) continue;
    const rect = (name) => document.querySelector(name)?.getBoundingClientRect().toJSON();
    const [hero, controls, ring, until] = [".hero", ".controls", ".countdown", ".until"].map(rect);
    return { word: document.querySelector(".hero .word").textContent, hero, controls, ring, until };
  }
}"""


@pytest.mark.parametrize("width", [1440, 1280, 1041, 768, 360])
def test_a_button_that_is_aimed_at_stays(meshlite: StartMeshlite, look: Open, width: int) -> None:
    """What the breaker is, and how much there is to be said of it, moves none of the buttons below."""
    page = look(meshlite(), width=width)
    expect(page.locator("[data-edge]")).to_have_count(3)
    states = [("closed", "auto"), ("open", "auto"), ("half_open", "auto"), ("forced_open", "forced_open")]
    found = [page.evaluate(SHOWN, state) for state in [*states, ("disabled", "disabled")]]
    assert [each["word"] for each in found] == ["closed", "open", "half-open", "forced open", "disabled"]
    assert len({each["controls"]["y"] - each["hero"]["y"] for each in found}) == 1, found


def test_the_countdown_is_in_its_box(meshlite: StartMeshlite, look: Open) -> None:
    """On a phone, with what it counts down to in a line."""
    page = look(meshlite(), width=360)
    expect(page.locator("[data-edge]")).to_have_count(3)
    found = page.evaluate(SHOWN, ("open", "auto"))
    hero, ring, until = (found[name] for name in ("hero", "ring", "until"))
    assert ring["right"] <= hero["right"] - 12
    assert ring["bottom"] < hero["bottom"]
    assert until["right"] <= hero["right"] - 12
    assert until["height"] < 20
    assert until["right"] <= ring["left"] or until["bottom"] <= ring["top"]
